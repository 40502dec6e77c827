//! Laws of the schedule over random histories, and its rules one by one.

use super::*;
use crate::{
    BreakerOptions, Concurrency, CooldownOptions, RateLimitOptions, RetryBudgetOptions, Scope,
    SlowStart, SpendOptions, scope_name::ScopeNames,
};
use proptest::{collection::vec, option, prelude::*};
use std::collections::{BTreeMap, VecDeque};

const SECOND: Duration = Duration::from_secs(1);

fn options(max_in_flight: usize) -> PoolOptions {
    PoolOptions::default().with_max_in_flight(max_in_flight)
}

fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "x")
}

/// A schedule that knows one scope, of the pool's options.
fn schedule(options: PoolOptions) -> Schedule {
    let scope = options.scope.clone();
    let mut schedule = Schedule::new(options);
    schedule.add_scope(&scope);
    schedule
}

fn tokens(tokens: u64) -> Estimate {
    Estimate {
        tokens,
        cost: Money::ZERO,
    }
}

fn arrive(schedule: &mut Schedule, now: Duration, row: u64) -> Start {
    match schedule.arrived(now, row, ScopeId::default(), tokens(0)) {
        Arrival::Start(start) => start,
        other => panic!("nothing holds it back: {other:?}"),
    }
}

fn fail(schedule: &mut Schedule, now: Duration, slot: Slot, error: Error) -> Verdict {
    schedule.failed(now, slot, failure(error, 0.5))
}

fn failure(error: Error, random: f64) -> Failure {
    Failure {
        error,
        cost: None,
        next: Next::Usual,
        scope: ScopeId::default(),
        estimate: tokens(0),
        random,
    }
}

fn answer(tokens: Option<u64>) -> Answer {
    Answer {
        took: SECOND,
        tokens,
        cost: None,
        rate_limit: None,
    }
}

/// A shell without tasks or a clock, which checks every law at every step.
struct Shell {
    schedule: Schedule,
    options: PoolOptions,
    now: Duration,
    left: u64,
    running: Vec<Start>,
    /// What is being recorded, and whether an answer is.
    recording: Vec<(Slot, bool)>,
    rows: BTreeMap<Slot, u64>,
    history: Vec<Row>,
    scopes: Vec<Watched>,
    /// What attempts used above their estimates.
    over: u64,
}

/// What is known of a scope from outside.
#[derive(Clone, Default)]
struct Watched {
    id: ScopeId,
    /// Until when it rests.
    rests: Duration,
    /// Items that wait for their first attempt, as they came.
    queue: VecDeque<Slot>,
    running: usize,
}

#[derive(Default)]
struct Row {
    arrived: Duration,
    scope: usize,
    tokens: u64,
    /// Whether each attempt may have been billed although it gave no answer.
    unsure: Vec<bool>,
    ended: u32,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    choice: u8,
    answer: u8,
    random: f64,
    takes: u16,
    which: u8,
}

fn step() -> impl Strategy<Value = Step> {
    (
        any::<u8>(),
        any::<u8>(),
        0.0..1.0f64,
        any::<u16>(),
        any::<u8>(),
    )
        .prop_map(|(choice, answer, random, takes, which)| Step {
            choice,
            answer,
            random,
            takes,
            which,
        })
}

impl Shell {
    fn new(options: PoolOptions, left: u64, scopes: usize) -> Self {
        let mut schedule = Schedule::new(options.clone());
        let mut names = ScopeNames::default();
        let scopes = (0..scopes).map(|number| {
            let id = names.id(Scope::new("p", &number.to_string()));
            assert!(!schedule.has_scope(id));
            schedule.add_scope(&options.scope);
            Watched {
                id,
                ..Watched::default()
            }
        });
        let scopes = scopes.collect();
        Self {
            schedule,
            scopes,
            over: 0,
            options,
            now: Duration::ZERO,
            left,
            running: Vec::new(),
            recording: Vec::new(),
            rows: BTreeMap::new(),
            history: Vec::new(),
        }
    }

    fn row(&mut self, slot: Slot) -> &mut Row {
        &mut self.history[usize::try_from(self.rows[&slot]).unwrap()]
    }

    fn deadline(&mut self, slot: Slot) -> Option<Duration> {
        let after = self.options.item_deadline?;
        Some(self.row(slot).arrived + after)
    }

