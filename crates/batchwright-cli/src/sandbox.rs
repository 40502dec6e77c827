//! The local emulator inside this process, in the place of the provider.

use crate::providers::{self, Known, Pairs};
use batchwright::emulator::{Emulator, EmulatorConfig};
use std::path::Path;

/// Starts the emulator as `known` with its data in the job's folder, so that a resumed job finds its batches again.
/// What the environment says of accounts and addresses is replaced in `pairs`.
pub(crate) async fn start(
    known: &Known,
    job: &Path,
    pairs: &mut Pairs,
) -> anyhow::Result<Emulator> {
    let config = EmulatorConfig::default().with_data_dir(job.join("sandbox"));
    let emulator = Emulator::start(known.sandbox(config)).await?;
    providers::point_at(Some(&emulator), pairs);
    Ok(emulator)
}
