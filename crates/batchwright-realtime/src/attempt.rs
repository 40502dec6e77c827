//! One attempt as a task: intent, call, and for an answer the record of the outcome.

use crate::{
    Attempt, DispatchLog, Entering, Executed, Finished, ItemState, Meter, Next, Recovery, Strategy,
    WorkItem,
    classifier::classify,
    hooks::Hooks,
    middleware::{self, contained},
    schedule::{Answer, Slot, Start},
    scope_name::ScopeName,
    telemetry,
};
use batchwright_core::{
    Ending, Error, ErrorKind, Lane, Money, Outcome, PriceTable, RateLimit, Request, Result,
    RetryClass, Usage,
};
use futures::FutureExt;
use std::{
    collections::HashMap,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

/// What a strategy may take past the attempt's timeout before it is given up over its head: a provider's own error
/// says more about the phase it failed in, so it gets the time to report it.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

/// What all attempts of a run share.
pub(crate) struct Line<T> {
    pub(crate) strategy: Arc<dyn Strategy<Output = T>>,
    pub(crate) log: Arc<dyn DispatchLog<T>>,
    pub(crate) prices: Option<Arc<PriceTable>>,
    /// Cancelled when nothing more may be sent.
    pub(crate) halt: CancellationToken,
    /// Cancelled when what is in flight is given up; only where the spend budget may ask for that.
    pub(crate) give_up: Option<CancellationToken>,
    /// Whether any attempt was answered, known here before the outcome is durable.
    pub(crate) answered: AtomicBool,
    pub(crate) prepared: Prepared<T>,
    pub(crate) hooks: Hooks<T>,
    pub(crate) meter: Meter,
    /// Whether nothing is sent and nothing recorded.
    pub(crate) dry_run: bool,
}

/// A row's baggage: goes out with each attempt and comes back with each failure.
pub(crate) struct Call<T, C> {
    pub(crate) row: u64,
    /// Its place in the source.
    pub(crate) index: u64,
    /// The last attempt begun.
    pub(crate) attempt: u32,
    /// Whether no middleware is to be asked about its end, since one of them ended it.
    pub(crate) is_settled: bool,
    pub(crate) request: Request,
    pub(crate) context: C,
    /// The row's own strategy, where it has one.
    pub(crate) strategy: Option<Arc<dyn Strategy<Output = T>>>,
    pub(crate) cancel: Option<CancellationToken>,
    pub(crate) state: ItemState,
    /// Where the attempt goes.
    pub(crate) scope: ScopeName,
    pub(crate) first_sent: Option<Instant>,
    /// Answers that were paid and not used.
    pub(crate) discarded: Discarded,
    /// Whether what its last attempt used is among them.
    pub(crate) is_counted: bool,
    pub(crate) span: Span,
}

/// Answers of one row that were paid and not used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Discarded {
    pub(crate) usage: Usage,
    /// Unknown where that of one of them is.
    pub(crate) cost: Option<Money>,
}

impl Default for Discarded {
    fn default() -> Self {
        Self {
            usage: Usage::default(),
            cost: Some(Money::ZERO),
        }
    }
}

/// How a task ended.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every task ends with an outcome"
)]
pub(crate) enum Done<T, C> {
    /// All middlewares have seen the item; an error is its end.
    Entered {
        index: u64,
        item: Box<WorkItem<T, C>>,
        refused: Option<Error>,
    },
    /// The outcome is durable.
    Recorded {
        slot: Slot,
        finished: Finished<T, C>,
        /// Whether its last attempt may have been billed although its success is a middleware's.
        unsure: bool,
        /// What the attempt was answered with, where it was sent.
        answer: Option<Answer>,
    },
    /// The attempt failed; what follows is the schedule's to say.
    Failed {
        slot: Slot,
        call: Box<Call<T, C>>,
        error: Error,
        next: Next,
    },
    /// The run was stopped before the request left.
    Withheld { slot: Slot },
    /// The log failed, or a strategy cannot be used; `paid` tells whether an answer was lost with it.
    Unrecorded {
        slot: Slot,
        error: Error,
        paid: bool,
    },
}

