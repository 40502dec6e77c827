//! The account of a queue, in invented time.

use super::*;
use batchwright_core::{BatchHandle, BatchStatus, InputFault, InputRef};
use proptest::prelude::*;

const WAIT: Duration = Duration::from_secs(60);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn want(model: &str, tokens: u64) -> Want {
    Want {
        key: QueueKey {
            provider: "p".into(),
            account: "a".into(),
            model: model.into(),
        },
        tokens,
        limit: QueueLimit::default(),
    }
}

#[test]
fn f_010_a_told_limit_is_never_passed_and_one_batch_alone_always_goes() {
    let mut queue = Queue::default();
    let mut big = want("m", 700);
    big.limit = QueueLimit::default().with_tokens(1000);
    let small = Want {
        tokens: 300,
        ..big.clone()
    };
    assert_eq!(queue.ask(1, &big, at(0)), Room::Go);
    assert_eq!(queue.ask(2, &small, at(0)), Room::Go);
    assert_eq!(queue.ask(3, &big, at(0)), Room::Later);
    // Whoever came later does not pass it, though it would fit.
    queue.release(2, &small.key);
    assert_eq!(queue.ask(4, &small, at(0)), Room::Later);
    queue.release(1, &big.key);
    assert_eq!(queue.ask(3, &big, at(0)), Room::Go);
    assert_eq!(queue.ask(4, &small, at(0)), Room::Go);

    let mut queue = Queue::default();
    let huge = Want {
        tokens: 5000,
        ..big
    };
    assert_eq!(queue.ask(1, &huge, at(0)), Room::Go);
}

#[test]
fn f_010_a_refusal_shuts_the_queue_until_a_batch_of_ours_ends_or_a_growing_wait_passes() {
    let mut queue = Queue::default();
    let ask = want("m", 100);
    for seat in 1..=4 {
        assert_eq!(queue.ask(seat, &ask, at(0)), Room::Go);
    }
    assert!(queue.let_in(1, &ask.key));
    assert!(!queue.let_in(1, &ask.key), "no news");
    // Three that were on their way together count as one refusal.
    for (seat, now) in [(2, 10), (3, 20), (4, 80)] {
        queue.refused(seat, &ask.key, Some(250), WAIT, at(now));
    }
    assert_eq!(queue.learned(&ask.key), Some(250));
    // The last that was refused asks first.
    assert_eq!(queue.ask(2, &ask, at(65)), Room::Later);
    assert_eq!(queue.ask(4, &ask, at(65)), Room::NotBefore(at(70)));
    // 100 of 250 are taken: one probe, and nobody else until it is let in.
    assert_eq!(queue.ask(4, &ask, at(70)), Room::Go);
    assert_eq!(queue.ask(3, &ask, at(70)), Room::Later);
    queue.refused(4, &ask.key, Some(250), WAIT, at(75));
    // Twice as long.
    assert_eq!(queue.ask(4, &ask, at(80)), Room::NotBefore(at(75 + 120)));
    // An end makes room at once.
    queue.release(1, &ask.key);
    assert_eq!(queue.ask(4, &ask, at(81)), Room::Go);
    assert!(queue.let_in(4, &ask.key));
    assert_eq!(queue.ask(3, &ask, at(82)), Room::Go);
    assert!(queue.let_in(3, &ask.key));
    assert_eq!(queue.ask(2, &ask, at(83)), Room::Later, "300 of 250");
}

#[test]
fn queues_of_other_models_are_their_own_and_open_batches_are_the_accounts() {
    let mut queue = Queue::default();
    let limit = QueueLimit::default().with_open(2);
    let one = Want {
        limit,
        ..want("one", 10)
    };
    let two = Want {
        limit,
        ..want("two", 10)
    };
    queue.ask(9, &one, at(0));
    queue.refused(9, &one.key, None, WAIT, at(0));
    assert_eq!(queue.ask(1, &two, at(0)), Room::Go);
    assert_eq!(queue.ask(2, &two, at(0)), Room::Go);
    assert_eq!(queue.ask(9, &one, at(100)), Room::Later, "two are open");
    queue.release(1, &two.key);
    assert_eq!(queue.ask(9, &one, at(100)), Room::Go);
}

