//! The batch lane with what may end it early: a deadline, after which rows go to direct calls.

use super::{
    Direct, Job, LaneEnd, Running, batch,
    batch::{Buying, Providers},
    blocking, locked,
    policy::{Judge, Policy, Remainder},
    realtime,
};
use batchwright_core::{BatchProvider, Error, ErrorKind, Result};
use batchwright_ledger::{ChunkPhase, Ledger, RowSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs the batch lane, then direct calls for what is left of it, where that is wanted.
pub(super) async fn run(
    job: &Job,
    provider: Arc<dyn BatchProvider>,
    running: Running,
) -> Result<LaneEnd> {
    let others = running.options.others.iter().cloned();
    let providers: Providers = Arc::new(
        others
            .chain([provider])
            .map(|provider| (provider.name().to_owned(), provider))
            .collect(),
    );
    let ledger = job.ledger().clone();
    let policy = Policy::settle(&ledger, &running.options)?;
    let judge = Judge::new(&policy, running.control.cancel.clone(), &ledger)?;
    let left = policy.until_deadline(&ledger)?;
    let wants_direct = left.is_some() || policy.remainder() == Remainder::Realtime;
    let direct = running.options.direct.clone();
    if wants_direct && direct.is_none() {
        let message = "move rows to direct calls: no provider of such was given";
        return Err(Error::new(ErrorKind::ConfigInvalid, message));
    }
    let one_model = direct.as_ref().is_none_or(|direct| direct.model.is_some());
    if wants_direct && job.spec().model_column.is_some() && !one_model {
        let message =
            "move rows of several providers to direct calls: name one model that answers them all";
        return Err(Error::new(ErrorKind::ConfigInvalid, message));
    }
    // The deadline cancels batches as the caller does, and the caller still can.
    let cancel = running.control.cancel.child_token();
    let stop = running.control.stop.child_token();
    let mut lane = running.clone();
    lane.control.stop = stop.clone();
    let buying = Buying {
        providers,
        policy,
        judge: judge.clone(),
        cancel: cancel.clone(),
    };
    let bought = CancellationToken::new();
    let batches = async {
        let end = batch::run(job, buying, lane).await;
        bought.cancel();
        end
    };
    let clock = async {
        let Some(left) = left else {
            return Ok::<_, Error>(None);
        };
        tokio::select! {
            () = tokio::time::sleep(left) => {}
            () = bought.cancelled() => return Ok(None),
            () = stop.cancelled() => return Ok(None),
        }
        let (judge, ledger) = (judge.clone(), ledger.clone());
        let lateness = ledger.clone();
        blocking(move || judge.set_late(&lateness)).await?;
        cancel.cancel();
        tokio::select! {
            () = tokio::time::sleep(running.options.deadline_grace) => {}
            () = bought.cancelled() => return Ok(None),
            () = stop.cancelled() => return Ok(None),
        }
        // A cancel is a request (F-079). What such a batch answers all the same is in the books when it ends.
        let Some(direct) = direct.clone() else {
            return Ok(None);
        };
        let end = send(job, direct, running.clone(), ledger, Unended::Running).await?;
        // Every row has its outcome, or will not get one in this run: nobody has to wait for those batches.
        if locked(&running.given).len() >= job.rows() {
            stop.cancel();
        }
        Ok(Some(end))
    };
    let (end, moved) = tokio::join!(batches, clock);
    let (mut end, moved) = (end?, moved?);
    if let Some(moved) = moved {
        end.stopped = end.stopped.or(moved.stopped);
    }
    let goes_on = judge.goes_direct()
        && end.stopped.is_none()
        && !running.control.stop.is_cancelled()
        && locked(&running.given).len() < job.rows();
    if let Some(direct) = direct.filter(|_| goes_on) {
        let held = std::mem::take(&mut end.held);
        end = send(job, direct, running, ledger, Unended::None).await?;
        end.held = held;
    }
    Ok(end)
}

/// Which chunks that have not ended have their rows sent too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unended {
    None,
    /// Those whose batch is known, and was asked to be cancelled. Of unclear ones nobody knows.
    Running,
}

/// Sends every row by direct calls that has no outcome and is in no batch any more.
async fn send(
    job: &Job,
    direct: Direct,
    running: Running,
    ledger: Ledger,
    unended: Unended,
) -> Result<LaneEnd> {
    let mut skip = locked(&running.given).clone();
    let skip = blocking(move || {
        under_way(&ledger, unended, &mut skip)?;
        Ok(skip)
    })
    .await?;
    if skip.len() >= job.rows() {
        return Ok(LaneEnd::default());
    }
    realtime::run(job, direct, running, skip).await
}

/// Adds the rows of chunks that are under way.
fn under_way(ledger: &Ledger, unended: Unended, rows: &mut RowSet) -> Result<()> {
    for chunk in ledger.chunks()? {
        let is_moved = unended == Unended::Running
            && matches!(
                chunk.phase,
                ChunkPhase::Running { .. } | ChunkPhase::Downloaded
            );
        if chunk.phase.is_merged() || is_moved {
            continue;
        }
        for row in ledger.chunk_rows(chunk.chunk)? {
            rows.insert(row?.0);
        }
    }
    Ok(())
}
