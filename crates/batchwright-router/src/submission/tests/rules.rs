//! One rule of the protocol each, by its entry in the failure catalogue.

use super::{
    super::collect::{refusal, rest},
    *,
};

/// The machine as these facts, just written, leave it.
fn restored(facts: impl IntoIterator<Item = JournalEvent>) -> Submission {
    let facts = facts.into_iter().map(|fact| (Duration::ZERO, fact));
    let options = RouterOptions::default();
    Submission::restore(facts, World::new().terms, options, Duration::ZERO)
}

fn is_create(fact: &JournalEvent) -> bool {
    matches!(fact, JournalEvent::CreateIntent { .. })
}

fn gaps(instants: &[Duration]) -> Vec<Duration> {
    instants.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

#[test]
fn f_010_a_full_queue_gets_the_same_input_again_after_growing_waits() {
    let mut world = World::fated([Fate::QueueFull; 9]);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!((world.uploads, world.creates_at.len()), (1, 10));
    let inputs: BTreeSet<&str> = world.batches.iter().map(|batch| &*batch.input.0).collect();
    assert_eq!(inputs.len(), 1);
    let gaps = gaps(&world.creates_at);
    assert!(gaps.is_sorted(), "{gaps:?}");
    assert!(gaps[0] >= MINUTE && gaps[8] >= HOUR && gaps[8] < HOUR + 5 * MINUTE);
    assert_eq!(world.merges, ["batch-9: whole"]);
}

#[test]
fn f_010_a_failed_batch_of_the_same_input_is_not_taken_for_the_lost_one() {
    // The list puts the earlier, failed batch outside the mark; the create after it had no effect.
    let mut world = World::creating([Create::Answered, Create::Late(5 * MINUTE)]);
    world.fates.push_back(Fate::QueueFull);
    world.page = 0;
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.merges, ["batch-1: whole"]);
    assert_eq!(world.creates_at.len(), 2);
}

#[test]
fn f_011_refused_creates_are_spaced_by_growing_waits() {
    for create in [Create::RateLimited, Create::NotSent] {
        let mut world = World::creating([create; 12]);
        assert_eq!(world.run(&[]), End::Merged);
        let gaps = gaps(&world.creates_at);
        assert!(gaps.is_sorted(), "{create:?}: {gaps:?}");
        // The policy's cap of a minute, halved by the fixed randomness of these tests.
        assert!(gaps[11] >= 30 * SECOND, "{create:?}: {gaps:?}");
    }
}

#[test]
fn f_056_an_unknown_status_is_polled_on() {
    let mut world = World::fated([Fate::Stuck("hibernating", 30 * HOUR)]);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.merges, ["batch-0: whole"]);
    let unknown = |fact: &JournalEvent| matches!(fact, JournalEvent::Status { status: BatchStatus::Unknown(word), .. } if word == "hibernating");
    assert_eq!(world.count(unknown), 1);
}

#[test]
fn f_070_f_071_f_072_a_stuck_batch_is_polled_at_growing_intervals_and_never_bought_again() {
    for (word, hours) in [("validating", 6), ("in_progress", 60), ("finalizing", 3)] {
        let mut world = World::fated([Fate::Stuck(word, hours * HOUR)]);
        assert_eq!(world.run(&[]), End::Merged);
        assert_eq!((world.creates_at.len(), world.bought()), (1, 1), "{word}");
        let polls = world.polls_at.len() as u32;
        // Five minutes apart at most, and not much less than that.
        assert!(
            polls >= hours * 12 && polls <= hours * 12 + 40,
            "{word}: {polls}"
        );
    }
}

#[test]
fn f_073_f_075_a_refused_input_closes_the_chunk_with_its_faults_by_line() {
    let mut world = World::fated([Fate::Invalid]);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(
        world.closes,
        ["refused: the provider refused the batch: line 3: invalid_json_line"]
    );
    let lines: Vec<Option<u64>> = world.faults.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [Some(3), Some(7)]);
    assert_eq!((world.creates_at.len(), world.bought()), (1, 0));
    let silent = BatchSnapshot::new(
        BatchHandle::new("p", "b", InputRef::default()),
        BatchStatus::Failed,
    );
    assert!(
        refusal(&silent, ErrorKind::InvalidRequest)
            .message()
            .contains("without a reason")
    );
}

#[test]
fn f_076_f_077_f_078_rows_without_a_line_end_as_their_batch_did() {
    assert_eq!(rest(Some(&BatchStatus::Expired)).as_str(), "expired");
    assert_eq!(rest(Some(&BatchStatus::Cancelled)).as_str(), "cancelled");
    assert_eq!(rest(Some(&BatchStatus::Completed)).as_str(), "missing");
    let mut world = World::fated([Fate::ExpiresEmpty]);
    world.missing = ROWS;
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.merges, ["batch-0: 10 expired"]);
    assert_eq!(world.creates_at.len(), 1);
}

