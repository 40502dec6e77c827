//! The batches a router knows of, and what is needed to tell their results apart.

use batchwright_core::{BatchHandle, BatchStatus, SubmissionTag};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A batch that was bought, as plain data: all that another process needs to wait for it and to give its results under
/// the caller's ids.
///
/// Its lines carry ids of the router's own at the provider, by which a result proves which batch it belongs to; here are
/// the caller's, in the same order. Written as JSON it can be kept anywhere; it holds no request and no answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct BatchTicket {
    /// The batch.
    pub handle: BatchHandle,
    /// The attempt that bought it.
    pub tag: SubmissionTag,
    /// The model of its first request.
    pub model: String,
    /// The caller's ids, in the order of its lines.
    pub custom_ids: Vec<String>,
    /// The caller's own words about it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

impl fmt::Debug for BatchTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchTicket")
            .field("handle", &self.handle)
            .field("tag", &self.tag)
            .field("requests", &self.custom_ids.len())
            .finish_non_exhaustive()
    }
}

/// A batch the router knows of.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ActiveBatch {
    /// The batch, and what its results are told apart by.
    pub ticket: Arc<BatchTicket>,
    /// Its state when it was last asked for.
    pub status: Option<BatchStatus>,
}

/// The batches a router knows of, by provider and id.
#[derive(Debug, Default)]
pub(crate) struct Active(Mutex<BTreeMap<(String, String), ActiveBatch>>);

fn key(handle: &BatchHandle) -> (String, String) {
    (handle.provider.clone(), handle.id.clone())
}

impl Active {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), ActiveBatch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, ticket: BatchTicket) {
        let batch = ActiveBatch {
            ticket: Arc::new(ticket),
            status: None,
        };
        self.lock().insert(key(&batch.ticket.handle), batch);
    }

    pub(crate) fn remove(&self, handle: &BatchHandle) -> Option<Arc<BatchTicket>> {
        self.lock().remove(&key(handle)).map(|batch| batch.ticket)
    }

    pub(crate) fn ticket(&self, handle: &BatchHandle) -> Option<Arc<BatchTicket>> {
        let batches = self.lock();
        batches
            .get(&key(handle))
            .map(|batch| Arc::clone(&batch.ticket))
    }

    /// The batch was found in this state.
    pub(crate) fn seen(&self, handle: &BatchHandle, status: &BatchStatus) {
        if let Some(batch) = self.lock().get_mut(&key(handle)) {
            batch.status = Some(status.clone());
        }
    }

    pub(crate) fn all(&self) -> Vec<ActiveBatch> {
        self.lock().values().cloned().collect()
    }
}