    fn begin(&mut self, start: Start) {
        let scope = self.row(start.slot).scope;
        let first = start.attempt == 1;
        let watched = &mut self.scopes[scope];
        assert!(
            self.now >= watched.rests,
            "it started while its scope rests"
        );
        if first && watched.queue.contains(&start.slot) {
            assert_eq!(watched.queue.pop_front(), Some(start.slot), "overtaken");
        }
        watched.running += 1;
        assert!(start.timeout <= self.options.attempt_timeout);
        if let Some(deadline) = self.deadline(start.slot) {
            assert!(self.now + start.timeout <= deadline);
            assert!(start.timeout > Duration::ZERO);
        }
        let row = self.row(start.slot);
        let paid = row.unsure.iter().filter(|unsure| **unsure).count();
        assert_eq!(start.possibly_paid as usize, paid);
        row.unsure.push(false);
        assert_eq!(start.attempt as usize, row.unsure.len());
        self.running.push(start);
    }

    fn begin_due(&mut self) {
        while let Some(due) = self.schedule.due(self.now) {
            assert!(!self.schedule.is_stopping());
            match due {
                Due::Start(start) => self.begin(start),
                Due::Expired(last, error) => {
                    assert_eq!(error.kind(), ErrorKind::Timeout);
                    assert!(self.deadline(last.slot).unwrap() <= self.now);
                    let scope = self.row(last.slot).scope;
                    self.scopes[scope].queue.retain(|slot| *slot != last.slot);
                    self.recording.push((last.slot, false));
                }
            }
        }
    }

    fn check(&self) {
        let max = self.options.max_in_flight;
        let held = self.running.len() + self.recording.len();
        assert!(self.schedule.in_flight() <= max, "permits over the bound");
        assert!(
            self.running.len() <= self.schedule.in_flight(),
            "an attempt without a permit"
        );
        assert!(
            self.schedule.in_flight() <= held,
            "a permit nobody holds has leaked"
        );
        assert!(held + self.schedule.waiting() < 2 * max, "items pile up");
        if let Some(at) = self.schedule.wake_at() {
            let policy = &self.options.retry;
            let ceiling = policy.cap.max(policy.ceiling);
            assert!(at <= self.now + ceiling + Duration::from_millis(1));
        }
        if held == 0 && self.schedule.waiting() > 0 {
            // Nobody's end will wake those that wait, and their deadline shall not be what does.
            let mut lanes = self.schedule.lanes.iter();
            let wakes = lanes.any(|lane| lane.wake_at().is_some());
            assert!(
                wakes || !self.schedule.waiting.is_empty(),
                "it waits for ever"
            );
            assert!(!self.schedule.is_spent);
        }
        let running: usize = self.scopes.iter().map(|scope| scope.running).sum();
        assert_eq!(running, self.running.len());
        if let Some(most) = self.options.spend.max_tokens {
            assert!(self.schedule.spent().tokens <= most + self.over);
        }
        if self.schedule.is_stopping() {
            assert_eq!(self.schedule.waiting(), 0);
            assert!(!self.schedule.wants_item());
        }
    }

    /// Does one thing that may happen now; panics where nothing can, since the run would hang.
    fn step(&mut self, step: Step) {
        let mut can: Vec<fn(&mut Self, Step)> = Vec::new();
        if self.schedule.wants_item() {
            can.push(Self::arrive);
        }
        if !self.running.is_empty() {
            can.push(Self::answer);
        }
        if !self.recording.is_empty() {
            can.push(Self::record);
        }
        if self.schedule.wake_at().is_some() {
            can.push(|shell, _| {
                shell.now = shell.now.max(shell.schedule.wake_at().unwrap());
            });
        }
        assert!(!can.is_empty(), "the run hangs");
        can[usize::from(step.choice) % can.len()](self, step);
    }

