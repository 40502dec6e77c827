//! All results of a run at once, and what they come to.

use crate::{EndReason, Finished, MetricsSnapshot, Run, RunEnd, Unfinished, Warning, WorkItem};
use batchwright_core::{Ending, Response, Result, Usage};
use futures::{Stream, StreamExt};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// Errors of one sort are shown with so many ids.
const SHOWN_IDS: usize = 3;

/// A whole run: every row that ended, in the order they ended, and what they come to.
///
/// Holds every answer at once; for more rows than fit into memory read the run as a stream.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Summary<T = Response, C = ()> {
    /// Successes and failures together.
    pub results: Vec<Finished<T, C>>,
    /// How the run ended, with the rows it did not end.
    pub end: RunEnd,
    /// What it counted.
    pub metrics: MetricsSnapshot,
}

impl<T, C> Summary<T, C> {
    /// Rows that ended.
    pub fn total(&self) -> usize {
        self.results.len()
    }

    /// Rows that succeeded.
    pub fn succeeded(&self) -> usize {
        self.successes().count()
    }

    /// Rows that ended in any other way, refused ones included.
    pub fn failed(&self) -> usize {
        self.failures().count()
    }

    /// Tokens of all attempts that were answered, those that were not used included; a counter nobody reported adds
    /// nothing.
    pub fn usage(&self) -> Usage {
        let mut sum = Usage::default();
        self.results.iter().for_each(|row| sum.add(&row.usage));
        sum
    }

    /// From the run's first poll to its end.
    pub fn wall_time(&self) -> Duration {
        self.metrics.elapsed
    }

    /// Whether every row of the source ended.
    pub fn is_complete(&self) -> bool {
        matches!(self.end.reason, EndReason::Completed)
    }

    /// Rows taken and not ended; empty where the run completed.
    pub fn unfinished(&self) -> &[Unfinished] {
        &self.end.unfinished
    }

    /// Those that succeeded.
    pub fn successes(&self) -> impl Iterator<Item = &Finished<T, C>> {
        let all = self.results.iter();
        all.filter(|row| row.outcome.ending.is_success())
    }

    /// Those that did not.
    pub fn failures(&self) -> impl Iterator<Item = &Finished<T, C>> {
        let all = self.results.iter();
        all.filter(|row| !row.outcome.ending.is_success())
    }

    /// What the successes hold, with their ids.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, &T)> {
        self.results.iter().filter_map(|row| {
            let Ending::Succeeded(output) = &row.outcome.ending else {
                return None;
            };
            Some((row.outcome.custom_id.as_str(), output))
        })
    }

    /// The rows by their ids; of rows with one id, the one that ended last.
    pub fn by_id(&self) -> BTreeMap<&str, &Finished<T, C>> {
        let all = self.results.iter();
        all.map(|row| (row.outcome.custom_id.as_str(), row))
            .collect()
    }

    /// The same with its results in the order the source gave them.
    #[must_use]
    pub fn into_input_order(mut self) -> Self {
        self.results.sort_by_key(|row| row.index);
        self
    }

    /// The share of input tokens that came from the provider's cache, 0 to 1; 0 where nothing was read.
    pub fn cache_hit_rate(&self) -> f64 {
        let usage = self.usage();
        match usage.input_tokens {
            None | Some(0) => 0.0,
            Some(input) => usage.cache_read_input_tokens.unwrap_or(0) as f64 / input as f64,
        }
    }
}

/// A plain report for a terminal: counts, extra attempts, tokens, cost, times, and errors by kind with the first ids of
/// each. No prompt and no answer.
impl<T, C> fmt::Display for Summary<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metrics = &self.metrics;
        writeln!(
            f,
            "{} rows: {} succeeded, {} refused, {} failed",
            self.total(),
            metrics.succeeded,
            metrics.refused,
            metrics.failed
        )?;
        match &self.end.reason {
            EndReason::Completed => {}
            EndReason::Cancelled => writeln!(f, "cancelled, {} rows left", self.left())?,
            EndReason::Stopped(error) => {
                writeln!(f, "stopped, {} rows left: {error}", self.left())?;
            }
        }
        writeln!(
            f,
            "{} attempts, {} of them followed by another; {} rate limits",
            metrics.attempts,
            metrics.retries.total(),
            metrics.rate_limits
        )?;
        let usage = self.usage();
        writeln!(
            f,
            "tokens: {} in ({} cached), {} out",
            usage.input_tokens.unwrap_or(0),
            usage.cache_read_input_tokens.unwrap_or(0),
            usage.output_tokens.unwrap_or(0)
        )?;
        match metrics.cost_unknown {
            0 => writeln!(f, "cost: {}", metrics.cost)?,
            unknown => writeln!(
                f,
                "cost: {} and that of {unknown} rows unknown",
                metrics.cost
            )?,
        }
        let latency = &metrics.latency;
        write!(
            f,
            "time: {}; each p50 {}, p95 {}, p99 {}",
            Seconds(self.wall_time()),
            Seconds(latency.p50),
            Seconds(latency.p95),
            Seconds(latency.p99)
        )?;
        for (kind, (count, ids)) in self.errors() {
            write!(f, "\n{kind}: {count} ({}", ids.join(", "))?;
            f.write_str(if count > ids.len() { ", …)" } else { ")" })?;
        }
        Ok(())
    }
}

impl<T, C> Summary<T, C> {
    fn left(&self) -> usize {
        self.end.unfinished.len()
    }

    /// How many rows failed in which way, with the first ids of each.
    fn errors(&self) -> BTreeMap<&'static str, (usize, Vec<&str>)> {
        let mut errors = BTreeMap::<_, (usize, Vec<&str>)>::new();
        for row in self.failures() {
            let ending = &row.outcome.ending;
            let error = row.outcome.error();
            let kind = error.map_or(ending.as_str(), |error| error.kind().as_str());
            let (count, ids) = errors.entry(kind).or_default();
            *count += 1;
            if ids.len() < SHOWN_IDS {
                ids.push(&row.outcome.custom_id);
            }
        }
        errors
    }
}

/// With fewer digits the longer it is.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        match seconds {
            s if s < 10.0 => write!(f, "{s:.2} s"),
            s if s < 100.0 => write!(f, "{s:.1} s"),
            s => write!(f, "{s:.0} s"),
        }
    }
}

impl<S, T, C> Run<S, T, C>
where
    S: Stream<Item = Result<WorkItem<T, C>>>,
    T: Send + Sync + 'static,
    C: Send + 'static,
{
    /// Reads the run to its end and keeps every result.
    ///
    /// # Cancel safety
    /// Dropping the future drops the run, with what that says.
    pub async fn summary(mut self) -> Summary<T, C> {
        let mut results = Vec::new();
        // Hashes are enough for a warning.
        let (hasher, mut ids, mut is_warned) = (RandomState::new(), HashSet::new(), false);
        while let Some(finished) = self.next().await {
            if !is_warned && !ids.insert(hasher.hash_one(&finished.outcome.custom_id)) {
                is_warned = true;
                ids = HashSet::new();
                self.warn(Warning::DuplicateId { row: finished.row });
            }
            results.push(finished);
        }
        let end = self.ended().expect("the stream is exhausted").clone();
        Summary {
            results,
            end,
            metrics: self.meter().metrics(),
        }
    }
}
