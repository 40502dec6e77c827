//! A simulated pool against a simulated server with a token bucket, and the laws of a scope.

use super::*;
use batchwright_core::RateLimit;
use proptest::{collection::vec, option, prelude::*};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

const SECOND: Duration = Duration::from_secs(1);

/// What the server's headers say.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Headers {
    None,
    /// The minute's limit, what is left of the real bucket, when that is full.
    Bucket,
    /// The bucket's own size as the limit.
    Second,
    /// A minute's bucket; the burst that is really enforced is not told.
    Minute,
}

/// Lets `per_second` requests through and `burst` at once.
struct Server {
    per_second: f64,
    burst: f64,
    level: f64,
    minute: f64,
    at: Duration,
    headers: Headers,
    retry_after: Option<Duration>,
}

impl Server {
    fn new(per_second: f64, burst: f64, headers: Headers) -> Self {
        Self {
            per_second,
            burst,
            level: burst,
            minute: per_second * 60.0,
            at: Duration::ZERO,
            headers,
            retry_after: None,
        }
    }

    /// Whether the request is let through, and what the headers say.
    fn ask(&mut self, now: Duration) -> (bool, Option<RateLimit>) {
        let passed = now.saturating_sub(self.at).as_secs_f64() * self.per_second;
        self.at = self.at.max(now);
        let per_minute = self.per_second * 60.0;
        self.level = (self.level + passed).min(self.burst);
        self.minute = (self.minute + passed).min(per_minute);
        let passes = self.level >= 1.0;
        if passes {
            self.level -= 1.0;
            self.minute -= 1.0;
        }
        let full = |missing: f64| Some(Duration::from_secs_f64(missing / self.per_second));
        let (limit, left, reset) = match self.headers {
            Headers::None => return (passes, None),
            Headers::Bucket => (per_minute, self.level, full(self.burst - self.level)),
            Headers::Second => (self.burst, self.level, full(self.burst - self.level)),
            Headers::Minute => (per_minute, self.minute, full(per_minute - self.minute)),
        };
        let mut told = RateLimit::default();
        told.limit_requests = Some(limit as u64);
        told.remaining_requests = Some(left as u64);
        told.reset_requests = reset;
        (passes, Some(told))
    }
}

#[derive(Clone, Copy)]
struct Load {
    items: usize,
    concurrency: usize,
    latency: Duration,
    /// Added to each latency by up to this much, so that requests overtake each other.
    jitter: Duration,
    /// How long a refusal takes.
    refusal: Duration,
}

const LOAD: Load = Load {
    items: 3000,
    concurrency: 64,
    latency: Duration::from_millis(50),
    jitter: Duration::from_millis(5),
    refusal: Duration::from_millis(50),
};

#[derive(Debug)]
struct Result {
    seconds: f64,
    refused: usize,
}

impl Result {
    /// The time over `ideal` seconds, in percent.
    fn over(&self, ideal: f64) -> f64 {
        (self.seconds / ideal - 1.0) * 100.0
    }
}

fn answer(tokens: Option<u64>, rate_limit: Option<RateLimit>) -> Answer {
    Answer {
        took: LOAD.latency,
        tokens,
        cost: None,
        rate_limit,
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as f64) / (1u64 << 31) as f64
    }
}

/// An attempt, whether it is still on its way, and what the server said.
type Sent = (Ticket, bool, Option<(bool, Option<RateLimit>)>);

