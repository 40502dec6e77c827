//! The settings of an emulator.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::face::Face;
use crate::faults::FaultRule;

/// How an emulator behaves; every setting has a default that suits a test on one machine.
#[derive(Clone)]
#[non_exhaustive]
pub struct EmulatorConfig {
    /// Where to listen. Default `127.0.0.1:0`: loopback, a free port.
    pub listen: SocketAddr,
    /// Folder that survives restarts. Default none: a private temporary folder, removed at the end.
    pub data_dir: Option<PathBuf>,
    /// Virtual seconds per real second, 0 or more. Default 60: a batch of a few thousand rows ends in about two real
    /// seconds, and 24 hours pass in 24 minutes. 0 stands still until the clock is advanced by hand.
    pub time_scale: f64,
    /// Virtual time at the first start, in Unix seconds. Default: the real time. A data folder that knows a later time
    /// goes on from there.
    pub start_at: Option<i64>,
    /// Seed of ids, answers and shuffling. Default 0. Same seed, same calls in the same order: same answers.
    pub seed: u64,
    /// API keys that are let in. Default none, which lets in every well-formed key (not empty, visible ASCII).
    pub keys: Vec<String>,
    /// Rate limits. Default: none.
    pub limits: Limits,
    /// How fast batches go, in virtual time.
    pub pace: BatchPace,
    /// Real time before a realtime answer's headers. Default 0.
    pub latency: Duration,
    /// Whether lists of batches begin with the newest. Default true, as seen at the vendor though not promised.
    pub newest_first: bool,
    /// Options of faces that have some, as their README tables list them. Default none.
    pub face_options: Vec<(Face, Value)>,
    /// Fault rules in force from the start. Default none.
    pub faults: Vec<FaultRule>,
}

impl EmulatorConfig {
    /// Sets where to listen.
    #[must_use]
    pub fn with_listen(mut self, listen: SocketAddr) -> Self {
        self.listen = listen;
        self
    }

    /// Keeps everything in a folder, so that it survives a kill and a restart.
    #[must_use]
    pub fn with_data_dir(mut self, data_dir: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(data_dir.into());
        self
    }

    /// Sets the virtual seconds per real second; 0 stands still.
    #[must_use]
    pub fn with_time_scale(mut self, time_scale: f64) -> Self {
        self.time_scale = time_scale;
        self
    }

    /// Sets the virtual time of the first start, in Unix seconds.
    #[must_use]
    pub fn with_start_at(mut self, unix_seconds: i64) -> Self {
        self.start_at = Some(unix_seconds);
        self
    }

    /// Sets the seed.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Lets in only these keys.
    #[must_use]
    pub fn with_keys(mut self, keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.keys = keys.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the rate limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets how fast batches go.
    #[must_use]
    pub fn with_pace(mut self, pace: BatchPace) -> Self {
        self.pace = pace;
        self
    }

    /// Sets the real time before a realtime answer.
    #[must_use]
    pub fn with_latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Sets whether lists of batches begin with the newest.
    #[must_use]
    pub fn with_newest_first(mut self, newest_first: bool) -> Self {
        self.newest_first = newest_first;
        self
    }

    /// Sets options of a face, an object as `POST /emulator/faces/NAME` takes it.
    #[must_use]
    pub fn with_face_options(mut self, face: Face, options: Value) -> Self {
        self.face_options.push((face, options));
        self
    }

    /// Sets the fault rules in force from the start.
    #[must_use]
    pub fn with_faults(mut self, faults: Vec<FaultRule>) -> Self {
        self.faults = faults;
        self
    }
}

impl Default for EmulatorConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data_dir: None,
            time_scale: 60.0,
            start_at: None,
            seed: 0,
            keys: Vec::new(),
            limits: Limits::default(),
            pace: BatchPace::default(),
            latency: Duration::ZERO,
            newest_first: true,
            face_options: Vec::new(),
            faults: Vec::new(),
        }
    }
}

