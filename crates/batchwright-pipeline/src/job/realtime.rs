//! The realtime lane of a job: rows through the pool, intents and outcomes through the segments.

use super::{
    Direct, Job, JobProgress, JobSpec, LaneEnd, LiveLine, Running, blocking, locked, open_source,
    request_builder,
};
use crate::{preflight::unfinished, requests::with_other_model};
use async_trait::async_trait;
use batchwright_core::{ChatProvider, Ending, Lane, Money, Outcome, Response, Result};
use batchwright_ledger::{OutcomeLog, OutcomeRecord, RowSet};
use batchwright_realtime::{
    self as realtime, DispatchLog, EndReason, Fallback, ParallelPool, Place, Strategy, Unfinished,
    WorkItem,
};
use futures::StreamExt;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::mpsc;

/// Rows read ahead of the pool: enough to hide a slow disk, few enough to weigh nothing.
const READ_AHEAD: usize = 64;

/// Sends every row of the input that is not in `skip`.
pub(super) async fn run(
    job: &Job,
    direct: Direct,
    running: Running,
    skip: RowSet,
) -> Result<LaneEnd> {
    let Running {
        options,
        control,
        progress,
        log,
        live,
        given,
        answered_directly,
    } = running;
    let Direct { provider, model } = direct;
    let strategy = strategy(job.spec(), provider, &options.fallbacks)?;
    let (sender, mut receiver) = mpsc::channel::<Result<WorkItem>>(READ_AHEAD);
    let spec = job.spec().clone();
    let reader = blocking(move || {
        let builder = request_builder(&spec)?;
        let mut source = open_source(&spec)?;
        while let Some(row) = source.next_unless(|row| skip.contains(row)) {
            let row = row?;
            let item = builder
                .build_routed(&row)
                .and_then(|(_, request)| match &model {
                    Some(model) => with_other_model(request, model),
                    None => Ok(request),
                })
                .map(|request| WorkItem::new(row.number(), request));
            let failed = item.is_err();
            if sender.blocking_send(item).is_err() || failed {
                break;
            }
        }
        Ok(skip)
    });
    let items = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    let json_output = job.spec().wants_json();
    let dispatch = Arc::new(SegmentLog {
        log: log.clone(),
        json_output,
    });
    let budget = options.budget;
    let mut options = options
        .pool
        .clone()
        .with_prices(Arc::clone(&options.prices));
    if options.max_in_flight == 0 {
        options.max_in_flight = 1;
    }
    if let Some(budget) = budget {
        let left = budget.saturating_sub(progress.read().cost);
        options.spend = options.spend.with_max_cost(Some(left));
    }
    let pool = ParallelPool::with_strategy(strategy, options);
    // A cancel stops sending like a stop; rows that were not sent are given their ending afterwards.
    let stop = control.stop.child_token();
    let cancel = control.cancel.clone();
    let drained = async {
        let mut run = pool.run(items, dispatch, stop.clone());
        progress.set_pool(Some(run.meter()));
        loop {
            tokio::select! {
                next = run.next() => match next {
                    Some(finished) => {
                        if finished.outcome.response().is_some() {
                            locked(&answered_directly).insert(finished.row);
                        }
                        // Its batch may have answered it meanwhile: both are in the books then, and that one counts.
                        if !locked(&given).insert(finished.row) {
                            continue;
                        }
                        progress.record(&finished.outcome);
                        if let Some(live) = &live {
                            let line = record(finished.row, &finished.outcome, json_output);
                            // Where nobody takes it, whoever did tells why.
                            let _ = live.send((finished.row, line)).await;
                        }
                    }
                    None => break,
                },
                () = cancel.cancelled(), if !stop.is_cancelled() => stop.cancel(),
            }
        }
        progress.set_pool(None);
        // The source's receiving end goes with the run, so that a blocked reader ends.
        run.ended().cloned()
    };
    let (ended, finished) = tokio::join!(drained, reader);
    let finished = finished?;
    let mut end = LaneEnd::default();
    let mut unclear = BTreeMap::new();
    if let Some(ended) = ended {
        // Rows that had an intent and were not sent, or were refused without work, cost nothing.
        let (unpaid, paid): (Vec<&Unfinished>, Vec<&Unfinished>) = ended
            .unfinished
            .iter()
            .partition(|row| row.possibly_paid_attempts == 0);
        if !unpaid.is_empty() {
            let rows: Vec<u64> = unpaid.iter().map(|unfinished| unfinished.row).collect();
            log.withdraw(&rows).await?;
        }
        unclear.extend(
            paid.iter()
                .map(|unfinished| (unfinished.row, unfinished.possibly_paid_attempts)),
        );
        if let EndReason::Stopped(error) = ended.reason {
            end.stopped = Some(error);
        }
    }
    if control.cancel.is_cancelled() && end.stopped.is_none() {
        let rest = Rest {
            spec: job.spec().clone(),
            finished,
            unclear,
        };
        cancel_rest(job, &progress, rest, log, live).await?;
    }
    Ok(end)
}