    fn arrive(&mut self, step: Step) {
        if self.left == 0 {
            return self.schedule.source_ended();
        }
        self.left -= 1;
        let row = self.history.len() as u64;
        let scope = usize::from(step.which) % self.scopes.len();
        let used = u64::from(step.which);
        self.history.push(Row {
            arrived: self.now,
            scope,
            tokens: used,
            ..Row::default()
        });
        let id = self.scopes[scope].id;
        match self.schedule.arrived(self.now, row, id, tokens(used)) {
            Arrival::Start(start) => {
                assert!(self.scopes[scope].queue.is_empty(), "overtaken");
                self.rows.insert(start.slot, row);
                self.begin(start);
            }
            Arrival::Wait(slot) => {
                self.rows.insert(slot, row);
                self.scopes[scope].queue.push_back(slot);
            }
            Arrival::Unfinished => assert!(self.schedule.is_stopping()),
        }
    }

    fn answer(&mut self, step: Step) {
        let start = self
            .running
            .swap_remove(usize::from(step.choice / 8) % self.running.len());
        let scope = self.row(start.slot).scope;
        self.scopes[scope].running -= 1;
        self.now += Duration::from_millis(step.takes.into()).min(start.timeout);
        let error = match step.answer % 16 {
            0..4 => {
                self.schedule.answered();
                return self.recording.push((start.slot, true));
            }
            4..6 => error(ErrorKind::Connect),
            6 => error(ErrorKind::Overloaded),
            7..9 => error(ErrorKind::RateLimited),
            9 => error(ErrorKind::RateLimited).with_retry_after(SECOND * u32::from(step.takes)),
            10..12 => error(ErrorKind::Timeout),
            12 => error(ErrorKind::ProviderFault),
            13 => error(ErrorKind::ProviderFault).with_should_retry(false),
            14 => error(ErrorKind::InvalidRequest),
            // Rare, or no history would get far.
            _ if step.answer > 250 => error(ErrorKind::QuotaExceeded),
            _ => error(ErrorKind::ContextTooLong),
        };
        let (ambiguous, stops) = (error.is_ambiguous(), error.is_job_stop());
        let limited = error.is_rate_limited();
        *self.row(start.slot).unsure.last_mut().unwrap() = ambiguous;
        let elsewhere = step.which.is_multiple_of(8) && step.takes > 0;
        let used = self.row(start.slot).tokens;
        let to = if elsewhere {
            usize::from(step.which / 8) % self.scopes.len()
        } else {
            scope
        };
        let failure = Failure {
            next: if elsewhere {
                Next::Elsewhere
            } else {
                Next::Usual
            },
            scope: self.scopes[to].id,
            estimate: tokens(used),
            ..failure(error, step.random)
        };
        let verdict = self.schedule.failed(self.now, start.slot, failure);
        while let Some(notice) = self.schedule.notice() {
            if let Notice::Rests(id, rest) = notice {
                let watched = self.scopes.iter_mut().find(|scope| scope.id == id);
                watched.unwrap().rests = self.now + rest;
            }
        }
        match verdict {
            Verdict::Wait(wait) => {
                self.row(start.slot).scope = to;
                let policy = &self.options.retry;
                assert!(wait <= policy.cap.max(policy.ceiling));
                assert!(wait >= policy.floor || limited || elsewhere);
                let until = self.now + wait;
                assert!(self.deadline(start.slot).is_none_or(|end| until < end));
                assert!(!stops || elsewhere);
                assert!(!self.schedule.is_stopping());
            }
            Verdict::Record(last, _) => {
                assert_eq!((last.slot, last.attempt), (start.slot, start.attempt));
                assert!(!stops || elsewhere);
                self.recording.push((start.slot, false));
            }
            Verdict::Unfinished => assert!(self.schedule.is_stopping()),
        }
    }

    fn record(&mut self, step: Step) {
        let index = usize::from(step.choice / 8) % self.recording.len();
        let (slot, answered) = self.recording.swap_remove(index);
        let used = [None, Some(u64::from(step.takes / 256))][usize::from(step.which % 2)];
        if answered {
            let estimate = self.row(slot).tokens;
            self.over += used.unwrap_or(0).saturating_sub(estimate);
        }
        if step.answer == 255 {
            // The answer was paid for and is lost.
            if let Some(unsure) = self.row(slot).unsure.last_mut() {
                *unsure |= answered;
            }
            let storage = error(ErrorKind::Storage);
            return self.schedule.unrecorded(self.now, slot, storage, answered);
        }
        let row = self.row(slot);
        row.ended += 1;
        // The last attempt is the one the outcome rests on.
        if let Some(unsure) = row.unsure.last_mut() {
            *unsure = false;
        }
        let answer = answered.then(|| answer(used));
        self.schedule.recorded(self.now, slot, answer);
    }
}

