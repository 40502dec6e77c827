//! One attempt as a task: intent, call, and for an answer the record of the outcome.

use crate::{
    DispatchLog, Finished,
    schedule::{Slot, Start},
    telemetry,
};
use batchwright_core::{
    CallOptions, ChatProvider, Ending, Error, ErrorKind, Lane, Outcome, PriceTable, Request,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

/// What a provider may take past its own timeout before the attempt is given up over its head: its own
/// error says more about the phase it failed in, so it gets the time to report it.
const GRACE: Duration = Duration::from_secs(1);

/// What all attempts of a run share.
pub(crate) struct Line {
    pub(crate) provider: Arc<dyn ChatProvider>,
    pub(crate) name: Arc<str>,
    pub(crate) log: Arc<dyn DispatchLog>,
    pub(crate) prices: Option<Arc<PriceTable>>,
    /// Cancelled when nothing more may be sent.
    pub(crate) halt: CancellationToken,
    /// Whether any attempt was answered, known here before the outcome is durable.
    pub(crate) answered: AtomicBool,
}

/// A row's baggage: goes out with each attempt and comes back with each failure.
pub(crate) struct Call {
    pub(crate) row: u64,
    pub(crate) request: Request,
    pub(crate) model: Arc<str>,
    pub(crate) first_sent: Option<Instant>,
    pub(crate) span: Span,
}

/// How a task ended.
pub(crate) enum Done {
    /// The outcome is durable.
    Recorded { slot: Slot, finished: Finished },
    /// The provider failed; what follows is the schedule's to say.
    Failed {
        slot: Slot,
        call: Call,
        error: Error,
    },
    /// The run was stopped before the request left.
    Withheld { slot: Slot },
    /// The log failed; `paid` tells whether an answer was lost with it.
    Unrecorded {
        slot: Slot,
        error: Error,
        paid: bool,
    },
}

/// Makes one attempt. An answer is recorded here, not in the loop, so that it becomes durable also while
/// nobody polls the run.
pub(crate) async fn attempt(line: Arc<Line>, start: Start, mut call: Call) -> Done {
    let slot = start.slot;
    // Before and after: recording an intent can take long, and the run may be stopped meanwhile.
    if line.halt.is_cancelled() {
        return Done::Withheld { slot };
    }
    if let Err(error) = line.log.dispatching(call.row, start.attempt).await {
        let paid = false;
        return Done::Unrecorded { slot, error, paid };
    }
    if line.halt.is_cancelled() {
        return Done::Withheld { slot };
    }
    call.first_sent.get_or_insert_with(Instant::now);
    let options = CallOptions::default().with_timeout(start.timeout);
    let span = telemetry::attempt(&call.span, start.attempt);
    let answer = timeout(
        start.timeout.saturating_add(GRACE),
        line.provider.complete(&call.request, &options),
    )
    .instrument(span.clone())
    .await
    .unwrap_or_else(|_| {
        Err(Error::new(
            ErrorKind::Timeout,
            "read the answer within the attempt's timeout",
        ))
    });
    match answer {
        Ok(response) => {
            telemetry::answered(&span, &response);
            line.answered.store(true, Relaxed);
            let ending = response.into_ending();
            record(line, start, call, ending).await
        }
        Err(error) => {
            telemetry::failed(&span, &error);
            Done::Failed { slot, call, error }
        }
    }
}

/// Makes an outcome durable. `last` is the row's last attempt.
pub(crate) async fn record(line: Arc<Line>, last: Start, call: Call, ending: Ending) -> Done {
    let slot = last.slot;
    let paid = !matches!(ending, Ending::Failed(_));
    let finished = Finished::new(call.row, outcome(&line, &last, call, ending));
    match line.log.finished(finished.row, &finished.outcome).await {
        Ok(()) => Done::Recorded { slot, finished },
        Err(error) => Done::Unrecorded { slot, error, paid },
    }
}

fn outcome(line: &Line, last: &Start, call: Call, ending: Ending) -> Outcome {
    let mut outcome = Outcome::new(call.request.custom_id, ending);
    let prices = line.prices.as_deref();
    let cost = prices
        .and_then(|prices| prices.cost(&line.name, &call.model, &outcome.ending, Lane::Realtime));
    let provenance = &mut outcome.provenance;
    provenance.provider = Some(Arc::clone(&line.name));
    provenance.model = Some(call.model);
    provenance.lane = Some(Lane::Realtime);
    provenance.attempts = last.attempt;
    provenance.possibly_paid_attempts = last.possibly_paid;
    provenance.latency = call.first_sent.map(|sent| sent.elapsed());
    provenance.cost = cost;
    outcome
}
