//! Chains of providers and models: when an item moves on, when it does not, and who is said to have answered.

use crate::{
    double::{SECOND, fail, is_complete, ok, options, stopped_by},
    vendor::{Vendor, all_succeeded, answered_by, run},
};
use batchwright_core::{
    CallOptions, Capability, ChatProvider, Error, ErrorKind, FinishReason, Price, PriceTable,
    Rates, Request, Response, Result, Usage,
};
use batchwright_realtime::{
    BalanceWeights, Fallback, FallbackPolicy, Health, HealthOptions, LoadBalancer, Place, Standing,
};
use std::{sync::Arc, time::Duration};

const MS: Duration = Duration::from_millis(1);

fn rates(input: f64, output: f64) -> Rates {
    let mut rates = Rates::default();
    rates.input = Some(input);
    rates.output = Some(output);
    rates
}

fn pair(first: &Arc<Vendor>, second: &Arc<Vendor>) -> Fallback {
    Fallback::new([
        Place::new(first.clone()).with_model("large"),
        Place::new(second.clone()).with_model("small"),
    ])
}

#[tokio::test(start_paused = true)]
async fn c_56_c_57_f_020_rows_of_a_provider_that_is_down_are_answered_by_the_next_one() {
    let down = Vendor::new("down", |_| (MS * 10, fail(ErrorKind::Connect)));
    let up = Vendor::new("up", |asked| {
        assert_eq!(asked.model, "small");
        (MS * 100, ok())
    });
    let fallback = Arc::new(pair(&down, &up));
    let (finished, end) = run(fallback.clone(), options(8), 500).await;
    all_succeeded(&finished, &end, 500);
    assert_eq!(answered_by(&finished, "up", "small"), 500);
    assert_eq!(end.possibly_paid_attempts, 0);
    // Those in flight at first, and one now and then to find out.
    assert!(down.calls() < 16, "{} calls", down.calls());
    let known = fallback.snapshot();
    assert_eq!((known[1].answered, known[1].in_flight), (500, 0));
    assert_eq!(known[0].last_error, Some(ErrorKind::Connect));
    assert!(matches!(known[0].standing, Standing::Resting(_)));
}

#[tokio::test(start_paused = true)]
async fn f_020_a_provider_that_is_back_gets_its_rows_again() {
    let outage = SECOND * 5..SECOND * 20;
    let first = Vendor::new("first", move |asked| {
        if outage.contains(&asked.at) {
            (MS * 10, fail(ErrorKind::Overloaded))
        } else {
            (MS * 100, ok())
        }
    });
    let second = Vendor::new("second", |_| (MS * 100, ok()));
    let (finished, end) = run(Arc::new(pair(&first, &second)), options(4), 2000).await;
    all_succeeded(&finished, &end, 2000);
    // 4 at once of 100 ms, for 50 s in all: about 600 rows meanwhile, and a little until it is found.
    let by_second = answered_by(&finished, "second", "small");
    assert!((550..1300).contains(&by_second), "{by_second}");
    assert!(first.calls_from(SECOND * 40) > 300);
}

