//! A chunk's place in its provider's queue, and what a poll makes worth telling.

use super::{ChunkJob, Driver};
use crate::{
    RouterEvent,
    patience::Notice,
    queue::{Seat, named_limit},
    submission::{Effect, Event, Submission},
};
use batchwright_core::{
    BatchProvider, BatchSnapshot, ErrorKind, JournalEvent, Result, SubmitError,
};
use std::time::Duration;

impl Driver {
    /// The chunk's place in its provider's queue, not taken yet.
    pub(super) async fn seat(
        &self,
        job: &ChunkJob,
        machine: &Submission,
        provider: &dyn BatchProvider,
    ) -> Result<Seat> {
        let (model, tokens) = match &job.load {
            Some(load) => load.clone(),
            None => {
                let sealed = self.store.sealed(job.chunk, machine.attempt()).await?;
                let tokens = sealed.estimated_tokens();
                (sealed.model, tokens)
            }
        };
        let queue = &self.shared.queue;
        Ok(Seat::new(queue, provider, &model, tokens, &self.options))
    }

    /// Takes the chunk's place, or waits until there is room or something else is to be done.
    pub(super) async fn take_room(&self, chunk: u32, seat: &mut Seat) {
        if seat.try_take() {
            return;
        }
        self.tell(RouterEvent::Queued {
            chunk,
            model: seat.model().to_owned(),
        })
        .await;
        tokio::select! {
            () = seat.take() => {}
            () = self.control.stop.cancelled() => {}
            () = self.closed.cancelled(), if !self.closed.is_cancelled() => {}
            () = self.control.cancel.cancelled(), if !self.control.cancel.is_cancelled() => {}
        }
    }
}

/// Whether the next thing after the effect may be a create, for which there must be room in the provider's queue.
pub(super) fn leads_to_create(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Recent | Effect::Persist(JournalEvent::CreateIntent { .. })
    )
}

/// Whether the provider had no room for the batch: the limit it named, and the wait it asked for.
pub(super) fn no_room(event: &Event) -> Option<(Option<u64>, Duration)> {
    match event {
        Event::Polled(Ok(snapshot)) if snapshot.queue_full => {
            Some((named_limit(snapshot), Duration::ZERO))
        }
        // Some say so at once.
        Event::Submitted(Err(SubmitError::Refused(error)))
            if error.kind() == ErrorKind::RateLimited =>
        {
            Some((None, error.retry_after().unwrap_or_default()))
        }
        _ => None,
    }
}

pub(super) fn noticed(chunk: u32, snapshot: &BatchSnapshot, notice: Notice) -> RouterEvent {
    let handle = snapshot.handle.clone();
    match notice {
        Notice::Slow { age, typical } => RouterEvent::Slow {
            chunk,
            handle,
            status: snapshot.status.clone(),
            age,
            typical,
        },
        Notice::Expiring { collect_by } => RouterEvent::Expiring {
            chunk,
            handle,
            collect_by,
        },
    }
}
