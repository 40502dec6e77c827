//! The shell over a provider and a store in memory, in paused time.

use crate::{
    BatchRouter, ChunkJob, Control, DriveEnd, RouterEvent, RouterOptions,
    fake::{Create, Fake, FakeStore, JOB},
};
use batchwright_core::{Error, ErrorKind, JournalEvent, Result};
use futures::stream;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Drives chunks 1 to `chunks`, telling `on` of everything.
async fn drive(
    fake: &Arc<Fake>,
    store: &Arc<FakeStore>,
    options: RouterOptions,
    control: &Control,
    chunks: u32,
    mut on: impl FnMut(&RouterEvent),
) -> Result<DriveEnd> {
    let mut router = BatchRouter::new(options);
    router.register(Arc::clone(fake) as _).unwrap();
    let (events, mut reader) = mpsc::channel(8);
    let jobs = (1..=chunks).map(|chunk| Ok(ChunkJob::new(JOB, chunk, "fake")));
    let driven = router.drive(
        stream::iter(jobs),
        Arc::clone(store) as _,
        control.clone(),
        events,
    );
    let listened = async {
        while let Some(event) = reader.recv().await {
            on(&event);
        }
    };
    tokio::join!(driven, listened).0
}

async fn plainly(fake: &Arc<Fake>, store: &Arc<FakeStore>, chunks: u32) -> Result<DriveEnd> {
    let control = Control::default();
    drive(
        fake,
        store,
        RouterOptions::default(),
        &control,
        chunks,
        |_| {},
    )
    .await
}

/// Each row's one ending.
fn endings(store: &FakeStore) -> BTreeMap<String, String> {
    let state = store.state();
    state
        .endings
        .iter()
        .map(|(id, given)| {
            assert!(
                given.iter().all(|ending| *ending == given[0]),
                "{id}: {given:?}"
            );
            (id.clone(), given[0].clone())
        })
        .collect()
}

fn count(store: &FakeStore, ending: &str) -> usize {
    endings(store)
        .values()
        .filter(|given| *given == ending)
        .count()
}

fn facts(store: &FakeStore, is: impl Fn(&JournalEvent) -> bool) -> usize {
    let state = store.state();
    state
        .journal
        .iter()
        .filter(|entry| is(&entry.event))
        .count()
}

#[tokio::test(start_paused = true)]
async fn chunks_are_bought_once_and_every_row_ends() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 4, 5);
    let end = plainly(&fake, &store, 4).await.unwrap();
    assert_eq!((end.merged, end.unfinished, end.held.len()), (4, 0, 0));
    assert_eq!((fake.bought(), count(&store, "succeeded")), (4, 20));
    // I9: a rerun of a finished job sends nothing.
    let (submits, uploads) = (fake.sent().submits, fake.sent().uploads);
    assert_eq!(plainly(&fake, &store, 4).await.unwrap().merged, 4);
    assert_eq!(
        (fake.sent().submits, fake.sent().uploads),
        (submits, uploads)
    );
}

#[tokio::test(start_paused = true)]
async fn f_157_a_stop_leaves_batches_running_and_a_second_drive_collects_them() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 3, 2);
    let control = Control::default();
    let options = RouterOptions::default();
    let mut polled = 0;
    let end = drive(&fake, &store, options, &control, 3, |event| {
        polled += u32::from(matches!(event, RouterEvent::Status { .. }));
        if polled == 4 {
            control.stop.cancel();
        }
    });
    let end = end.await.unwrap();
    assert_eq!((end.merged, end.unfinished), (0, 3));
    assert!(end.stopped.is_none());
    assert_eq!((fake.bought(), fake.sent().cancels), (3, 0));
    assert!(store.state().endings.is_empty());
    assert_eq!(plainly(&fake, &store, 3).await.unwrap().merged, 3);
    assert_eq!((fake.bought(), count(&store, "succeeded")), (3, 6));
}