/// Sends `load` through one scope as the pool does: in order, refused ones again behind the others.
fn run(options: &ScopeOptions, mut server: Server, load: Load, seed: u64) -> Result {
    let mut scope = ScopeState::new(options, load.concurrency);
    let mut random = Random(seed);
    let mut queue: VecDeque<Cause> = (0..load.items).map(|_| Cause::First).collect();
    // Events: arrivals at the server and answers at the pool.
    let mut events: BinaryHeap<Reverse<(Duration, u64)>> = BinaryHeap::new();
    let mut open: Vec<Sent> = Vec::new();
    let (mut now, mut done, mut refused, mut last) = (Duration::ZERO, 0, 0, Duration::ZERO);
    while done < load.items {
        let mut wake = None;
        while let Some(&cause) = queue.front() {
            match scope.admission(now, 0, cause) {
                Admission::Now => {
                    queue.pop_front();
                    let ticket = scope.start(now, 0, cause);
                    let way = load.jitter.mul_f64(random.next());
                    events.push(Reverse((now + way, open.len() as u64)));
                    open.push((ticket, true, None));
                }
                Admission::At(at) => {
                    // A timer is late by up to a millisecond.
                    let millis = u64::try_from(at.as_millis()).unwrap() + 1;
                    wake = Some(Duration::from_millis(millis));
                    break;
                }
                _ => break,
            }
        }
        let next = events.peek().map(|Reverse((at, _))| *at);
        if let Some(at) = wake
            && next.is_none_or(|next| at <= next)
        {
            now = now.max(at);
            continue;
        }
        let Reverse((at, index)) = events.pop().expect("the run hangs");
        now = now.max(at);
        assert!(now < SECOND * 36_000, "no end in sight");
        let (ticket, arrives, said) = &mut open[usize::try_from(index).unwrap()];
        if *arrives {
            *arrives = false;
            let (passes, headers) = server.ask(now);
            let takes = if passes { load.latency } else { load.refusal };
            *said = Some((passes, headers));
            events.push(Reverse((now + takes, index)));
            continue;
        }
        let (passes, headers) = said.unwrap();
        if passes {
            scope.succeeded(now, *ticket, &answer(None, headers));
            done += 1;
            last = now;
        } else {
            refused += 1;
            let mut error = Error::new(ErrorKind::RateLimited, "slow down");
            if let Some(headers) = headers {
                error = error.with_rate_limit(headers);
            }
            if let Some(wait) = server.retry_after {
                error = error.with_retry_after(wait);
            }
            scope.failed(now, *ticket, &error, random.next());
            queue.push_back(Cause::Again);
        }
    }
    Result {
        seconds: last.as_secs_f64(),
        refused,
    }
}

fn told() -> ScopeOptions {
    let limit = RateLimitOptions::default().with_requests_per_minute(Some(6000.0));
    ScopeOptions::default().with_rate_limit(limit)
}

/// 3,000 requests at 100 a second, 100 of them at once, and one latency.
const IDEAL: f64 = 29.05;

#[test]
fn f_001_a_told_limit_is_used_in_full_and_never_passed() {
    for seed in 0..5 {
        let result = run(
            &told(),
            Server::new(100.0, 100.0, Headers::None),
            LOAD,
            seed,
        );
        println!("told: {:.2} % over, {result:?}", result.over(IDEAL));
        assert!(result.over(IDEAL) < 1.0, "{result:?}");
        assert_eq!(result.refused, 0);
    }
}

#[test]
fn f_001_a_limit_in_headers_is_learned_without_a_refusal() {
    for headers in [Headers::Bucket, Headers::Second, Headers::Minute] {
        for seed in 0..5 {
            let server = Server::new(100.0, 100.0, headers);
            let result = run(&ScopeOptions::default(), server, LOAD, seed);
            println!("{headers:?}: {:.2} % over, {result:?}", result.over(IDEAL));
            assert!(result.over(IDEAL) < 4.0, "{headers:?} {result:?}");
            assert_eq!(result.refused, 0, "{headers:?}");
        }
    }
}

/// Some 60 of the refusals are what is on its way when the first one comes back.
#[test]
fn f_018_a_limit_nobody_tells_is_learned_from_refusals() {
    for retry_after in [None, Some(SECOND), Some(SECOND / 100)] {
        for seed in 0..5 {
            let mut server = Server::new(100.0, 100.0, Headers::None);
            server.retry_after = retry_after;
            let result = run(&ScopeOptions::default(), server, LOAD, seed);
            println!(
                "{retry_after:?}: {:.2} % over, {result:?}",
                result.over(IDEAL)
            );
            assert!(result.over(IDEAL) < 4.0, "{retry_after:?} {result:?}");
            assert!(
                result.refused * 100 < 4 * 3000,
                "{retry_after:?} {result:?}"
            );
        }
    }
}

/// What is on its way when the first refusal comes back is refused with it; after that few are.
#[test]
fn f_001_a_first_flight_larger_than_the_burst_costs_refusals_and_no_time() {
    for headers in [Headers::None, Headers::Bucket, Headers::Minute] {
        for concurrency in [256, 1000] {
            let load = Load {
                concurrency,
                ..LOAD
            };
            let server = Server::new(100.0, 100.0, headers);
            let result = run(&ScopeOptions::default(), server, load, 1);
            println!("{headers:?}: {:.2} % over, {result:?}", result.over(IDEAL));
            assert!(result.over(IDEAL) < 4.0, "{headers:?} {result:?}");
            assert!(result.refused < concurrency + 150, "{headers:?} {result:?}");
        }
    }
}

