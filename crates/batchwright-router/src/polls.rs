//! Many open batches, asked after by the provider's list: a call for a page of them instead of one for each.
//!
//! [`ListPolls`] decides, without a clock or a connection of its own; [`Polls`] does what it says.

use batchwright_core::{
    BatchHandle, BatchProvider, BatchSnapshot, BatchSummary, ListMark, Result, Timestamp,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};
use tracing::debug;

#[cfg(test)]
mod tests;

/// Batches watched at one provider from which on its list is read. Fewer cost little, and a poll tells more.
const MANY: usize = 20;

/// Entries of a page, for reckoning what reading the list costs; OpenAI's most.
const PAGE: usize = 100;

/// How long the list is left alone where it cannot be read or costs more than it saves.
const REST: Duration = Duration::from_secs(3600);

/// Each batch is asked after by itself now and then, so that a list that lags for ever hides no end (F-114).
const OWN_EVERY: Duration = Duration::from_secs(6 * 3600);

/// A batch nobody asked after for this long is watched no more.
const FORGET: Duration = Duration::from_secs(2 * 3600);

/// How a batch's state is to be had.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plan {
    /// By a call of its own.
    Own,
    /// The list that was read last tells.
    Listed(Box<BatchSummary>),
    /// By reading the list as far back as this.
    Read(ListMark),
}

/// Whether and when a provider's list is read, and what it told.
#[derive(Debug, Default)]
pub(crate) struct ListPolls {
    watched: HashMap<String, Watched>,
    listed: HashMap<String, BatchSummary>,
    /// When the list that told `listed` was asked for.
    read_at: Option<Duration>,
    rest_until: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    created_at: Option<Timestamp>,
    asked_at: Duration,
    /// Of when the newest news of it is.
    known_at: Duration,
    /// When it was last asked after by itself.
    own_at: Option<Duration>,
}

impl ListPolls {
    /// How to learn the state of batch `id` at `now`.
    pub(crate) fn plan(&mut self, id: &str, now: Duration) -> Plan {
        self.watched
            .retain(|_, watched| now.saturating_sub(watched.asked_at) < FORGET);
        let watched = self.watched.entry(id.to_owned()).or_default();
        watched.asked_at = now;
        let watched = *watched;
        let own = watched.own_at;
        let Some(own) = own.filter(|_| watched.created_at.is_some()) else {
            return Plan::Own;
        };
        if self.watched.len() < MANY || now < self.rest_until || now >= own + OWN_EVERY {
            return Plan::Own;
        }
        // News at least half as new as that of a call of its own would be.
        let half = watched.known_at + now.saturating_sub(watched.known_at) / 2;
        if self
            .read_at
            .is_some_and(|read_at| read_at >= half && read_at > watched.known_at)
        {
            return match self.listed.get(id) {
                // What the list shows as ended, or does not show, is asked after: files and faults are told there.
                Some(summary) if !summary.status.is_terminal() => {
                    Plan::Listed(Box::new(summary.clone()))
                }
                _ => Plan::Own,
            };
        }
        let oldest = self
            .watched
            .values()
            .filter_map(|other| other.created_at)
            .min();
        Plan::Read(ListMark::new(Vec::new(), oldest))
    }

    /// The batch was asked after by itself.
    pub(crate) fn on_own(&mut self, snapshot: &BatchSnapshot, now: Duration) {
        let id = &snapshot.handle.id;
        if snapshot.status.is_terminal() && !snapshot.awaits_files() {
            self.watched.remove(id);
            self.listed.remove(id);
            return;
        }
        if let Some(watched) = self.watched.get_mut(id) {
            watched.created_at = snapshot.created_at.or(watched.created_at);
            watched.known_at = now;
            watched.own_at = Some(now);
        }
    }

    /// What the list told was used for the batch.
    pub(crate) fn on_listed(&mut self, id: &str) {
        if let (Some(watched), Some(read_at)) = (self.watched.get_mut(id), self.read_at) {
            watched.known_at = watched.known_at.max(read_at);
        }
    }

