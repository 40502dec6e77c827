//! One attempt as a task: intent, call, and for an answer the record of the outcome.

use crate::{
    Attempt, DispatchLog, Executed, Finished, ItemState, Next, Strategy,
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
    future::Future,
    panic::AssertUnwindSafe,
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
const GRACE: Duration = Duration::from_secs(1);

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
}

/// A row's baggage: goes out with each attempt and comes back with each failure.
pub(crate) struct Call<T, C> {
    pub(crate) row: u64,
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
    /// The outcome is durable.
    Recorded {
        slot: Slot,
        finished: Finished<T, C>,
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
    call.first_sent.get_or_insert_with(Instant::now);
    let span = telemetry::attempt(&call.span, start.attempt);
    let mut attempt = Attempt::new(start.attempt, start.timeout, &mut call.state);
    let execute = guarded(start.timeout, strategy.execute(&call.request, &mut attempt));
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
            if error.kind() == ErrorKind::InvalidOutput {
                line.answered.store(true, Relaxed);
                discard(&line, &mut call, &error);
            }
            let mut attempt = Attempt::new(start.attempt, start.timeout, &mut call.state);
            let next = strategy.on_error(&call.request, &error, &mut attempt);
            let next = guarded(start.timeout, async { Ok(next.await) })
                .await
                .unwrap_or_default();
            Done::Failed {
                slot,
                call,
                error,
                next,
            }
        }
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

/// Counts an answer that was paid and is of no use.
fn discard<T, C>(line: &Line<T>, call: &mut Call<T, C>, error: &Error) {
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
    let finished = finish(&last, *call, ending, answered, cost);
    match line.log.finished(finished.row, &finished.outcome).await {
        Ok(()) => Done::Recorded {
            slot,
            finished,
            answer,
        },
        Err(error) => Done::Unrecorded { slot, error, paid },
    }
}

fn finish<T, C>(
    last: &Start,
    call: Call<T, C>,
    ending: Ending<T>,
    answered: Option<Answered>,
    last_cost: Option<Money>,
) -> Finished<T, C> {
    let cost = last_cost.zip(call.discarded.cost);
    let cost = cost.map(|(last, discarded)| last + discarded);
    let mut outcome = Outcome::new(call.request.custom_id, ending);
    let provenance = &mut outcome.provenance;
    provenance.provider = Some(call.scope.provider);
    provenance.model = Some(call.scope.model);
    provenance.lane = Some(Lane::Realtime);
    provenance.attempts = last.attempt;
    provenance.possibly_paid_attempts = last.possibly_paid;
    provenance.latency = call.first_sent.map(|sent| sent.elapsed());
    provenance.cost = cost;
    provenance.discarded_usage = call.discarded.usage;
    provenance.cached = answered.is_some_and(|answered| answered.cached);
    Finished::new(call.row, outcome, call.context)
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
        (Ending::Failed(error), None) if error.kind() == ErrorKind::InvalidOutput => {
            Some(Money::ZERO)
        }
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
    strategies: Mutex<Vec<Preparation<T>>>,
    /// The pool's own, which is all there is mostly.
    own: Arc<OnceCell<Result<()>>>,
}

struct Preparation<T> {
    strategy: Arc<dyn Strategy<Output = T>>,
    done: Arc<OnceCell<Result<()>>>,
}

impl<T: Send + 'static> Prepared<T> {
    pub(crate) fn new(own: &Arc<dyn Strategy<Output = T>>) -> Self {
        let done = Arc::new(OnceCell::new());
        let preparation = Preparation {
            strategy: Arc::clone(own),
            done: Arc::clone(&done),
        };
        Self {
            strategies: Mutex::new(vec![preparation]),
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
            let prepared = guarded(limit, strategy.prepare()).await;
            prepared.map_err(|error| error.with_class(RetryClass::JobStop).context("prepare"))
        });
        prepared.await.clone()
    }

    fn cell(&self, strategy: &Arc<dyn Strategy<Output = T>>) -> Arc<OnceCell<Result<()>>> {
        let mut strategies = self
            .strategies
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = strategies
            .iter()
            .find(|known| Arc::ptr_eq(&known.strategy, strategy))
        {
            return Arc::clone(&known.done);
        }
        let done = Arc::<OnceCell<Result<()>>>::default();
        strategies.push(Preparation {
            strategy: Arc::clone(strategy),
            done: Arc::clone(&done),
        });
        done
    }

    /// Cleans up after every strategy that was prepared. A fault of one is not another's.
    pub(crate) async fn cleanup(&self, limit: Duration) {
        let all = std::mem::take(
            &mut *self
                .strategies
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for preparation in all {
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