#[test]
fn f_078_a_cancel_before_anything_is_bought_closes_the_chunk() {
    for (at, uploads) in [(0, 0), (1, 1), (2, 1)] {
        let mut world = World::new();
        world.cancel_at = Some(at * SECOND);
        assert_eq!(world.run(&[]), End::Merged);
        assert_eq!(world.closes, ["cancelled"]);
        assert_eq!((world.uploads, world.creates_at.len()), (uploads, 0));
    }
}

#[test]
fn f_078_a_cancel_between_intent_and_create_sends_no_create() {
    let mut machine = restored([]);
    let mut world = World::new();
    while world.count(is_create) == 0 {
        let effect = machine.next(world.now);
        let event = world.perform(effect);
        machine.on(event, world.now, 0.5);
    }
    machine.on(Event::CancelRequested, world.now, 0.5);
    loop {
        match machine.next(world.now) {
            Effect::Done => break,
            effect => {
                let event = world.perform(effect);
                machine.on(event, world.now, 0.5);
            }
        }
    }
    assert_eq!(world.closes, ["cancelled"]);
    assert!(world.creates_at.is_empty());
}

#[test]
fn f_078_a_cancel_while_waiting_for_room_does_not_wait_it_out() {
    let mut world = World::fated([Fate::QueueFull; 20]);
    world.cancel_at = Some(3 * HOUR);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.closes, ["cancelled"]);
    assert!(world.now < 3 * HOUR + MINUTE, "{:?}", world.now);
}

#[test]
fn f_078_f_079_a_cancel_is_asked_once_and_the_batch_polled_to_its_end() {
    for (mode, rest) in [
        (CancelMode::Works, "2 cancelled"),
        (CancelMode::Conflicts, "2 missing"),
        (CancelMode::Ignored, "2 missing"),
    ] {
        let mut world = World::new();
        world.cancel = mode;
        world.cancel_at = Some(10 * MINUTE);
        world.missing = 2;
        assert_eq!(world.run(&[]), End::Merged);
        assert_eq!(world.cancels, 1, "{mode:?}");
        assert_eq!(world.merges, [format!("batch-0: {rest}")], "{mode:?}");
        let intents = world.count(|fact| matches!(fact, JournalEvent::CancelIntent { .. }));
        assert_eq!(intents, 1, "{mode:?}");
    }
}

#[test]
fn f_079_a_cancel_that_fails_is_asked_again_after_each_poll() {
    let mut world = World::new();
    world.cancel = CancelMode::Fails;
    world.cancel_at = Some(10 * MINUTE);
    assert_eq!(world.run(&[]), End::Merged);
    assert!(world.cancels > 5 && world.cancels <= world.polls_at.len() as u32);
    assert_eq!(world.merges, ["batch-0: whole"]);
}

#[test]
fn f_078_a_cancel_that_a_crash_swallowed_is_asked_by_the_next_process() {
    let mut asked = 0;
    for at in 0..40 {
        let mut world = World::new();
        world.cancel_at = Some(10 * MINUTE);
        let crash = Crash {
            at,
            after: true,
            downtime: SECOND,
        };
        let ended = world.process(Some(crash));
        if !matches!(
            world.journal.last(),
            Some(JournalEvent::CancelIntent { .. })
        ) {
            continue;
        }
        assert_eq!(ended, None);
        // The next process is not told to cancel; the journal is enough.
        world.cancel_at = None;
        assert_eq!(world.run(&[]), End::Merged);
        assert!(world.cancels >= 1);
        assert!(world.batches[0].cancelled_at.is_some());
        asked += 1;
    }
    assert!(asked >= 2);
}

#[test]
fn f_081_announced_files_are_waited_for() {
    let mut world = World::fated([Fate::FilesLate(5)]);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.merges, ["batch-0: whole"]);
    let mut world = World::fated([Fate::FilesLate(u32::MAX)]);
    world.missing = ROWS;
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.merges, ["batch-0: 10 missing"]);
    // An hour of the batch and an hour of grace.
    assert!(world.now >= 2 * HOUR && world.now < 2 * HOUR + 15 * MINUTE);
}

#[test]
fn f_086_an_input_that_is_not_visible_yet_is_tried_again_and_not_uploaded_again() {
    for world in [
        World::creating([Create::NoInput; 2]),
        World::fated([Fate::InputGone; 2]),
    ] {
        let mut world = world;
        assert_eq!(world.run(&[]), End::Merged);
        assert_eq!((world.uploads, world.creates_at.len()), (1, 3));
        assert_eq!(world.merges.len(), 1);
    }
}

#[test]
fn f_132_an_input_that_is_gone_is_uploaded_again_and_not_for_ever() {
    let mut world = World::creating([Create::NoInput; 5]);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.uploads, 2);
    assert_eq!(world.merges, ["batch-0: whole"]);
    for world in [
        World::creating([Create::NoInput; 100]),
        World::fated([Fate::InputGone; 100]),
    ] {
        let mut world = world;
        assert_eq!(world.run(&[]), End::Merged);
        assert_eq!(world.uploads, MAX_REUPLOADS);
        assert!(world.creates_at.len() < 20, "{}", world.creates_at.len());
        assert_eq!((world.closes.len(), world.bought()), (1, 0));
    }
}

