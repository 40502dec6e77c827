//! Batches besides the one that counts.

use super::*;

/// A create that commits this long after it was sent, and whose input was deleted in vain.
fn ghost(late: Duration) -> World {
    let mut world = World::creating([Create::Late(late)]);
    world.fence_works = false;
    world
}

fn is_surplus(fact: &JournalEvent) -> bool {
    matches!(fact, JournalEvent::Surplus { certain: true, .. })
}

#[test]
fn f_113_a_ghost_that_shows_while_its_chunk_runs_is_cancelled_collected_and_counted() {
    let mut world = ghost(40 * MINUTE);
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(world.bought(), 2);
    assert_eq!((world.count(is_surplus), world.cancels), (1, 1));
    assert!(world.batches[1].cancelled_at.is_some(), "the ghost");
    assert!(world.batches[0].cancelled_at.is_none());
    // Cancelled in time: nothing was answered, and nothing is paid twice.
    assert_eq!(surplus_ends(&world), [0]);
    assert_eq!(world.merges, ["batch-0: whole"]);
    assert_eq!(world.creates_at.len(), 2);
}

#[test]
fn f_113_a_ghost_of_a_finished_job_is_found_by_the_next_look_within_a_day_and_not_later() {
    for (after, found) in [(HOUR, true), (18 * HOUR, true), (30 * HOUR, false)] {
        let mut world = ghost(3 * HOUR);
        assert_eq!(world.run(&[]), End::Merged);
        let looks = world.lists_at.len();
        assert!(surplus_ends(&world).is_empty());
        world.now += 3 * HOUR + after;
        world.settle();
        assert_eq!(world.run(&[]), End::Merged);
        assert_eq!(surplus_ends(&world).len(), usize::from(found), "{after:?}");
        assert_eq!(world.lists_at.len() > looks, found, "{after:?}");
        // I9: whatever was found, nothing is bought and nothing merged again.
        assert_eq!((world.creates_at.len(), world.merges.len()), (2, 1));
    }
}

#[test]
fn f_113_looks_are_free_and_rare_while_a_ghost_is_possible() {
    let mut world = World::creating([Create::Dropped]);
    world.fates.push_back(Fate::Stuck("in_progress", 20 * HOUR));
    assert_eq!(world.run(&[]), End::Merged);
    // Every quarter of an hour, besides the readings of the search itself.
    let looks = world.lists_at.len();
    assert!((70..=95).contains(&looks), "{looks}");
    let mut calm = World::fated([Fate::Stuck("in_progress", 20 * HOUR)]);
    assert_eq!(calm.run(&[]), End::Merged);
    assert!(
        calm.lists_at.is_empty(),
        "without a fence there is nothing to look for"
    );
}

/// P22, P19: whatever the process was about to do with the ghost, the next one does.
#[test]
fn f_113_f_117_p19_p22_a_crash_anywhere_loses_no_surplus_batch() {
    for base in [ghost(40 * MINUTE), World::creating([Create::Doubled])] {
        let mut crashes = 0;
        for at in 0..120 {
            for after in [false, true] {
                let mut world = base.clone();
                let crash = Crash {
                    at,
                    after,
                    downtime: SECOND,
                };
                if world.process(Some(crash)).is_some() {
                    continue;
                }
                crashes += 1;
                assert_eq!(world.run(&[]), End::Merged, "{at} {after}");
                world.now += 2 * HOUR;
                world.settle();
                assert_eq!(world.run(&[]), End::Merged);
                let bought = world.bought();
                assert!(bought <= 2, "{at} {after}");
                let told = surplus_ends(&world).len();
                assert_eq!(told, bought - 1, "{at} {after}: {:#?}", world.journal);
                world.assert_rows_ended_once();
            }
        }
        assert!(crashes > 40, "{crashes}");
    }
}

#[test]
fn f_117_of_several_the_most_advanced_counts_and_the_rest_is_cancelled_and_counted() {
    for mode in [CancelMode::Works, CancelMode::Ignored, CancelMode::Fails] {
        let mut world = World::creating([Create::Doubled]);
        world.cancel = mode;
        assert_eq!(world.run(&[]), End::Merged, "{mode:?}");
        assert_eq!(world.creates_at.len(), 1);
        let kept = world
            .batches
            .iter()
            .filter(|batch| batch.cancelled_at.is_none());
        assert_eq!(kept.count(), if mode == CancelMode::Works { 1 } else { 2 });
        let paid = if mode == CancelMode::Works { 0 } else { ROWS };
        assert_eq!(surplus_ends(&world), [paid], "{mode:?}");
        world.assert_rows_ended_once();
    }
}

/// F-079: one that cannot be cancelled does not keep a finished job from ending.
#[test]
fn f_079_a_surplus_batch_that_runs_on_is_left_to_a_later_run() {
    let mut world = World::creating([Create::Doubled]);
    world.cancel = CancelMode::Ignored;
    world
        .fates
        .extend([Fate::Completes, Fate::Stuck("validating", 20 * HOUR)]);
    // The list shows the newest first, and both are as far: the first one listed counts.
    world.fates.make_contiguous().reverse();
    assert_eq!(world.run(&[]), End::Merged);
    assert!(surplus_ends(&world).is_empty());
    assert!(world.now < 2 * HOUR, "{:?}", world.now);
    world.now += 30 * HOUR;
    assert_eq!(world.run(&[]), End::Merged);
    assert_eq!(surplus_ends(&world), [ROWS]);
}

/// F-138: a settle window is counted by a clock that has no steps, and begins again with a process.
#[test]
fn f_138_the_window_is_whole_whatever_the_wall_clock_says() {
    for step in [-43_200_i64, 0, 43_200] {
        let mut world = World::creating([Create::Dropped]);
        // Mint, its intent, upload, its fact, the list, the intent, the create, its fact, one clean listing.
        let crash = Crash {
            at: 9,
            after: true,
            downtime: SECOND,
        };
        assert_eq!(world.process(Some(crash)), None);
        assert!(matches!(
            world.journal.last(),
            Some(JournalEvent::ListedClean { .. })
        ));
        let restarted = world.now;
        // What the wall clock said when the facts were written decides nothing here.
        for at in &mut world.written {
            *at = at.saturating_sub(Duration::from_secs(step.unsigned_abs()));
        }
        assert_eq!(world.run(&[]), End::Merged);
        let absent = |fact: &JournalEvent| matches!(fact, JournalEvent::Absent { .. });
        let at = world.journal.iter().position(absent).unwrap();
        assert!(
            world.written[at] - restarted >= world.options.settle,
            "{step}"
        );
    }
}