impl<T, C> Call<T, C> {
    pub(crate) fn strategy<'a>(&'a self, line: &'a Line<T>) -> &'a Arc<dyn Strategy<Output = T>> {
        self.strategy.as_ref().unwrap_or(&line.strategy)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel
            .as_ref()
            .is_some_and(CancellationToken::is_cancelled)
    }
}

/// Shows an item to all middlewares before its first attempt.
pub(crate) async fn enter<T: Send + Sync + 'static, C>(
    line: Arc<Line<T>>,
    index: u64,
    mut item: Box<WorkItem<T, C>>,
) -> Done<T, C> {
    let entering = Entering {
        row: item.row,
        request: &mut item.request,
        strategy: &mut item.strategy,
    };
    let seen = middleware::before(&line.hooks, entering).await;
    Done::Entered {
        index,
        item,
        refused: seen.err(),
    }
}

/// Makes one attempt. An answer is recorded here, not in the loop, so that it becomes durable also while
/// nobody polls the run.
pub(crate) async fn attempt<T: Send + Sync + 'static, C>(
    line: Arc<Line<T>>,
    start: Start,
    mut call: Box<Call<T, C>>,
) -> Done<T, C> {
    let slot = start.slot;
    // Before and after: recording an intent can take long, and the run may be stopped meanwhile.
    if line.halt.is_cancelled() {
        return Done::Withheld { slot };
    }
    if call.is_cancelled() {
        return record(line, start, call, Ending::Cancelled, None).await;
    }
    if line.dry_run {
        let ending = rehearse(&line, &call);
        let unsent = Start {
            attempt: 0,
            ..start
        };
        return record(line, unsent, call, ending, None).await;
    }
    let strategy = Arc::clone(call.strategy(&line));
    if (call.strategy.is_some() || !line.prepared.is_own_ready())
        && let Err(error) = line.prepared.prepare(&strategy, start.timeout).await
    {
        let paid = false;
        return Done::Unrecorded { slot, error, paid };
    }
    if let Err(error) = line.log.dispatching(call.row, start.attempt).await {
        let paid = false;
        return Done::Unrecorded { slot, error, paid };
    }
    if line.halt.is_cancelled() {
        return Done::Withheld { slot };
    }
    if call.is_cancelled() {
        return record(line, start, call, Ending::Cancelled, None).await;
    }
    call.first_sent.get_or_insert_with(Instant::now);
    let span = telemetry::attempt(&call.span, start.attempt);
    let mut attempt = Attempt::new(start.attempt, start.timeout, &mut call.state);
    // In a block of its own: a method written by hand can panic before it has a future.
    let execute = guarded(start.timeout, async {
        strategy.execute(&call.request, &mut attempt).await
    });
    let sent = Instant::now();
    let answer = match (&call.cancel, &line.give_up) {
        (None, None) => execute.instrument(span.clone()).await,
        (cancel, give_up) => {
            let cancelled = Error::new(ErrorKind::Cancelled, "wait for the answer")
                .with_class(RetryClass::Ambiguous)
                .with_should_retry(false);
            tokio::select! {
                answer = execute.instrument(span.clone()) => answer,
                () = either(cancel.as_ref(), give_up.as_ref()) => Err(cancelled),
            }
        }
    };
    match answer {
        Ok(executed) => {
            telemetry::answered(&span, executed.model.as_deref(), &executed.usage);
            line.answered.store(true, Relaxed);
            let Executed {
                ending,
                usage,
                model,
                cached,
                rate_limit,
            } = executed;
            let answered = Answered {
                usage,
                model,
                cached,
                rate_limit,
                took: sent.elapsed(),
            };
            record(line, start, call, ending, Some(answered)).await
        }
        Err(error) => {
            telemetry::failed(&span, &error);
            // By what the provider said of it, whatever a classifier makes of that.
            if error.kind() == ErrorKind::InvalidOutput {
                line.answered.store(true, Relaxed);
                discard(&line, &mut call, &error);
            }
            let error = match &line.hooks.classifier {
                None => error,
                Some(classifier) => classify(&**classifier, error),
            };
            let mut attempt = Attempt::new(start.attempt, start.timeout, &mut call.state);
            let next = async { Ok(strategy.on_error(&call.request, &error, &mut attempt).await) };
            let next = guarded(start.timeout, next).await.unwrap_or_default();
            Done::Failed {
                slot,
                call,
                error,
                next,
            }
        }
    }
}

