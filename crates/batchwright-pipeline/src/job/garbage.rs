//! What a job left at its provider, and what of it nobody needs any more.

use super::{Job, LaneProvider, blocking};
use batchwright_core::{
    BatchHandle, BatchProvider, BatchStatus, Error, ErrorKind, InputRef, ListMark, Result,
};
use batchwright_ledger::ChunkState;
use std::{collections::BTreeMap, sync::Arc};

/// Something of ours at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteObject {
    /// What it is.
    pub kind: RemoteKind,
    /// The provider's name for it.
    pub id: String,
    /// The chunk it was made for.
    pub chunk: u32,
    /// Why it is to stay; `None` is that nobody needs it any more.
    pub kept: Option<&'static str>,
}

/// What kind of thing is at the provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum RemoteKind {
    /// An uploaded input. Taking it away deletes it.
    Input,
    /// A file of results. Taking it away deletes it.
    Results,
    /// A batch. Taking it away cancels it; providers keep ended batches in their lists.
    Batch,
}

impl RemoteKind {
    /// Its stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Results => "results",
            Self::Batch => "batch",
        }
    }
}

impl Job {
    /// Everything of this job at one of its providers, found by its tags there and by the journal, also what a process left
    /// that died before it could write it down.
    ///
    /// Inputs of chunks that have ended can go, and those no attempt will use. Result files can go where
    /// `with_results`, since the job's folder has them. A batch that the journal does not name and that still runs can
    /// be cancelled.
    ///
    /// # Errors
    /// `Unsupported` where the lane has no batches; every failure to read the provider's lists. A provider whose creates
    /// carry the lines stores no input; one that has no list of them is asked for its batches alone.
    ///
    /// # Cancel safety
    /// Cancel safe: it only reads.
    pub async fn remote_objects(
        &self,
        lane: &LaneProvider,
        with_results: bool,
    ) -> Result<Vec<RemoteObject>> {
        let provider = batches(lane)?;
        let ledger = self.ledger.clone();
        let (chunks, known) = blocking(move || {
            let chunks = ledger.chunks()?;
            let known = known_batches(&ledger, &chunks)?;
            Ok((chunks, known))
        })
        .await?;
        let states: BTreeMap<u32, &ChunkState> =
            chunks.iter().map(|state| (state.chunk, state)).collect();
        let mut objects = Vec::new();
        let uploads = match provider.uploads(&self.tag).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => Vec::new(),
            uploads => uploads?,
        };
        for upload in uploads {
            let state = states.get(&upload.tag.chunk());
            let kept = match state {
                Some(state) if state.phase.is_merged() => None,
                Some(state) if upload.tag.attempt() < state.attempt => None,
                Some(_) => Some("its chunk has not ended"),
                // Nothing was sealed under that number, or the journal is not the one it was made by.
                None => Some("this job knows no such chunk"),
            };
            objects.push(RemoteObject {
                kind: RemoteKind::Input,
                id: upload.input.0,
                chunk: upload.tag.chunk(),
                kept,
            });
        }
        for batch in provider.list_since(&ListMark::default()).await? {
            let Some(tag) = batch.tag.as_ref().filter(|tag| tag.job() == self.tag) else {
                continue;
            };
            let is_known = known.contains_key(&batch.handle.id);
            let kept = if batch.status.is_terminal() {
                Some("it has ended")
            } else if is_known || batch.status == BatchStatus::Cancelling {
                Some("the job waits for it")
            } else {
                None
            };
            objects.push(RemoteObject {
                kind: RemoteKind::Batch,
                id: batch.handle.id,
                chunk: tag.chunk(),
                kept,
            });
        }
        if with_results {
            let here = known.iter();
            let here = here.filter(|(_, (_, handle))| handle.provider == provider.name());
            for (id, (chunk, handle)) in here {
                let merged = states.get(chunk).is_some_and(|it| it.phase.is_merged());
                let snapshot = match provider.status(handle).await {
                    Ok(snapshot) => snapshot,
                    // What the provider does not know any more left nothing there.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    Err(error) => return Err(error.context(format_args!("look at batch {id}"))),
                };
                for file in snapshot.files {
                    objects.push(RemoteObject {
                        kind: RemoteKind::Results,
                        id: file.id,
                        chunk: *chunk,
                        kept: (!merged).then_some("its chunk has not ended"),
                    });
                }
            }
        }
        objects.sort_by(|a, b| (a.chunk, a.kind, &a.id).cmp(&(b.chunk, b.kind, &b.id)));
        Ok(objects)
    }

    /// Takes away one of them, which is not to stay. What is not there any more is fine.
    ///
    /// # Errors
    /// `ConfigInvalid` where it is to stay; every failure to take it away.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether it is gone; doing so again is harmless.
    pub async fn remove_remote(&self, lane: &LaneProvider, object: &RemoteObject) -> Result<()> {
        if let Some(why) = object.kept {
            let message = format!("take away {}: {why}", object.id);
            return Err(Error::new(ErrorKind::ConfigInvalid, message));
        }
        let provider = batches(lane)?;
        match object.kind {
            RemoteKind::Input | RemoteKind::Results => {
                provider.discard(&InputRef(object.id.clone())).await
            }
            RemoteKind::Batch => {
                let handle = BatchHandle::new(provider.name(), &object.id, InputRef::default());
                match provider.cancel(&handle).await {
                    Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
                    cancelled => cancelled,
                }
            }
        }
    }
}

fn batches(lane: &LaneProvider) -> Result<&Arc<dyn BatchProvider>> {
    match lane {
        LaneProvider::Batch(provider) => Ok(provider),
        LaneProvider::Realtime(_) => Err(Error::new(
            ErrorKind::Unsupported,
            "look for batches: the job makes direct calls, which leave nothing at the provider",
        )),
    }
}

/// Batches the journal names, by their ids, with their chunks.
fn known_batches(
    ledger: &batchwright_ledger::Ledger,
    chunks: &[ChunkState],
) -> Result<BTreeMap<String, (u32, BatchHandle)>> {
    let mut known = BTreeMap::new();
    for chunk in chunks {
        for entry in ledger.entries_blocking(chunk.chunk)? {
            use batchwright_core::JournalEvent::{Adopted, Created, Surplus};
            if let Created { handle, .. } | Adopted { handle, .. } | Surplus { handle, .. } =
                entry.event
            {
                known.insert(handle.id.clone(), (chunk.chunk, handle));
            }
        }
    }
    Ok(known)
}
