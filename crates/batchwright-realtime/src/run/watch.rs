//! Tells those who watch a run what happens in it.

use super::{EndReason, Run};
use crate::{
    Event, Events, Finished, MetricsSnapshot, ProgressUpdate, RunControl, ScopeName, Warning,
    WorkItem,
    attempt::{Call, GRACE},
    metrics::add,
    observer::Emitter,
    open_file_limit,
    schedule::Notice,
    scope_name::ScopeId,
    telemetry,
};
use batchwright_core::{Ending, Error};
use futures::{FutureExt, Stream, future::BoxFuture};
use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    sync::watch::{self, Sender},
    task::JoinSet,
    time::timeout,
};

/// Those who watch a run, and what it told them last.
#[derive(Default)]
pub(super) struct Watch {
    emitter: Emitter,
    control: RunControl,
    pub(super) is_paused: bool,
    pub(super) has_begun: bool,
    /// Attempts that may have been billed whose failure a middleware made a success of.
    pub(super) unsure: u64,
    /// How many rows the source holds, where it knows.
    total: Option<u64>,
    /// Scopes that rest, and until when.
    resting: Vec<(ScopeId, Duration)>,
    progress: Option<Sender<ProgressUpdate>>,
    callback: JoinSet<()>,
    /// Waits until everybody has seen the end.
    served: Option<BoxFuture<'static, ()>>,
}

impl Watch {
    /// Whether anybody wants events.
    pub(super) fn is_active(&self) -> bool {
        self.emitter.is_active()
    }

    pub(super) fn poll_served(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(served) = &mut self.served {
            std::task::ready!(served.as_mut().poll(cx));
            self.served = None;
        }
        Poll::Ready(())
    }
}

impl<S, T, C> Run<S, T, C> {
    /// What the run counted so far.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.meter.metrics()
    }

    /// The run's events from now on, as a stream with a queue of
    /// [`HookOptions::event_queue`](crate::HookOptions) events: what does not fit is left out and counted. Taken before
    /// the run is first polled, it begins with [`Event::RunStarted`].
    pub fn events(&mut self) -> Events {
        let queue = self.options.hooks.event_queue;
        self.watch.emitter.stream(queue)
    }

    /// Pauses and resumes the run, also while the stream is being awaited.
    pub fn control(&self) -> RunControl {
        self.watch.control.clone()
    }

    /// Tells an event, which is made only where somebody wants it.
    pub(super) fn emit(&mut self, event: impl FnOnce() -> Event) {
        if self.watch.emitter.is_active() {
            self.watch.emitter.emit(event(), &self.meter);
        }
    }

    /// Warns whoever watches.
    pub(crate) fn warn(&mut self, warning: Warning) {
        telemetry::warned(&warning);
        self.emit(|| Event::Warned(warning));
    }

    fn emit_of(&mut self, scope: ScopeId, event: impl FnOnce(ScopeName) -> Event) {
        if self.watch.emitter.is_active() {
            let name = self.scopes.name(scope).clone();
            self.watch.emitter.emit(event(name), &self.meter);
        }
    }
}

impl<S: Stream, T: Send + Sync + 'static, C: Send + 'static> Run<S, T, C> {
    /// The run begins; within a runtime.
    pub(super) fn tell_start(&mut self) {
        self.watch.has_begun = true;
        self.begun = tokio::time::Instant::now();
        let (least, most) = self.source.size_hint();
        self.watch.total = most.filter(|most| *most == least).map(|most| most as u64);
        let hooks = &self.line.hooks;
        for observer in &hooks.observers {
            let queue = hooks.options.event_queue;
            let (observer, meter) = (Arc::clone(observer), self.meter.clone());
            self.watch.emitter.call(observer, queue, meter);
        }
        if let Some(callback) = &hooks.progress {
            let (sender, updates) = watch::channel(ProgressUpdate::default());
            let callback = callback.clone();
            let served = callback.serve(updates, self.meter.clone(), hooks.options.clone());
            self.watch.callback.spawn(served);
            self.watch.progress = Some(sender);
        }
        let started = Event::RunStarted {
            max_in_flight: self.options.max_in_flight,
            expected: self.watch.total,
            dry_run: self.options.dry_run,
        };
        self.emit(|| started);
        for warning in self.options.lint(open_file_limit()) {
            self.warn(warning);
        }
    }
}

