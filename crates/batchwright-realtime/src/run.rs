//! One run of the pool: a stream of rows that ended, driven by one loop.

use crate::{
    DispatchLog, Finished, ItemState, Meter, Next, OnReached, PoolOptions, Progress, Spent,
    Strategy, WorkItem,
    attempt::{Call, Discarded, Done, Line, Prepared, attempt, record},
    schedule::{Arrival, Due, Failure, Notice, Schedule, Slot, Start, Verdict},
    scope_name::{ScopeId, ScopeName, ScopeNames},
    spend::Estimate,
    telemetry,
};
use batchwright_core::{Ending, Error, ErrorKind, Lane, Money, Request, Response, Result, Usage};
use futures::{Stream, future::BoxFuture};
use std::{
    fmt,
    future::Future,
    hash::{BuildHasher, RandomState},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// One run: a stream of the rows that ended. See [`ParallelPool::run`](crate::ParallelPool::run).
///
/// # Cancel safety
/// Dropping a future that waits for the next row loses nothing. Dropping the run itself aborts what is in
/// flight: up to `max_in_flight` requests that were sent may be answered and billed, and their answers are
/// lost. The log holds their intents, so that a later run can name those rows, and sends them again. To
/// end a run without that loss, cancel its token and read the stream to its end.
///
/// While nobody polls it nothing new is sent; answers to what is in flight are still recorded.
pub struct Run<S, T = Response, C = ()> {
    line: Arc<Line<T>>,
    schedule: Schedule,
    scopes: ScopeNames,
    options: PoolOptions,
    source: Pin<Box<S>>,
    tasks: JoinSet<Done<T, C>>,
    /// Requests of waiting rows, by slot.
    parked: Vec<Option<Box<Call<T, C>>>>,
    /// Cleans up after the strategies, once nothing else is left to do.
    closing: Option<BoxFuture<'static, ()>>,
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    alarm: Option<(Duration, Pin<Box<Sleep>>)>,
    begun: Instant,
    random: Random,
    progress: Progress,
    meter: Meter,
    /// Whether the meter shows an error that is waited out.
    is_waiting: bool,
    end: Option<RunEnd>,
}

/// How a run ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RunEnd {
    /// Why it ended.
    pub reason: EndReason,
    /// Rows that were taken from the source and have no outcome, in order; a later run takes them again.
    /// Fewer than twice `max_in_flight`, and none where the reason is [`EndReason::Completed`].
    pub unfinished: Vec<Unfinished>,
    /// Attempts that may have been billed although no outcome rests on them: those named in outcomes'
    /// provenance and those of unfinished rows.
    pub possibly_paid_attempts: u64,
    /// Tokens and money of all attempts that were answered.
    pub spent: Spent,
}

/// Why a run ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EndReason {
    /// Every row of the source ended.
    Completed,
    /// The caller's token was cancelled before that.
    Cancelled,
    /// This error forbids to go on: nobody can be served, rows fail alike, double payments reached their
    /// bound, or the source or the log failed.
    Stopped(Error),
}

/// A row a run took without ending it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unfinished {
    /// The row's number in the job.
    pub row: u64,
    /// Attempts begun; the last one may have been stopped before it left.
    pub attempts: u32,
    /// Those of them that may have been billed.
    pub possibly_paid_attempts: u32,
}

impl Unfinished {
    pub(crate) fn new(row: u64, attempts: u32, possibly_paid_attempts: u32) -> Self {
        Self {
            row,
            attempts,
            possibly_paid_attempts,
        }
    }
}

/// What can happen to a run.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every event is the end of a task"
)]
enum Event<T, C> {
    Stop,
    Task(Result<Done<T, C>, JoinError>),
    Alarm,
    Item(Option<Result<WorkItem<T, C>>>),
}

impl<S, T, C> Run<S, T, C> {
    /// How the run ended; `None` until the stream is exhausted.
    pub fn ended(&self) -> Option<&RunEnd> {
        self.end.as_ref()
    }

    /// How far the run is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Reads the progress from elsewhere, also while the stream is being awaited.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }
}