/// What the row would end as, were it sent.
fn rehearse<T: Send + 'static, C>(line: &Line<T>, call: &Call<T, C>) -> Ending<T> {
    let strategy = call.strategy(line);
    let shown = catch_unwind(AssertUnwindSafe(|| strategy.dry_run(&call.request)));
    match shown {
        Ok(Ok(executed)) => executed.ending,
        Ok(Err(error)) => Ending::Failed(error),
        Err(_panic) => Ending::Failed(
            Error::new(ErrorKind::Unexpected, "run dry: the strategy panicked")
                .with_class(RetryClass::RowFatal),
        ),
    }
}

/// Waits until one of them is cancelled.
async fn either(one: Option<&CancellationToken>, other: Option<&CancellationToken>) {
    let cancelled = |token: Option<&CancellationToken>| {
        let token = token.cloned();
        async move {
            match token {
                Some(token) => token.cancelled_owned().await,
                None => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        () = cancelled(one) => {}
        () = cancelled(other) => {}
    }
}

/// Runs a strategy's work: within its time, and without its panic being anybody else's.
async fn guarded<R>(limit: Duration, work: impl Future<Output = Result<R>>) -> Result<R> {
    match timeout(
        limit.saturating_add(GRACE),
        AssertUnwindSafe(work).catch_unwind(),
    )
    .await
    {
        Ok(Ok(result)) => result,
        // Its message may hold a prompt, and the hook that prints panics has seen it.
        Ok(Err(_panic)) => Err(Error::new(
            ErrorKind::Unexpected,
            "make an attempt: the strategy panicked",
        )
        // What it did before that nobody knows.
        .with_class(RetryClass::Ambiguous)
        .with_should_retry(false)),
        Err(_) => Err(Error::new(
            ErrorKind::Timeout,
            "read the answer within the attempt's timeout",
        )),
    }
}

/// Counts what a failed attempt cost that is followed by another.
pub(crate) fn discard_failed<T, C>(line: &Line<T>, call: &mut Call<T, C>, error: &Error) {
    if error.usage().is_some() && !call.is_counted {
        discard(line, call, error);
    }
}

/// Counts an answer that was paid and is of no use.
fn discard<T, C>(line: &Line<T>, call: &mut Call<T, C>, error: &Error) {
    call.is_counted = true;
    let cost = error.usage().and_then(|usage| {
        call.discarded.usage.add(usage);
        let prices = line.prices.as_deref()?;
        prices.usage_cost(
            &call.scope.provider,
            &call.scope.model,
            usage,
            Lane::Realtime,
        )
    });
    let sum = call.discarded.cost.zip(cost);
    call.discarded.cost = sum.map(|(before, more)| before + more);
}

/// What is known of the attempt an outcome rests on.
pub(crate) struct Answered {
    usage: Usage,
    model: Option<String>,
    cached: bool,
    rate_limit: Option<RateLimit>,
    took: Duration,
}

/// Makes an outcome durable. `last` is the row's last attempt.
pub(crate) async fn record<T: Send + Sync + 'static, C>(
    line: Arc<Line<T>>,
    last: Start,
    call: Box<Call<T, C>>,
    ending: Ending<T>,
    answered: Option<Answered>,
) -> Done<T, C> {
    let slot = last.slot;
    let paid = answered.is_some();
    let cost = last_cost(&line, &call, &ending, answered.as_ref());
    let answer = answered.as_ref().filter(|answered| !answered.cached);
    let answer = answer.map(|answered| Answer {
        took: answered.took,
        tokens: answered.usage.total_tokens(),
        cost,
        rate_limit: answered.rate_limit,
    });
    let usage = last_usage(&call, &ending, answered.as_ref());
    let mut shown = Shown::default();
    let ending = if line.hooks.middlewares.is_empty() || call.is_settled {
        ending
    } else {
        // Boxed, since most pools have none and every attempt would carry its size.
        Box::pin(show(
            &line.hooks,
            call.row,
            &call.request,
            ending,
            &mut shown,
        ))
        .await
    };
    let finished = finish(&last, *call, ending, answered, (usage, cost), &shown);
    if !line.dry_run
        && let Err(error) = line.log.finished(finished.row, &finished.outcome).await
    {
        return Done::Unrecorded { slot, error, paid };
    }
    if !line.hooks.post_processors.is_empty() {
        Box::pin(post_process(&line, finished.row, &finished.outcome)).await;
    }
    Done::Recorded {
        slot,
        finished,
        unsure: shown.unsure,
        answer,
    }
}

/// What middlewares made of an ending.
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    /// A paid answer was not used.
    lost: bool,
    /// A success stands in the place of a failure that may have been billed.
    unsure: bool,
}