#[test]
fn f_010_a_chunk_that_fits_by_the_named_limit_is_not_given_up_early() {
    let mut queue = Queue::default();
    let ask = want("m", 100);
    queue.ask(1, &ask, at(0));
    assert!(queue.may_never_fit(1, &ask));
    queue.refused(1, &ask.key, Some(200), WAIT, at(0));
    assert!(
        !queue.may_never_fit(1, &ask),
        "somebody else's batches fill it"
    );
    let mut now = 0;
    for _ in 0..PATIENT_REFUSALS {
        now += 4000;
        assert_eq!(queue.ask(1, &ask, at(now)), Room::Go);
        queue.refused(1, &ask.key, Some(200), WAIT, at(now + 1));
    }
    assert!(queue.may_never_fit(1, &ask), "after a day");
}

#[test]
fn f_010_the_limit_is_read_from_the_providers_words() {
    let said = |text: &str| {
        let handle = BatchHandle::new("p", "b", InputRef::default());
        let mut snapshot = BatchSnapshot::new(handle, BatchStatus::Failed);
        snapshot
            .faults
            .push(InputFault::new(None, text, None, None));
        named_limit(&snapshot)
    };
    let openai = "Enqueued token limit reached for gpt-4o in organization org-x. Limit: 2,000,000 enqueued tokens. \
                  Please try again once some in_progress batches have been completed.";
    assert_eq!(said(openai), Some(2_000_000));
    for text in [
        "Enqueued token limit reached",
        "Limit: many enqueued tokens",
        "Limit: 0 enqueued tokens",
        "",
    ] {
        assert_eq!(said(text), None, "{text}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Ask(u64),
    LetIn(u64),
    Refused(u64, Option<u64>),
    Release(u64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let seat = 0..6u64;
    prop_oneof![
        4 => seat.clone().prop_map(Step::Ask),
        1 => seat.clone().prop_map(Step::LetIn),
        1 => (seat.clone(), proptest::option::of(1..400u64)).prop_map(|(s, l)| Step::Refused(s, l)),
        1 => seat.prop_map(Step::Release),
        2 => (1..5000u64).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever happened: what is in stays within what is known unless it is alone, and when all has ended and time has
    /// passed, the first that asks goes.
    #[test]
    fn f_010_the_account_never_overfills_and_never_locks_up(steps in proptest::collection::vec(step(), 0..60)) {
        let mut queue = Queue::default();
        let mut ask = want("m", 100);
        ask.limit = QueueLimit::default().with_tokens(350).with_open(3);
        let mut now = 0;
        let mut taken = std::collections::BTreeSet::new();
        for step in steps {
            match step {
                Step::Ask(seat) => {
                    if queue.ask(seat, &ask, at(now)) == Room::Go {
                        let new = taken.insert(seat);
                        let limit = queue.learned(&ask.key).unwrap_or(350).min(350);
                        prop_assert!(!new || taken.len() == 1 || taken.len() as u64 * 100 <= limit);
                        prop_assert!(taken.len() <= 3);
                    }
                }
                Step::LetIn(seat) => { queue.let_in(seat, &ask.key); }
                Step::Refused(seat, limit) if taken.remove(&seat) => {
                    queue.refused(seat, &ask.key, limit, WAIT, at(now));
                }
                Step::Refused(..) => {}
                Step::Release(seat) => {
                    taken.remove(&seat);
                    queue.release(seat, &ask.key);
                }
                Step::Pass(seconds) => now += seconds,
            }
        }
        for seat in 0..6 {
            queue.release(seat, &ask.key);
        }
        prop_assert_eq!(queue.ask(7, &ask, at(now + 3601)), Room::Go);
        prop_assert_eq!(queue.open.values().sum::<u64>(), 1);
    }
}