impl<S, T: Send + Sync + 'static, C: Send + 'static> Run<S, T, C> {
    /// Begins what the schedule has for items that waited.
    fn begin_due(&mut self, now: Duration) {
        while let Some(due) = self.schedule.due(now) {
            match due {
                Due::Start(start) => {
                    let call = self.unpark(start.slot);
                    self.begin(start, call);
                }
                Due::Expired(last, error) => {
                    let call = self.unpark(last.slot);
                    self.begin_record(last, call, error);
                }
            }
        }
    }

    fn begin(&mut self, start: Start, call: Box<Call<T, C>>) {
        // Boxed here, it is not copied on its way through the runtime.
        self.tasks
            .spawn(Box::pin(attempt(Arc::clone(&self.line), start, call)));
    }

    fn begin_record(&mut self, last: Start, call: Box<Call<T, C>>, error: Error) {
        let line = Arc::clone(&self.line);
        self.tasks
            .spawn(record(line, last, call, Ending::Failed(error), None));
    }

    /// Where the row's next attempt goes.
    fn scope(&mut self, call: &mut Call<T, C>) -> ScopeId {
        let strategy = call.strategy.as_ref().unwrap_or(&self.line.strategy);
        let id = self
            .scopes
            .id(strategy.scope(&call.request, &mut call.state));
        call.scope = self.scopes.name(id).clone();
        id
    }

    fn park(&mut self, slot: Slot, call: Box<Call<T, C>>) {
        let index = slot.index();
        if self.parked.len() <= index {
            self.parked.resize_with(index + 1, || None);
        }
        self.parked[index] = Some(call);
    }

    fn unpark(&mut self, slot: Slot) -> Box<Call<T, C>> {
        self.parked[slot.index()]
            .take()
            .expect("a row that waited was parked")
    }

    fn handle(&mut self, event: Event<T, C>) -> Option<Finished<T, C>> {
        match event {
            Event::Stop => self.schedule.stop(EndReason::Cancelled),
            // What is due is begun before the next event is awaited.
            Event::Alarm => {}
            Event::Item(None) => self.schedule.source_ended(),
            Event::Item(Some(Err(error))) => self.schedule.stop(EndReason::Stopped(error)),
            Event::Item(Some(Ok(item))) => self.take(item),
            Event::Task(Ok(Done::Recorded {
                slot,
                finished,
                answer,
            })) => {
                self.schedule.recorded(self.begun.elapsed(), slot, answer);
                self.count(&finished.outcome.ending);
                return Some(finished);
            }
            Event::Task(Ok(Done::Failed {
                slot,
                call,
                error,
                next,
            })) => self.failed(slot, call, error, next),
            Event::Task(Ok(Done::Withheld { slot })) => {
                self.schedule.withheld(self.begun.elapsed(), slot);
            }
            Event::Task(Ok(Done::Unrecorded { slot, error, paid })) => {
                let now = self.begun.elapsed();
                self.schedule.unrecorded(now, slot, error, paid);
            }
            Event::Task(Err(_panicked)) => {
                // Its message may hold a prompt, and the hook that prints panics has seen it.
                let error = Error::new(ErrorKind::Unexpected, "make an attempt: it panicked");
                self.schedule.stop(EndReason::Stopped(error));
            }
        }
        None
    }

    fn take(&mut self, item: WorkItem<T, C>) {
        let strategy = item.strategy.as_ref().unwrap_or(&self.line.strategy);
        let mut state = ItemState::default();
        let scope = self.scopes.id(strategy.scope(&item.request, &mut state));
        self.meet(scope);
        let name = self.scopes.name(scope).clone();
        let estimate = self.estimate(&item.request, scope, &name);
        let now = self.begun.elapsed();
        let arrival = self.schedule.arrived(now, item.row, scope, estimate);
        let call = Box::new(Call {
            row: item.row,
            span: telemetry::row(&name.provider, &item.request),
            request: item.request,
            context: item.context,
            strategy: item.strategy,
            cancel: item.cancel,
            state,
            scope: name,
            first_sent: None,
            discarded: Discarded::default(),
        });
        match arrival {
            Arrival::Start(start) => self.begin(start, call),
            Arrival::Wait(slot) => self.park(slot, call),
            Arrival::Unfinished => {}
        }
    }

    /// Tells the schedule of a scope it does not know.
    fn meet(&mut self, scope: ScopeId) {
        if !self.schedule.has_scope(scope) {
            let name = self.scopes.name(scope).borrow();
            self.schedule.add_scope(self.options.of_scope(name));
        }
    }

