//! A provider with a name of its own that answers by a function of the time and of how full it is.

use crate::double::{Answer, collect, rows};
use async_trait::async_trait;
use batchwright_core::{CallOptions, Capability, ChatProvider, Request, Response, Result};
use batchwright_realtime::{
    EndReason, Finished, NoLog, ParallelPool, PoolOptions, RunEnd, Strategy,
};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// What a vendor is asked with.
pub(crate) struct Asked {
    /// Of its own calls, counted from 1.
    pub(crate) nth: usize,
    pub(crate) model: String,
    /// Since the vendor was made.
    pub(crate) at: Duration,
}

pub(crate) struct Vendor {
    name: &'static str,
    script: Box<dyn Fn(Asked) -> Answer + Send + Sync>,
    capability: Capability,
    made: Instant,
    /// When each call began.
    calls: Mutex<Vec<Duration>>,
}

impl Vendor {
    pub(crate) fn new(
        name: &'static str,
        script: impl Fn(Asked) -> Answer + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            script: Box::new(script),
            capability: Capability::default(),
            made: Instant::now(),
            calls: Mutex::default(),
        })
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// Calls that began at this time or later.
    pub(crate) fn calls_from(&self, at: Duration) -> usize {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| **call >= at).count()
    }
}

#[async_trait]
impl ChatProvider for Vendor {
    fn name(&self) -> &str {
        self.name
    }

    fn capability(&self) -> &Capability {
        &self.capability
    }

    async fn complete(&self, request: &Request, _call: &CallOptions) -> Result<Response> {
        let at = self.made.elapsed();
        let nth = {
            let mut calls = self.calls.lock().unwrap();
            calls.push(at);
            calls.len()
        };
        let model = request.model.clone();
        let (takes, answer) = (self.script)(Asked { nth, model, at });
        sleep(takes).await;
        answer
    }
}

/// Runs `count` rows to the end.
pub(crate) async fn run(
    strategy: Arc<dyn Strategy<Output = Response>>,
    options: PoolOptions,
    count: u64,
) -> (Vec<Finished>, RunEnd) {
    let pool = ParallelPool::with_strategy(strategy, options);
    collect(pool.run(rows(count), Arc::new(NoLog), CancellationToken::new())).await
}

/// How many rows each provider, model or label answered.
pub(crate) fn answered_by(finished: &[Finished], provider: &str, model: &str) -> usize {
    let by = |row: &&Finished| {
        let provenance = &row.outcome.provenance;
        row.outcome.ending.is_success()
            && provenance.provider.as_deref() == Some(provider)
            && provenance.model.as_deref() == Some(model)
    };
    finished.iter().filter(by).count()
}

pub(crate) fn all_succeeded(finished: &[Finished], end: &RunEnd, count: u64) {
    assert!(matches!(end.reason, EndReason::Completed), "{end:?}");
    assert_eq!(finished.len() as u64, count, "no row is lost");
    for row in finished {
        assert!(row.outcome.ending.is_success(), "{:?}", row.outcome);
    }
}
