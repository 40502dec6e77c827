//! What must hold between ours and bare programs.

use crate::{Load, Summary, Variant};
use std::fmt;

/// The older limit, of 64 calls at once: by how much the durable path may be slower than the better bare program of
/// reqwest, for noise; and how many connections ours may open beyond one for each call at once.
const BESIDE_REQWEST: &str = "realtime-beside-reqwest";
const TOLERANCE: f64 = 0.05;
const EXTRA_CONNECTIONS: u64 = 4;
pub(crate) const OLDER_CONCURRENCY: u64 = 64;

/// One limit, and what was measured.
pub(crate) struct Verdict {
    limit: &'static str,
    concurrency: u64,
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
            Bound::AtMost(bound) => format!("at most {bound:.2}"),
            Bound::AtLeast(bound) => format!("at least {bound:.2}"),
        };
        write!(
            f,
            "limit {} at {}: {} {:.2}, {bound}: {}",
            self.limit,
            self.concurrency,
            self.what,
            self.value,
            if self.is_held() { "held" } else { "NOT HELD" }
        )
    }
}

/// The limits the measured variants allow to judge.
pub(crate) fn judge(table: &[Summary], load: Load) -> Vec<Verdict> {
    let of = |variant| table.iter().find(|summary| summary.variant == variant);
    let mut verdicts = Vec::new();
    let mut judged = |limit, what: &str, value, bound| {
        verdicts.push(Verdict {
            limit,
            concurrency: load.concurrency,
            what: what.to_owned(),
            value,
            bound,
        });
    };
    if let (Some(pool), Some(hyper), Some(reqwest)) =
        (of(Variant::Pool), of(Variant::Hyper), of(Variant::Stream))
    {
        for (limit, what, value, bound) in [
            (
                "realtime-cpu",
                "CPU a call of ours to bare hyper",
                pool.cpu_micros / hyper.cpu_micros,
                Bound::AtMost(2.5),
            ),
            (
                "realtime-cpu",
                "CPU a call of ours to bare reqwest as a stream",
                pool.cpu_micros / reqwest.cpu_micros,
                Bound::AtMost(0.75),
            ),
            (
                "realtime-rate",
                "calls a second of ours to bare hyper",
                pool.rate / hyper.rate,
                Bound::AtLeast(0.6),
            ),
            (
                "realtime-rate",
                "calls a second of ours to bare reqwest as a stream",
                pool.rate / reqwest.rate,
                Bound::AtLeast(1.5),
            ),
        ] {
            judged(limit, what, value, bound);
        }
    }
    // The better of the two, so that ours is compared with how reqwest is used well.
    let bare = [Variant::Stream, Variant::Workers]
        .into_iter()
        .filter_map(|variant| of(variant).map(|summary| summary.rate))
        .max_by(f64::total_cmp);
    if let (OLDER_CONCURRENCY, Some(bare), Some(full)) = (load.concurrency, bare, of(Variant::Full))
    {
        judged(
            BESIDE_REQWEST,
            "calls a second of the durable path to the better bare reqwest",
            full.rate / bare,
            Bound::AtLeast(1.0 - TOLERANCE),
        );
    }
    for ours in [Variant::Pool, Variant::Full].into_iter().filter_map(of) {
        judged(
            BESIDE_REQWEST,
            &format!("connections of \"{}\"", ours.variant.title()),
            ours.connections as f64,
            Bound::AtMost((load.concurrency + EXTRA_CONNECTIONS) as f64),
        );
    }
    verdicts
}
