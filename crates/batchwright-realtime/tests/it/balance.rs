//! Several deployments or keys of one model: who gets which share, and what one that fails does to the others.

use crate::{
    double::{SECOND, fail, ok, options, rows, stopped_by},
    vendor::{Vendor, all_succeeded, run},
};
use batchwright_core::{Error, ErrorKind, Response};
use batchwright_realtime::{
    Credential, CredentialProvider, LoadBalancer, LoadPolicy, NoLog, ParallelPool, Place,
    PlaceHealth, RotatingCredentials, Standing,
};
use futures::StreamExt;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

const MS: Duration = Duration::from_millis(1);

fn place(vendor: &Arc<Vendor>, deployment: &str) -> Place {
    Place::new(vendor.clone()).with_deployment(deployment)
}

fn steady(latency: Duration) -> Arc<Vendor> {
    Vendor::new("cloud", move |_| (latency, ok()))
}

fn three(all: [&Arc<Vendor>; 3]) -> LoadBalancer {
    let [a, b, c] = all;
    LoadBalancer::new([place(a, "a"), place(b, "b"), place(c, "c")])
}

fn is_idle(places: &[PlaceHealth]) -> bool {
    places.iter().all(|place| place.in_flight == 0)
}

#[tokio::test(start_paused = true)]
async fn c_14_to_c_18_equal_deployments_share_alike_and_a_slow_one_gets_less() {
    for policy in [LoadPolicy::LeastLoaded, LoadPolicy::Weighted] {
        let all = [steady(MS * 100), steady(MS * 100), steady(MS * 100)];
        let balancer = Arc::new(three([&all[0], &all[1], &all[2]]).with_policy(policy));
        let (finished, end) = run(balancer.clone(), options(30), 3000).await;
        all_succeeded(&finished, &end, 3000);
        for vendor in &all {
            assert!((950..1050).contains(&vendor.calls()), "{}", vendor.calls());
        }
        let known = balancer.snapshot();
        assert!(is_idle(&known));
        assert!(known.iter().all(|place| place.success_share == Some(1.0)));
    }
    // Ten times as slow: with ten places each, a tenth of the others' share.
    for policy in [LoadPolicy::LeastLoaded, LoadPolicy::LatencyAware] {
        let all = [steady(MS * 100), steady(MS * 100), steady(SECOND)];
        let balancer = three([&all[0], &all[1], &all[2]]);
        let balancer = Arc::new(balancer.with_policy(policy).with_seed(7));
        let (finished, end) = run(balancer.clone(), options(30), 3000).await;
        all_succeeded(&finished, &end, 3000);
        let slow = all[2].calls();
        assert!((1..250).contains(&slow), "{policy:?}: {slow}");
    }
}

#[tokio::test(start_paused = true)]
async fn weights_share_the_load() {
    let (large, small) = (steady(MS * 100), steady(MS * 100));
    for policy in [LoadPolicy::Weighted, LoadPolicy::LeastLoaded] {
        let before = (large.calls(), small.calls());
        let balancer = LoadBalancer::new([
            place(&large, "large").with_weight(3.0),
            place(&small, "small"),
        ])
        .with_policy(policy);
        let (finished, end) = run(Arc::new(balancer), options(40), 4000).await;
        all_succeeded(&finished, &end, 4000);
        let (large, small) = (large.calls() - before.0, small.calls() - before.1);
        assert!((2900..3100).contains(&large), "{policy:?}: {large} {small}");
    }
}

#[tokio::test(start_paused = true)]
async fn f_020_one_that_is_down_rests_alone_is_asked_again_and_the_others_take_its_share() {
    let outage = SECOND * 3..SECOND * 12;
    let flaky = Vendor::new("cloud", move |asked| {
        if outage.contains(&asked.at) {
            (MS * 10, fail(ErrorKind::Connect))
        } else {
            (MS * 100, ok())
        }
    });
    let (one, two) = (steady(MS * 100), steady(MS * 100));
    let balancer = Arc::new(three([&flaky, &one, &two]));
    // 30 at once of 100 ms: 300 a second.
    let (finished, end) = run(balancer.clone(), options(30), 9000).await;
    all_succeeded(&finished, &end, 9000);
    assert_eq!(end.possibly_paid_attempts, 0);
    let failed = balancer.snapshot()[0].failed;
    assert!(
        (3..40).contains(&failed),
        "{failed} attempts met the outage"
    );
    let (one, two) = (one.calls(), two.calls());
    assert!(one.abs_diff(two) < 200, "{one} {two}");
    // Back within the probe's next rest, it has its share again.
    assert!(flaky.calls_from(SECOND * 22) > 600, "{}", flaky.calls());
    let attempts: u32 = finished
        .iter()
        .map(|row| row.outcome.provenance.attempts)
        .sum();
    assert_eq!(u64::from(attempts), 9000 + failed, "one more each");
}