#[test]
fn f_087_f_088_a_404_on_a_poll_stops_and_never_buys_again() {
    let (mut machine, mut world) = running();
    let (since, mut polls) = (world.now, 0);
    // Not every reader may see it yet.
    let stopped = loop {
        match machine.next(world.now) {
            Effect::Poll { .. } => {
                polls += 1;
                let missing = Error::new(ErrorKind::NotFound, "no such batch").with_status(404);
                machine.on(Event::Polled(Err(missing)), world.now, 0.5);
            }
            Effect::WaitUntil(_) => {
                let effect = machine.next(world.now);
                let event = world.perform(effect);
                machine.on(event, world.now, 0.5);
            }
            Effect::Stop(error) => break error,
            effect => panic!("{effect:?}"),
        }
    };
    assert_eq!(stopped.kind(), ErrorKind::NotFound);
    let waited = world.now - since;
    assert!(waited >= world.options.settle && waited < 2 * world.options.settle);
    assert!(polls > 5 && polls < 100, "{polls}");
    let before = world.journal.clone();
    assert_eq!(
        world.run(&[]),
        End::Merged,
        "a later run goes on from there"
    );
    assert_eq!(world.creates_at.len(), 1);
    assert_eq!(world.journal[..before.len()], before);
}

#[test]
fn f_089_bad_polls_never_end_a_batch() {
    let mut world = World::new();
    // 19 of 20 free calls fail.
    world.bad_reads = (0..400).map(|call| call % 20 != 0).collect();
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!((world.creates_at.len(), world.bought()), (1, 1));
    assert_eq!(world.merges, ["batch-0: whole"]);
}

#[test]
fn f_106_a_download_that_keeps_failing_is_spaced_by_growing_waits() {
    let (mut machine, mut world) = running();
    world.now += 2 * HOUR;
    let mut tries = Vec::new();
    while tries.len() < 12 {
        let effect = machine.next(world.now);
        let event = match effect {
            Effect::Collect { .. } => {
                tries.push(world.now);
                Event::KeptAll(Err(Error::new(ErrorKind::ProviderFault, "502")))
            }
            effect => world.perform(effect),
        };
        machine.on(event, world.now, 0.5);
    }
    let gaps = gaps(&tries);
    assert!(gaps.is_sorted() && gaps[10] >= 30 * SECOND, "{gaps:?}");
}

#[test]
fn f_097_f_037_missing_lines_are_downloaded_once_more_and_from_the_start_once() {
    let (mut machine, mut world) = running();
    world.now += 2 * HOUR;
    world.missing = 1;
    let mut fresh_seen = Vec::new();
    loop {
        let effect = machine.next(world.now);
        let event = match effect {
            Effect::Done => break,
            Effect::Collect { fresh, .. } => {
                fresh_seen.push(fresh);
                // The second download breaks once, and is then resumed, not begun again.
                Event::KeptAll(if fresh_seen.len() == 2 {
                    Err(Error::new(ErrorKind::Timeout, "cut"))
                } else {
                    Ok(())
                })
            }
            effect => world.perform(effect),
        };
        machine.on(event, world.now, 0.5);
    }
    assert_eq!(fresh_seen, [false, true, false]);
    let polls = world.polls_at.len();
    assert!(
        world.polls_at[polls - 1] > world.polls_at[polls - 3],
        "polled between the downloads"
    );
    assert_eq!(world.merges, ["batch-0: 1 missing"]);
}

#[test]
fn f_110_f_112_a_lost_answer_is_found_in_the_list_and_adopted() {
    let mut world = World::creating([Create::AnswerLost]);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(
        (world.creates_at.len(), world.uploads, world.bought()),
        (1, 1, 1)
    );
    assert_eq!(
        world.count(|fact| matches!(fact, JournalEvent::Adopted { .. })),
        1
    );
}

#[test]
fn f_111_one_create_leaves_for_one_intent() {
    let mut machine = restored([]);
    let mut world = World::new();
    while world.count(is_create) == 0 {
        let effect = machine.next(world.now);
        let event = world.perform(effect);
        machine.on(event, world.now, 0.5);
    }
    assert!(matches!(machine.next(world.now), Effect::Submit { .. }));
    // Whatever became of it: asked again, the machine looks instead of sending.
    assert!(matches!(machine.next(world.now), Effect::List { .. }));
    let mut restored = restored(world.journal.clone());
    assert!(matches!(restored.next(world.now), Effect::List { .. }));
}

#[test]
fn f_113_f_114_absence_takes_clean_readings_spread_over_the_window() {
    let mut world = World::creating([Create::Dropped]);
    assert_eq!(world.run(&[]), End::Merged);
    let clean = world.count(|fact| matches!(fact, JournalEvent::ListedClean { .. }));
    assert!(clean >= 3, "{clean}");
    let gap = gaps(&world.creates_at)[0];
    assert!(
        gap >= world.options.settle && gap < world.options.settle * 2,
        "{gap:?}"
    );
    // The fenced attempt's input is gone, and the next one has its own.
    assert_eq!(world.fences.len(), 1);
    assert_eq!(world.merges, ["batch-0: whole"]);
    assert_eq!(
        world.batches[0].tag.as_ref().map(SubmissionTag::attempt),
        Some(2)
    );
}