    /// What an attempt at the request will use. Where its price is unknown and its cost is bounded the run stops,
    /// since the bound would hold nothing.
    fn estimate(&mut self, request: &Request, id: ScopeId, scope: &ScopeName) -> Estimate {
        if !self.schedule.counts_tokens(id) {
            return Estimate::default();
        }
        let tokens = self.options.estimator.estimate(request);
        let mut cost = Money::ZERO;
        if self.options.spend.max_cost.is_some() {
            let usage = Usage::of(tokens.input, tokens.output);
            let prices = self.options.prices.as_deref();
            let known = prices.and_then(|prices| {
                prices.usage_cost(&scope.provider, &scope.model, &usage, Lane::Realtime)
            });
            if known.is_none() {
                let message = "bound the cost: the price of the model is not known";
                let error = Error::new(ErrorKind::ConfigInvalid, message)
                    .with_provider(Arc::clone(&scope.provider))
                    .with_model(Arc::clone(&scope.model));
                self.schedule.stop(EndReason::Stopped(error));
            }
            cost = known.unwrap_or_default();
        }
        Estimate {
            tokens: tokens.total(),
            cost,
        }
    }

    fn failed(&mut self, slot: Slot, mut call: Box<Call<T, C>>, error: Error, next: Next) {
        if self.line.answered.load(Relaxed) {
            self.schedule.answered();
        }
        let random = self.random.next();
        let now = self.begun.elapsed();
        let cost = error.usage().and_then(|usage| {
            let prices = self.options.prices.as_deref()?;
            let (provider, model) = (&call.scope.provider, &call.scope.model);
            prices.usage_cost(provider, model, usage, Lane::Realtime)
        });
        let scope = self.scope(&mut call);
        self.meet(scope);
        let failure = Failure {
            error: error.clone(),
            cost,
            next,
            scope,
            estimate: self.estimate(&call.request, scope, &call.scope),
            random,
        };
        let verdict = self.schedule.failed(now, slot, failure);
        for notice in self.schedule.notices() {
            match notice {
                Notice::Rests(scope, rest) => telemetry::cooldown(self.scopes.name(scope), rest),
                Notice::Down(scope) => telemetry::down(self.scopes.name(scope)),
                Notice::Back(scope) => telemetry::back(self.scopes.name(scope)),
            }
        }
        match verdict {
            Verdict::Wait(wait) => {
                self.meter.note(Some(error));
                self.is_waiting = true;
                telemetry::backoff(&call.span, wait);
                self.park(slot, call);
            }
            Verdict::Record(last, error) => self.begin_record(last, call, error),
            Verdict::Unfinished => {}
        }
    }

    fn count(&mut self, ending: &Ending<T>) {
        if std::mem::take(&mut self.is_waiting) {
            self.meter.note(None);
        }
        match ending {
            Ending::Succeeded(_) => self.progress.succeeded += 1,
            Ending::Refused(_) => self.progress.refused += 1,
            _ => self.progress.failed += 1,
        }
    }

    /// Brings the outside up to date with the schedule.
    fn publish(&mut self) {
        if self.schedule.is_stopping() && !self.line.halt.is_cancelled() {
            self.line.halt.cancel();
            self.parked.clear();
        }
        if let Some(give_up) = &self.line.give_up
            && self.schedule.gives_up()
        {
            give_up.cancel();
        }
        self.progress.taken = self.schedule.taken();
        self.progress.in_flight = self.schedule.in_flight() as u64;
        self.progress.waiting = self.schedule.waiting() as u64;
        self.progress.possibly_paid_attempts = self.schedule.possibly_paid();
        self.meter.show(&self.progress);
    }