/// Shows an ending to all middlewares, and says what it is after them.
async fn show<T: Send + 'static>(
    hooks: &Hooks<T>,
    row: u64,
    request: &Request,
    ending: Ending<T>,
    shown: &mut Shown,
) -> Ending<T> {
    match ending {
        Ending::Succeeded(output) => match middleware::after(hooks, row, request, output).await {
            Ok(output) => Ending::Succeeded(output),
            Err(error) => {
                shown.lost = true;
                Ending::Failed(error)
            }
        },
        Ending::Failed(error) => {
            let unsure = error.is_ambiguous();
            match middleware::on_error(hooks, row, request, error).await {
                Recovery::Error(error) => Ending::Failed(error),
                Recovery::Success(output) => {
                    shown.unsure = unsure;
                    Ending::Succeeded(output)
                }
            }
        }
        other => other,
    }
}

/// Calls all post-processors; what breaks in one is nobody else's.
async fn post_process<T: Send + Sync>(line: &Line<T>, row: u64, outcome: &Outcome<T>) {
    for processor in &line.hooks.post_processors {
        let limit = line.hooks.options.post_process_timeout;
        let how = match contained(limit, async { processor.process(row, outcome).await }).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(broken) => broken.as_str().to_owned(),
        };
        let failures = &line.meter.counters().post_process_failures;
        failures.fetch_add(1, Relaxed);
        telemetry::not_post_processed(row, &how);
    }
}

/// Tokens of the row's last attempt, where they are not counted among the discarded ones.
fn last_usage<T, C>(call: &Call<T, C>, ending: &Ending<T>, answered: Option<&Answered>) -> Usage {
    match (ending, answered) {
        (_, Some(answered)) if answered.cached => Usage::default(),
        (_, Some(answered)) => answered.usage,
        (Ending::Failed(error), None) if !call.is_counted => {
            error.usage().copied().unwrap_or_default()
        }
        _ => Usage::default(),
    }
}

fn finish<T, C>(
    last: &Start,
    call: Call<T, C>,
    ending: Ending<T>,
    answered: Option<Answered>,
    (last_usage, last_cost): (Usage, Option<Money>),
    shown: &Shown,
) -> Finished<T, C> {
    let cost = last_cost.zip(call.discarded.cost);
    let cost = cost.map(|(last, discarded)| last + discarded);
    let mut outcome = Outcome::new(call.request.custom_id, ending);
    let provenance = &mut outcome.provenance;
    provenance.provider = Some(call.scope.provider);
    provenance.model = Some(call.scope.model);
    provenance.lane = Some(Lane::Realtime);
    provenance.attempts = last.attempt;
    provenance.possibly_paid_attempts = last.possibly_paid + u32::from(shown.unsure);
    provenance.latency = call.first_sent.map(|sent| sent.elapsed());
    provenance.cost = cost;
    provenance.discarded_usage = call.discarded.usage;
    if shown.lost {
        provenance.discarded_usage.add(&last_usage);
    }
    provenance.cached = answered.is_some_and(|answered| answered.cached);
    let mut usage = call.discarded.usage;
    usage.add(&last_usage);
    Finished::new(call.row, call.index, outcome, usage, call.context)
}

