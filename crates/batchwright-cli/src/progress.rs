//! What the user sees while a job runs.

use crate::terminal::{clean, count, say};
use batchwright::pipeline::{JobProgress, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A line that is drawn again, on a terminal.
    Live,
    /// A line now and then, into a file or a pipe.
    Lines,
    /// A JSON line now and then.
    Json,
    Quiet,
}

impl Style {
    pub(crate) fn of(quiet: bool, json: bool) -> Self {
        match (quiet, json) {
            (true, _) => Self::Quiet,
            (_, true) => Self::Json,
            _ if std::io::stderr().is_terminal() => Self::Live,
            _ => Self::Lines,
        }
    }

    fn interval(self) -> Duration {
        match self {
            Self::Live => Duration::from_millis(200),
            Self::Lines => Duration::from_secs(5),
            Self::Json => Duration::from_secs(1),
            Self::Quiet => Duration::from_secs(3600),
        }
    }
}

/// Shows `progress` while `work` runs.
pub(crate) async fn show<T>(
    style: Style,
    progress: &JobProgress,
    work: impl Future<Output = T>,
) -> T {
    let mut work = std::pin::pin!(work);
    let mut shown = Shown::new(style);
    let mut ticks = tokio::time::interval(style.interval());
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    ticks.tick().await;
    loop {
        tokio::select! {
            done = &mut work => {
                shown.end(&progress.read());
                return done;
            }
            _ = ticks.tick() => shown.tick(&progress.read()),
        }
    }
}

struct Shown {
    style: Style,
    bar: ProgressBar,
    begun: Instant,
    last: String,
}

impl Shown {
    fn new(style: Style) -> Self {
        let bar = match style {
            Style::Live => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
            _ => ProgressBar::hidden(),
        };
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {msg}") {
            bar.set_style(style);
        }
        Self {
            style,
            bar,
            begun: Instant::now(),
            last: String::new(),
        }
    }

    fn tick(&mut self, progress: &Progress) {
        match self.style {
            Style::Quiet => {}
            Style::Live => {
                self.bar.set_length(progress.total.max(1));
                self.bar.set_position(progress.done);
                self.bar.set_message(clean(&self.line(progress)));
            }
            Style::Lines => {
                let line = self.line(progress);
                // A job that waits for a provider says so once, not every five seconds for a day.
                if line != self.last {
                    say(&line);
                    self.last = line;
                }
            }
            Style::Json => self.json(progress),
        }
    }

    fn end(&mut self, progress: &Progress) {
        self.bar.finish_and_clear();
        if self.style == Style::Json {
            self.json(progress);
        }
    }

    fn json(&self, progress: &Progress) {
        let batches: Vec<_> = progress
            .batches
            .iter()
            .map(|(chunk, batch)| {
                json!({
                    "chunk": chunk,
                    "id": batch.id,
                    "status": batch.status.as_str(),
                    "completed": batch.counts.map(|counts| counts.completed),
                    "failed": batch.counts.map(|counts| counts.failed),
                    "total": batch.counts.map(|counts| counts.total),
                })
            })
            .collect();
        let line = json!({
            "event": "progress",
            "rows": progress.total,
            "done": progress.done,
            "unsuccessful": progress.unsuccessful,
            "sealed": progress.sealed,
            "usage": progress.usage,
            "cost": progress.cost.as_dollars(),
            "cost_unknown_rows": progress.cost_unknown,
            "in_flight": progress.in_flight,
            "to_retry": progress.to_retry,
            "batches": batches,
            "waiting": progress.waiting,
        });
        say(line);
    }

    fn line(&self, progress: &Progress) -> String {
        let done = progress.done.saturating_sub(progress.earlier);
        let seconds = self.begun.elapsed().as_secs_f64();
        let mut line = format!("{}/{} rows", count(progress.done), count(progress.total));
        if progress.unsuccessful > 0 {
            line.push_str(&format!(
                ", {} not successful",
                count(progress.unsuccessful)
            ));
        }
        if progress.sealed > 0 && progress.sealed < progress.total {
            line.push_str(&format!(", {} prepared", count(progress.sealed)));
        }
        if done > 0 && seconds > 0.0 {
            let rate = done as f64 / seconds;
            line.push_str(&format!(", {rate:.1} rows/s"));
            let left = progress.total.saturating_sub(progress.done) as f64 / rate;
            if left >= 1.0 && left.is_finite() {
                line.push_str(&format!(", {} left", short(left)));
            }
        }
        if let Some(tokens) = progress.usage.total_tokens() {
            line.push_str(&format!(", {} tokens", count(tokens)));
        }
        line.push_str(&format!(", {}", money(progress)));
        if !progress.batches.is_empty() {
            line.push_str(&format!("; batches: {}", batches(progress)));
        }
        if progress.to_retry > 0 {
            line.push_str(&format!(", {} to be tried again", count(progress.to_retry)));
        }
        if let Some(waiting) = &progress.waiting {
            line.push_str(&format!("; waiting: {waiting}"));
        }
        line
    }
}

/// What the rows done cost; what is unknown is said to be.
pub(crate) fn money(progress: &Progress) -> String {
    match progress.cost_unknown {
        0 => progress.cost.to_string(),
        rows if rows == progress.done => "cost unknown".to_owned(),
        rows => format!(
            "{} and {} of unknown cost",
            progress.cost,
            crate::terminal::rows(rows)
        ),
    }
}

/// How many batches are in which state, and how many of their rows are answered.
fn batches(progress: &Progress) -> String {
    let mut states: BTreeMap<&str, (u64, u64, u64)> = BTreeMap::new();
    for batch in progress.batches.values() {
        let state = states.entry(batch.status.as_str()).or_default();
        state.0 += 1;
        if let Some(counts) = batch.counts {
            state.1 += counts.completed + counts.failed;
            state.2 += counts.total;
        }
    }
    let shown: Vec<String> = states
        .iter()
        .map(|(status, (number, answered, total))| match total {
            0 => format!("{number} {status}"),
            _ => format!("{number} {status} ({}/{})", count(*answered), count(*total)),
        })
        .collect();
    shown.join(", ")
}

fn short(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0}s"),
        s if s < 5400.0 => format!("{:.0}m", s / 60.0),
        s => format!("{:.1}h", s / 3600.0),
    }
}