/// How rows are answered: by the provider, or by the first of several that can; and, where the job holds answers to a
/// schema, asked again where they do not fit it.
fn strategy(
    spec: &JobSpec,
    provider: Arc<dyn ChatProvider>,
    fallbacks: &[Direct],
) -> Result<Arc<dyn Strategy<Output = Response>>> {
    let strategy: Arc<dyn Strategy<Output = Response>> = if fallbacks.is_empty() {
        Arc::new(realtime::Direct::new(provider))
    } else {
        let others = fallbacks.iter().map(|fallback| {
            let place = Place::new(Arc::clone(&fallback.provider));
            match &fallback.model {
                Some(model) => place.with_model(model.as_str()),
                None => place,
            }
        });
        let places = std::iter::once(Place::new(provider)).chain(others);
        Arc::new(Fallback::new(places))
    };
    match &spec.schema {
        Some(schema) => held_to(schema, strategy),
        None => Ok(strategy),
    }
}

#[cfg(feature = "structured")]
fn held_to(
    schema: &serde_json::Value,
    strategy: Arc<dyn Strategy<Output = Response>>,
) -> Result<Arc<dyn Strategy<Output = Response>>> {
    Ok(Arc::new(realtime::Validated::new(strategy, schema)?))
}

/// Without the feature the provider alone holds answers to the schema.
#[cfg(not(feature = "structured"))]
fn held_to(
    _schema: &serde_json::Value,
    strategy: Arc<dyn Strategy<Output = Response>>,
) -> Result<Arc<dyn Strategy<Output = Response>>> {
    Ok(strategy)
}

/// Rows that end as cancelled.
struct Rest {
    spec: JobSpec,
    /// Rows that had their outcome before.
    finished: RowSet,
    /// Attempts of this run that may have been billed.
    unclear: BTreeMap<u64, u32>,
}

impl Rest {
    /// Visits each row that has no outcome. `open` are rows with an intent whose fate is unclear.
    fn each(
        &self,
        open: &RowSet,
        mut visit: impl FnMut(u64, &Outcome) -> Result<()>,
    ) -> Result<()> {
        let builder = request_builder(&self.spec)?;
        for row in open_source(&self.spec)? {
            let Some(row) = unfinished(row, &self.finished)? else {
                continue;
            };
            let number = row.number();
            let mut outcome = Outcome::new(builder.build(&row)?.custom_id, Ending::Cancelled);
            outcome.provenance.lane = Some(Lane::Realtime);
            outcome.provenance.possibly_paid_attempts =
                self.unclear.get(&number).copied().unwrap_or(0);
            if !open.contains(number) {
                outcome.provenance.cost = Some(Money::ZERO);
            }
            visit(number, &outcome)?;
        }
        Ok(())
    }
}

/// Gives every row without an outcome the ending `cancelled`.
async fn cancel_rest(
    job: &Job,
    progress: &Arc<JobProgress>,
    mut rest: Rest,
    log: OutcomeLog,
    live: Option<mpsc::Sender<LiveLine>>,
) -> Result<()> {
    let (ledger, progress) = (job.ledger().clone(), Arc::clone(progress));
    blocking(move || {
        let scan = ledger.scan()?;
        rest.finished.extend(scan.finished.iter());
        let open: RowSet = scan.in_flight.iter().copied().collect();
        let mut writer = log.bulk();
        rest.each(&open, |row, outcome| {
            writer.push(&record(row, outcome, false))?;
            progress.record(outcome);
            Ok(())
        })?;
        writer.finish()?;
        if let Some(live) = live {
            rest.each(&open, |row, outcome| {
                // Where nobody takes it, whoever did tells why.
                let _ = live.blocking_send((row, record(row, outcome, false)));
                Ok(())
            })?;
        }
        Ok(())
    })
    .await
}

/// The pool's record, in the segments of a ledger.
struct SegmentLog {
    log: OutcomeLog,
    json_output: bool,
}

#[async_trait]
impl DispatchLog for SegmentLog {
    async fn dispatching(&self, row: u64, attempt: u32) -> Result<()> {
        self.log.intent(row, attempt).await
    }

    async fn finished(&self, row: u64, outcome: &Outcome) -> Result<()> {
        self.log
            .append(record(row, outcome, self.json_output))
            .await
    }
}

fn record(row: u64, outcome: &Outcome, json_output: bool) -> Vec<u8> {
    let mut line = Vec::with_capacity(1024);
    OutcomeRecord::write(row, &outcome.custom_id, outcome, json_output, &mut line);
    line
}
