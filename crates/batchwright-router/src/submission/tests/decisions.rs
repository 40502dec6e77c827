//! A held chunk, and what a person may say.

use super::*;
use batchwright_core::Decision;

fn tag_held(world: &World) -> SubmissionTag {
    match world.journal.last() {
        Some(JournalEvent::Held { tag, .. }) => tag.clone(),
        other => panic!("not held: {other:?}"),
    }
}

fn decide(world: &mut World, decision: Decision) {
    let tag = tag_held(world);
    world.write(JournalEvent::Decided { tag, decision });
}

fn adopt(id: &str) -> Decision {
    let handle = BatchHandle::new("model", id, InputRef::default());
    Decision::Adopt { handle }
}

/// A provider whose list is of no use, and a create of unclear fate.
fn blind(create: Create) -> World {
    let mut world = World::creating([create]);
    world.terms.can_list = false;
    assert_eq!(world.run(&[]), End::Held);
    world
}

/// Creates carry the lines, and nothing showed in the list.
fn inline(create: Create) -> World {
    let mut world = World::creating([create]);
    world.terms = Terms {
        can_list: true,
        by_requests: true,
        inline: true,
    };
    world.others.requests = ROWS;
    assert_eq!(world.run(&[]), End::Held);
    world
}

#[test]
fn wait_looks_through_a_whole_window_again() {
    let mut world = inline(Create::Late(HOUR));
    world.now += 2 * HOUR;
    world.settle();
    // Nothing is looked for until a person says so.
    assert_eq!(world.run(&[]), End::Held);
    decide(&mut world, Decision::Wait);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!((world.creates_at.len(), world.bought()), (1, 1));

    let mut world = inline(Create::Dropped);
    decide(&mut world, Decision::Wait);
    let since = world.now;
    assert_eq!(world.run(&[]), End::Held, "once more, and not bought");
    assert!(world.now - since >= world.options.settle);
    assert_eq!(world.creates_at.len(), 1);
}

#[test]
fn wait_reads_a_list_that_could_not_be_read() {
    let mut world = World::creating([Create::AnswerLost]);
    world.readable = false;
    assert_eq!(world.run(&[]), End::Held);
    world.readable = true;
    decide(&mut world, Decision::Wait);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!((world.creates_at.len(), world.bought()), (1, 1));
}

#[test]
fn an_adopted_batch_is_collected_and_its_results_must_prove_it() {
    let mut world = blind(Create::AnswerLost);
    decide(&mut world, adopt("batch-0"));
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!((world.creates_at.len(), world.merges.len()), (1, 1));

    // Another job's: its rows are nobody's here, and the question is open again.
    let mut world = blind(Create::AnswerLost);
    world.stranger = true;
    let mut theirs = world.batches[0].clone();
    theirs.tag = Some(SubmissionTag::new("other", 1, 1, "x").unwrap());
    world.commit(theirs);
    decide(&mut world, adopt("batch-1"));
    assert_eq!(world.run(&[]), End::Held);
    assert!(world.merges.is_empty());
    let disproved = |fact: &JournalEvent| matches!(fact, JournalEvent::Disproved { .. });
    assert_eq!(world.count(disproved), 1);
    let tag = tag(1, "r1");
    let decision = adopt("batch-0");
    world.write(JournalEvent::Decided { tag, decision });
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.creates_at.len(), 1);
}

#[test]
fn an_adopted_batch_is_not_cancelled_before_it_is_proven() {
    let mut world = blind(Create::AnswerLost);
    decide(&mut world, adopt("batch-0"));
    world.cancel_at = Some(world.now);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.cancels, 0);
}

#[test]
fn resubmit_buys_again_and_only_then() {
    for mut world in [
        blind(Create::Dropped),
        inline(Create::Dropped),
        blind(Create::AnswerLost),
    ] {
        let first = world.bought();
        decide(&mut world, Decision::Resubmit);
        assert_eq!(world.run(&[]), End::Merged);
        assert_eq!(world.creates_at.len(), 2);
        // The risk that was accepted, and no more than that.
        assert_eq!(world.bought(), first + 1);
        world.assert_rows_ended_once();
    }
}