#[test]
fn f_113_creates_that_keep_having_no_effect_stop_the_run_and_keep_the_state() {
    let mut world = World::creating([Create::Dropped; 7]);
    assert_eq!(world.run(&[]), End::Stopped(ErrorKind::ProviderFault));
    assert_eq!(world.creates_at.len(), MAX_LOST as usize);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.bought(), 1);
}

#[test]
fn f_012_a_limit_that_refuses_every_create_stops_the_job_and_is_named() {
    let mut world = World::new();
    let mut machine = restored([]);
    let mut creates = 0;
    let stopped = loop {
        let event = match machine.next(world.now) {
            Effect::Stop(error) => break error,
            Effect::Submit { .. } => {
                creates += 1;
                let told = Error::new(ErrorKind::RateLimited, "Requested 6900, limit 1000.");
                Event::Submitted(Err(SubmitError::Unknown(told)))
            }
            effect => world.perform(effect),
        };
        machine.on(event, world.now, 0.5);
    };
    assert_eq!((creates, world.bought()), (MAX_LOST, 0));
    assert_eq!(stopped.kind(), ErrorKind::RateLimited);
    assert!(stopped.is_job_stop());
    assert!(stopped.message().contains("limit 1000"), "{stopped}");
}

#[test]
fn f_113_an_input_that_cannot_be_deleted_is_no_fence_and_a_person_decides() {
    let mut world = World::creating([Create::Dropped]);
    let mut machine = restored([]);
    loop {
        let event = match machine.next(world.now) {
            Effect::Done => break,
            Effect::Discard { .. } => {
                Event::Discarded(Err(Error::new(ErrorKind::Unsupported, "no delete")))
            }
            effect => world.perform(effect),
        };
        machine.on(event, world.now, 0.5);
    }
    assert!(
        machine
            .held()
            .is_some_and(|reason| reason.contains("cannot be deleted"))
    );
    assert_eq!(world.creates_at.len(), 1);
}

#[test]
fn f_116_a_list_that_cannot_be_finished_is_read_again_and_one_that_is_not_there_holds() {
    let unclear = || {
        let mut world = World::creating([Create::AnswerLost]);
        let mut machine = restored([]);
        loop {
            match machine.next(world.now) {
                Effect::List { .. } => return (machine, world),
                effect => {
                    let event = world.perform(effect);
                    machine.on(event, world.now, 0.5);
                }
            }
        }
    };
    let (mut machine, world) = unclear();
    for _ in 0..100 {
        let cut = Error::new(ErrorKind::ProviderFault, "its pages do not go on");
        machine.on(Event::Listed(Err(cut)), world.now, 0.5);
        machine.on(Event::Woken, world.now, 0.5);
        assert!(matches!(machine.next(world.now), Effect::List { .. }));
    }
    let (mut machine, world) = unclear();
    for _ in 1..MAX_UNREADABLE {
        let none = Error::new(ErrorKind::Unsupported, "an entry cannot be read");
        machine.on(Event::Listed(Err(none)), world.now, 0.5);
        assert!(matches!(machine.next(world.now), Effect::WaitUntil(_)));
        machine.on(Event::Woken, world.now, 0.5);
        assert!(matches!(machine.next(world.now), Effect::List { .. }));
    }
    let none = Error::new(ErrorKind::Unsupported, "an entry cannot be read");
    machine.on(Event::Listed(Err(none)), world.now, 0.5);
    assert!(matches!(
        machine.next(world.now),
        Effect::Persist(JournalEvent::Held { .. })
    ));
}

#[test]
fn f_119_an_upload_whose_answer_was_lost_is_found_and_not_repeated() {
    let mut world = World::new();
    // Mint, its intent, the upload.
    let crash = Crash {
        at: 2,
        after: true,
        downtime: MINUTE,
    };
    assert_eq!(world.process(Some(crash)), None);
    assert_eq!(world.files.len(), 1);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.uploads, 1);
}

#[test]
fn f_119_without_a_list_of_files_the_upload_is_repeated() {
    let intent = JournalEvent::UploadIntent { tag: tag(1, "r") };
    let mut machine = restored([intent]);
    assert!(matches!(
        machine.next(Duration::ZERO),
        Effect::FindUpload { .. }
    ));
    let none = Error::new(ErrorKind::Unsupported, "no list of files");
    machine.on(Event::Found(Err(none)), Duration::ZERO, 0.5);
    assert!(matches!(
        machine.next(Duration::ZERO),
        Effect::Upload { .. }
    ));
}

#[test]
fn f_133_a_revoked_key_stops_and_a_new_key_collects_without_buying() {
    let (mut machine, mut world) = running();
    let revoked = Error::new(ErrorKind::Unauthenticated, "revoked").with_status(401);
    machine.on(Event::Polled(Err(revoked)), world.now, 0.5);
    assert!(matches!(machine.next(world.now), Effect::Stop(error) if error.is_job_stop()));
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(
        (world.creates_at.len(), world.uploads, world.bought()),
        (1, 1, 1)
    );
}

