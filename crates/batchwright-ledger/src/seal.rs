//! What the journal knows of a sealed chunk, beside the chunk: for a journal that is lost.

use crate::{files, ledger::Ledger};
use batchwright_core::{JournalEvent, Result, Timestamp};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

const VERSION: u32 = 1;

/// The `Seal` fact of an attempt and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Seal {
    version: u32,
    pub(crate) chunk: u32,
    pub(crate) attempt: u32,
    pub(crate) wire_prefix: String,
    pub(crate) rows_sha256: String,
    pub(crate) at: Timestamp,
    pub(crate) fact: JournalEvent,
}

impl Seal {
    pub(crate) fn new(
        chunk: u32,
        attempt: u32,
        wire_prefix: &str,
        rows_sha256: &str,
        at: Timestamp,
        fact: &JournalEvent,
    ) -> Self {
        Self {
            version: VERSION,
            chunk,
            attempt,
            wire_prefix: wire_prefix.to_owned(),
            rows_sha256: rows_sha256.to_owned(),
            at,
            fact: fact.clone(),
        }
    }

    pub(crate) fn name(chunk: u32, attempt: u32) -> String {
        format!("{chunk:06}-{attempt}.seal")
    }

    fn path(folder: &Path, chunk: u32, attempt: u32) -> PathBuf {
        folder.join("chunks").join(Self::name(chunk, attempt))
    }

    /// Puts it beside the chunk, before the journal has it.
    pub(crate) fn write(&self, ledger: &Ledger) -> Result<()> {
        let path = Self::path(ledger.folder(), self.chunk, self.attempt);
        files::write_summed(path, self)
    }

    pub(crate) fn read(folder: &Path, chunk: u32, attempt: u32) -> Result<Self> {
        let path = Self::path(folder, chunk, attempt);
        let seal: Self = files::read_summed(&path)?;
        let is_ours = (seal.version, seal.chunk, seal.attempt) == (VERSION, chunk, attempt)
            && matches!(seal.fact, JournalEvent::Seal { .. });
        is_ours
            .then_some(seal)
            .ok_or_else(|| files::damaged(&path, "it is another chunk's"))
    }

    /// Every seal in the folder, by chunk and attempt, and chunks that have lines and no seal.
    pub(crate) fn list(folder: &Path) -> Result<(Vec<Self>, Vec<u32>)> {
        let chunks = folder.join("chunks");
        let failed = |error| files::storage("read", &chunks, error);
        let (mut sealed, mut lines) = (Vec::new(), Vec::new());
        for entry in fs::read_dir(&chunks).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some((name, end)) = name.to_str().and_then(|name| name.split_once('.')) else {
                continue;
            };
            let parts = name.split_once('-');
            let parts = parts.and_then(|(chunk, attempt)| {
                Some((chunk.parse::<u32>().ok()?, attempt.parse::<u32>().ok()?))
            });
            match (parts, end) {
                (Some(place), "seal") => sealed.push(place),
                (Some(place), "jsonl") => lines.push(place),
                _ => {}
            }
        }
        sealed.sort_unstable();
        lines.sort_unstable();
        lines.retain(|place| sealed.binary_search(place).is_err());
        let seals: Result<Vec<Self>> = sealed
            .into_iter()
            .map(|(chunk, attempt)| Self::read(folder, chunk, attempt))
            .collect();
        Ok((seals?, lines.into_iter().map(|(chunk, _)| chunk).collect()))
    }
}