impl std::fmt::Debug for EmulatorConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmulatorConfig")
            .field("listen", &self.listen)
            .field("data_dir", &self.data_dir)
            .field("time_scale", &self.time_scale)
            .field("start_at", &self.start_at)
            .field("seed", &self.seed)
            .field("keys", &self.keys.len())
            .field("limits", &self.limits)
            .field("pace", &self.pace)
            .field("latency", &self.latency)
            .field("newest_first", &self.newest_first)
            .field("face_options", &self.face_options)
            .field("faults", &self.faults.len())
            .finish()
    }
}

/// Rate limits, each per key and model; none by default.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Limits {
    /// Realtime requests per minute, as a token bucket of that size.
    pub requests_per_minute: Option<u64>,
    /// Realtime requests per day, as a token bucket of that size.
    pub requests_per_day: Option<u64>,
    /// Estimated realtime input tokens per minute, as a token bucket of that size.
    pub tokens_per_minute: Option<u64>,
    /// Realtime requests open at once; counted per key only.
    pub max_in_flight: Option<u64>,
    /// Input tokens of all batches that have not ended.
    pub enqueued_tokens: Option<u64>,
}

impl Limits {
    /// Limits the realtime requests per minute.
    #[must_use]
    pub fn with_requests_per_minute(mut self, limit: u64) -> Self {
        self.requests_per_minute = Some(limit);
        self
    }

    /// Limits the realtime requests per day.
    #[must_use]
    pub fn with_requests_per_day(mut self, limit: u64) -> Self {
        self.requests_per_day = Some(limit);
        self
    }

    /// Limits the realtime input tokens per minute.
    #[must_use]
    pub fn with_tokens_per_minute(mut self, limit: u64) -> Self {
        self.tokens_per_minute = Some(limit);
        self
    }

    /// Limits the realtime requests open at once.
    #[must_use]
    pub fn with_max_in_flight(mut self, limit: u64) -> Self {
        self.max_in_flight = Some(limit);
        self
    }

    /// Limits the input tokens waiting in batches.
    #[must_use]
    pub fn with_enqueued_tokens(mut self, limit: u64) -> Self {
        self.enqueued_tokens = Some(limit);
        self
    }
}

/// How long the phases of a batch take, in virtual time.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct BatchPace {
    /// From creation to `in_progress` or `failed`. Default 20 s.
    pub validating: Duration,
    /// From `in_progress` to the first row. Default 40 s.
    pub warm_up: Duration,
    /// One row after the other. Default 10 ms, 100 rows per second.
    pub per_row: Duration,
    /// From the last row to `completed`. Default 20 s.
    pub finalizing: Duration,
    /// From a cancel to `cancelled`. Default 20 s.
    pub cancelling: Duration,
}

impl BatchPace {
    /// Sets the time from creation to `in_progress`.
    #[must_use]
    pub fn with_validating(mut self, validating: Duration) -> Self {
        self.validating = validating;
        self
    }

    /// Sets the time from `in_progress` to the first row.
    #[must_use]
    pub fn with_warm_up(mut self, warm_up: Duration) -> Self {
        self.warm_up = warm_up;
        self
    }

    /// Sets the time of one row.
    #[must_use]
    pub fn with_per_row(mut self, per_row: Duration) -> Self {
        self.per_row = per_row;
        self
    }

    /// Sets the time from the last row to `completed`.
    #[must_use]
    pub fn with_finalizing(mut self, finalizing: Duration) -> Self {
        self.finalizing = finalizing;
        self
    }

    /// Sets the time from a cancel to `cancelled`.
    #[must_use]
    pub fn with_cancelling(mut self, cancelling: Duration) -> Self {
        self.cancelling = cancelling;
        self
    }
}

impl Default for BatchPace {
    fn default() -> Self {
        Self {
            validating: Duration::from_secs(20),
            warm_up: Duration::from_secs(40),
            per_row: Duration::from_millis(10),
            finalizing: Duration::from_secs(20),
            cancelling: Duration::from_secs(20),
        }
    }
}