#[tokio::test(start_paused = true)]
async fn f_157_a_stop_between_intent_and_create_sends_nothing_and_leaves_nothing_unclear() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 1, 2);
    let control = Control::default();
    let stop = control.stop.clone();
    store.state().on_append = Some(Box::new(move |fact| {
        if matches!(fact, JournalEvent::CreateIntent { .. }) {
            stop.cancel();
        }
    }));
    let end = drive(&fake, &store, RouterOptions::default(), &control, 1, |_| {});
    assert_eq!(end.await.unwrap().unfinished, 1);
    assert_eq!(fake.sent().submits, 0);
    store.state().on_append = None;
    let started = Instant::now();
    assert_eq!(plainly(&fake, &store, 1).await.unwrap().merged, 1);
    assert_eq!((fake.sent().submits, fake.sent().uploads), (1, 1));
    // Nothing had to be waited out or searched.
    assert!(started.elapsed() < RouterOptions::default().settle);
    assert_eq!(
        facts(&store, |fact| matches!(
            fact,
            JournalEvent::ListedClean { .. }
        )),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn f_157_a_stop_before_the_start_does_nothing() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 2, 2);
    let control = Control::default();
    control.stop.cancel();
    let end = drive(&fake, &store, RouterOptions::default(), &control, 2, |_| {});
    assert_eq!(end.await.unwrap().merged, 0);
    assert_eq!((fake.sent().uploads, store.state().appends), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn no_more_batches_are_open_than_allowed() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 7, 2);
    let options = RouterOptions {
        max_open_batches: 2,
        ..RouterOptions::default()
    };
    let control = Control::default();
    let end = drive(&fake, &store, options, &control, 7, |_| {});
    assert_eq!(end.await.unwrap().merged, 7);
    assert_eq!((fake.bought(), fake.state().most_open), (7, 2));
}

#[tokio::test(start_paused = true)]
async fn f_005_an_account_that_serves_nobody_stops_every_chunk_and_not_the_caller() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 9, 2);
    fake.state()
        .creates
        .extend([Create::Refused(ErrorKind::QuotaExceeded); 9]);
    let options = RouterOptions {
        max_open_batches: 3,
        ..RouterOptions::default()
    };
    let control = Control::default();
    let end = drive(&fake, &store, options, &control, 9, |_| {})
        .await
        .unwrap();
    assert_eq!(
        end.stopped.map(|error| error.kind()),
        Some(ErrorKind::QuotaExceeded)
    );
    assert_eq!((end.merged, end.unfinished), (0, 3));
    assert!(fake.sent().submits <= 3);
    // What else hangs on the caller's token goes on.
    assert!(!control.stop.is_cancelled());
    fake.state().creates.clear();
    assert_eq!(plainly(&fake, &store, 9).await.unwrap().merged, 9);
    assert_eq!((fake.bought(), count(&store, "succeeded")), (9, 18));
}

#[tokio::test(start_paused = true)]
async fn f_133_a_key_revoked_in_the_middle_keeps_everything_for_the_next_one() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 1, 2);
    fake.state()
        .poll_errors
        .push_back(ErrorKind::Unauthenticated);
    let end = plainly(&fake, &store, 1).await.unwrap();
    assert_eq!(
        end.stopped.map(|error| error.kind()),
        Some(ErrorKind::Unauthenticated)
    );
    assert_eq!(plainly(&fake, &store, 1).await.unwrap().merged, 1);
    assert_eq!(fake.bought(), 1);
}

#[tokio::test(start_paused = true)]
async fn f_087_one_batch_that_is_not_found_stops_its_chunk_alone() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 3, 2);
    fake.state().unseen = Some("batch-1");
    let end = plainly(&fake, &store, 3).await.unwrap();
    assert_eq!((end.merged, end.unfinished), (2, 1));
    assert_eq!(
        end.stopped.map(|error| error.kind()),
        Some(ErrorKind::NotFound)
    );
    assert_eq!(fake.sent().submits, 3);
}

