//! What is worth a word, in invented time.

use super::*;
use batchwright_core::{BatchHandle, InputRef};

const HOUR: u64 = 3600;

fn hours(hours: u64) -> Duration {
    Duration::from_secs(hours * HOUR)
}

fn wall(hours: u64) -> Timestamp {
    Timestamp::from_unix_seconds((hours * HOUR) as i64)
}

fn seen(status: BatchStatus) -> BatchSnapshot {
    let mut snapshot = BatchSnapshot::new(BatchHandle::new("p", "b", InputRef::default()), status);
    snapshot.created_at = Some(wall(0));
    snapshot
}

fn ages(notices: &[Notice]) -> Vec<u64> {
    let slow = notices.iter().filter_map(|notice| match notice {
        Notice::Slow { age, .. } => Some(age.as_secs() / HOUR),
        Notice::Expiring { .. } => None,
    });
    slow.collect()
}

#[test]
fn f_070_f_071_f_072_a_state_that_lasts_too_long_is_told_and_again_when_the_time_has_doubled() {
    let limits = BatchLimits::new(Vec::new(), 1, 1);
    for (status, told) in [
        (BatchStatus::Validating, vec![1, 2, 4, 8, 16, 32, 64]),
        (BatchStatus::InProgress, vec![24, 48, 96]),
        (BatchStatus::Unknown("paused".into()), vec![24, 48, 96]),
        (BatchStatus::Finalizing, vec![1, 2, 4, 8, 16, 32, 64]),
        (BatchStatus::Cancelling, vec![1, 2, 4, 8, 16, 32, 64]),
        (BatchStatus::Expired, vec![]),
    ] {
        let mut patience = Patience::default();
        let mut all = Vec::new();
        for hour in 0..100 {
            all.extend(ages(&patience.see(
                &seen(status.clone()),
                &limits,
                hours(hour),
                wall(hour),
            )));
        }
        assert_eq!(all, told, "{status}");
    }
}

#[test]
fn f_071_age_outlives_the_process_and_another_batch_begins_anew() {
    let mut limits = BatchLimits::new(Vec::new(), 1, 1);
    limits.typical = Some(hours(2));
    let mut patience = Patience::default();
    let notices = patience.see(&seen(BatchStatus::InProgress), &limits, hours(0), wall(30));
    assert_eq!(
        notices,
        [Notice::Slow {
            age: hours(30),
            typical: hours(2)
        }]
    );
    let mut other = seen(BatchStatus::InProgress);
    other.handle.id = "c".into();
    other.created_at = None;
    assert!(patience.see(&other, &limits, hours(1), wall(31)).is_empty());
    assert_eq!(
        ages(&patience.see(&other, &limits, hours(4), wall(31))),
        [3]
    );
}

#[test]
fn f_138_a_provider_whose_clock_is_ahead_makes_nothing_old() {
    let limits = BatchLimits::new(Vec::new(), 1, 1);
    let mut ahead = seen(BatchStatus::InProgress);
    ahead.created_at = Some(wall(12));
    assert!(
        Patience::default()
            .see(&ahead, &limits, hours(0), wall(0))
            .is_empty()
    );
}

#[test]
fn f_130_results_that_will_be_gone_are_foreseen_at_half_and_at_the_last() {
    let warned = |retention: u64| {
        let mut limits = BatchLimits::new(Vec::new(), 1, 1);
        limits.retention = hours(retention);
        let mut patience = Patience::default();
        let mut all = Vec::new();
        for hour in 0..retention + 10 {
            let notices = patience.see(
                &seen(BatchStatus::Completed),
                &limits,
                hours(hour),
                wall(hour),
            );
            for notice in notices {
                if notice
                    == (Notice::Expiring {
                        collect_by: wall(retention),
                    })
                {
                    all.push(hour);
                }
            }
        }
        all
    };
    assert_eq!(warned(30 * 24), [15 * 24, 27 * 24]);
    assert_eq!(warned(48), [24, 42]);
}