/// Per case: the rate a second, the burst, and how much longer than possible 30 s of work may take. Where
/// next to nothing may come at once, requests that overtake each other are refused at any pace near the limit.
#[test]
fn f_018_limits_of_other_shapes_are_learned_too() {
    let cases = [
        (100.0, 10.0, 20.0),
        (100.0, 50.0, 5.0),
        (100.0, 500.0, 5.0),
        (100.0, 6000.0, 5.0),
        (10.0, 10.0, 5.0),
        (10.0, 1.0, 40.0),
        (1000.0, 100.0, 20.0),
        (1.0, 1.0, 100.0),
        (1.0, 60.0, 5.0),
    ];
    for (rate, burst, most) in cases {
        let items = (burst + 30.0 * rate) as usize;
        let load = Load { items, ..LOAD };
        for seed in 0..3 {
            let server = Server::new(rate, burst, Headers::None);
            let result = run(&ScopeOptions::default(), server, load, seed);
            let over = result.over(30.05);
            println!("{rate} a second, burst {burst}: {over:.1} % over, {result:?}");
            assert!(over < most, "{rate} a second, burst {burst}: {result:?}");
        }
    }
}

#[test]
fn a_told_limit_that_is_too_high_is_corrected() {
    let limit = RateLimitOptions::default().with_requests_per_minute(Some(60_000.0));
    let options = ScopeOptions::default().with_rate_limit(limit);
    let result = run(&options, Server::new(100.0, 100.0, Headers::None), LOAD, 1);
    assert!(
        result.over(IDEAL) < 4.0 && result.refused < 150,
        "{result:?}"
    );
}

#[test]
fn what_the_concurrency_limits_is_not_paced() {
    let load = Load {
        latency: SECOND * 2,
        ..LOAD
    };
    let server = Server::new(100.0, 100.0, Headers::None);
    let result = run(&ScopeOptions::default(), server, load, 1);
    // 64 at once of 2 s each are 32 a second.
    assert_eq!(result.refused, 0);
    assert!(result.seconds < 3000.0 / 32.0 * 1.02, "{result:?}");
}

/// L-11: 60 a minute are 1 s apart.
#[test]
fn l_011_a_told_limit_is_in_effect() {
    let limit = RateLimitOptions::default().with_requests_per_minute(Some(60.0));
    let mut scope = ScopeState::new(&ScopeOptions::default().with_rate_limit(limit), 10);
    let mut now = Duration::ZERO;
    for item in 0..3 {
        while let Admission::At(at) = scope.admission(now, 0, Cause::First) {
            now = at;
        }
        scope.start(now, 0, Cause::First);
        assert!(
            now.abs_diff(SECOND * item) < Duration::from_micros(1),
            "{now:?}"
        );
    }
}

#[test]
fn ax_137_tokens_are_reserved_and_set_right() {
    let limit = RateLimitOptions::default().with_tokens_per_minute(Some(60_000.0));
    let mut scope = ScopeState::new(&ScopeOptions::default().with_rate_limit(limit), 10);
    let wait = |scope: &mut ScopeState, tokens| match scope.admission(SECOND, tokens, Cause::First)
    {
        Admission::Now => 0,
        Admission::At(at) => (at - SECOND).as_millis(),
        other => panic!("nothing else holds it back: {other:?}"),
    };
    // 1,000 a second, 900 at once.
    let first = scope.start(SECOND, 900, Cause::First);
    assert_eq!(wait(&mut scope, 100), 100);
    scope.succeeded(SECOND, first, &answer(Some(700), None));
    assert_eq!(wait(&mut scope, 200), 0, "used less");
    let second = scope.start(SECOND, 200, Cause::First);
    scope.succeeded(SECOND, second, &answer(Some(500), None));
    assert_eq!(wait(&mut scope, 100), 400, "used more, which is debt");
    let third = scope.start(SECOND, 100, Cause::First);
    scope.succeeded(SECOND, third, &answer(None, None));
    assert_eq!(wait(&mut scope, 100), 500, "unknown keeps the estimate");
    let fourth = scope.start(SECOND, 100, Cause::First);
    let limited = Error::new(ErrorKind::RateLimited, "x");
    scope.failed(SECOND, fourth, &limited, 0.0);
    assert_eq!(wait(&mut scope, 100), 500, "refused, it used none");
    let fifth = scope.start(SECOND, 100, Cause::First);
    scope.unsent(SECOND, fifth);
    assert_eq!(wait(&mut scope, 100), 500);
}