#[test]
fn f_154_another_buyer_of_this_chunk_is_named_to_a_person() {
    let mut world = World::new();
    let mut theirs = world.batch(&tag(1, "other"), &InputRef("file-x".into()));
    theirs.id = "batch-x".into();
    world.batches.push(theirs.clone());
    assert_eq!(world.run(&[]), End::Held);
    assert!(world.creates_at.is_empty());
    assert!(
        matches!(world.journal.last(), Some(JournalEvent::Held { reason, .. }) if reason.contains("batch-x"))
    );
    // One that failed bought nothing, and other chunks and jobs are not ours.
    let mut world = World::new();
    theirs.fate = Fate::Invalid;
    world.batches.push(theirs.clone());
    theirs.fate = Fate::Completes;
    theirs.tag = Some(SubmissionTag::new("job", 2, 1, "x").unwrap());
    world.batches.push(theirs.clone());
    theirs.tag = Some(SubmissionTag::new("other", 1, 1, "x").unwrap());
    world.batches.push(theirs.clone());
    theirs.tag = None;
    world.batches.push(theirs);
    world.now = HOUR;
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.creates_at.len(), 1);
}

#[test]
fn a_persons_adoption_of_a_held_chunk_is_polled_and_collected() {
    let mut world = World::creating([Create::AnswerLost]);
    world.terms.can_list = false;
    assert_eq!(world.run(&[]), End::Held);
    let batch = &world.batches[0];
    world.write(JournalEvent::Adopted {
        tag: batch.tag.clone().unwrap(),
        handle: BatchHandle::new("model", batch.id.clone(), batch.input.clone()),
    });
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!((world.creates_at.len(), world.bought()), (1, 1));
}

#[test]
fn f_113_what_follows_an_adopted_ghost_reuses_neither_its_wire_ids_nor_another_attempts_input() {
    let (first, second) = (tag(1, "a"), tag(2, "b"));
    let input = |name: &str| InputRef(name.to_owned());
    let ghost = BatchHandle::new("model", "ghost", input("file-1"));
    let history = [
        JournalEvent::UploadIntent { tag: first.clone() },
        JournalEvent::Fenced { tag: first.clone() },
        JournalEvent::UploadIntent {
            tag: second.clone(),
        },
        JournalEvent::Uploaded {
            tag: second,
            input: input("file-2"),
        },
        JournalEvent::Adopted {
            tag: first.clone(),
            handle: ghost,
        },
    ];
    let restore = |last: JournalEvent| {
        let facts = history.iter().cloned().chain([last]);
        restored(facts)
    };
    let fenced = restore(JournalEvent::Fenced { tag: first.clone() });
    assert_eq!(fenced.attempt(), 3);
    let refused = restore(JournalEvent::CreateRefused {
        tag: first.clone(),
        message: String::new(),
        retryable: true,
    });
    // The ghost's lines carry the first attempt's ids, so only its own input may follow.
    assert_eq!(refused.current(), Some((&first, &input("file-1"))));
}

/// A batch that was just created, and the world it was created in.
fn running() -> (Submission, World) {
    let mut machine = restored([]);
    let mut world = World::new();
    loop {
        match machine.next(world.now) {
            Effect::Poll { .. } => return (machine, world),
            effect => {
                let event = world.perform(effect);
                machine.on(event, world.now, 0.5);
            }
        }
    }
}

#[test]
fn f_081_one_file_of_two_is_waited_for_after_every_kind_of_end() {
    for word in ["completed", "expired", "cancelled"] {
        let mut world = World::fated([Fate::OneFileLate(word, 6)]);
        assert_eq!(world.run(&[]), End::Merged, "{word}");
        assert_eq!(world.merges, ["batch-0: whole"], "{word}");
    }
}

#[test]
fn f_081_a_file_named_after_the_grace_is_found_by_the_poll_before_the_second_download() {
    let mut world = World::fated([Fate::OneFileLate("completed", 30)]);
    world.options.files_grace = Duration::ZERO;
    world.options.poll_initial = HOUR;
    world.options.poll_cap = HOUR;
    world.fates = [Fate::OneFileLate("completed", 2)].into();
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.merges, ["batch-0: whole"]);
}

#[test]
fn f_106_a_second_answer_without_files_does_not_give_up_what_is_kept() {
    let (mut machine, mut world) = running();
    world.now += 2 * HOUR;
    world.missing = 1;
    let mut fresh_seen = Vec::new();
    loop {
        let effect = machine.next(world.now);
        let event = match effect {
            Effect::Done => break,
            Effect::Poll { handle } if !fresh_seen.is_empty() => {
                Event::Polled(Ok(BatchSnapshot::new(handle, BatchStatus::Completed)))
            }
            Effect::Collect { fresh, .. } => {
                fresh_seen.push(fresh);
                Event::KeptAll(Ok(()))
            }
            effect => world.perform(effect),
        };
        machine.on(event, world.now, 0.5);
    }
    assert_eq!(fresh_seen, [false, false]);
}

