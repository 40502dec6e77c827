//! One run of the pool: a stream of rows that ended, driven by one loop.

mod enter;
mod watch;
mod watchdog;

use crate::{
    DispatchLog, Finished, ItemState, Meter, Next, OnReached, PoolOptions, Progress, Scope,
    ScopeOptions, SpendOptions, Spent, Strategy, WorkItem,
    attempt::{Call, Discarded, Done, Line, Prepared, attempt, discard_failed, record},
    hooks::Hooks,
    schedule::{Arrival, Due, Failure, Schedule, Slot, Start, Verdict},
    scope_name::{ScopeId, ScopeName, ScopeNames},
    spend::Estimate,
    telemetry,
};
use batchwright_core::{
    Ending, Error, ErrorKind, Lane, Money, Request, Response, Result, RetryClass, Usage,
};
use enter::Entering;
use futures::{Stream, future::BoxFuture};
use std::{
    fmt,
    future::Future,
    hash::{BuildHasher, RandomState},
    panic::{AssertUnwindSafe, catch_unwind},
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
use watch::Watch;
use watchdog::Watchdog;

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
    watchdog: Watchdog,
    begun: Instant,
    random: Random,
    progress: Progress,
    meter: Meter,
    /// Whether the meter shows an error that is waited out.
    is_waiting: bool,
    /// Those who are told what happens.
    watch: Watch,
    /// Rows that middlewares look at.
    entering: Entering<T, C>,
    /// The place in the source of the next row.
    next_index: u64,
    /// No row at or behind this place is taken.
    take_until: u64,
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
    reason = "it is nearly always a task or an item, and never stored"
)]
enum Step<T, C> {
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