#[test]
fn f_019_faults_spend_the_retry_budget_and_limits_do_not() {
    let budget = RetryBudgetOptions::default().with_burst(1).with_share(0.0);
    let options = ScopeOptions::default().with_retry_budget(budget);
    let mut scope = ScopeState::new(&options, 10);
    scope.start(SECOND, 0, Cause::Fault);
    assert!(matches!(
        scope.admission(SECOND, 0, Cause::Fault),
        Admission::RetryAt(_)
    ));
    assert_eq!(scope.admission(SECOND, 0, Cause::Again), Admission::Now);
    assert_eq!(scope.admission(SECOND, 0, Cause::First), Admission::Now);
}

#[test]
fn l_014_an_overload_rests_nobody_and_counts_for_the_breaker() {
    let mut scope = ScopeState::new(&ScopeOptions::default(), 100);
    let overloaded = Error::new(ErrorKind::Overloaded, "x");
    for _ in 0..19 {
        let ticket = scope.start(SECOND, 0, Cause::First);
        scope.failed(SECOND, ticket, &overloaded, 0.5);
    }
    assert_eq!(scope.admission(SECOND, 0, Cause::First), Admission::Now);
    let ticket = scope.start(SECOND, 0, Cause::First);
    scope.failed(SECOND, ticket, &overloaded, 0.5);
    assert!(scope.is_down() && !scope.cooldown.is_resting(SECOND));
    assert_eq!(
        scope.admission(SECOND, 0, Cause::First),
        Admission::At(SECOND * 6)
    );
}

fn error(number: u8) -> Error {
    let kinds = [
        ErrorKind::RateLimited,
        ErrorKind::RateLimited,
        ErrorKind::Overloaded,
        ErrorKind::Connect,
        ErrorKind::ProviderFault,
        ErrorKind::Timeout,
        ErrorKind::InvalidRequest,
        ErrorKind::QuotaExceeded,
    ];
    Error::new(kinds[usize::from(number) % kinds.len()], "x")
}

proptest! {
    /// Whatever happens in whatever order: what is held back may go within the ceiling and the gates' own
    /// waits, or something is in flight to wait for; and nothing in flight is lost.
    #[test]
    fn a_scope_never_deadlocks(
        auto in any::<bool>(),
        rpm in option::of(1.0f64..10_000.0),
        tpm in option::of(1.0f64..1e6),
        ramp in any::<bool>(),
        steps in vec((0u8..8, any::<u8>(), 0u64..5_000, option::of(0u64..10_000), 0.0f64..1.0), 1..300),
    ) {
        let limit = RateLimitOptions::default()
            .with_requests_per_minute(rpm)
            .with_tokens_per_minute(tpm);
        let mut options = ScopeOptions::default().with_rate_limit(limit);
        if auto {
            options.concurrency = Concurrency::Auto { min: 1 };
        }
        if ramp {
            options.cooldown = CooldownOptions::patient();
        }
        let mut scope = ScopeState::new(&options, 20);
        let mut now = Duration::ZERO;
        let mut open: Vec<Ticket> = Vec::new();
        for (event, which, passed, hint, random) in steps {
            now += Duration::from_millis(passed);
            let cause = [Cause::First, Cause::Fault, Cause::Again][usize::from(which) % 3];
            let tokens = u64::from(which) * 10;
            let mut asked = 0;
            loop {
                match scope.admission(now, tokens, cause) {
                    Admission::Now => {
                        open.push(scope.start(now, tokens, cause));
                        break;
                    }
                    Admission::AfterAnother => {
                        prop_assert!(!open.is_empty(), "nothing to wait for");
                        break;
                    }
                    Admission::At(at) | Admission::RetryAt(at) => {
                        prop_assert!(at > now);
                        prop_assert!(at <= now + SECOND * 3700, "{:?}", at - now);
                        if event > 3 {
                            break;
                        }
                        now = at;
                        asked += 1;
                        // Debt of a small limit takes some hours.
                        prop_assert!(asked < 100, "it is put off again and again");
                    }
                }
            }
            if event % 2 == 1 && !open.is_empty() {
                let ticket = open.swap_remove(usize::from(which) % open.len());
                match which % 4 {
                    0 => scope.succeeded(now, ticket, &answer(hint, None)),
                    1 => scope.unsent(now, ticket),
                    _ => {
                        let mut error = error(which / 4);
                        if let Some(hint) = hint {
                            error = error.with_retry_after(Duration::from_secs(hint));
                        }
                        scope.failed(now, ticket, &error, random);
                    }
                }
            }
            prop_assert_eq!(scope.in_flight, open.len());
            prop_assert!(open.len() <= 20);
        }
    }
}