#[tokio::test(start_paused = true)]
async fn f_145_whichever_append_fails_nothing_more_is_sent_and_a_later_drive_finishes() {
    for failing in 0.. {
        let fake = Fake::new("fake");
        let store = FakeStore::new(&fake, 2, 2);
        store.state().fail_append = Some(failing);
        let failed = plainly(&fake, &store, 2).await;
        let intents = facts(&store, |fact| {
            matches!(fact, JournalEvent::CreateIntent { .. })
        });
        assert!(fake.sent().submits as usize <= intents);
        let Err(error) = failed else {
            assert!(failing > 10, "every fact of two chunks was tried");
            break;
        };
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert_eq!(
            plainly(&fake, &store, 2).await.unwrap().merged,
            2,
            "{failing}"
        );
        assert_eq!(
            (fake.bought(), count(&store, "succeeded")),
            (2, 4),
            "{failing}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn f_145_after_a_failed_append_no_other_chunk_sends_anything() {
    for (failing, creates) in [(0, 0), (2, 0), (3, 1), (5, 1), (8, 2)] {
        let fake = Fake::new("fake");
        let store = FakeStore::new(&fake, 8, 1);
        // Each chunk writes five facts before it first waits; the fourth is its create's answer.
        store.state().fail_append = Some(failing);
        assert!(plainly(&fake, &store, 8).await.is_err());
        assert_eq!(fake.sent().submits, creates, "{failing}");
    }
}

#[tokio::test(start_paused = true)]
async fn f_110_a_lost_answer_is_found_and_nothing_is_bought_again() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 2, 2);
    fake.state().creates.extend([Create::Lost, Create::Lost]);
    assert_eq!(plainly(&fake, &store, 2).await.unwrap().merged, 2);
    assert_eq!((fake.sent().submits, fake.bought()), (2, 2));
    assert_eq!(
        facts(&store, |fact| matches!(fact, JournalEvent::Adopted { .. })),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn f_115_a_drive_dropped_in_the_middle_of_a_create_is_reconciled_by_the_next() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 1, 2);
    fake.state().creates.push_back(Create::Hangs);
    let dropped = tokio::time::timeout(Duration::from_secs(300), plainly(&fake, &store, 1));
    assert!(dropped.await.is_err());
    assert_eq!((fake.sent().submits, fake.bought()), (1, 0));
    let started = Instant::now();
    assert_eq!(plainly(&fake, &store, 1).await.unwrap().merged, 1);
    assert!(started.elapsed() >= RouterOptions::default().settle);
    assert_eq!((fake.sent().submits, fake.bought()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn f_106_a_cut_download_is_resumed_where_it_broke() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 1, 5);
    fake.state().resumes = true;
    fake.state().cuts.extend([Some(10), Some(20)]);
    assert_eq!(plainly(&fake, &store, 1).await.unwrap().merged, 1);
    assert_eq!(fake.state().downloads, [0, 10, 30]);
    assert_eq!(count(&store, "succeeded"), 5);
}

#[tokio::test(start_paused = true)]
async fn f_106_without_ranges_a_cut_download_begins_again() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 1, 5);
    fake.state().cuts.push_back(Some(10));
    assert_eq!(plainly(&fake, &store, 1).await.unwrap().merged, 1);
    assert_eq!(fake.state().downloads, [0, 10, 0]);
    assert_eq!(count(&store, "succeeded"), 5);
}

fn drop_two(lines: &mut Vec<String>) {
    lines.truncate(lines.len() - 2);
}

#[tokio::test(start_paused = true)]
async fn f_037_f_097_missing_lines_are_downloaded_once_more_and_then_missing() {
    for (short, missing) in [(1, 0), (2, 2)] {
        let fake = Fake::new("fake");
        let store = FakeStore::new(&fake, 1, 5);
        for _ in 0..short {
            fake.state().edits.push_back(drop_two);
        }
        assert_eq!(plainly(&fake, &store, 1).await.unwrap().merged, 1);
        assert_eq!(fake.state().downloads, [0, 0]);
        assert_eq!(store.state().discards, 1);
        assert_eq!(count(&store, "missing"), missing);
        assert_eq!(count(&store, "succeeded"), 5 - missing);
    }
}

