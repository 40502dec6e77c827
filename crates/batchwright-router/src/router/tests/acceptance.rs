//! What a router must do by its plan (B-42 to B-46, T-54), through its public methods and with providers in memory.

use super::*;
use crate::{Cancelled, RunItem, UniqueIds, WaitOptions};
use batchwright_core::{BatchHandle, BatchStatus, InputRef};
use futures::TryStreamExt;
use std::time::Duration;
use tokio::time::Instant;

fn handles(sent: Vec<SentBatch>) -> Vec<BatchHandle> {
    sent.into_iter().map(|sent| sent.handle.unwrap()).collect()
}

fn batch(provider: &str, name: &str, rows: u32) -> BatchRequest {
    BatchRequest::new(provider, asks(name, rows))
}

/// Ids and endings, in order.
fn said<'o>(outcomes: impl IntoIterator<Item = &'o Outcome>) -> Vec<(String, String)> {
    let mut all: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| {
            (
                outcome.custom_id.clone(),
                outcome.ending.as_str().to_owned(),
            )
        })
        .collect();
    all.sort();
    all
}

#[test]
fn b_42_providers_are_registered_and_unregistered_with_duplicates_and_unknown_names() {
    let mut router = BatchRouter::new(RouterOptions::default());
    for name in ["beta", "alpha"] {
        router.register(Fake::new(name)).unwrap();
    }
    assert_eq!(router.providers().collect::<Vec<_>>(), ["alpha", "beta"]);
    let error = router.register(Fake::new("beta")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    assert!(error.message().contains("registered already"), "{error}");
    assert!(router.provider("gamma").is_none());
    assert!(router.unregister("gamma").is_none());
    assert!(router.unregister("beta").is_some());
    router.register(Fake::new("beta")).unwrap();
    // What is registered with a clone is its own.
    let mut clone = router.clone();
    clone.register(Fake::new("gamma")).unwrap();
    assert!(router.provider("gamma").is_none());
}

#[tokio::test(start_paused = true)]
async fn b_43_everything_is_checked_before_the_first_send() {
    let fake = Fake::new("fake");
    let router = router(&[&fake]);
    let twice = [batch("fake", "a", 1), batch("fake", "a", 1)];
    for (batches, said) in [
        (
            vec![
                batch("fake", "a", 1),
                batch("two", "b", 1),
                batch("one", "c", 1),
            ],
            "registered: one, two",
        ),
        (
            vec![batch("fake", "a", 1), batch("fake", "b", 101)],
            "batch 2: 101 requests, and fake takes 100",
        ),
        (twice.to_vec(), "batch 2: custom_id \"a-0\" stands twice"),
        (vec![batch("fake", "a", 0)], "batch 1: it has no requests"),
        (
            vec![BatchRequest::new("fake", vec![ask("")])],
            "batch 1: request 1 has no custom_id",
        ),
    ] {
        let pure = router.validate(&batches).unwrap_err();
        assert!(pure.message().contains(said), "{pure}");
        let error = router.run(batches.clone(), Control::default()).unwrap_err();
        assert_eq!(error.message(), pure.message());
        let error = router.submit(batches).await.unwrap_err();
        assert_eq!(error.message(), pure.message());
    }
    assert_eq!((fake.sent().uploads, fake.sent().submits), (0, 0));

    // By option an id is its batch's own.
    let options = RouterOptions::default().with_unique_ids(UniqueIds::PerBatch);
    let mut router = BatchRouter::new(options);
    router.register(Arc::clone(&fake) as _).unwrap();
    assert!(router.validate(&twice).is_ok());
    let within = BatchRequest::new("fake", [asks("a", 2), asks("a", 1)].concat());
    assert!(router.validate(&[within]).is_err());
}

#[tokio::test(start_paused = true)]
async fn b_44_batches_run_side_by_side_and_their_handles_keep_the_order() {
    let (one, two) = (Fake::new("one"), Fake::new("two"));
    let router = router(&[&one, &two]);
    let batches: Vec<BatchRequest> = (0..12)
        .map(|number| {
            let name = if number % 3 == 0 { "two" } else { "one" };
            batch(name, &format!("{number}"), 1 + number)
                .with_metadata("number", number.to_string())
        })
        .collect();
    let started = Instant::now();
    let mut run = router.run(batches, Control::default()).unwrap();
    let sent = run.sent().await.unwrap();
    // All are open at the same time, before any has ended.
    assert_eq!((one.state().most_open, two.state().most_open), (8, 4));
    assert!(started.elapsed() < Duration::from_secs(1));
    for (number, sent) in sent.iter().enumerate() {
        assert_eq!((sent.batch, sent.requests), (number, 1 + number as u64));
        assert_eq!(sent.metadata["number"], number.to_string());
        let handle = sent.handle.as_ref().unwrap();
        assert_eq!(handle.provider, sent.provider);
        // The provider's own list agrees on which batch is which.
        let fake = if sent.provider == "one" { &one } else { &two };
        let listed = fake.recent().await.unwrap();
        let listed = listed.iter().find(|known| known.handle.id == handle.id);
        assert_eq!(listed.unwrap().requests, Some(sent.requests));
    }
    let (outcomes, errors, run) = collect(run).await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(outcomes.len(), (1..=12).sum::<usize>());
    assert!(run.batches().iter().all(|sent| sent.merged));
    // As long as one takes, not twelve.
    assert!(started.elapsed() < Duration::from_secs(12 * 60));
}

#[tokio::test(start_paused = true)]
async fn b_44_one_send_that_fails_leaves_the_others_tracked() {
    let fake = Fake::new("fake");
    let refused = Create::Refused(ErrorKind::InvalidRequest);
    fake.state().creates.push_back(refused);
    let batches = ["a", "b", "c"].map(|name| batch("fake", name, 2));
    let router = router(&[&fake]);
    let sent = router.submit(batches.to_vec()).await.unwrap();
    let failed: Vec<bool> = sent.iter().map(|sent| sent.failed.is_some()).collect();
    assert_eq!(failed.iter().filter(|failed| **failed).count(), 1);
    for sent in &sent {
        assert_eq!(sent.handle.is_some(), sent.failed.is_none());
    }
    assert_eq!((router.active().len(), fake.bought()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn b_45_mixed_and_grouped_retrieval_give_the_same_rows() {
    let (one, two) = (Fake::new("one"), Fake::new("two"));
    one.state().polls_to_end = 6;
    let router = router(&[&one, &two]);
    let batches = vec![
        batch("one", "a", 5),
        batch("two", "b", 4),
        batch("one", "c", 3),
    ];
    let handles = handles(router.submit(batches).await.unwrap());

    let mixed: Vec<(BatchHandle, Result<Outcome>)> = router.results_all(&handles).collect().await;
    // What is ready first comes first.
    assert!(mixed[..4].iter().all(|(handle, _)| *handle == handles[1]));
    let grouped = router.collect_grouped(&handles).await.unwrap();
    for ((known, group), (handle, rows)) in grouped.iter().zip(handles.iter().zip([5, 4, 3])) {
        assert_eq!((known, group.len()), (handle, rows));
        let of_mixed = mixed.iter().filter(|(of, _)| of == handle);
        let of_mixed: Vec<&Outcome> = of_mixed.map(|(_, row)| row.as_ref().unwrap()).collect();
        assert_eq!(said(of_mixed), said(group));
        let single: Vec<Outcome> = router.results(handle).try_collect().await.unwrap();
        assert_eq!(said(&single), said(group));
        for outcome in group {
            let text = outcome.response().map(batchwright_core::Response::text);
            assert_eq!(text, Some(format!("re: ask {}", outcome.custom_id)));
            assert_eq!(outcome.provenance.batch.as_deref(), Some(&*handle.id));
        }
    }
    assert_eq!((one.bought(), two.bought()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn b_46_one_batch_is_cancelled_and_then_all() {
    let fake = Fake::new("fake");
    fake.state().polls_to_end = 1000;
    let router = router(&[&fake]);
    let batches = ["a", "b", "c"].map(|name| batch("fake", name, 2));
    let handles = handles(router.submit(batches.to_vec()).await.unwrap());

    assert_eq!(router.cancel(&handles[1]).await.unwrap(), Cancelled::Asked);
    let one = &handles[1..2];
    let ended = router.wait_all(one, WaitOptions::default()).await.unwrap();
    assert_eq!(ended[0].status, BatchStatus::Cancelled);
    let states = router.statuses(&handles).await;
    assert_eq!(states[0].as_ref().unwrap().status, BatchStatus::InProgress);

    let results = router.cancel_all(&handles).await;
    let asked = |result: &Result<Cancelled>| *result.as_ref().unwrap();
    assert_eq!(asked(&results[0]), Cancelled::Asked);
    assert_eq!(asked(&results[1]), Cancelled::AlreadyEnded);
    let ended = router
        .wait_all(&handles, WaitOptions::default())
        .await
        .unwrap();
    assert!(
        ended
            .iter()
            .all(|batch| batch.status == BatchStatus::Cancelled)
    );
    // F-078: no row is lost.
    let grouped = router.collect_grouped(&handles).await.unwrap();
    for (_, rows) in grouped {
        assert_eq!(rows.len(), 2);
        assert!(
            rows.iter()
                .all(|row| matches!(row.ending, Ending::Cancelled))
        );
    }
    let nobodys = BatchHandle::new("fake", "batch-77", InputRef::default());
    let error = router.cancel(&nobodys).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn b_28_a_timeout_names_the_late_ones_and_their_work_goes_on() {
    let (slow, quick) = (Fake::new("slow"), Fake::new("quick"));
    slow.state().polls_to_end = 400;
    let router = router(&[&slow, &quick]);
    let batches = vec![batch("slow", "a", 1), batch("quick", "b", 1)];
    let handles = handles(router.submit(batches).await.unwrap());
    let started = Instant::now();
    let error = router
        .wait_all(&handles, WaitOptions::default())
        .await
        .unwrap_err();
    assert_eq!(started.elapsed(), Duration::from_secs(24 * 3600));
    assert_eq!((error.ended.len(), &error.late[..]), (1, &handles[..1]));
    assert!(error.to_string().contains("batch-0 at slow"), "{error}");
    assert_eq!(slow.sent().cancels, 0);
    let ended = router
        .wait_all(&handles, WaitOptions::default())
        .await
        .unwrap();
    assert_eq!(ended[0].status, BatchStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn f_089_t_50_bad_polls_end_no_wait_and_results_before_the_end_are_refused() {
    let fake = Fake::new("fake");
    let router = router(&[&fake]);
    let handles = handles(router.submit(vec![batch("fake", "a", 2)]).await.unwrap());
    let early: Vec<Result<Outcome>> = router.results(&handles[0]).collect().await;
    let error = early[0].as_ref().unwrap_err();
    assert_eq!((early.len(), error.kind()), (1, ErrorKind::Conflict));
    fake.state()
        .poll_errors
        .extend([ErrorKind::ProviderFault; 60]);
    let ended = router
        .wait_all(&handles, WaitOptions::default())
        .await
        .unwrap();
    assert_eq!(ended[0].status, BatchStatus::Completed);
    let mut nobodys = handles[0].clone();
    nobodys.id = "batch-9".to_owned();
    let unknown: Vec<Result<Outcome>> = router.results(&nobodys).collect().await;
    assert_eq!(unknown[0].as_ref().unwrap_err().kind(), ErrorKind::NotFound);
    nobodys.provider = "elsewhere".to_owned();
    let error = router.status(&nobodys).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
}

#[tokio::test(start_paused = true)]
async fn b_34_a_ticket_kept_over_a_restart_gives_the_callers_ids_and_a_bare_handle_the_files() {
    let fake = Fake::new("fake");
    let before = router(&[&fake]);
    let first = batch("fake", "a", 3).with_metadata("project", "colours");
    let handles = handles(before.submit(vec![first]).await.unwrap());
    let kept = serde_json::to_string(&*before.ticket(&handles[0]).unwrap()).unwrap();
    drop(before);

    let after = router(&[&fake]);
    let bare = after.collect_grouped(&handles).await.unwrap();
    assert_eq!(bare[0].1.len(), 3);
    assert!(bare[0].1.iter().all(|row| !row.custom_id.starts_with("a-")));
    let handle = after.restore(serde_json::from_str(&kept).unwrap());
    assert_eq!(
        after.ticket(&handle).unwrap().metadata["project"],
        "colours"
    );
    let grouped = after.collect_grouped(&[handle]).await.unwrap();
    let ids: BTreeSet<&str> = grouped[0].1.iter().map(|row| &*row.custom_id).collect();
    assert_eq!(ids, BTreeSet::from(["a-0", "a-1", "a-2"]));
    assert_eq!(fake.bought(), 1);
}

#[tokio::test(start_paused = true)]
async fn f_037_f_082_f_097_f_106_results_of_a_handle_are_read_whole() {
    fn error_for(line: &str) -> String {
        let id = line.split('"').nth(7).unwrap();
        format!("{{\"id\":\"{id}\",\"error\":\"no\"}}")
    }
    let outcomes = async |prepare: fn(&mut crate::fake::FakeState)| {
        let fake = Fake::new("fake");
        let router = router(&[&fake]);
        let handles = handles(router.submit(vec![batch("fake", "a", 4)]).await.unwrap());
        router
            .wait_all(&handles, WaitOptions::default())
            .await
            .unwrap();
        prepare(&mut fake.state());
        let rows: Vec<Outcome> = router.results(&handles[0]).try_collect().await.unwrap();
        assert_eq!(rows.len(), 4);
        let downloads = fake.state().downloads.clone();
        (said(&rows), downloads)
    };
    let all = |ending: &str| -> Vec<(String, String)> {
        (0..4)
            .map(|row| (format!("a-{row}"), ending.to_owned()))
            .collect()
    };
    // A cut download goes on where it broke, or begins again and gives no row twice.
    let (rows, downloads) = outcomes(|state| {
        state.resumes = true;
        state.cuts.extend([Some(50), Some(30)]);
    })
    .await;
    assert_eq!((rows, downloads), (all("succeeded"), vec![0, 50, 80]));
    let (rows, downloads) = outcomes(|state| state.cuts.push_back(Some(50))).await;
    assert_eq!((rows, downloads), (all("succeeded"), vec![0, 50, 0]));
    // A line that lacks is read again; then it is so.
    let (rows, downloads) =
        outcomes(|state| state.edits.push_back(|lines| lines.truncate(2))).await;
    assert_eq!((rows, downloads), (all("succeeded"), vec![0, 0]));
    let (rows, _) = outcomes(|state| {
        state.edits.push_back(|lines| lines.truncate(1));
        state.edits.push_back(|lines| {
            let second = error_for(&lines[1]);
            *lines = vec![lines[0].clone(), second];
        });
    })
    .await;
    let endings: Vec<&str> = rows.iter().map(|(_, ending)| &**ending).collect();
    assert_eq!(endings, ["missing", "missing", "failed", "succeeded"]);
    // In two files a success wins over an error wherever it stands.
    let (rows, _) = outcomes(|state| {
        state.two_files = true;
        state.edits.push_back(|lines| {
            for line in lines {
                *line = error_for(line);
            }
        });
    })
    .await;
    assert_eq!(rows, all("succeeded"));
}

#[tokio::test(start_paused = true)]
async fn f_073_rows_of_a_refused_input_have_their_error() {
    let fake = Fake::new("fake");
    fake.state().fails_validation = true;
    let router = router(&[&fake]);
    let handles = handles(router.submit(vec![batch("fake", "a", 3)]).await.unwrap());
    let grouped = router.collect_grouped(&handles).await.unwrap();
    let texts: Vec<&str> = grouped[0]
        .1
        .iter()
        .map(|row| row.error().unwrap().message())
        .collect();
    assert_eq!(texts[1], "line two");
    assert!(texts[0].contains("refused the batch") && texts[0] == texts[2]);
}

#[tokio::test(start_paused = true)]
async fn a_run_comes_in_order_where_asked_and_tells_of_its_progress() {
    let (one, two) = (Fake::new("one"), Fake::new("two"));
    one.state().polls_to_end = 9;
    let router = router(&[&one, &two]);
    let batches = vec![
        batch("one", "a", 3),
        batch("two", "b", 2),
        batch("one", "c", 1),
    ];
    let run = router.run(batches.clone(), Control::default()).unwrap();
    let rows: Vec<crate::BatchRow> = run.in_order().try_collect().await.unwrap();
    let places: Vec<(usize, usize)> = rows.iter().map(|row| (row.batch, row.row)).collect();
    assert_eq!(places, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]);
    assert_eq!(rows[3].outcome.custom_id, "b-0");

    let run = router.run(batches, Control::default()).unwrap();
    let items: Vec<RunItem> = run.items().try_collect().await.unwrap();
    let count = |is: fn(&RouterEvent) -> bool| {
        let events = items.iter().filter_map(|item| match item {
            RunItem::Event(event) => Some(event),
            RunItem::Row(_) => None,
        });
        events.filter(|event| is(event)).count()
    };
    assert_eq!(count(|event| matches!(event, RouterEvent::Sent { .. })), 3);
    assert_eq!(
        count(|event| matches!(event, RouterEvent::Merged { .. })),
        3
    );
    assert!(count(|event| matches!(event, RouterEvent::Status { .. })) >= 3);
    // Whose outcomes were handed out is known no more.
    assert!(router.active().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_run_can_be_collected_by_its_handles() {
    let fake = Fake::new("fake");
    let router = router(&[&fake]);
    let mut run = router
        .run(vec![batch("fake", "a", 3)], Control::default())
        .unwrap();
    let handles = handles(run.sent().await.unwrap());
    drop(run);
    let grouped = router.collect_grouped(&handles).await.unwrap();
    let ids: BTreeSet<&str> = grouped[0].1.iter().map(|row| &*row.custom_id).collect();
    assert_eq!(ids, BTreeSet::from(["a-0", "a-1", "a-2"]));
    assert!(router.forget(&handles[0]).is_some());
    assert!(router.active().is_empty());
    assert_eq!(fake.bought(), 1);
}

/// Polls of a thousand open batches over six hours: four growing waits and then one of 300 s after the other make 75
/// polls. A call of its own for each batch would be 75,000; a list of ten pages each time is 750.
#[tokio::test(start_paused = true)]
async fn a_thousand_batches_are_watched_by_the_list() {
    let fake = Fake::new("fake");
    fake.state().ends_after = Some(Duration::from_secs(6 * 3600));
    let options = RouterOptions {
        max_open_batches: 1000,
        ..RouterOptions::default()
    };
    let mut router = BatchRouter::new(options);
    router.register(Arc::clone(&fake) as _).unwrap();
    let batches = (0..1000).map(|number| batch("fake", &format!("{number}"), 1));
    let run = router.run(batches.collect(), Control::default()).unwrap();
    let listed = fake.state().list_pages;
    let (outcomes, errors, _) = collect(run).await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!((outcomes.len(), fake.bought()), (1000, 1000));
    let state = fake.state();
    // One at the start, one that finds the end, one that reads it again, and one that trusts no list for ever.
    assert!(state.status_calls <= 4 * 1000, "{}", state.status_calls);
    // Each create reads a page or more before it; the rest is polling.
    let creates: u32 = (0..1000u32).map(|open| open.div_ceil(100)).sum();
    let pages = state.list_pages - listed - creates;
    assert!(pages <= 75 * 10, "{pages}");
}

#[tokio::test(start_paused = true)]
async fn f_071_f_130_slow_batches_and_results_that_will_be_gone_are_told() {
    let fake = Fake::keeping_results("fake", Duration::from_secs(3600));
    fake.state().ends_after = Some(Duration::from_secs(60 * 3600));
    let router = router(&[&fake]);
    let run = router
        .run_one(batch("fake", "a", 1), Control::default())
        .unwrap();
    let items: Vec<RunItem> = run.items().try_collect().await.unwrap();
    let mut slow = Vec::new();
    let mut expiring = 0;
    for item in &items {
        match item {
            RunItem::Event(RouterEvent::Slow { age, typical, .. }) => {
                slow.push((age.as_secs() / 3600, typical.as_secs() / 3600));
            }
            // The provider's clock says it was created an hour ago.
            RunItem::Event(event @ RouterEvent::Expiring { .. }) => {
                expiring += 1;
                assert!(event.to_string().contains("are kept until"), "{event}");
            }
            _ => {}
        }
    }
    assert_eq!(slow, [(24, 24), (48, 24)]);
    assert_eq!(expiring, 1);
    // Nothing ended by it.
    assert_eq!((fake.sent().cancels, fake.bought()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn f_086_f_087_f_088_a_batch_nobody_sees_ends_the_wait_and_the_others_are_told() {
    let fake = Fake::new("fake");
    let router = router(&[&fake]);
    let batches = vec![batch("fake", "a", 1), batch("fake", "b", 1)];
    let handles = handles(router.submit(batches).await.unwrap());
    fake.state().unseen = Some("batch-0");
    let started = Instant::now();
    let error = router
        .wait_all(&handles, WaitOptions::default())
        .await
        .unwrap_err();
    let cause = error.cause.as_ref().map(Error::kind);
    assert_eq!(cause, Some(ErrorKind::NotFound));
    assert_eq!((error.ended.len(), error.late.len()), (1, 1));
    // Not at once: not every reader may see it yet.
    assert!(started.elapsed() >= RouterOptions::default().settle);
    // Nothing is concluded from it, and nothing bought again.
    fake.state().unseen = None;
    assert!(
        router
            .wait_all(&handles, WaitOptions::default())
            .await
            .is_ok()
    );
    assert_eq!(fake.sent().submits, 2);
}

#[tokio::test(start_paused = true)]
async fn f_075_a_batch_that_failed_without_a_word_fails_its_rows() {
    let fake = Fake::new("fake");
    fake.state().fails_validation = true;
    fake.state().fails_silently = true;
    let router = router(&[&fake]);
    let handles = handles(router.submit(vec![batch("fake", "a", 2)]).await.unwrap());
    let grouped = router.collect_grouped(&handles).await.unwrap();
    for outcome in &grouped[0].1 {
        let error = outcome.error().unwrap();
        assert!(error.message().contains("without a reason"), "{error}");
    }
    assert_eq!(grouped[0].1.len(), 2);
}