/// What scopes and the spend budget are limited by.
fn limits() -> impl Strategy<Value = (ScopeOptions, SpendOptions)> {
    let rates = (
        option::of(1.0..1e4f64),
        option::of(1e3..1e6f64),
        option::of(1u64..50),
    );
    let rest = (any::<bool>(), any::<bool>(), 0u32..6, 0u32..20, 0u32..20);
    (rates, rest, option::of(0u64..3000)).prop_map(|(rates, rest, max_tokens)| {
        let (rpm, tpm, burst) = rates;
        let (auto, ramp, faults, window, retries) = rest;
        let limit = RateLimitOptions::default()
            .with_requests_per_minute(rpm)
            .with_tokens_per_minute(tpm)
            .with_burst(burst);
        let ramp = ramp.then(|| SlowStart::new(5, SECOND, SECOND / 10));
        let breaker = BreakerOptions::default()
            .with_consecutive(faults)
            .with_share(0.5, window);
        let mut scope = ScopeOptions::default()
            .with_rate_limit(limit)
            .with_cooldown(CooldownOptions::default().with_slow_start(ramp))
            .with_breaker(breaker)
            .with_retry_budget(RetryBudgetOptions::default().with_burst(retries));
        if auto {
            scope = scope.with_concurrency(Concurrency::Auto { min: 1 });
        }
        (scope, SpendOptions::default().with_max_tokens(max_tokens))
    })
}

proptest! {
    /// I1, I5, F-122, F-157: whatever is answered and whenever the run is stopped, it ends; every row
    /// taken ended exactly once or is handed back; places stay within their bound and none leaks;
    /// every attempt that may have been paid for nothing is counted.
    #[test]
    fn every_history_ends_and_adds_up(
        max_in_flight in 1usize..6,
        rows in 0u64..24,
        deadline in 1u32..90,
        identical in 0u32..6,
        extra in 0u64..6,
        ambiguous in 0u32..3,
        scopes in 1usize..4,
        limits in limits(),
        stop_at in option::of(0usize..200),
        script in vec(step(), 1..200),
    ) {
        let mut options = options(max_in_flight)
            .with_attempt_timeout(SECOND * 20)
            .with_item_deadline(Some(SECOND * deadline))
            .with_identical_failures(identical)
            .with_extra_paid(0.25, extra)
            .with_scope(limits.0)
            .with_spend(limits.1);
        options.retry.max_ambiguous_retries = ambiguous;
        let mut shell = Shell::new(options, rows, scopes);
        // Waits are at least 100 ms, so a row makes fewer than 900 attempts in 90 s.
        let most = 24 * 900 * 3;
        let mut steps = 0;
        loop {
            shell.begin_due();
            shell.check();
            if shell.schedule.is_over() {
                break;
            }
            if stop_at == Some(steps) {
                shell.schedule.stop(EndReason::Cancelled);
                shell.check();
            } else {
                shell.step(script[steps % script.len()]);
            }
            steps += 1;
            prop_assert!(steps < most, "no end in sight");
        }
        let possibly_paid = shell.schedule.possibly_paid();
        prop_assert_eq!(shell.schedule.in_flight() + shell.schedule.waiting(), 0);
        prop_assert_eq!(shell.schedule.taken(), shell.history.len() as u64);
        let (reason, unfinished) = shell.schedule.end();
        let mut unsure = 0;
        for (number, row) in shell.history.iter().enumerate() {
            let back: Vec<_> = unfinished.iter().filter(|item| item.row == number as u64).collect();
            prop_assert_eq!(row.ended as usize + back.len(), 1, "row {} of {:?}", number, reason);
            let paid = row.unsure.iter().filter(|unsure| **unsure).count();
            unsure += paid as u64;
            if let [item] = back[..] {
                prop_assert_eq!(item.attempts as usize, row.unsure.len());
                prop_assert_eq!(item.possibly_paid_attempts as usize, paid);
            } else {
                prop_assert!(paid <= ambiguous as usize, "more extra attempts than allowed");
            }
        }
        prop_assert_eq!(possibly_paid, unsure);
        match reason {
            EndReason::Completed => {
                prop_assert_eq!(shell.history.len() as u64, rows);
                prop_assert!(unfinished.is_empty());
            }
            EndReason::Cancelled => prop_assert!(stop_at.is_some()),
            EndReason::Stopped(error) => prop_assert!(!error.message().is_empty()),
        }
    }
}