#[tokio::test(start_paused = true)]
async fn f_005_a_provider_without_money_is_closed_and_the_run_goes_on() {
    for kind in [
        ErrorKind::QuotaExceeded,
        ErrorKind::Unauthenticated,
        ErrorKind::PermissionDenied,
    ] {
        let broke = Vendor::new("broke", move |asked| {
            if asked.nth <= 10 {
                (MS * 10, ok())
            } else {
                (MS * 10, fail(kind))
            }
        });
        let rich = Vendor::new("rich", |_| (MS * 10, ok()));
        let fallback = Arc::new(pair(&broke, &rich));
        let (finished, end) = run(fallback.clone(), options(4), 200).await;
        all_succeeded(&finished, &end, 200);
        assert_eq!(answered_by(&finished, "broke", "large"), 10);
        assert!(broke.calls() <= 10 + 4, "{} calls", broke.calls());
        assert_eq!(fallback.snapshot()[0].standing, Standing::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn f_005_the_run_stops_with_the_first_error_where_all_are_closed() {
    let broke = Vendor::new("broke", |asked| match asked.nth {
        1 => (
            MS * 10,
            Err(Error::new(ErrorKind::QuotaExceeded, "no money is left")),
        ),
        _ => (MS * 20, fail(ErrorKind::QuotaExceeded)),
    });
    let locked = Vendor::new("locked", |_| (MS * 10, fail(ErrorKind::Unauthenticated)));
    let fallback = Arc::new(pair(&broke, &locked));
    let (finished, end) = run(fallback.clone(), options(4), 1000).await;
    assert!(finished.is_empty());
    let error = stopped_by(&end);
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
    assert!(error.message().contains("no money is left"), "{error}");
    assert!(broke.calls() <= 4 && locked.calls() <= 4);
    // Another run asks again: a person may have acted.
    let (_, end) = run(fallback, options(4), 10).await;
    assert!(stopped_by(&end).is_job_stop());
    assert!(broke.calls() > 4 || locked.calls() > 4, "it asked again");
}

#[tokio::test(start_paused = true)]
async fn f_001_each_policy_waits_for_a_limited_place_as_long_as_it_has_patience() {
    for (policy, wait, moves) in [
        (FallbackPolicy::SpeedFirst, 1, true),
        (FallbackPolicy::QualityFirst, 20, false),
        (FallbackPolicy::QualityFirst, 40, true),
        (FallbackPolicy::CostFirst, 40, false),
        (FallbackPolicy::InOrder, 40, true),
    ] {
        let limited = Vendor::new("limited", move |asked| {
            if asked.at < SECOND * wait {
                let error = Error::new(ErrorKind::RateLimited, "slow down");
                let left = SECOND * wait - asked.at;
                (MS * 10, Err(error.with_retry_after(left)))
            } else {
                (MS * 10, ok())
            }
        });
        let free = Vendor::new("free", |_| (MS * 10, ok()));
        let fallback = Fallback::new([
            Place::new(limited.clone())
                .with_model("large")
                .with_quality(0.9)
                .with_price(rates(1.0, 1.0)),
            Place::new(free.clone())
                .with_model("small")
                .with_quality(0.5)
                .with_price(rates(2.0, 2.0)),
        ])
        .with_policy(policy);
        let (finished, end) = run(Arc::new(fallback), options(4), 20).await;
        all_succeeded(&finished, &end, 20);
        let moved = answered_by(&finished, "free", "small");
        assert_eq!(moved, if moves { 20 } else { 0 }, "{policy:?} {wait}");
        if moves {
            assert!(limited.calls() <= 4, "{policy:?}: {}", limited.calls());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn f_060_a_prompt_too_long_goes_to_a_larger_context_only() {
    let asked_at = |name: &'static str| {
        Vendor::new(name, move |asked| {
            if asked.model == "long" {
                (MS, ok())
            } else {
                (MS, fail(ErrorKind::ContextTooLong))
            }
        })
    };
    let (small, smaller, unknown, long) = (
        asked_at("small"),
        asked_at("smaller"),
        asked_at("unknown"),
        asked_at("long"),
    );
    let places = |with_long: bool| {
        let mut places = vec![
            Place::new(small.clone())
                .with_model("mid")
                .with_context_tokens(8_000),
            Place::new(smaller.clone())
                .with_model("mid")
                .with_context_tokens(4_000),
            Place::new(unknown.clone()).with_model("mid"),
        ];
        if with_long {
            let place = Place::new(long.clone()).with_model("long");
            places.push(place.with_context_tokens(100_000));
        }
        places
    };
    let (finished, end) = run(Arc::new(Fallback::new(places(true))), options(2), 5).await;
    all_succeeded(&finished, &end, 5);
    assert_eq!(answered_by(&finished, "long", "long"), 5);
    assert_eq!((smaller.calls(), unknown.calls()), (0, 0));
    let (finished, end) = run(Arc::new(Fallback::new(places(false))), options(2), 5).await;
    assert!(is_complete(&end));
    for row in &finished {
        assert_eq!(
            row.outcome.error().unwrap().kind(),
            ErrorKind::ContextTooLong
        );
        assert_eq!(row.outcome.provenance.provider.as_deref(), Some("small"));
    }
}

#[tokio::test(start_paused = true)]
async fn f_027_a_wrong_request_moves_on_only_where_told_so() {
    let strict = Vendor::new("strict", |_| (MS, fail(ErrorKind::InvalidRequest)));
    let lax = Vendor::new("lax", |_| (MS, ok()));
    let (finished, _) = run(Arc::new(pair(&strict, &lax)), options(2), 5).await;
    assert_eq!(lax.calls(), 0);
    for row in &finished {
        assert_eq!(
            row.outcome.error().unwrap().kind(),
            ErrorKind::InvalidRequest
        );
        assert_eq!(row.outcome.provenance.attempts, 1);
    }
    let told = pair(&strict, &lax).with_row_errors(true);
    let (finished, end) = run(Arc::new(told), options(2), 5).await;
    all_succeeded(&finished, &end, 5);
    // What a place cannot do at all another may.
    let unable = Vendor::new("unable", |_| (MS, fail(ErrorKind::Unsupported)));
    let (finished, end) = run(Arc::new(pair(&unable, &lax)), options(2), 5).await;
    all_succeeded(&finished, &end, 5);
}

fn refusal() -> Result<Response> {
    let mut response = Response::from_text("I cannot help with that.");
    response.finish_reason = Some(FinishReason::Refusal);
    response.usage = Usage::of(1_000_000, 0);
    Ok(response)
}

fn prices() -> Arc<PriceTable> {
    let mut table = PriceTable::default();
    let mut price = Price::default();
    price.realtime = rates(2.0, 2.0);
    price.as_of = "2026-11-22".to_owned();
    price.source = "test".to_owned();
    let json = serde_json::json!({"prim:large": price, "open:small": price});
    table.overlay(&json.to_string()).unwrap();
    Arc::new(table)
}

#[tokio::test(start_paused = true)]
async fn f_062_a_refusal_is_an_answer_unless_told_otherwise_and_what_it_cost_is_counted() {
    let prim = Vendor::new("prim", |_| (MS, refusal()));
    let open = Vendor::new("open", |_| {
        let mut response = Response::from_text("fine");
        response.usage = Usage::of(500_000, 0);
        (MS, Ok(response))
    });
    let options = options(2).with_prices(prices());
    let (finished, _) = run(Arc::new(pair(&prim, &open)), options.clone(), 3).await;
    assert_eq!(open.calls(), 0);
    for row in &finished {
        assert_eq!(row.outcome.provenance.cost.unwrap().as_dollars(), 2.0);
    }
    let told = pair(&prim, &open).with_refusals(true);
    let (finished, end) = run(Arc::new(told), options.clone(), 3).await;
    all_succeeded(&finished, &end, 3);
    for row in &finished {
        let provenance = &row.outcome.provenance;
        assert_eq!(provenance.cost.unwrap().as_dollars(), 3.0);
        assert_eq!(provenance.discarded_usage.input_tokens, Some(1_000_000));
    }
    // Where all refuse, the refusal is the answer, and the first one's cost is not forgotten.
    let both = pair(&prim, &prim).with_refusals(true);
    let (finished, _) = run(Arc::new(both), options, 1).await;
    let ending = &finished[0].outcome.ending;
    assert!(matches!(ending, batchwright_core::Ending::Refused(_)));
}

#[tokio::test(start_paused = true)]
async fn f_122_after_what_may_have_been_billed_the_pools_bound_holds_elsewhere_too() {
    let cut = |name| Vendor::new(name, |_| (MS, fail(ErrorKind::ProviderFault)));
    let (one, two, three) = (cut("one"), cut("two"), cut("three"));
    let all = [&one, &two, &three].map(|vendor| Place::new(vendor.clone()).with_model("m"));
    let (finished, end) = run(Arc::new(Fallback::new(all)), options(2), 1).await;
    assert!(is_complete(&end));
    let provenance = &finished[0].outcome.provenance;
    // One extra by default, and no third place.
    assert_eq!(
        (provenance.attempts, provenance.possibly_paid_attempts),
        (2, 1)
    );
    assert_eq!((one.calls(), two.calls(), three.calls()), (1, 1, 0));
    assert_eq!(
        provenance.provider.as_deref(),
        Some("two"),
        "the last asked"
    );
}

#[tokio::test(start_paused = true)]
async fn l_146_where_nobody_answers_each_place_is_asked_once_and_then_as_the_policy_says() {
    let down = |name| Vendor::new(name, |_| (MS * 10, fail(ErrorKind::Overloaded)));
    let (one, two) = (down("one"), down("two"));
    let deadline = options(1).with_item_deadline(Some(SECOND * 30));
    let (finished, end) = run(Arc::new(pair(&one, &two)), deadline, 1).await;
    assert!(is_complete(&end));
    assert_eq!(
        finished[0].outcome.error().unwrap().kind(),
        ErrorKind::Timeout
    );
    // No storm: backoff, rests and breakers hold it back.
    let calls = one.calls() + two.calls();
    assert!((4..40).contains(&calls), "{calls}");
}

#[tokio::test(start_paused = true)]
async fn cx_8_speed_first_finds_the_fast_one_by_measuring() {
    let slow = Vendor::new("slow", |_| (SECOND * 3, ok()));
    let fast = Vendor::new("fast", |_| (MS * 200, ok()));
    let fallback = pair(&slow, &fast).with_policy(FallbackPolicy::SpeedFirst);
    let (finished, end) = run(Arc::new(fallback), options(4), 400).await;
    all_succeeded(&finished, &end, 400);
    // Four before anything was measured.
    assert_eq!(answered_by(&finished, "slow", "large"), 4);
}

#[tokio::test(start_paused = true)]
async fn cx_7_cx_9_cost_and_balance_choose_by_declared_and_measured_facts() {
    let run_with = async |policy| {
        let dear = Vendor::new("dear", |_| (MS * 100, ok()));
        let cheap = Vendor::new("cheap", |_| (MS * 900, ok()));
        let places = [
            Place::new(dear.clone())
                .with_model("a")
                .with_quality(0.9)
                .with_price(rates(10.0, 30.0)),
            Place::new(cheap.clone())
                .with_model("b")
                .with_quality(0.7)
                .with_price(rates(0.1, 0.4)),
        ];
        let fallback = Fallback::new(places).with_policy(policy);
        let (finished, end) = run(Arc::new(fallback), options(1), 50).await;
        all_succeeded(&finished, &end, 50);
        answered_by(&finished, "cheap", "b")
    };
    assert_eq!(run_with(FallbackPolicy::CostFirst).await, 50);
    let quality = BalanceWeights::new(1.0, 0.0, 0.0);
    assert_eq!(run_with(FallbackPolicy::Balanced(quality)).await, 0);
    let cost = BalanceWeights::new(0.0, 1.0, 0.2);
    assert_eq!(run_with(FallbackPolicy::Balanced(cost)).await, 50);
}

#[tokio::test(start_paused = true)]
async fn l_145_choices_belong_to_the_item_and_knowledge_can_be_shared() {
    let health = Health::new(HealthOptions::default().with_failures(1));
    let down = Vendor::new("down", |_| (MS, fail(ErrorKind::Connect)));
    let up = Vendor::new("up", |_| (MS, ok()));
    let one = pair(&down, &up).with_health(&health);
    let (finished, end) = run(Arc::new(one), options(1), 1).await;
    all_succeeded(&finished, &end, 1);
    assert_eq!(down.calls(), 1);
    // Another chain knows already that it rests.
    let other = pair(&down, &up).with_health(&health);
    let (finished, end) = run(Arc::new(other), options(1), 1).await;
    all_succeeded(&finished, &end, 1);
    assert_eq!(down.calls(), 1);
    assert_eq!(health.snapshot().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_chain_may_hold_a_balancer_whose_deployments_all_fail() {
    let east = Vendor::new("cloud", |_| (MS, fail(ErrorKind::Unauthenticated)));
    let west = Vendor::new("cloud", |_| (MS, fail(ErrorKind::QuotaExceeded)));
    let spare = Vendor::new("spare", |_| (MS, ok()));
    let balancer = LoadBalancer::new([
        Place::new(east.clone()).with_deployment("east"),
        Place::new(west.clone()).with_deployment("west"),
    ]);
    let chain = Fallback::new([
        Place::of("cloud", Arc::new(balancer)).with_model("large"),
        Place::new(spare.clone()).with_model("small"),
    ]);
    let (finished, end) = run(Arc::new(chain), options(4), 50).await;
    all_succeeded(&finished, &end, 50);
    assert_eq!(answered_by(&finished, "spare", "small"), 50);
    assert!(east.calls() + west.calls() <= 8);
}

#[tokio::test(start_paused = true)]
async fn a_chain_without_places_stops_before_anything() {
    let none: Fallback = Fallback::new([]);
    let (finished, end) = run(Arc::new(none), options(4), 5).await;
    assert!(finished.is_empty());
    assert_eq!(stopped_by(&end).kind(), ErrorKind::ConfigInvalid);
}

/// A provider that panics.
struct Broken(Capability);

#[async_trait::async_trait]
impl ChatProvider for Broken {
    fn name(&self) -> &str {
        "broken"
    }

    fn capability(&self) -> &Capability {
        &self.0
    }

    async fn complete(&self, _request: &Request, _call: &CallOptions) -> Result<Response> {
        panic!("a fault of the program")
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_or_a_timeout_leaves_no_claim_on_a_place() {
    let broken = Place::new(Arc::new(Broken(Capability::default())));
    let hangs = Vendor::new("hangs", |_| (SECOND * 10_000, ok()));
    let fallback = Arc::new(Fallback::new([broken, Place::new(hangs.clone())]));
    let short = options(4).with_attempt_timeout(SECOND * 5);
    let (finished, _) = run(fallback.clone(), short.clone(), 4).await;
    assert!(finished.iter().all(|row| row.outcome.error().is_some()));
    let slow = Arc::new(Fallback::new([Place::new(hangs)]));
    let (finished, _) = run(slow.clone(), short, 4).await;
    assert!(finished.iter().all(|row| row.outcome.error().is_some()));
    for place in fallback.snapshot().into_iter().chain(slow.snapshot()) {
        assert_eq!(place.in_flight, 0, "{place:?}");
    }
    assert!(slow.snapshot()[0].latency.unwrap() >= SECOND * 5);
}