#[tokio::test(start_paused = true)]
async fn f_106_the_second_download_is_resumed_too() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 1, 5);
    fake.state().resumes = true;
    fake.state().edits.push_back(drop_two);
    fake.state().cuts.extend([None, Some(30)]);
    assert_eq!(plainly(&fake, &store, 1).await.unwrap().merged, 1);
    assert_eq!(fake.state().downloads, [0, 0, 30]);
    assert_eq!(store.state().discards, 1);
    assert_eq!(count(&store, "succeeded"), 5);
}

#[tokio::test(start_paused = true)]
async fn f_078_a_cancel_reaches_every_batch_and_no_row_is_lost() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 3, 2);
    fake.state().polls_to_end = 1000;
    let control = Control::default();
    let mut polled = 0;
    let end = drive(
        &fake,
        &store,
        RouterOptions::default(),
        &control,
        3,
        |event| {
            polled += u32::from(matches!(event, RouterEvent::Status { .. }));
            if polled == 7 {
                control.cancel.cancel();
            }
        },
    );
    assert_eq!(end.await.unwrap().merged, 3);
    assert_eq!((fake.sent().cancels, fake.bought()), (3, 3));
    assert_eq!(count(&store, "cancelled"), 6);
}

#[tokio::test(start_paused = true)]
async fn f_078_a_cancel_before_the_start_sends_nothing() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 2, 2);
    let control = Control::default();
    control.cancel.cancel();
    let end = drive(&fake, &store, RouterOptions::default(), &control, 2, |_| {});
    assert_eq!(end.await.unwrap().merged, 2);
    assert_eq!((fake.sent().uploads, fake.sent().submits), (0, 0));
    assert_eq!(count(&store, "cancelled"), 4);
}

#[tokio::test(start_paused = true)]
async fn f_073_a_refused_input_fails_its_rows_and_nothing_is_bought_again() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 1, 3);
    fake.state().fails_validation = true;
    assert_eq!(plainly(&fake, &store, 1).await.unwrap().merged, 1);
    assert_eq!((count(&store, "failed"), fake.sent().submits), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn f_089_bad_polls_are_told_and_waited_out() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 1, 2);
    fake.state()
        .poll_errors
        .extend([ErrorKind::ProviderFault; 40]);
    let mut waits = 0;
    let control = Control::default();
    let end = drive(
        &fake,
        &store,
        RouterOptions::default(),
        &control,
        1,
        |event| {
            waits += u32::from(matches!(event, RouterEvent::Waiting { .. }));
        },
    );
    assert_eq!(end.await.unwrap().merged, 1);
    assert_eq!((waits, fake.bought()), (40, 1));
}

#[tokio::test(start_paused = true)]
async fn f_151_a_chunk_handed_in_twice_is_refused() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 1, 2);
    let mut router = BatchRouter::new(RouterOptions::default());
    router.register(Arc::clone(&fake) as _).unwrap();
    let jobs = [1, 1].map(|chunk| Ok(ChunkJob::new(JOB, chunk, "fake")));
    let (events, _) = mpsc::channel(8);
    let driven = router.drive(
        stream::iter(jobs),
        Arc::clone(&store) as _,
        Control::default(),
        events,
    );
    let error = driven.await.unwrap_err();
    assert!(error.message().contains("handed in twice"), "{error}");
    assert!(fake.bought() <= 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_ends_the_drive_and_keeps_what_runs() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 1, 2);
    let mut router = BatchRouter::new(RouterOptions::default());
    router.register(Arc::clone(&fake) as _).unwrap();
    let jobs = [
        Ok(ChunkJob::new(JOB, 1, "fake")),
        Err(Error::new(ErrorKind::InvalidRequest, "row 7 is no JSON")),
        Ok(ChunkJob::new(JOB, 2, "fake")),
    ];
    let (events, _) = mpsc::channel(8);
    let driven = router.drive(
        stream::iter(jobs),
        Arc::clone(&store) as _,
        Control::default(),
        events,
    );
    let end = driven.await.unwrap();
    assert_eq!(
        end.stopped.map(|error| error.kind()),
        Some(ErrorKind::InvalidRequest)
    );
    assert_eq!(end.merged, 0);
    assert_eq!(plainly(&fake, &store, 1).await.unwrap().merged, 1);
}