    fn finish(&mut self) {
        let (reason, unfinished) = self.schedule.end();
        if let EndReason::Stopped(error) = &reason {
            telemetry::stopped(error);
        }
        self.stop = None;
        self.alarm = None;
        self.end = Some(RunEnd {
            reason,
            unfinished,
            possibly_paid_attempts: self.schedule.possibly_paid(),
            spent: self.schedule.spent(),
        });
    }

    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (line, limit) = (&self.line, self.options.attempt_timeout);
        let closing = self.closing.get_or_insert_with(|| {
            let line = Arc::clone(line);
            Box::pin(async move { line.prepared.cleanup(limit).await })
        });
        ready!(closing.as_mut().poll(cx));
        self.closing = None;
        Poll::Ready(())
    }

    /// One timer for all waiting rows, set to the earliest.
    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.schedule.wake_at() else {
            return Poll::Pending;
        };
        let sleep = match &mut self.alarm {
            Some((set, sleep)) => {
                if *set != at {
                    *set = at;
                    sleep.as_mut().reset(instant(self.begun, at));
                }
                sleep
            }
            None => {
                let sleep = Box::pin(sleep_until(instant(self.begun, at)));
                &mut self.alarm.insert((at, sleep)).1
            }
        };
        ready!(sleep.as_mut().poll(cx));
        self.alarm = None;
        Poll::Ready(())
    }
}

impl<S, T, C> Run<S, T, C>
where
    S: Stream<Item = Result<WorkItem<T, C>>>,
    T: Send + Sync + 'static,
    C: Send + 'static,
{
    pub(crate) fn new(
        strategy: Arc<dyn Strategy<Output = T>>,
        options: PoolOptions,
        items: S,
        log: Arc<dyn DispatchLog<T>>,
        stop: CancellationToken,
    ) -> Self {
        let line = Line {
            prepared: Prepared::new(&strategy),
            strategy,
            log,
            prices: options.prices.clone(),
            halt: stop.child_token(),
            give_up: (options.spend.on_reached == OnReached::Cancel).then(CancellationToken::new),
            answered: AtomicBool::new(false),
        };
        Self {
            line: Arc::new(line),
            closing: None,
            schedule: Schedule::new(options.clone()),
            options,
            scopes: ScopeNames::default(),
            source: Box::pin(items),
            tasks: JoinSet::new(),
            parked: Vec::new(),
            stop: Some(Box::pin(stop.cancelled_owned())),
            alarm: None,
            begun: Instant::now(),
            random: Random(RandomState::new().hash_one(0)),
            progress: Progress::default(),
            meter: Meter::default(),
            is_waiting: false,
            end: None,
        }
    }

    /// The next thing that happens. A stop goes first, so that nothing is sent past it; new items go
    /// last, so that places go to rows that wait.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event<T, C>> {
        if let Some(stop) = &mut self.stop
            && stop.as_mut().poll(cx).is_ready()
        {
            self.stop = None;
            return Poll::Ready(Event::Stop);
        }
        if let Poll::Ready(Some(done)) = self.tasks.poll_join_next(cx) {
            return Poll::Ready(Event::Task(done));
        }
        if self.poll_alarm(cx).is_ready() {
            return Poll::Ready(Event::Alarm);
        }
        if self.schedule.wants_item() {
            return self.source.as_mut().poll_next(cx).map(Event::Item);
        }
        Poll::Pending
    }
}

impl<S, T, C> Stream for Run<S, T, C>
where
    S: Stream<Item = Result<WorkItem<T, C>>>,
    T: Send + Sync + 'static,
    C: Send + 'static,
{
    type Item = Finished<T, C>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Finished<T, C>>> {
        let run = self.get_mut();
        if run.end.is_some() {
            return Poll::Ready(None);
        }
        loop {
            if run.tasks.is_empty() {
                run.schedule.nothing_runs(run.begun.elapsed());
            }
            run.begin_due(run.begun.elapsed());
            run.publish();
            if run.schedule.is_over() {
                ready!(run.poll_closing(cx));
                run.finish();
                return Poll::Ready(None);
            }
            let event = ready!(run.poll_event(cx));
            if let Some(finished) = run.handle(event) {
                run.publish();
                return Poll::Ready(Some(finished));
            }
        }
    }
}

impl<S, T, C> fmt::Debug for Run<S, T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run")
            .field("progress", &self.progress)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// `after` past `begun`; an instant the clock cannot hold is one nobody lives to see.
fn instant(begun: Instant, after: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    begun.checked_add(after).unwrap_or_else(|| begun + FAR)
}

/// Spreads waits; SplitMix64, since nothing secret rests on it.
struct Random(u64);

impl Random {
    /// Uniform in 0..1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // The upper 53 bits fill a double's mantissa exactly.
        (bits >> 11) as f64 / (1u64 << 53) as f64
    }
}