#[tokio::test(start_paused = true)]
async fn f_001_a_limited_one_rests_alone_and_holds_no_rows_back() {
    let limited = Vendor::new("cloud", |asked| {
        if asked.at > SECOND && asked.at < SECOND * 61 {
            let error = Error::new(ErrorKind::RateLimited, "slow down");
            let left = SECOND * 61 - asked.at;
            (MS * 10, Err(error.with_retry_after(left)))
        } else {
            (MS * 100, ok())
        }
    });
    let (one, two) = (steady(MS * 100), steady(MS * 100));
    let balancer = Arc::new(three([&limited, &one, &two]));
    let begun = tokio::time::Instant::now();
    let (finished, end) = run(balancer, options(30), 3000).await;
    all_succeeded(&finished, &end, 3000);
    // 300 a second, and 300 all the same with two.
    let took = begun.elapsed();
    assert!(took < SECOND * 13, "{took:?}");
    assert!(limited.calls() < 160, "{}", limited.calls());
}

#[tokio::test(start_paused = true)]
async fn f_001_rows_that_wait_for_one_go_elsewhere_when_it_is_limited() {
    use batchwright_realtime::{RateLimitOptions, ScopeOptions};
    // Each takes 60 a minute with 10 at once, so rows queue for all three; then one says to come back in an hour.
    let limited = Vendor::new("cloud", |asked| {
        if asked.at > SECOND * 5 {
            let error = Error::new(ErrorKind::RateLimited, "slow down");
            (MS * 10, Err(error.with_retry_after(SECOND * 3600)))
        } else {
            (MS * 100, ok())
        }
    });
    let (one, two) = (steady(MS * 100), steady(MS * 100));
    let balancer = Arc::new(three([&limited, &one, &two]));
    let gates = RateLimitOptions::default().with_requests_per_minute(Some(600.0));
    let options = options(60).with_scope(ScopeOptions::default().with_rate_limit(gates));
    let begun = tokio::time::Instant::now();
    let (finished, end) = run(balancer, options, 600).await;
    all_succeeded(&finished, &end, 600);
    let took = begun.elapsed();
    assert!(took < SECOND * 60, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_dropped_leaves_no_load_behind() {
    let slow = steady(SECOND * 100);
    let balancer = Arc::new(LoadBalancer::new([place(&slow, "a"), place(&slow, "b")]));
    let pool = ParallelPool::with_strategy(balancer.clone(), options(10));
    let mut run = pool.run(rows(100), Arc::new(NoLog), CancellationToken::new());
    let waited = tokio::time::timeout(SECOND, run.next()).await;
    assert!(waited.is_err(), "nothing ends so soon");
    assert_eq!(balancer.snapshot()[0].in_flight, 5);
    drop(run);
    // The aborted tasks go with the runtime's next turn.
    while !is_idle(&balancer.snapshot()) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_31_f_005_a_refused_key_is_closed_and_the_others_go_on() {
    for kind in [
        ErrorKind::Unauthenticated,
        ErrorKind::PermissionDenied,
        ErrorKind::QuotaExceeded,
    ] {
        let revoked = Vendor::new("cloud", move |asked| {
            if asked.nth > 20 {
                (MS * 10, fail(kind))
            } else {
                (MS * 10, ok())
            }
        });
        let good = steady(MS * 10);
        let keys = RotatingCredentials::new()
            .with_client("team-a", revoked.clone())
            .with_client("team-b", good.clone());
        let keys = Arc::new(keys);
        let (finished, end) = run(keys.clone(), options(8), 200).await;
        all_succeeded(&finished, &end, 200);
        let known = keys.snapshot();
        assert_eq!(known[0].standing, Standing::Closed);
        assert_eq!((&*known[0].deployment, known[0].answered), ("team-a", 20));
        assert!(revoked.calls() <= 28);
        assert_eq!(known[1].answered, 180);
    }
}

/// Gives out keys that work for so many calls.
struct Store {
    /// How often it fails at first.
    fails: usize,
    asked: AtomicUsize,
    given: AtomicUsize,
    calls: usize,
    valid_for: Option<Duration>,
    /// How many of them work at all.
    good: usize,
}

#[async_trait::async_trait]
impl CredentialProvider for Store {
    async fn credential(&self) -> batchwright_core::Result<Credential> {
        tokio::time::sleep(MS * 50).await;
        if self.asked.fetch_add(1, SeqCst) < self.fails {
            return Err(Error::new(ErrorKind::Timeout, "read the secret"));
        }
        let nth = self.given.fetch_add(1, SeqCst);
        let calls = if nth < self.good { self.calls } else { 0 };
        let client = Vendor::new("cloud", move |asked| {
            if asked.nth > calls {
                (MS * 10, fail(ErrorKind::Unauthenticated))
            } else {
                (MS * 10, ok())
            }
        });
        let mut credential = Credential::new(client);
        credential.valid_for = self.valid_for;
        Ok(credential)
    }
}

fn store(calls: usize, good: usize, valid_for: Option<Duration>) -> Arc<Store> {
    Arc::new(Store {
        fails: 0,
        asked: AtomicUsize::new(0),
        given: AtomicUsize::new(0),
        calls,
        valid_for,
        good,
    })
}

#[tokio::test(start_paused = true)]
async fn a_31_a_key_that_was_changed_is_asked_for_anew_once_for_all() {
    let source = store(50, usize::MAX, None);
    let keys = RotatingCredentials::new().with_changing("main", "cloud", source.clone());
    let (finished, end) = run(Arc::new(keys), options(8), 200).await;
    all_succeeded(&finished, &end, 200);
    assert_eq!(source.given.load(SeqCst), 4, "one for each 50");
    // One that is renewed before its time is over is never refused.
    let source = store(usize::MAX, usize::MAX, Some(SECOND));
    let keys = RotatingCredentials::new().with_changing("main", "cloud", source.clone());
    let keys = Arc::new(keys);
    let (finished, end) = run(keys.clone(), options(2), 600).await;
    all_succeeded(&finished, &end, 600);
    let given = source.given.load(SeqCst);
    assert!((3..=5).contains(&given), "{given} in three seconds");
    assert_eq!(keys.snapshot()[0].failed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_31_a_new_key_that_is_refused_too_closes_its_place() {
    let source = store(20, 1, None);
    let keys = RotatingCredentials::new()
        .with_changing("main", "cloud", source.clone())
        .with_client("spare", steady(MS * 10));
    let keys = Arc::new(keys);
    let (finished, end) = run(keys.clone(), options(4), 100).await;
    all_succeeded(&finished, &end, 100);
    assert_eq!(source.given.load(SeqCst), 2);
    assert_eq!(keys.snapshot()[0].standing, Standing::Closed);
    let alone = RotatingCredentials::new().with_changing("main", "cloud", store(20, 1, None));
    let (finished, end) = run(Arc::new(alone), options(4), 100).await;
    assert_eq!(stopped_by(&end).kind(), ErrorKind::Unauthenticated);
    assert_eq!(finished.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_31_a_source_that_fails_for_a_while_is_asked_again_and_nothing_counts_as_paid() {
    let source = Arc::new(Store {
        fails: 6,
        asked: AtomicUsize::new(0),
        given: AtomicUsize::new(0),
        calls: usize::MAX,
        valid_for: None,
        good: usize::MAX,
    });
    let keys = RotatingCredentials::new().with_changing("main", "cloud", source.clone());
    let (finished, end) = run(Arc::new(keys), options(4), 100).await;
    all_succeeded(&finished, &end, 100);
    assert_eq!(source.given.load(SeqCst), 1);
    assert_eq!(end.possibly_paid_attempts, 0);
}

#[test]
fn f_203_no_key_shows() {
    let client = Vendor::new("cloud", |_| (MS, Ok(Response::from_text("CANARY"))));
    let credential = Credential::new(client.clone()).with_valid_for(SECOND);
    let keys = RotatingCredentials::new().with_client("team-a", client);
    let shown = format!("{credential:?} {keys:?}");
    assert!(
        shown.contains("team-a") && !shown.contains("CANARY"),
        "{shown}"
    );
}
