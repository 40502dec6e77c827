//! Batches that end otherwise, and results that are odd.

use crate::{Subject, world::World};
use batchwright_core::{BatchStatus, Ending, Outcome};
use batchwright_emulator::{BatchPace, EmulatorConfig, FaultAction, MutationKind, prompt_hash};
use std::{collections::BTreeMap, time::Duration};

const TEXTS: [&str; 4] = ["a", "b", "c", "d"];

fn count(outcomes: &[Outcome], ending: &str) -> usize {
    let is = |outcome: &&Outcome| outcome.ending.as_str() == ending;
    outcomes.iter().filter(is).count()
}

/// Each success is its own row's.
fn assert_own_answers(outcomes: &[Outcome], texts: &[&str]) {
    for outcome in outcomes {
        if let Ending::Succeeded(response) = &outcome.ending {
            let row = (0..texts.len()).find(|row| outcome.custom_id == format!("p{row}-{row}"));
            let text = texts[row.expect("an answer under an id that was sent")];
            let own = response.text().contains(&prompt_hash([text]));
            assert!(own, "I4: {}", outcome.custom_id);
        }
    }
}

/// F-080: a batch whose rows all failed has ended like any other, and each row has its error.
pub async fn f_080_all_rows_bad_is_an_end_like_any_other(subject: &Subject) {
    let world = World::new(subject).await;
    let (snapshot, outcomes) = world.run(&["[[error:400]]", "[[error:400]]"]).await;
    assert_eq!(snapshot.status, BatchStatus::Completed);
    assert_eq!(count(&outcomes, "failed"), 2);
}

/// F-078: a cancelled batch keeps what ran, and what did not run is no failure.
pub async fn f_078_a_cancelled_batch_keeps_what_ran(subject: &Subject) {
    let pace = BatchPace::default().with_per_row(Duration::from_secs(60));
    let world = World::with(subject, EmulatorConfig::default().with_pace(pace)).await;
    let handle = world.submit(&world.rows(&TEXTS), 0).await;
    world.advance(Duration::from_secs(200)).await;
    world.batch().cancel(&handle).await.unwrap();
    let snapshot = world.end(&handle).await;
    assert_eq!(snapshot.status, BatchStatus::Cancelled);
    assert_partial(&world.outcomes(&snapshot).await, "cancelled");
}

/// F-076: an expired batch keeps what ran, and what did not run is no failure.
pub async fn f_076_an_expired_batch_keeps_what_ran(subject: &Subject) {
    let world = World::new(subject).await;
    world.fault(subject.routes.create, FaultAction::ExpireAfterRows(1));
    let handle = world.submit(&world.rows(&TEXTS), 0).await;
    let snapshot = world.end(&handle).await;
    assert_eq!(snapshot.status, BatchStatus::Expired);
    assert_partial(&world.outcomes(&snapshot).await, "expired");
}

/// Some ran, unless the vendor throws that away too; the others are marked or have no line.
fn assert_partial(outcomes: &[Outcome], rest: &str) {
    assert_own_answers(outcomes, &TEXTS);
    let (done, marked) = (count(outcomes, "succeeded"), count(outcomes, rest));
    assert_eq!(done + marked, outcomes.len(), "neither failed nor odd");
    assert!(done < TEXTS.len() && outcomes.len() <= TEXTS.len());
    assert!(marked == 0 || done + marked == TEXTS.len());
}

async fn mutated(subject: &Subject, kind: MutationKind) -> Vec<Outcome> {
    let world = World::new(subject).await;
    world.mutate(kind);
    let (_, outcomes) = world.run(&TEXTS).await;
    outcomes
}

/// F-095, F-108: order, line ends, blank lines and a byte order mark change nothing.
pub async fn f_095_f_108_order_and_line_ends_change_nothing(subject: &Subject) {
    for kind in [
        MutationKind::Shuffle,
        MutationKind::Crlf,
        MutationKind::Bom,
        MutationKind::Blank,
    ] {
        let outcomes = mutated(subject, kind).await;
        assert_own_answers(&outcomes, &TEXTS);
        assert_eq!(count(&outcomes, "succeeded"), 4, "{kind:?}");
        assert_eq!(outcomes.len(), 4, "{kind:?}");
    }
}

/// F-097: a row without a line is missing, and the others are whole.
pub async fn f_097_a_missing_line_costs_one_row(subject: &Subject) {
    let outcomes = mutated(subject, MutationKind::Drop).await;
    assert_own_answers(&outcomes, &TEXTS);
    assert_eq!(outcomes.len(), 3);
}

/// F-098: a line under an id that was never sent is read as such and takes nobody's place.
pub async fn f_098_an_unknown_id_takes_nobodys_place(subject: &Subject) {
    let outcomes = mutated(subject, MutationKind::Add).await;
    let sent = |outcome: &&Outcome| {
        (0..TEXTS.len()).any(|row| outcome.custom_id == format!("p{row}-{row}"))
    };
    let ours: Vec<Outcome> = outcomes.iter().filter(sent).cloned().collect();
    assert_own_answers(&ours, &TEXTS);
    assert_eq!(ours.len(), 4);
}

/// F-099: a line that comes twice says the same twice.
pub async fn f_099_a_double_line_says_the_same_twice(subject: &Subject) {
    let outcomes = mutated(subject, MutationKind::Duplicate).await;
    assert_own_answers(&outcomes, &TEXTS);
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for outcome in &outcomes {
        *times.entry(&outcome.custom_id).or_default() += 1;
    }
    assert_eq!((times.len(), outcomes.len()), (4, 5));
}

/// F-104: a hollow line harms its own row only.
pub async fn f_104_a_hollow_line_harms_its_own_row(subject: &Subject) {
    assert_one_odd(&mutated(subject, MutationKind::Hollow).await);
}

/// F-104: a broken line harms its own row only.
pub async fn f_104_a_broken_line_harms_its_own_row(subject: &Subject) {
    assert_one_odd(&mutated(subject, MutationKind::Garble).await);
}

fn assert_one_odd(outcomes: &[Outcome]) {
    assert_own_answers(outcomes, &TEXTS);
    assert_eq!(count(outcomes, "succeeded"), 3);
    let odd = outcomes.len() - 3;
    assert_eq!(count(outcomes, "unreadable"), odd);
    assert!(odd <= 1);
}

/// F-078: a batch that is cancelled before it began ends as cancelled, and no row of it failed.
pub async fn f_078_a_batch_cancelled_at_once_ends_as_cancelled(subject: &Subject) {
    let world = World::new(subject).await;
    let handle = world.submit(&world.rows(&TEXTS), 0).await;
    world.batch().cancel(&handle).await.unwrap();
    let snapshot = world.end(&handle).await;
    assert_eq!(snapshot.status, BatchStatus::Cancelled);
    let outcomes = world.outcomes(&snapshot).await;
    assert_eq!(
        count(&outcomes, "failed") + count(&outcomes, "unreadable"),
        0
    );
}