/// P15: what is whole on disk needs no provider.
#[test]
fn f_087_f_148_a_collected_batch_is_merged_by_a_later_run_without_a_poll() {
    let mut collected = 0;
    for at in 0..200 {
        let mut world = World::new();
        let crash = Crash {
            at,
            after: true,
            downtime: HOUR,
        };
        if world.process(Some(crash)).is_some() {
            break;
        }
        if !matches!(world.journal.last(), Some(JournalEvent::Collected { .. })) {
            continue;
        }
        let polls = world.polls_at.len();
        assert_eq!(world.run(&[]), End::Merged);
        assert_eq!(world.polls_at.len(), polls);
        collected += 1;
    }
    // After the fact, and after the merge that was not recorded.
    assert_eq!(collected, 2);
}

#[test]
fn f_092_f_196_an_upload_refused_for_the_account_or_the_address_burns_no_row() {
    for status in [400, 404, 413] {
        let mut world = World::new();
        let mut machine = restored([]);
        loop {
            match machine.next(world.now) {
                Effect::Upload { .. } => break,
                effect => {
                    let event = world.perform(effect);
                    machine.on(event, world.now, 0.5);
                }
            }
        }
        let refused = Error::new(ErrorKind::InvalidRequest, "no").with_status(status);
        machine.on(Event::Uploaded(Err(refused)), world.now, 0.5);
        match machine.next(world.now) {
            Effect::Stop(error) => assert!(status != 413 && error.is_job_stop()),
            Effect::Persist(JournalEvent::CreateRefused { retryable, .. }) => {
                assert!(status == 413 && !retryable);
            }
            effect => panic!("{status}: {effect:?}"),
        }
    }
}

#[test]
fn f_005_a_batch_that_failed_for_money_stops_the_run_and_keeps_its_chunk() {
    let mut world = World::fated([Fate::NoMoney]);
    assert_eq!(world.run(&[]), End::Stopped(ErrorKind::QuotaExceeded));
    assert!(world.closes.is_empty() && world.merges.is_empty());
    // Paid up: the same input is submitted again.
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!((world.uploads, world.creates_at.len()), (1, 2));
    assert_eq!(world.merges, ["batch-1: whole"]);
}

#[test]
fn f_010_a_chunk_that_never_fits_stops_with_the_providers_words() {
    let mut world = World::fated([Fate::QueueFull; 50]);
    world.alone = true;
    assert_eq!(world.run(&[]), End::Stopped(ErrorKind::RateLimited));
    assert_eq!(world.creates_at.len() as u32, MAX_FULL_ALONE);
    assert!(world.closes.is_empty());
    let said = |fact: &JournalEvent| matches!(fact, JournalEvent::CreateRefused { message, .. } if message.contains("token_limit_exceeded"));
    assert_eq!(world.count(said) as u32, MAX_FULL_ALONE);
}

#[test]
fn f_017_f_118_free_tries_that_are_answered_with_no_end() {
    let mut world = World::new();
    let mut machine = restored([]);
    let mut uploads = 0;
    let stopped = loop {
        let effect = machine.next(world.now);
        let event = match effect {
            Effect::Stop(error) => break error,
            Effect::Upload { .. } => {
                uploads += 1;
                let short = Error::new(ErrorKind::ProviderFault, "9 of 10 bytes arrived");
                Event::Uploaded(Err(short.with_class(RetryClass::Rejected)))
            }
            effect => world.perform(effect),
        };
        machine.on(event, world.now, 0.5);
    };
    assert_eq!(
        (uploads, stopped.kind()),
        (MAX_FREE, ErrorKind::ProviderFault)
    );

    let mut world = World::new();
    let mut machine = restored([]);
    let mut creates = 0;
    loop {
        let effect = machine.next(world.now);
        let event = match effect {
            Effect::Stop(_) => break,
            Effect::Submit { .. } => {
                creates += 1;
                let told = Error::new(ErrorKind::InvalidRequest, "once more")
                    .with_class(RetryClass::Rejected)
                    .with_should_retry(true);
                Event::Submitted(Err(SubmitError::Refused(told)))
            }
            effect => world.perform(effect),
        };
        machine.on(event, world.now, 0.5);
    }
    assert_eq!(creates, MAX_FREE);
    // The refusal is recorded, so that a rerun has nothing to reconcile.
    assert!(matches!(
        world.journal.last(),
        Some(JournalEvent::CreateRefused {
            retryable: true,
            ..
        })
    ));
}

#[test]
fn f_117_of_several_that_match_those_that_failed_are_passed_over() {
    let mut world = World::creating([Create::Doubled]);
    world.fates.push_back(Fate::Invalid);
    world.now = 10 * HOUR;
    let mut machine = restored([]);
    loop {
        match machine.next(world.now) {
            Effect::Done => break,
            Effect::List { mark } => {
                // Late enough for the first of both to have failed.
                world.now += 2 * MINUTE;
                let listed = world.listed(&mark);
                assert_eq!(listed.len(), 2);
                machine.on(Event::Listed(Ok(listed)), world.now, 0.5);
            }
            effect => {
                let event = world.perform(effect);
                machine.on(event, world.now, 0.5);
            }
        }
    }
    assert_eq!(world.merges, ["batch-1: whole"]);
    assert_eq!(world.creates_at.len(), 1);
}

