//! What a job is, beside its journal: for a journal that is lost.

use crate::files;
use batchwright_core::Result;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fs, path::Path};

pub(crate) const FILE: &str = "job.json";
const VERSION: u32 = 1;

#[derive(PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Card {
    version: u32,
    values: BTreeMap<String, String>,
}

pub(crate) fn keep(folder: &Path, values: BTreeMap<String, String>) -> Result<()> {
    let card = Card {
        version: VERSION,
        values,
    };
    let path = folder.join(FILE);
    if files::read_summed::<Card>(&path).is_ok_and(|known| known == card) {
        return Ok(());
    }
    files::write_summed(path, &card)?;
    files::sync_folder(folder)
}

pub(crate) fn read(folder: &Path) -> Result<Option<BTreeMap<String, String>>> {
    let path = folder.join(FILE);
    if fs::symlink_metadata(&path).is_err() {
        return Ok(None);
    }
    let card: Card = files::read_summed(&path)?;
    if card.version != VERSION {
        return Err(files::damaged(&path, "it is of another version"));
    }
    Ok(Some(card.values))
}