#[test]
fn resubmit_deletes_what_can_be_deleted_and_goes_on_without() {
    let mut world = World::creating([Create::Dropped]);
    world.readable = false;
    assert_eq!(world.run(&[]), End::Held);
    decide(&mut world, Decision::Resubmit);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!((world.fences.len(), world.bought()), (1, 1));

    let mut world = World::creating([Create::Dropped]);
    world.can_discard = false;
    assert_eq!(world.run(&[]), End::Held);
    decide(&mut world, Decision::Resubmit);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!((world.fences.len(), world.bought()), (0, 1));
}

/// What shows in the meantime is taken instead of buying again.
#[test]
fn resubmit_takes_what_the_last_look_shows() {
    let mut world = inline(Create::Late(HOUR));
    world.now += 2 * HOUR;
    world.settle();
    decide(&mut world, Decision::Resubmit);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!((world.creates_at.len(), world.bought()), (1, 1));
}

/// A create that commits although a person had the chunk bought again is found, and what it cost is told.
#[test]
fn f_113_a_ghost_of_a_resubmitted_inline_chunk_is_counted_when_its_results_prove_it() {
    let mut world = inline(Create::Late(2 * HOUR));
    decide(&mut world, Decision::Resubmit);
    assert_eq!(world.run(&[]), End::Merged);
    world.now += 5 * HOUR;
    world.settle();
    world.others.known.insert("batch-0".to_owned());
    assert_eq!(world.run(&[]), End::Merged);
    world.now += 2 * HOUR;
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!((world.bought(), world.cancels), (2, 0));
    assert_eq!(surplus_ends(&world), [ROWS]);
}

#[test]
fn f_154_another_buyer_is_settled_by_adopting_or_by_buying_in_spite_of_it() {
    let copied = || {
        let mut world = World::new();
        let theirs = world.batch(&tag(1, "other"), &InputRef("file-x".into()));
        world
            .files
            .push((tag(1, "other"), InputRef("file-x".into())));
        world.commit(theirs);
        assert_eq!(world.run(&[]), End::Held);
        assert!(matches!(
            world.journal.last(),
            Some(JournalEvent::Held { batches, .. }) if *batches == ["batch-0"]
        ));
        world
    };
    let mut world = copied();
    decide(&mut world, Decision::Wait);
    assert_eq!(world.run(&[]), End::Held, "it is still there");
    decide(&mut world, adopt("batch-0"));
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!((world.creates_at.len(), world.bought()), (0, 1));

    let mut world = copied();
    decide(&mut world, Decision::Resubmit);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!((world.creates_at.len(), world.bought()), (1, 2));
}

#[test]
fn f_154_another_buyer_of_another_chunk_stops_until_a_person_knows_of_it() {
    let mut world = World::new();
    world.others.strangers = vec!["batch-x".to_owned()];
    let mut machine = Submission::restore([], world.terms, world.options.clone(), world.now);
    machine.set_others(world.others.clone());
    loop {
        match machine.next(world.now) {
            Effect::Done => break,
            effect => {
                let event = world.perform(effect);
                machine.on(event, world.now, 0.5);
            }
        }
    }
    assert!(machine.has_second_buyer());
    assert!(world.creates_at.is_empty());
    decide(&mut world, Decision::Wait);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.bought(), 1);
}

#[test]
fn a_decision_about_a_question_that_is_settled_changes_nothing() {
    for decision in [Decision::Wait, adopt("batch-9"), Decision::Resubmit] {
        let mut world = World::new();
        assert_eq!(world.run(&[]), End::Merged);
        let tag = tag(1, "r1");
        world.write(JournalEvent::Decided { tag, decision });
        assert_eq!(world.run(&[]), End::Merged);
        assert_eq!(world.creates_at.len(), 1);
    }
}

#[test]
fn a_crash_anywhere_after_a_decision_buys_at_most_what_was_accepted() {
    for decision in [Decision::Wait, adopt("batch-0"), Decision::Resubmit] {
        for at in 0..40 {
            let mut world = blind(Create::AnswerLost);
            decide(&mut world, decision.clone());
            let crash = Crash {
                at,
                after: true,
                downtime: MINUTE,
            };
            let end = world.run(&[crash]);
            let most = if decision == Decision::Resubmit { 2 } else { 1 };
            assert!(world.bought() <= most, "{decision:?} {at}: {end:?}");
            if end == End::Merged {
                world.assert_rows_ended_once();
            }
        }
    }
}
