//! What must hold between ours and the bare programs.

use crate::{Summary, Variant};
use std::fmt;

const BUILD: &str = "data-build";
const BUILD_CORES: &str = "data-build-cores";
const BUILD_MEMORY: &str = "data-build-memory";
const JOIN: &str = "data-join";
const JOIN_MEMORY: &str = "data-join-memory";
/// At any number of rows.
const BUILD_PEAK_MIB: f64 = 16.0;

/// One limit, and what was measured.
pub(crate) struct Verdict {
    limit: &'static str,
    what: String,
    value: f64,
    bound: Bound,
}

enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Verdict {
    pub(crate) fn is_held(&self) -> bool {
        match self.bound {
            Bound::AtMost(bound) => self.value <= bound,
            Bound::AtLeast(bound) => self.value >= bound,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = match self.bound {
            Bound::AtMost(bound) => format!("at most {bound}"),
            Bound::AtLeast(bound) => format!("at least {bound}"),
        };
        let held = if self.is_held() { "held" } else { "NOT HELD" };
        write!(
            f,
            "limit {}: {} {:.2}, {bound}: {held}",
            self.limit, self.what, self.value
        )
    }
}

/// The limits the measured variants allow to judge. Speeds are those of the clock, at the most rows.
pub(crate) fn judge(table: &[Summary]) -> Vec<Verdict> {
    let of = |variant| {
        let mut found = table.iter().filter(|summary| summary.variant == variant);
        found.next_back()
    };
    let mut verdicts = Vec::new();
    let mut at_least = |limit, ours, peer, bound| {
        if let (Some(ours), Some(peer)) = (of(ours), of(peer)) {
            verdicts.push(Verdict {
                limit,
                what: format!("MB/s of {} to {}", ours.variant, peer.variant),
                value: ours.wall / peer.wall,
                bound: Bound::AtLeast(bound),
            });
        }
    };
    at_least(BUILD, Variant::Build, Variant::Splice, 0.75);
    at_least(BUILD, Variant::Build, Variant::Orjson, 2.0);
    at_least(BUILD_CORES, Variant::BuildCores, Variant::Splice, 1.3);
    at_least(JOIN, Variant::Join, Variant::Typed, 0.9);
    at_least(JOIN, Variant::JoinOrdered, Variant::Typed, 0.9);
    for built in table {
        if matches!(
            built.variant,
            Variant::Build | Variant::BuildCores | Variant::BuildPrompt
        ) {
            verdicts.push(Verdict {
                limit: BUILD_MEMORY,
                what: format!("peak MiB of {} at {} rows", built.variant, built.rows),
                value: built.peak_rss as f64 / 1024.0 / 1024.0,
                bound: Bound::AtMost(BUILD_PEAK_MIB),
            });
        }
    }
    for ours in [Variant::Join, Variant::JoinOrdered] {
        if let (Some(ours), Some(offsets)) = (of(ours), of(Variant::Offsets)) {
            verdicts.push(Verdict {
                limit: JOIN_MEMORY,
                what: format!("peak of {} to {}", ours.variant, offsets.variant),
                value: ours.peak_rss as f64 / offsets.peak_rss as f64,
                bound: Bound::AtMost(1.5),
            });
        }
    }
    verdicts
}