/// What the row's last attempt cost.
fn last_cost<T, C>(
    line: &Line<T>,
    call: &Call<T, C>,
    ending: &Ending<T>,
    answered: Option<&Answered>,
) -> Option<Money> {
    let prices = line.prices.as_deref()?;
    let (provider, model) = (&*call.scope.provider, &*call.scope.model);
    let of_usage = |usage: &Usage| {
        // The model that answered may be a dated version with a price of its own.
        let version = answered.and_then(|answered| answered.model.as_deref());
        let price = version.and_then(|version| prices.price(provider, version));
        price
            .or_else(|| prices.price(provider, model))?
            .cost(usage, Lane::Realtime)
    };
    match (ending, answered) {
        (_, Some(answered)) if answered.cached => Some(Money::ZERO),
        (_, Some(answered)) => of_usage(&answered.usage),
        // Counted among the discarded ones already.
        (Ending::Failed(_), None) if call.is_counted => Some(Money::ZERO),
        (Ending::Failed(error), None) => match error.usage() {
            Some(usage) => of_usage(usage),
            None => (!error.is_ambiguous()).then_some(Money::ZERO),
        },
        // Cancelled before anything was sent.
        _ => Some(Money::ZERO),
    }
}

/// Which strategies of a run are ready.
pub(crate) struct Prepared<T> {
    /// By their addresses, which their owners here keep from being used again.
    strategies: Mutex<HashMap<usize, Preparation<T>>>,
    /// The pool's own, which is all there is mostly.
    own: Arc<OnceCell<Result<()>>>,
}

struct Preparation<T> {
    strategy: Arc<dyn Strategy<Output = T>>,
    done: Arc<OnceCell<Result<()>>>,
}

/// Where the strategy is; nobody else is there while it is held.
fn address<T>(strategy: &Arc<dyn Strategy<Output = T>>) -> usize {
    Arc::as_ptr(strategy).cast::<()>().addr()
}

impl<T: Send + 'static> Prepared<T> {
    pub(crate) fn new(own: &Arc<dyn Strategy<Output = T>>) -> Self {
        let done = Arc::new(OnceCell::new());
        let preparation = Preparation {
            strategy: Arc::clone(own),
            done: Arc::clone(&done),
        };
        Self {
            strategies: Mutex::new(HashMap::from([(address(own), preparation)])),
            own: done,
        }
    }

    fn is_own_ready(&self) -> bool {
        matches!(self.own.get(), Some(Ok(())))
    }

    /// Prepares the strategy where that was not done yet; whoever else needs it waits.
    async fn prepare(
        &self,
        strategy: &Arc<dyn Strategy<Output = T>>,
        limit: Duration,
    ) -> Result<()> {
        let cell = self.cell(strategy);
        let prepared = cell.get_or_init(|| async {
            let prepared = guarded(limit, async { strategy.prepare().await }).await;
            prepared.map_err(|error| error.with_class(RetryClass::JobStop).context("prepare"))
        });
        prepared.await.clone()
    }

    fn cell(&self, strategy: &Arc<dyn Strategy<Output = T>>) -> Arc<OnceCell<Result<()>>> {
        let mut strategies = self
            .strategies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = strategies
            .entry(address(strategy))
            .or_insert_with(|| Preparation {
                strategy: Arc::clone(strategy),
                done: Arc::default(),
            });
        Arc::clone(&known.done)
    }

    /// Cleans up after every strategy that was prepared. A fault of one is not another's.
    pub(crate) async fn cleanup(&self, limit: Duration) {
        let all = std::mem::take(
            &mut *self
                .strategies
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for preparation in all.into_values() {
            if matches!(preparation.done.get(), Some(Ok(()))) {
                let cleaned = guarded(limit, async {
                    preparation.strategy.cleanup().await;
                    Ok(())
                });
                if let Err(error) = cleaned.await {
                    telemetry::not_cleaned(&error);
                }
            }
        }
    }
}