impl<S, T: Send + Sync + 'static, C: Send + 'static> Run<S, T, C> {
    /// Does what whoever holds the control wants.
    pub(super) fn heed_control(&mut self, cx: &Context<'_>) {
        let is_paused = self.watch.control.watch(cx.waker());
        if is_paused != self.watch.is_paused {
            self.watch.is_paused = is_paused;
            self.emit(|| match is_paused {
                true => Event::Paused,
                false => Event::Resumed,
            });
        }
    }

    pub(super) fn tell_item(&mut self, item: &WorkItem<T, C>) {
        self.emit(|| Event::ItemStarted {
            row: item.row,
            custom_id: Arc::from(&*item.request.custom_id),
        });
    }

    pub(super) fn tell_attempt(&mut self, call: &Call<T, C>) {
        if self.line.dry_run {
            return;
        }
        add(&self.meter.counters().attempts, 1);
        telemetry::count_attempt(&call.scope);
        self.emit(|| Event::AttemptStarted {
            row: call.row,
            attempt: call.attempt,
            scope: call.scope.clone(),
        });
    }

    /// An attempt failed at `place`; `wait` is the wait before the next one.
    pub(super) fn tell_failure(
        &mut self,
        call: &Call<T, C>,
        place: ScopeName,
        error: &Error,
        wait: Option<Duration>,
    ) {
        let counters = self.meter.counters();
        if wait.is_some() {
            counters.retried(error);
            telemetry::count_retry(&place, error);
        }
        if error.is_rate_limited() {
            add(&counters.rate_limits, 1);
            self.emit(|| Event::RateLimitHit {
                row: call.row,
                scope: place.clone(),
                retry_after: error.retry_after(),
            });
        }
        self.emit(|| Event::AttemptFailed {
            row: call.row,
            attempt: call.attempt,
            scope: place,
            error: error.clone(),
            wait,
        });
    }

    /// Tells what happened to scopes since this was done last.
    pub(super) fn tell_notices(&mut self, now: Duration) {
        while let Some(notice) = self.schedule.notice() {
            match notice {
                Notice::Rests(scope, rest) => {
                    telemetry::cooldown(self.scopes.name(scope), rest);
                    let until = now.saturating_add(rest);
                    add(&self.meter.counters().cooldowns, 1);
                    self.emit_of(scope, |scope| Event::CooldownBegan { scope, rest });
                    if self.watch.is_active() {
                        self.watch.resting.retain(|(other, _)| *other != scope);
                        self.watch.resting.push((scope, until));
                    }
                    self.redirect(scope);
                }
                Notice::Down(scope) => {
                    telemetry::down(self.scopes.name(scope));
                    self.emit_of(scope, |scope| Event::BreakerOpened { scope });
                    self.redirect(scope);
                }
                Notice::Back(scope) => {
                    telemetry::back(self.scopes.name(scope));
                    self.emit_of(scope, |scope| Event::BreakerClosed { scope });
                }
                Notice::Concurrency(scope, concurrency) => {
                    self.emit_of(scope, |scope| Event::LimitChanged { scope, concurrency });
                }
            }
        }
    }

    /// Tells whose rest is over, as soon as the run looks: where nobody waits for a scope, that may be later.
    pub(super) fn tell_rested(&mut self, now: Duration) {
        while let Some(at) = self.watch.resting.iter().position(|(_, at)| *at <= now) {
            let (scope, _) = self.watch.resting.swap_remove(at);
            self.emit_of(scope, |scope| Event::CooldownEnded { scope });
        }
    }

    /// Tells of attempts that take far longer than others, once of each.
    pub(super) fn tell_slow(&mut self, now: Duration) {
        if !self.watchdog.is_due(now) {
            return;
        }
        let latency = self.meter.metrics().latency;
        let median = (latency.count > 0).then_some(latency.p50);
        // The attempt and what follows a failure have a bound each; a middleware's and the log's come on top.
        let longest = self.options.attempt_timeout.saturating_add(GRACE);
        for slow in self.watchdog.look(now, median, longest) {
            telemetry::slow(slow.row, slow.attempt, slow.running);
            self.emit(|| Event::AttemptSlow {
                row: slow.row,
                attempt: slow.attempt,
                running: slow.running,
            });
        }
    }