#[test]
fn f_001_a_waiting_item_holds_no_place_and_goes_before_new_ones() {
    let mut schedule = schedule(options(1));
    let first = arrive(&mut schedule, Duration::ZERO, 0);
    assert!(!schedule.wants_item());
    let slow_down = error(ErrorKind::RateLimited).with_retry_after(SECOND * 20);
    let Verdict::Wait(wait) = fail(&mut schedule, SECOND, first.slot, slow_down) else {
        panic!("a rate limit is waited out");
    };
    assert!(wait >= SECOND * 20);
    assert_eq!((schedule.in_flight(), schedule.waiting()), (0, 1));
    assert!(schedule.due(wait).is_none(), "too early");
    assert_eq!(schedule.wake_at(), Some(SECOND + wait));
    assert!(
        !schedule.wants_item(),
        "as many wait as may be in flight, so memory would grow"
    );
    let Some(Due::Start(again)) = schedule.due(SECOND + wait) else {
        panic!("the wait is over");
    };
    assert_eq!((again.slot, again.attempt), (first.slot, 2));
    assert_eq!(again.possibly_paid, 0);
}

#[test]
fn a_wait_that_is_over_wakes_nobody_while_no_place_is_free() {
    let mut schedule = schedule(options(2).with_item_deadline(None));
    let one = arrive(&mut schedule, Duration::ZERO, 0);
    arrive(&mut schedule, Duration::ZERO, 1);
    fail(
        &mut schedule,
        Duration::ZERO,
        one.slot,
        error(ErrorKind::Connect),
    );
    let three = arrive(&mut schedule, Duration::ZERO, 2);
    assert_eq!(schedule.wake_at(), None, "it would spin");
    assert!(schedule.due(SECOND * 60).is_none());
    schedule.recorded(Duration::ZERO, three.slot, None);
    assert!(schedule.wake_at().is_some());
    assert!(matches!(schedule.due(SECOND * 60), Some(Due::Start(_))));
}

#[test]
fn f_027_identical_failures_stop_only_where_nothing_succeeded() {
    let bad = |code: &str| error(ErrorKind::InvalidRequest).with_code(code);
    // Per case: the codes in order, after how many an answer comes, and whether the run stops.
    let cases: [(&[&str], Option<usize>, bool); 5] = [
        (&["a", "a", "a"], None, true),
        (&["a", "a"], None, false),
        (&["a", "a", "b", "a", "a"], None, false),
        (&["a", "b", "b", "b"], None, true),
        (&["a", "a", "a", "a"], Some(1), false),
    ];
    for (codes, answered, stops) in cases {
        let mut schedule = schedule(options(1).with_identical_failures(3));
        for (index, code) in codes.iter().enumerate() {
            if answered == Some(index) {
                schedule.answered();
            }
            let start = arrive(&mut schedule, Duration::ZERO, index as u64);
            let verdict = fail(&mut schedule, Duration::ZERO, start.slot, bad(code));
            assert!(matches!(verdict, Verdict::Record(..)), "the row failed");
            schedule.recorded(Duration::ZERO, start.slot, None);
        }
        assert_eq!(schedule.is_stopping(), stops, "{codes:?}");
        if let (EndReason::Stopped(error), unfinished) = schedule.end() {
            assert!(error.is_job_stop() && error.code().is_some());
            assert!(unfinished.is_empty());
        }
    }
}

#[test]
fn f_122_attempts_paid_twice_are_bounded_by_share_and_floor() {
    for (share, floor, rows, granted) in [(0.05, 20, 100, 20), (0.5, 1, 39, 19), (0.0, 0, 9, 0)] {
        let options = options(64)
            .with_extra_paid(share, floor)
            .with_item_deadline(None);
        let mut schedule = schedule(options);
        for row in 0..rows {
            let start = arrive(&mut schedule, Duration::ZERO, row);
            if row < rows - granted - 1 {
                schedule.recorded(Duration::ZERO, start.slot, None);
            } else {
                assert!(!schedule.is_stopping(), "{share} {floor}: stopped early");
                let cut = error(ErrorKind::Timeout);
                fail(&mut schedule, Duration::ZERO, start.slot, cut);
            }
        }
        assert!(schedule.is_stopping(), "{share} {floor}");
        let (reason, unfinished) = schedule.end();
        let EndReason::Stopped(error) = reason else {
            panic!("{reason:?}");
        };
        assert_eq!(error.kind(), ErrorKind::NeedsDecision);
        assert_eq!(unfinished.len() as u64, granted + 1);
        assert_eq!(schedule.possibly_paid(), granted + 1);
    }
}

