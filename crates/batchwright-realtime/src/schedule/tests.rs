//! Laws of the schedule over random histories, and its rules one by one.

use super::*;
use proptest::{collection::vec, option, prelude::*};
use std::collections::BTreeMap;

const SECOND: Duration = Duration::from_secs(1);

fn options(max_in_flight: usize) -> PoolOptions {
    PoolOptions::default().with_max_in_flight(max_in_flight)
}

fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "x")
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
}

#[derive(Default)]
struct Row {
    arrived: Duration,
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
}

fn step() -> impl Strategy<Value = Step> {
    (any::<u8>(), any::<u8>(), 0.0..1.0f64, any::<u16>()).prop_map(
        |(choice, answer, random, takes)| Step {
            choice,
            answer,
            random,
            takes,
        },
    )
}

impl Shell {
    fn new(options: PoolOptions, left: u64) -> Self {
        Self {
            schedule: Schedule::new(options.clone()),
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
            assert!(at <= self.now + policy.cap.max(policy.ceiling));
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

    fn arrive(&mut self, _: Step) {
        if self.left == 0 {
            return self.schedule.source_ended();
        }
        self.left -= 1;
        let row = self.history.len() as u64;
        self.history.push(Row {
            arrived: self.now,
            ..Row::default()
        });
        let start = self.schedule.arrived(self.now, row, ScopeId::default());
        self.rows.insert(start.slot, row);
        self.begin(start);
    }

    fn answer(&mut self, step: Step) {
        let start = self
            .running
            .swap_remove(usize::from(step.choice / 8) % self.running.len());
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
        *self.row(start.slot).unsure.last_mut().unwrap() = ambiguous;
        let verdict = self.schedule.failed(
            self.now,
            start.slot,
            error,
            Next::Usual,
            ScopeId::default(),
            step.random,
        );
        match verdict {
            Verdict::Wait(wait) => {
                let policy = &self.options.retry;
                assert!(wait >= policy.floor && wait <= policy.cap.max(policy.ceiling));
                let until = self.now + wait;
                assert!(self.deadline(start.slot).is_none_or(|end| until < end));
                assert!(!stops && !self.schedule.is_stopping());
            }
            Verdict::Record(last, _) => {
                assert_eq!((last.slot, last.attempt), (start.slot, start.attempt));
                assert!(!stops);
                self.recording.push((start.slot, false));
            }
            Verdict::Unfinished => assert!(self.schedule.is_stopping()),
        }
    }

    fn record(&mut self, step: Step) {
        let index = usize::from(step.choice / 8) % self.recording.len();
        let (slot, answered) = self.recording.swap_remove(index);
        if step.answer == 255 {
            // The answer was paid for and is lost.
            *self.row(slot).unsure.last_mut().unwrap() |= answered;
            return self
                .schedule
                .unrecorded(slot, error(ErrorKind::Storage), answered);
        }
        let row = self.row(slot);
        row.ended += 1;
        // The last attempt is the one the outcome rests on.
        *row.unsure.last_mut().unwrap() = false;
        self.schedule.recorded(slot);
    }
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
        stop_at in option::of(0usize..200),
        script in vec(step(), 1..200),
    ) {
        let mut options = options(max_in_flight)
            .with_attempt_timeout(SECOND * 20)
            .with_item_deadline(Some(SECOND * deadline))
            .with_identical_failures(identical)
            .with_extra_paid(0.25, extra);
        options.retry.max_ambiguous_retries = ambiguous;
        let mut shell = Shell::new(options, rows);
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
    let mut schedule = Schedule::new(options(1));
    let first = schedule.arrived(Duration::ZERO, 0, ScopeId::default());
    assert!(!schedule.wants_item());
    let slow_down = error(ErrorKind::RateLimited).with_retry_after(SECOND * 20);
    let Verdict::Wait(wait) = schedule.failed(
        SECOND,
        first.slot,
        slow_down,
        Next::Usual,
        ScopeId::default(),
        0.5,
    ) else {
        panic!("a rate limit is waited out");
    };
    assert!(wait >= SECOND * 20);
    assert_eq!((schedule.in_flight(), schedule.waiting()), (0, 1));
    assert_eq!(schedule.wake_at(), Some(SECOND + wait));
    assert!(schedule.due(wait).is_none(), "too early");
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
    let mut schedule = Schedule::new(options(2).with_item_deadline(None));
    let one = schedule.arrived(Duration::ZERO, 0, ScopeId::default());
    schedule.arrived(Duration::ZERO, 1, ScopeId::default());
    schedule.failed(
        Duration::ZERO,
        one.slot,
        error(ErrorKind::Connect),
        Next::Usual,
        ScopeId::default(),
        0.5,
    );
    let three = schedule.arrived(Duration::ZERO, 2, ScopeId::default());
    assert_eq!(schedule.wake_at(), None, "it would spin");
    assert!(schedule.due(SECOND * 60).is_none());
    schedule.recorded(three.slot);
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
        let mut schedule = Schedule::new(options(1).with_identical_failures(3));
        for (index, code) in codes.iter().enumerate() {
            if answered == Some(index) {
                schedule.answered();
            }
            let start = schedule.arrived(Duration::ZERO, index as u64, ScopeId::default());
            let verdict = schedule.failed(
                Duration::ZERO,
                start.slot,
                bad(code),
                Next::Usual,
                ScopeId::default(),
                0.5,
            );
            assert!(matches!(verdict, Verdict::Record(..)), "the row failed");
            schedule.recorded(start.slot);
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
        let mut schedule = Schedule::new(options);
        for row in 0..rows {
            let start = schedule.arrived(Duration::ZERO, row, ScopeId::default());
            if row < rows - granted - 1 {
                schedule.recorded(start.slot);
            } else {
                assert!(!schedule.is_stopping(), "{share} {floor}: stopped early");
                let cut = error(ErrorKind::Timeout);
                schedule.failed(
                    Duration::ZERO,
                    start.slot,
                    cut,
                    Next::Usual,
                    ScopeId::default(),
                    0.5,
                );
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
    let mut schedule = Schedule::new(options(1));
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
    let mut schedule = Schedule::new(options(1));
    let start = schedule.arrived(Duration::ZERO, 0, ScopeId::default());
    schedule.recorded(start.slot);
    schedule.source_ended();
    schedule.stop(EndReason::Cancelled);
    assert!(schedule.is_over());
    assert!(matches!(schedule.end().0, EndReason::Completed));
}