#[test]
fn f_113_a_batch_found_after_its_input_was_deleted_fails_without_ending_its_chunk() {
    let ours = tag(1, "a");
    let handle = BatchHandle::new("model", "late", InputRef("file-1".into()));
    let history = [
        JournalEvent::UploadIntent { tag: ours.clone() },
        JournalEvent::Uploaded {
            tag: ours.clone(),
            input: handle.input.clone(),
        },
        JournalEvent::CreateIntent {
            tag: ours.clone(),
            input: handle.input.clone(),
            mark: ListMark::default(),
        },
        JournalEvent::Absent { tag: ours.clone() },
        JournalEvent::Adopted {
            tag: ours.clone(),
            handle: handle.clone(),
        },
    ];
    let mut machine = restored(history);
    let now = Duration::ZERO;
    assert!(matches!(machine.next(now), Effect::Poll { .. }));
    // Without a word of the input.
    let failed = BatchSnapshot::new(handle, BatchStatus::Failed);
    machine.on(Event::Polled(Ok(failed)), now, 0.5);
    let Effect::Persist(fact) = machine.next(now) else {
        panic!("a fact")
    };
    assert_eq!(fact, JournalEvent::Fenced { tag: ours });
    machine.on(Event::Persisted(fact), now, 0.5);
    assert!(matches!(machine.next(now), Effect::Mint { attempt: 2 }));
}

#[test]
fn f_078_a_crash_while_rows_end_as_cancelled_is_not_undone_by_a_rerun() {
    let mut seen = 0;
    for at in 0..6 {
        let mut world = World::new();
        world.cancel_at = Some(SECOND);
        let crash = Crash {
            at,
            after: true,
            downtime: SECOND,
        };
        world.process(Some(crash));
        if world.closes.is_empty() || world.is_merged() {
            continue;
        }
        world.cancel_at = None;
        assert_eq!(world.run(&[]), End::Merged);
        assert!(world.creates_at.is_empty());
        world.assert_rows_ended_once();
        seen += 1;
    }
    assert_eq!(seen, 1);
}

/// Creates carry the lines, and the list shows times and counts only.
fn inline(creates: impl IntoIterator<Item = Create>) -> World {
    let mut world = World::creating(creates);
    world.terms = Terms {
        can_list: true,
        by_requests: true,
        inline: true,
    };
    world.others.requests = ROWS;
    world
}