#[test]
fn an_error_goes_before_cancelling_as_the_reason_and_the_first_error_stands() {
    let mut schedule = schedule(options(1));
    schedule.stop(EndReason::Cancelled);
    schedule.stop(EndReason::Stopped(error(ErrorKind::Storage)));
    schedule.stop(EndReason::Stopped(error(ErrorKind::QuotaExceeded)));
    schedule.stop(EndReason::Cancelled);
    let (EndReason::Stopped(error), _) = schedule.end() else {
        panic!("an error stopped it");
    };
    assert_eq!(error.kind(), ErrorKind::Storage);
}

#[test]
fn cancelling_what_is_complete_is_no_cancelling() {
    let mut schedule = schedule(options(1));
    let start = arrive(&mut schedule, Duration::ZERO, 0);
    schedule.recorded(Duration::ZERO, start.slot, None);
    schedule.source_ended();
    schedule.stop(EndReason::Cancelled);
    assert!(schedule.is_over());
    assert!(matches!(schedule.end().0, EndReason::Completed));
}

#[test]
fn f_001_one_limit_holds_its_scope_back_and_no_other() {
    let mut schedule = Schedule::new(options(10));
    let mut names = ScopeNames::default();
    let scopes = ["small", "large"].map(|model| names.id(Scope::new("p", model)));
    for scope in scopes {
        assert!(!schedule.has_scope(scope));
        schedule.add_scope(&ScopeOptions::default());
    }
    let arrive = |schedule: &mut Schedule, row, scope| {
        schedule.arrived(SECOND, row, scope, Estimate::default())
    };
    let Arrival::Start(first) = arrive(&mut schedule, 0, scopes[0]) else {
        panic!("nothing holds it back");
    };
    let limited = error(ErrorKind::RateLimited).with_retry_after(SECOND * 20);
    fail(&mut schedule, SECOND, first.slot, limited);
    assert!(matches!(schedule.notice(), Some(Notice::Rests(..))));
    let waits = arrive(&mut schedule, 1, scopes[0]);
    assert!(matches!(waits, Arrival::Wait(_)), "its scope rests");
    let goes = arrive(&mut schedule, 2, scopes[1]);
    assert!(matches!(goes, Arrival::Start(_)), "the other does not");
    assert_eq!((schedule.in_flight(), schedule.waiting()), (1, 2));
    assert!(schedule.due(SECOND * 2).is_none());
    let at = schedule.wake_at().unwrap();
    assert!(at >= SECOND * 21 && at <= SECOND * 23);
    let Some(Due::Start(again)) = schedule.due(at) else {
        panic!("the rest is over");
    };
    assert_eq!(again.slot, first.slot, "in the order they joined the queue");
}

#[test]
fn ax_162_the_spend_budget_ends_the_run_when_what_is_in_flight_cannot_make_room() {
    let spend = SpendOptions::default().with_max_tokens(Some(100));
    let mut schedule = schedule(options(10).with_spend(spend));
    let arrive = |schedule: &mut Schedule, row| {
        schedule.arrived(SECOND, row, ScopeId::default(), tokens(60))
    };
    let Arrival::Start(first) = arrive(&mut schedule, 0) else {
        panic!("there is room");
    };
    assert!(matches!(arrive(&mut schedule, 1), Arrival::Wait(_)));
    assert!(schedule.due(SECOND).is_none());
    assert_eq!(
        schedule.wake_at(),
        schedule.options.item_deadline.map(|after| SECOND + after),
        "nothing but an answer makes room"
    );
    schedule.recorded(SECOND, first.slot, Some(answer(Some(30))));
    let Some(Due::Start(second)) = schedule.due(SECOND) else {
        panic!("it used less than was reserved");
    };
    assert!(matches!(arrive(&mut schedule, 2), Arrival::Wait(_)));
    schedule.recorded(SECOND, second.slot, Some(answer(None)));
    assert!(schedule.due(SECOND).is_none());
    let (EndReason::Stopped(error), unfinished) = schedule.end() else {
        panic!("the budget is used up");
    };
    assert_eq!(error.kind(), ErrorKind::QuotaExceeded);
    assert_eq!(unfinished.len(), 1, "a later run takes it");
    assert_eq!(
        (schedule.spent().tokens, schedule.spent().unknown_tokens),
        (90, 1)
    );
}