#[tokio::test(start_paused = true)]
async fn f_106_a_file_that_is_whole_is_not_downloaded_again() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 1, 5);
    fake.state().two_files = true;
    fake.state().resumes = true;
    // The first is whole, the second breaks.
    fake.state().cuts.extend([None, Some(10)]);
    assert_eq!(plainly(&fake, &store, 1).await.unwrap().merged, 1);
    assert_eq!(fake.state().downloads, [0, 0, 10]);
    let kept = facts(&store, |fact| {
        matches!(fact, JournalEvent::Downloaded { .. })
    });
    assert_eq!((kept, count(&store, "succeeded")), (2, 5));
}

/// P15.
#[tokio::test(start_paused = true)]
async fn f_087_f_091_what_was_collected_is_merged_without_the_provider() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 1, 2);
    let control = Control::default();
    let stop = control.stop.clone();
    store.state().on_append = Some(Box::new(move |fact| {
        if matches!(fact, JournalEvent::Collected { .. }) {
            stop.cancel();
        }
    }));
    let end = drive(&fake, &store, RouterOptions::default(), &control, 1, |_| {});
    assert_eq!(end.await.unwrap().unfinished, 1);
    store.state().on_append = None;
    fake.state().unseen = Some("batch-0");
    assert_eq!(plainly(&fake, &store, 1).await.unwrap().merged, 1);
    assert_eq!(fake.state().downloads, [0]);
    assert_eq!(count(&store, "succeeded"), 2);
}

#[tokio::test(start_paused = true)]
async fn f_027_chunks_refused_alike_stop_the_drive_unless_one_had_results() {
    let one_by_one = || RouterOptions {
        max_open_batches: 1,
        ..RouterOptions::default()
    };
    let control = Control::default();
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 5, 2);
    fake.state().fails_validation = true;
    let end = drive(&fake, &store, one_by_one(), &control, 5, |_| {})
        .await
        .unwrap();
    let stopped = end.stopped.unwrap();
    assert_eq!(stopped.code(), Some("bad_line"));
    assert!(stopped.message().contains("refused alike"), "{stopped}");
    assert_eq!((end.merged, fake.sent().submits), (2, 2));

    // What runs already is bought, and is collected.
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 5, 2);
    fake.state().fails_validation = true;
    fake.state().slow = Some(1);
    let options = RouterOptions {
        max_open_batches: 2,
        ..RouterOptions::default()
    };
    let end = drive(&fake, &store, options, &control, 5, |_| {})
        .await
        .unwrap();
    assert!(end.stopped.is_some());
    assert_eq!((end.merged, fake.sent().submits), (3, 3));
    assert_eq!(
        (count(&store, "succeeded"), count(&store, "failed")),
        (2, 4)
    );

    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 5, 2);
    let end = drive(&fake, &store, one_by_one(), &control, 5, |event| {
        if matches!(event, RouterEvent::Merged { .. }) {
            fake.state().fails_validation = true;
        }
    })
    .await
    .unwrap();
    assert!(end.stopped.is_none());
    assert_eq!((end.merged, fake.sent().submits), (5, 5));
    assert_eq!(
        (count(&store, "succeeded"), count(&store, "failed")),
        (2, 8)
    );
}

/// What the journal knows of other chunks tells their batches from the lost one of the same size.
#[tokio::test(start_paused = true)]
async fn f_110_a_lost_inline_create_is_found_by_its_size_among_known_batches() {
    let fake = Fake::inline("fake");
    let store = FakeStore::new(&fake, 3, 2);
    fake.state().creates.push_back(Create::Lost);
    let end = plainly(&fake, &store, 3).await.unwrap();
    assert_eq!((end.merged, end.held.len()), (3, 0), "{end:?}");
    assert_eq!((fake.bought(), count(&store, "succeeded")), (3, 6));
    assert_eq!(fake.sent().uploads, 0);
    let adopted = |fact: &JournalEvent| matches!(fact, JournalEvent::Adopted { .. });
    assert_eq!(facts(&store, adopted), 1);
}