    /// The end of the rows that may be taken, as places in the source; sets it where one is given. Returns the next
    /// place to be taken.
    pub(crate) fn take_until(&mut self, until: Option<u64>) -> u64 {
        if let Some(until) = until {
            self.take_until = until;
        }
        self.next_index
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

    fn begin(&mut self, start: Start, mut call: Box<Call<T, C>>) {
        call.attempt = start.attempt;
        call.is_counted = false;
        let now = self.begun.elapsed();
        self.watchdog
            .began(now, start.slot, call.row, start.attempt);
        self.tell_attempt(&call);
        // Boxed here, it is not copied on its way through the runtime.
        self.tasks
            .spawn(Box::pin(attempt(Arc::clone(&self.line), start, call)));
    }

    fn begin_record(&mut self, last: Start, call: Box<Call<T, C>>, error: Error) {
        let line = Arc::clone(&self.line);
        self.tasks
            .spawn(record(line, last, call, Ending::Failed(error), None));
    }

    /// Where the row's next attempt goes: to the same place again where the strategy panicked.
    fn scope(&mut self, call: &mut Call<T, C>) -> ScopeId {
        let strategy = call.strategy.as_ref().unwrap_or(&self.line.strategy);
        let (scopes, request, state) = (&mut self.scopes, &call.request, &mut call.state);
        let id = catch_unwind(AssertUnwindSafe(|| {
            scopes.id(strategy.scope(request, state))
        }))
        .unwrap_or_else(|_panic| self.scopes.id(call.scope.borrow()));
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

    fn handle(&mut self, step: Step<T, C>) -> Option<Finished<T, C>> {
        if let Step::Task(Ok(
            Done::Recorded { slot, .. }
            | Done::Failed { slot, .. }
            | Done::Withheld { slot }
            | Done::Unrecorded { slot, .. },
        )) = &step
        {
            self.watchdog.ended(*slot);
        }
        match step {
            Step::Stop => self.schedule.stop(EndReason::Cancelled),
            // What is due is begun before the next event is awaited.
            Step::Alarm => {}
            Step::Item(None) => self.entering.is_source_over = true,
            Step::Item(Some(Err(error))) => self.schedule.stop(EndReason::Stopped(error)),
            Step::Item(Some(Ok(item))) => self.take(item),
            Step::Task(Ok(Done::Entered {
                index,
                item,
                refused,
            })) => self.entering.ready(index, item, refused),
            Step::Task(Ok(Done::Recorded {
                slot,
                finished,
                unsure,
                answer,
            })) => {
                let now = self.begun.elapsed();
                self.schedule.recorded(now, slot, answer);
                self.watch.unsure += u64::from(unsure);
                self.count(&finished.outcome.ending);
                self.tell_notices(now);
                self.tell_end(now, &finished);
                return Some(finished);
            }
            Step::Task(Ok(Done::Failed {
                slot,
                call,
                error,
                next,
            })) => self.failed(slot, call, error, next),
            Step::Task(Ok(Done::Withheld { slot })) => {
                self.schedule.withheld(self.begun.elapsed(), slot);
            }
            Step::Task(Ok(Done::Unrecorded { slot, error, paid })) => {
                let now = self.begun.elapsed();
                self.schedule.unrecorded(now, slot, error, paid);
            }
            Step::Task(Err(_panicked)) => {
                // Its message may hold a prompt, and the hook that prints panics has seen it.
                let error = Error::new(ErrorKind::Unexpected, "make an attempt: it panicked");
                self.schedule.stop(EndReason::Stopped(error));
            }
        }
        None
    }

    /// Gives an item that was taken, and that all middlewares have seen, to the schedule. `refused` is why it ends at
    /// once.
    fn arrive(&mut self, index: u64, item: WorkItem<T, C>, mut refused: Option<Error>) {
        let strategy = item.strategy.as_ref().unwrap_or(&self.line.strategy);
        let mut state = ItemState::default();
        let scopes = &mut self.scopes;
        let scope = catch_unwind(AssertUnwindSafe(|| {
            scopes.id(strategy.scope(&item.request, &mut state))
        }))
        .unwrap_or_else(|_panic| {
            let error = Error::new(ErrorKind::Unexpected, "name a scope: the strategy panicked")
                .with_class(RetryClass::RowFatal);
            refused.get_or_insert(error);
            self.scopes.id(Scope::new("", &item.request.model))
        });
        self.meet(scope);
        let name = self.scopes.name(scope).clone();
        let is_settled = refused.is_some();
        let arrival = if is_settled {
            None
        } else {
            let estimate = self.estimate(&item.request, scope, &name);
            let now = self.begun.elapsed();
            Some(self.schedule.arrived(now, item.row, scope, estimate))
        };
        let call = Box::new(Call {
            row: item.row,
            index,
            attempt: 0,
            is_settled,
            span: telemetry::row(&name.provider, &item.request),
            request: item.request,
            context: item.context,
            strategy: item.strategy,
            cancel: item.cancel,
            state,
            scope: name,
            first_sent: None,
            discarded: Discarded::default(),
            is_counted: false,
        });
        match arrival {
            Some(Arrival::Start(start)) => self.begin(start, call),
            Some(Arrival::Wait(slot)) => self.park(slot, call),
            Some(Arrival::Unfinished) => {}
            None => {
                let last = self.schedule.arrived_at_its_end(call.row, scope);
                let error = refused.expect("an item that does not arrive was refused");
                self.begin_record(last, call, error);
            }
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
        let place = call.scope.clone();
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
        let wait = match &verdict {
            Verdict::Wait(wait) => Some(*wait),
            Verdict::Record(..) | Verdict::Unfinished => None,
        };
        self.tell_failure(&call, place.clone(), &error, wait);
        // It was there, and goes on to the other place only where it is tried again.
        let other = std::mem::replace(&mut call.scope, place);
        match verdict {
            Verdict::Wait(wait) => {
                discard_failed(&self.line, &mut call, &error);
                call.scope = other;
                self.meter.note(Some(error));
                self.is_waiting = true;
                telemetry::backoff(&call.span, wait);
                self.park(slot, call);
            }
            Verdict::Record(last, error) => self.begin_record(last, call, error),
            Verdict::Unfinished => {}
        }
        self.tell_notices(now);
    }

    /// Asks where the rows that wait for this scope go now that it lets nobody through for a while.
    fn redirect(&mut self, scope: ScopeId) {
        for slot in self.schedule.queued_for(scope) {
            let mut call = self.unpark(slot);
            let other = self.scope(&mut call);
            if other != scope {
                self.meet(other);
                let estimate = self.estimate(&call.request, other, &call.scope);
                if self.schedule.is_stopping() {
                    // The new place has no price, where one is needed: all who wait were handed back.
                    return;
                }
                self.schedule.redirected(slot, other, estimate);
            }
            self.park(slot, call);
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
            self.tell_stop();
        }
        if let Some(give_up) = &self.line.give_up
            && self.schedule.gives_up()
        {
            give_up.cancel();
        }
        if self.schedule.is_stopping() {
            self.turn_back();
        }
        self.progress.taken = self.schedule.taken();
        self.progress.in_flight = self.schedule.in_flight() as u64;
        self.progress.waiting = self.schedule.waiting() as u64;
        self.progress.possibly_paid_attempts = self.schedule.possibly_paid() + self.watch.unsure;
        self.meter.show(&self.progress);
        let (in_flight, waiting) = (self.progress.in_flight, self.progress.waiting);
        self.meter.counters().queues(in_flight, waiting);
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
            possibly_paid_attempts: self.progress.possibly_paid_attempts,
            spent: self.schedule.spent(),
        });
        self.tell_run_end();
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
        let wakes = self.schedule.wake_at().into_iter();
        let Some(at) = wakes.chain(self.watchdog.wake_at()).min() else {
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
        hooks: Hooks<T>,
        items: S,
        log: Arc<dyn DispatchLog<T>>,
        stop: CancellationToken,
    ) -> Self {
        let meter = Meter::default();
        let mut options = options;
        if options.dry_run {
            // What is not sent waits for nobody's limits.
            options.scope = ScopeOptions::default();
            options.scopes.clear();
            options.spend = SpendOptions::default();
        }
        let mut hooks = hooks;
        hooks.options = options.hooks.clone();
        let line = Line {
            hooks,
            meter: meter.clone(),
            dry_run: options.dry_run,
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
            watchdog: Watchdog::default(),
            begun: Instant::now(),
            random: Random(RandomState::new().hash_one(0)),
            progress: Progress::default(),
            meter,
            is_waiting: false,
            watch: Watch::default(),
            entering: Entering::default(),
            next_index: 0,
            take_until: u64::MAX,
            end: None,
        }
    }

    /// The next thing that happens. A stop goes first, so that nothing is sent past it; new items go
    /// last, so that places go to rows that wait.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Step<T, C>> {
        if let Some(stop) = &mut self.stop
            && stop.as_mut().poll(cx).is_ready()
        {
            self.stop = None;
            return Poll::Ready(Step::Stop);
        }
        if let Poll::Ready(Some(done)) = self.tasks.poll_join_next(cx) {
            return Poll::Ready(Step::Task(done));
        }
        if self.watch.is_paused {
            return Poll::Pending;
        }
        if self.poll_alarm(cx).is_ready() {
            return Poll::Ready(Step::Alarm);
        }
        if self.wants_item() {
            return self.source.as_mut().poll_next(cx).map(Step::Item);
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
            ready!(run.watch.poll_served(cx));
            return Poll::Ready(None);
        }
        if !run.watch.has_begun {
            run.tell_start();
        }
        loop {
            run.heed_control(cx);
            if run.tasks.is_empty() {
                run.schedule.nothing_runs(run.begun.elapsed());
                run.entering.nothing_runs();
            }
            if !run.watch.is_paused {
                let now = run.begun.elapsed();
                run.begin_due(now);
                run.let_in();
                run.tell_rested(now);
                run.tell_slow(now);
            }
            run.publish();
            if run.schedule.is_over() && run.entering.is_empty() {
                ready!(run.poll_closing(cx));
                run.finish();
                ready!(run.watch.poll_served(cx));
                return Poll::Ready(None);
            }
            let step = ready!(run.poll_step(cx));
            if let Some(finished) = run.handle(step) {
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