#[test]
fn ax_163_what_is_in_flight_is_given_up_where_that_is_wanted() {
    let spend = SpendOptions::default()
        .with_max_tokens(Some(10))
        .with_on_reached(OnReached::Cancel);
    let mut schedule = schedule(options(10).with_spend(spend));
    let mut starts = Vec::new();
    for row in 0..2 {
        starts.push(arrive(&mut schedule, SECOND, row));
    }
    schedule.recorded(SECOND, starts[0].slot, Some(answer(Some(10))));
    let arrival = schedule.arrived(SECOND, 2, ScopeId::default(), tokens(0));
    assert!(matches!(arrival, Arrival::Unfinished));
    assert!(schedule.gives_up());
    let cancelled = error(ErrorKind::Cancelled).with_class(RetryClass::Ambiguous);
    fail(&mut schedule, SECOND, starts[1].slot, cancelled);
    let (_, unfinished) = schedule.end();
    let paid: Vec<_> = unfinished
        .iter()
        .map(|item| item.possibly_paid_attempts)
        .collect();
    assert_eq!(paid, [1, 0]);
}

#[test]
fn f_022_rows_wait_while_the_provider_is_down_and_one_asks_whether_it_is_back() {
    let mut schedule = schedule(options(64));
    schedule.answered();
    let mut starts = Vec::new();
    for row in 0..32 {
        starts.push(arrive(&mut schedule, SECOND, row));
    }
    for start in &starts {
        fail(&mut schedule, SECOND, start.slot, error(ErrorKind::Connect));
    }
    assert_eq!(schedule.notice(), Some(Notice::Down(ScopeId::default())));
    assert!(schedule.due(SECOND * 5).is_none());
    let Some(Due::Start(probe)) = schedule.due(SECOND * 6) else {
        panic!("one may ask");
    };
    assert!(schedule.due(SECOND * 6).is_none(), "one at a time");
    assert_eq!(schedule.waiting(), 31);
    schedule.recorded(SECOND * 7, probe.slot, Some(answer(None)));
    assert_eq!(schedule.notice(), Some(Notice::Back(ScopeId::default())));
    assert!(matches!(schedule.due(SECOND * 7), Some(Due::Start(_))));
}

#[test]
fn f_019_retries_without_a_budget_let_first_attempts_pass_and_flow_again_once_one_succeeds() {
    let budget = RetryBudgetOptions::default()
        .with_burst(1)
        .with_share(0.0)
        .with_per_second(0.1);
    let scope = ScopeOptions::default().with_retry_budget(budget);
    let mut schedule = schedule(options(8).with_scope(scope));
    schedule.answered();
    let starts: Vec<_> = (0..3)
        .map(|row| arrive(&mut schedule, SECOND, row))
        .collect();
    for start in &starts {
        fail(&mut schedule, SECOND, start.slot, error(ErrorKind::Connect));
    }
    let later = SECOND * 5;
    let Some(Due::Start(retry)) = schedule.due(later) else {
        panic!("one retry is allowed");
    };
    assert!(schedule.due(later).is_none());
    let wakes = schedule.wake_at().unwrap();
    assert!(wakes > later && wakes <= later + SECOND * 11, "{wakes:?}");
    let first = schedule.arrived(later, 3, ScopeId::default(), tokens(0));
    assert!(matches!(first, Arrival::Wait(_)));
    let Some(Due::Start(passes)) = schedule.due(later) else {
        panic!("a first attempt passes");
    };
    assert_eq!(passes.attempt, 1);
    schedule.recorded(later, retry.slot, Some(answer(None)));
    let Some(Due::Start(again)) = schedule.due(later) else {
        panic!("the provider is back");
    };
    assert_eq!(again.attempt, 2);
}