/// A drive that dies while its creates hang.
async fn crash(fake: &Arc<Fake>, store: &Arc<FakeStore>, chunks: u32) {
    let ended = tokio::time::timeout(Duration::from_secs(60), plainly(fake, store, chunks));
    assert!(ended.await.is_err(), "it hangs");
}

#[tokio::test(start_paused = true)]
async fn f_110_two_unclear_inline_creates_of_one_size_are_told_apart_by_their_results() {
    let fake = Fake::inline("fake");
    let store = FakeStore::new(&fake, 2, 2);
    let creates = [Create::CommitsAndHangs, Create::CommitsAndHangs];
    fake.state().creates.extend(creates);
    crash(&fake, &store, 2).await;
    let end = plainly(&fake, &store, 2).await.unwrap();
    assert_eq!((end.merged, end.held.len()), (2, 0), "{end:?}");
    assert_eq!((fake.bought(), fake.sent().submits), (2, 2));
    assert_eq!(count(&store, "succeeded"), 4);
}

/// I3: whoever else bought a batch of this size in the meantime is found out by its results.
#[tokio::test(start_paused = true)]
async fn a_strangers_batch_of_our_size_is_held_when_its_results_show() {
    let fake = Fake::inline("fake");
    let strangers = FakeStore::new(&fake, 1, 2);
    let store = FakeStore::new(&fake, 1, 2);
    fake.state().creates.push_back(Create::Hangs);
    crash(&fake, &store, 1).await;
    assert_eq!(plainly(&fake, &strangers, 1).await.unwrap().merged, 1);
    // The stranger's ids are of another job.
    let another = |lines: &mut Vec<String>| {
        for line in lines {
            *line = line.replacen("\"id\":\"", "\"id\":\"x", 1);
        }
    };
    fake.state().edits.push_back(another);
    let end = plainly(&fake, &store, 1).await.unwrap();
    assert_eq!((end.merged, end.held.len()), (0, 1), "{end:?}");
    assert!(end.held[0].1.contains("holds none of its rows"), "{end:?}");
    assert!(store.state().endings.is_empty());
    assert_eq!(fake.bought(), 1);
}

/// A copy of the folder knows what was written when it was made, and nothing since.
#[tokio::test(start_paused = true)]
async fn f_154_a_copied_folder_stops_before_it_buys_whatever_the_other_bought() {
    let fake = Fake::new("fake");
    let store = FakeStore::new(&fake, 3, 2);
    let control = Control::default();
    let one_by_one = || RouterOptions {
        max_open_batches: 1,
        ..RouterOptions::default()
    };
    // The first host has bought the first chunk when the folder is copied, and buys the second one then.
    let stop = control.stop.clone();
    let end = drive(&fake, &store, one_by_one(), &control, 3, move |event| {
        if matches!(event, RouterEvent::Merged { chunk: 1, .. }) {
            stop.cancel();
        }
    });
    assert_eq!(end.await.unwrap().merged, 1);
    let copy = FakeStore::new(&fake, 3, 2);
    let journal = store.state().journal.clone();
    copy.state().journal = journal;
    assert_eq!(plainly(&fake, &store, 2).await.unwrap().merged, 2);
    assert_eq!(fake.bought(), 2);

    // The copy comes to the third chunk first: of the second it only sees that somebody bought it.
    let control = Control::default();
    let mut router = BatchRouter::new(RouterOptions::default());
    router.register(Arc::clone(&fake) as _).unwrap();
    let jobs = [3, 2].map(|chunk| Ok(ChunkJob::new(JOB, chunk, "fake")));
    let (events, mut reader) = mpsc::channel(8);
    let driven = router.drive(stream::iter(jobs), Arc::clone(&copy) as _, control, events);
    let listened = async { while reader.recv().await.is_some() {} };
    let end = tokio::join!(driven, listened).0.unwrap();
    assert_eq!(end.merged, 0, "{end:?}");
    assert!(!end.held.is_empty(), "{end:?}");
    assert!(end.held[0].1.contains("copy of this job folder"), "{end:?}");
    assert_eq!(fake.bought(), 2);
}
