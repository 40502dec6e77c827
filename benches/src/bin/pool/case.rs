//! The cases and their numbers.

/// A way for an upstream to be difficult.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Case {
    /// Answers take a lognormal time: half of them 300 ms, one in a hundred 1.5 s
    Latency,
    /// 6,000 requests a minute with bursts of 100, and the pool is told
    Told,
    /// The same, and the pool reads it in headers
    Headers,
    /// The same, and nothing tells but refusals
    Untold,
    /// One answer in 20 is a 500, one in 50 a broken connection
    Faults,
    /// Two kilobytes each way, and many of them
    Memory,
    /// One row through the command
    Start,
}

/// The limit of the limited cases, in requests a second.
pub(crate) const RATE: f64 = 100.0;
/// What may be sent at once before the limit counts.
pub(crate) const BURST: u64 = 100;
/// How long a limited or faulty answer takes.
pub(crate) const LATENCY_MS: u64 = 50;

impl Case {
    pub(crate) const ALL: [Self; 7] = [
        Self::Latency,
        Self::Told,
        Self::Headers,
        Self::Untold,
        Self::Faults,
        Self::Memory,
        Self::Start,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Told => "told",
            Self::Headers => "headers",
            Self::Untold => "untold",
            Self::Faults => "faults",
            Self::Memory => "memory",
            Self::Start => "start",
        }
    }

    pub(crate) fn rows(self) -> u64 {
        match self {
            Self::Latency => 20_000,
            Self::Told | Self::Headers | Self::Untold => 3_000,
            Self::Faults => 5_000,
            Self::Memory => 200_000,
            Self::Start => 1,
        }
    }

    pub(crate) fn concurrency(self) -> usize {
        match self {
            Self::Latency => 1_000,
            Self::Memory => 256,
            Self::Start => 16,
            _ => 64,
        }
    }

    /// How much longer than possible a run may take.
    pub(crate) fn ratio(self) -> f64 {
        match self {
            Self::Latency | Self::Told => 1.03,
            Self::Headers | Self::Untold => 1.10,
            _ => 1.4,
        }
    }

    pub(crate) fn is_limited(self) -> bool {
        matches!(self, Self::Told | Self::Headers | Self::Untold)
    }

    /// The share of calls that may be refused for the rate.
    pub(crate) fn most_refused(self) -> Option<f64> {
        match self {
            Self::Told => Some(0.01),
            Self::Headers | Self::Untold => Some(0.05),
            _ => None,
        }
    }
}

/// What row `row` meets in its `attempt`-th call, uniform in 0..1 and the same in every process.
pub(crate) fn draw(seed: u64, row: u64, attempt: u64, what: u64) -> f64 {
    let mut bits = seed ^ row.rotate_left(17) ^ attempt.rotate_left(41) ^ what.rotate_left(53);
    for _ in 0..2 {
        bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
    }
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// How long the answer to `row` takes in the case of latencies, in milliseconds: lognormal with the median 300 and the
/// 99th percentile 1,500.
pub(crate) fn latency_ms(seed: u64, row: u64) -> f64 {
    // ln(1500 / 300) over the normal quantile of 0.99.
    const SIGMA: f64 = 1.609_437_912 / 2.326_347_874;
    let (one, two) = (draw(seed, row, 0, 1).max(1e-12), draw(seed, row, 0, 2));
    let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * two).cos();
    300.0 * (SIGMA * normal).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_as_said() {
        let mut all: Vec<f64> = (0..20_000).map(|row| latency_ms(1, row)).collect();
        all.sort_by(f64::total_cmp);
        assert!((290.0..310.0).contains(&all[10_000]), "{}", all[10_000]);
        assert!((1_350.0..1_650.0).contains(&all[19_800]), "{}", all[19_800]);
    }
}