    /// The list was read, having been asked for at `asked_at`; an error where it could not be.
    pub(crate) fn on_read(&mut self, found: Result<Vec<BatchSummary>>, asked_at: Duration) {
        let Ok(found) = found else {
            self.rest_until = asked_at + REST;
            return;
        };
        // A list full of others' batches costs more than a call for each of ours.
        if (found.len() / PAGE + 1) * 2 > self.watched.len() {
            self.rest_until = asked_at + REST;
        }
        self.listed = found
            .into_iter()
            .filter(|summary| self.watched.contains_key(&summary.handle.id))
            .map(|summary| (summary.handle.id.clone(), summary))
            .collect();
        self.read_at = Some(asked_at);
    }
}

/// Polls of every provider, shared by all that a router does.
#[derive(Debug)]
pub(crate) struct Polls {
    providers: Mutex<HashMap<(String, String), Arc<ProviderPolls>>>,
    started: Instant,
}

#[derive(Debug)]
struct ProviderPolls {
    state: Mutex<ListPolls>,
    /// Held while the list is read, so that one reading serves all who wait for it.
    reading: Semaphore,
}

impl Default for Polls {
    fn default() -> Self {
        Self {
            providers: Mutex::default(),
            started: Instant::now(),
        }
    }
}

impl Polls {
    /// The batch's state: from the provider's list where many are open, else by a call of its own. Of a batch the
    /// list tells of, the snapshot holds state, counts and creation.
    ///
    /// # Errors
    /// Those of [`BatchProvider::status`]; that the list cannot be read is none.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    pub(crate) async fn status(
        &self,
        provider: &dyn BatchProvider,
        handle: &BatchHandle,
    ) -> Result<BatchSnapshot> {
        let limits = provider.capability().batch.as_ref();
        if limits.is_none_or(|limits| limits.list_match.is_empty()) {
            return provider.status(handle).await;
        }
        let polls = self.of(provider);
        if let Some(snapshot) = polls.by_list(provider, handle, self.started).await {
            return Ok(snapshot);
        }
        let snapshot = provider.status(handle).await?;
        polls.lock().on_own(&snapshot, self.started.elapsed());
        Ok(snapshot)
    }

    fn of(&self, provider: &dyn BatchProvider) -> Arc<ProviderPolls> {
        let key = (provider.name().to_owned(), provider.account().to_owned());
        let mut providers = self
            .providers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let polls = providers.entry(key).or_insert_with(|| {
            Arc::new(ProviderPolls {
                state: Mutex::default(),
                reading: Semaphore::new(1),
            })
        });
        Arc::clone(polls)
    }
}

impl ProviderPolls {
    fn lock(&self) -> MutexGuard<'_, ListPolls> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn by_list(
        &self,
        provider: &dyn BatchProvider,
        handle: &BatchHandle,
        started: Instant,
    ) -> Option<BatchSnapshot> {
        let plan = self.lock().plan(&handle.id, started.elapsed());
        let plan = match plan {
            Plan::Read(_) => {
                let _permit = self.reading.acquire().await;
                // Someone else may have read it while this one waited.
                let now = started.elapsed();
                let plan = self.lock().plan(&handle.id, now);
                match plan {
                    Plan::Read(mark) => {
                        let found = provider.list_since(&mark).await;
                        if let Err(error) = &found {
                            debug!(kind = %error.kind(), status = error.status(), "read the list for states");
                        }
                        let mut state = self.lock();
                        state.on_read(found, now);
                        state.plan(&handle.id, now)
                    }
                    plan => plan,
                }
            }
            plan => plan,
        };
        let Plan::Listed(summary) = plan else {
            return None;
        };
        self.lock().on_listed(&handle.id);
        let mut snapshot = BatchSnapshot::new(handle.clone(), summary.status);
        snapshot.created_at = summary.created_at;
        snapshot.counts = summary.counts;
        Some(snapshot)
    }
}