fn held_for(world: &World) -> &str {
    match world.journal.last() {
        Some(JournalEvent::Held { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_inline_create_uploads_and_deletes_nothing() {
    for create in [Create::Answered, Create::AnswerLost] {
        let mut world = inline([create]);
        assert_eq!(world.run(&[]), End::Merged);
        assert_eq!(world.merges, ["batch-0: whole"]);
        assert_eq!((world.uploads, world.fences.len()), (0, 0));
        let upload = |fact: &JournalEvent| {
            matches!(
                fact,
                JournalEvent::UploadIntent { .. }
                    | JournalEvent::Uploaded { .. }
                    | JournalEvent::Absent { .. }
            )
        };
        assert_eq!(world.count(upload), 0);
        assert_eq!((world.creates_at.len(), world.bought()), (1, 1));
    }
}

#[test]
fn an_inline_create_refused_for_now_is_sent_again_and_one_refused_for_good_is_not() {
    let mut world = inline([Create::RateLimited, Create::NotSent, Create::Answered]);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!((world.creates_at.len(), world.bought()), (3, 1));
    // There is no input that could be missing.
    for create in [Create::Refused, Create::NoInput] {
        let mut world = inline([create]);
        assert_eq!(world.run(&[]), End::Merged);
        assert_eq!((world.creates_at.len(), world.bought()), (1, 0));
        assert_eq!(world.closes.len(), 1);
    }
}

/// F-113: what has no fence is not bought again by itself.
#[test]
fn f_113_an_inline_create_without_effect_is_held_after_the_window() {
    for late in [None, Some(20 * MINUTE)] {
        let mut world = inline([late.map_or(Create::Dropped, Create::Late)]);
        assert_eq!(world.run(&[]), End::Held);
        assert!(
            held_for(&world).contains("running late"),
            "{}",
            held_for(&world)
        );
        let clean = |fact: &JournalEvent| matches!(fact, JournalEvent::ListedClean { .. });
        assert!(world.count(clean) + 1 >= world.options.settle_listings as usize);
        assert_eq!(world.creates_at.len(), 1);
    }
}

#[test]
fn f_117_of_several_of_our_size_one_is_tried_and_the_other_is_counted_when_it_has_ended() {
    let mut world = inline([Create::Doubled]);
    assert_eq!(world.run(&[]), End::Merged);
    // What may be somebody else's is not cancelled, and not waited for.
    assert_eq!((world.cancels, world.creates_at.len()), (0, 1));
    world.now += HOUR;
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(surplus_ends(&world), [ROWS]);
}

/// F-110: an equal number of requests costs time and not money. The first one tried is another chunk's.
#[test]
fn f_110_of_two_of_our_size_the_one_whose_results_are_ours_is_found() {
    let mut world = inline([Create::AnswerLost]);
    world.stranger = true;
    assert_eq!(world.run(&[]), End::Merged);
    let disproved = |fact: &JournalEvent| matches!(fact, JournalEvent::Disproved { .. });
    assert_eq!(world.count(disproved), 1);
    assert_eq!(world.merges, ["batch-0: whole"]);
    assert_eq!((world.creates_at.len(), world.bought()), (1, 2));
}

#[test]
fn a_batch_of_another_size_or_of_another_chunk_is_not_ours() {
    let mut world = inline([Create::AnswerLost]);
    world.others.requests = ROWS + 1;
    assert_eq!(world.run(&[]), End::Held);
    let mut world = inline([Create::AnswerLost]);
    world.others.known.insert("batch-0".to_owned());
    assert_eq!(world.run(&[]), End::Held);
    assert_eq!(world.bought(), 1);
}

#[test]
fn while_another_create_of_our_size_is_unclear_a_window_passes_before_one_is_tried() {
    let mut world = inline([Create::AnswerLost]);
    world.others.unclear = true;
    assert_eq!(world.run(&[]), End::Merged);
    let adopted = |fact: &JournalEvent| matches!(fact, JournalEvent::Adopted { .. });
    assert_eq!(world.count(adopted), 1);
    let at = world.journal.iter().position(adopted).unwrap();
    assert!(world.written[at] >= world.options.settle);
}

/// I3: rows are not marked missing, nor bought again, because another's batch was taken for theirs.
#[test]
fn a_batch_taken_for_ours_whose_results_are_anothers_is_held() {
    let mut world = inline([Create::AnswerLost]);
    world.missing = ROWS;
    world.foreign = ROWS;
    assert_eq!(world.run(&[]), End::Held);
    assert!(held_for(&world).contains("batch-0, taken for its batch, holds none"));
    assert!(world.merges.is_empty());
    assert_eq!(world.creates_at.len(), 1);
    // One whose create was answered is ours whatever it holds.
    let mut world = inline([Create::Answered]);
    world.missing = ROWS;
    world.foreign = ROWS;
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.merges, ["batch-0: 10 missing"]);
}

/// I3: what failed or ended without one line proves nothing, and the chunk's own batch may be running.
#[test]
fn a_batch_taken_for_ours_that_ends_without_a_line_is_held() {
    let fates = [
        Fate::Invalid,
        Fate::QueueFull,
        Fate::NoMoney,
        Fate::ExpiresEmpty,
    ];
    for fate in fates {
        let mut world = inline([Create::AnswerLost]);
        world.fates.push_back(fate);
        world.missing = ROWS;
        assert_eq!(world.run(&[]), End::Held, "{fate:?}");
        assert!(held_for(&world).contains("batch-0"), "{fate:?}");
        assert!(world.merges.is_empty(), "{fate:?}: {:?}", world.merges);
        assert!(world.closes.is_empty(), "{fate:?}: {:?}", world.closes);
        assert_eq!(world.creates_at.len(), 1, "{fate:?}");
    }
}

/// F-037: a cut first download shows neither our lines nor another's; the second one tells.
#[test]
fn a_batch_taken_for_ours_is_proven_before_its_rows_are_marked_missing() {
    let mut world = inline([Create::AnswerLost]);
    (world.cut, world.foreign) = (ROWS, 0);
    world.missing = 0;
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.merges, ["batch-0: whole"]);
    // Some rows are there, so it is ours, and of the others no file holds a line.
    let mut world = inline([Create::AnswerLost]);
    world.missing = 3;
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.merges, ["batch-0: 3 missing"]);
    let mut world = inline([Create::AnswerLost]);
    (world.cut, world.missing) = (ROWS - 3, 3);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.merges, ["batch-0: 3 missing"]);
    // Lines nobody can read are nobody's.
    let mut world = inline([Create::AnswerLost]);
    world.missing = ROWS;
    assert_eq!(world.run(&[]), End::Held);
    assert!(world.merges.is_empty());
}

#[test]
fn a_batch_that_may_be_anothers_is_not_cancelled() {
    let mut world = inline([Create::AnswerLost]);
    world.cancel_at = Some(30 * MINUTE);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.cancels, 0);
    let mut world = inline([Create::Answered]);
    world.cancel_at = Some(30 * MINUTE);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.cancels, 1);
}

#[test]
fn an_inline_life_goes_on_from_a_crash_anywhere() {
    for create in [Create::Answered, Create::AnswerLost, Create::Dropped] {
        for at in 0..40 {
            for after in [false, true] {
                let mut world = inline([create]);
                let crash = Crash {
                    at,
                    after,
                    downtime: MINUTE,
                };
                let end = world.run(&[crash]);
                assert!(
                    matches!(end, End::Merged | End::Held),
                    "{create:?} {at} {after}: {end:?}"
                );
                assert!(
                    world.bought() <= 1,
                    "{create:?} {at} {after}: {:#?}",
                    world.journal
                );
                if create == Create::Answered && end == End::Held {
                    // The one case: it died between the intent and the create.
                    assert_eq!(world.bought(), 0, "{at} {after}");
                }
            }
        }
    }
}
