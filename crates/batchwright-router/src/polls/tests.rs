//! When the list is read, and what it saves.

use super::*;
use crate::fake::Fake;
use batchwright_core::{BatchStatus, Error, ErrorKind, InputRef};

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn handle(number: usize) -> BatchHandle {
    BatchHandle::new("p", format!("batch-{number}"), InputRef::default())
}

fn snapshot(number: usize, status: BatchStatus) -> BatchSnapshot {
    let mut snapshot = BatchSnapshot::new(handle(number), status);
    snapshot.created_at = Some(Timestamp::from_unix_seconds(1000 + number as i64));
    snapshot
}

fn summary(number: usize, status: BatchStatus) -> BatchSummary {
    let created = Timestamp::from_unix_seconds(1000 + number as i64);
    BatchSummary::new(handle(number), status, None, Some(created))
}

/// Batches 0 to `count`, each asked after by itself at 0.
fn watching(count: usize) -> ListPolls {
    let mut polls = ListPolls::default();
    for number in 0..count {
        assert_eq!(polls.plan(&handle(number).id, at(0)), Plan::Own);
        polls.on_own(&snapshot(number, BatchStatus::InProgress), at(0));
    }
    polls
}

fn all(count: usize) -> Result<Vec<BatchSummary>> {
    Ok((0..count)
        .map(|number| summary(number, BatchStatus::InProgress))
        .collect())
}

#[test]
fn few_batches_are_each_asked_after() {
    let mut polls = watching(MANY - 1);
    assert_eq!(polls.plan("batch-0", at(60)), Plan::Own);
}

#[test]
fn one_reading_serves_all_and_is_read_as_far_as_the_oldest() {
    let mut polls = watching(50);
    let mark = ListMark::new(Vec::new(), Some(Timestamp::from_unix_seconds(1000)));
    assert_eq!(polls.plan("batch-7", at(60)), Plan::Read(mark));
    let mut found = all(50).unwrap();
    found[3].status = BatchStatus::Completed;
    found.retain(|summary| summary.handle.id != "batch-4");
    polls.on_read(Ok(found), at(60));
    for number in 0..50 {
        let plan = polls.plan(&handle(number).id, at(61));
        match number {
            // What ended and what is not there is asked after by itself.
            3 | 4 => assert_eq!(plan, Plan::Own),
            _ => assert!(matches!(plan, Plan::Listed(_)), "{number}: {plan:?}"),
        }
        polls.on_listed(&handle(number).id);
    }
    // Never the same news twice.
    assert!(matches!(polls.plan("batch-7", at(120)), Plan::Read(_)));
}

#[test]
fn news_older_than_half_the_interval_is_no_news() {
    let mut polls = watching(50);
    polls.on_read(all(50), at(60));
    assert!(matches!(polls.plan("batch-1", at(120)), Plan::Listed(_)));
    assert!(matches!(polls.plan("batch-1", at(121)), Plan::Read(_)));
}

#[test]
fn f_116_a_list_that_cannot_be_read_or_is_full_of_others_is_left_alone() {
    let failed = Err(Error::new(ErrorKind::Unsupported, "no end"));
    let others = (0..2500)
        .map(|number| summary(number, BatchStatus::InProgress))
        .collect();
    for found in [failed, Ok(others)] {
        let mut polls = watching(50);
        polls.on_read(found, at(60));
        assert_eq!(polls.plan("batch-1", at(60)), Plan::Own);
        assert_eq!(polls.plan("batch-1", at(60) + REST - at(1)), Plan::Own);
        assert!(matches!(
            polls.plan("batch-1", at(60) + REST),
            Plan::Read(_)
        ));
    }
}

#[test]
fn f_114_a_list_that_never_shows_an_end_hides_none_for_ever() {
    let mut polls = watching(50);
    let mut own = Vec::new();
    for minute in (5..24 * 60).step_by(5) {
        let now = at(minute * 60);
        let plan = polls.plan("batch-0", now);
        for number in 1..50 {
            polls.plan(&handle(number).id, now);
        }
        match plan {
            Plan::Own => {
                own.push(minute / 60);
                polls.on_own(&snapshot(0, BatchStatus::InProgress), now);
            }
            Plan::Read(_) => {
                polls.on_read(all(50), now);
                polls.on_listed("batch-0");
            }
            Plan::Listed(_) => polls.on_listed("batch-0"),
        }
    }
    assert_eq!(own, [6, 12, 18]);
}

#[test]
fn a_batch_that_has_ended_is_watched_no_more() {
    let mut polls = watching(MANY);
    let mut ended = snapshot(0, BatchStatus::Expired);
    ended.status = BatchStatus::Expired;
    polls.on_own(&ended, at(30));
    assert_eq!(polls.plan("batch-1", at(60)), Plan::Own, "one too few");
}

/// The calls a thousand open batches cost in an hour at the longest interval, with the list and without.
#[tokio::test(start_paused = true)]
async fn a_thousand_open_batches_cost_a_call_a_page() {
    let fake = Fake::with_open_batches("p", 1000);
    let polls = Polls::default();
    let poll_all = async |polls: &Polls| {
        for number in 0..1000 {
            let status = polls.status(fake.as_ref(), &handle(number)).await.unwrap();
            assert_eq!(status.status, BatchStatus::InProgress);
        }
    };
    poll_all(&polls).await;
    let calls = || {
        let state = fake.state();
        (state.status_calls, state.list_pages)
    };
    assert_eq!(calls(), (1000, 0));
    for _ in 0..12 {
        tokio::time::sleep(at(300)).await;
        poll_all(&polls).await;
    }
    assert_eq!(calls(), (1000, 12 * 10));
}