    /// A row ended.
    pub(super) fn tell_end(&mut self, now: Duration, finished: &Finished<T, C>) {
        let (row, provenance) = (finished.row, &finished.outcome.provenance);
        let counters = self.meter.counters();
        counters.used(&finished.usage);
        counters.paid(provenance.cost);
        match &finished.outcome.ending {
            Ending::Succeeded(_) => {
                if provenance.cached {
                    add(&counters.cached, 1);
                } else if finished.usage.is_unknown() {
                    add(&counters.usage_unknown, 1);
                }
                if let Some(latency) = provenance.latency {
                    counters.took(latency);
                }
            }
            Ending::Cancelled => add(&counters.cancelled, 1),
            _ => {}
        }
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        counters.elapsed_nanos.store(nanos, Relaxed);
        telemetry::count_end(&finished.outcome, &finished.usage);
        self.emit(|| match &finished.outcome.ending {
            Ending::Succeeded(_) => Event::ItemCompleted {
                row,
                latency: provenance.latency,
                attempts: provenance.attempts,
                usage: finished.usage,
                cost: provenance.cost,
                cached: provenance.cached,
            },
            Ending::Refused(_) => Event::ItemRefused {
                row,
                attempts: provenance.attempts,
            },
            Ending::Failed(error) | Ending::Unreadable(error) => Event::ItemFailed {
                row,
                attempts: provenance.attempts,
                error: error.clone(),
            },
            Ending::Expired | Ending::Cancelled | Ending::Missing => Event::ItemCancelled { row },
        });
        let (done, every) = (self.progress.done(), self.options.hooks.progress_interval);
        if every > 0 && done.is_multiple_of(every) {
            telemetry::progressed(&self.progress, self.watch.total);
            self.tell_progress(now, finished);
        } else if self.watch.progress.is_some() {
            self.note_progress(now, finished);
        }
    }

    fn tell_progress(&self, now: Duration, finished: &Finished<T, C>) {
        if let Some(progress) = &self.watch.progress {
            progress.send_replace(self.update(now, finished));
        }
    }

    /// Keeps the state for the last call, and does not ask for one now.
    fn note_progress(&self, now: Duration, finished: &Finished<T, C>) {
        if let Some(progress) = &self.watch.progress {
            let update = self.update(now, finished);
            progress.send_if_modified(|last| {
                *last = update;
                false
            });
        }
    }

    fn update(&self, now: Duration, finished: &Finished<T, C>) -> ProgressUpdate {
        ProgressUpdate {
            progress: self.progress,
            total: self.watch.total,
            row: finished.row,
            custom_id: finished.outcome.custom_id.clone(),
            elapsed: now,
        }
    }

    /// The run stops before its source is over.
    pub(super) fn tell_stop(&mut self) {
        if self.schedule.is_out_of_budget() {
            self.emit(|| Event::SpendCeilingReached);
        }
    }

    /// The run is over.
    pub(super) fn tell_run_end(&mut self) {
        let now = self.begun.elapsed();
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.meter.counters().elapsed_nanos.store(nanos, Relaxed);
        let patience = self.options.hooks.patience;
        let observers = match &self.end {
            Some(end) if self.watch.emitter.is_active() => {
                let ended = Event::RunEnded {
                    error: match &end.reason {
                        EndReason::Stopped(error) => Some(error.clone()),
                        EndReason::Completed | EndReason::Cancelled => None,
                    },
                    complete: matches!(end.reason, EndReason::Completed),
                    unfinished: end.unfinished.len() as u64,
                    metrics: Arc::new(self.meter.metrics()),
                };
                self.watch.emitter.end(ended, patience)
            }
            _ => None,
        };
        let callback = self.watch.progress.take().map(|progress| {
            progress.send_modify(|last| {
                last.progress = self.progress;
                last.elapsed = now;
            });
            let mut callback = std::mem::take(&mut self.watch.callback);
            async move {
                let called = async { while callback.join_next().await.is_some() {} };
                // Whoever is not done by then goes with the set.
                let _ = timeout(patience, called).await;
            }
        });
        self.watch.served = match (observers, callback) {
            (None, None) => None,
            (observers, callback) => Some(
                async move {
                    let observers = async { futures::future::OptionFuture::from(observers).await };
                    let callback = futures::future::OptionFuture::from(callback);
                    futures::join!(observers, callback);
                }
                .boxed(),
            ),
        };
    }
}
