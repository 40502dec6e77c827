//! The local emulator inside this process, in the place of the provider.

use batchwright::emulator::{Emulator, EmulatorConfig, Face};
use std::{collections::BTreeMap, path::Path};

/// A key that is no key: the emulator takes any.
const KEY: &str = "sandbox";

/// Starts the emulator with its data in the job's folder, so that a resumed job finds its batches again.
/// What the environment says of accounts and addresses is replaced by `pairs`.
pub(crate) async fn start(
    job: &Path,
    pairs: &mut BTreeMap<String, String>,
) -> anyhow::Result<Emulator> {
    let emulator =
        Emulator::start(EmulatorConfig::default().with_data_dir(job.join("sandbox"))).await?;
    point(pairs, &emulator.base_url(Face::OpenAi));
    Ok(emulator)
}

/// Points every provider at `base_url` with a key that is worth nothing, so that no real key is sent to a
/// sandbox.
pub(crate) fn point(pairs: &mut BTreeMap<String, String>, base_url: &str) {
    pairs.retain(|name, _| !name.starts_with("OPENAI_"));
    pairs.insert("OPENAI_API_KEY".to_owned(), KEY.to_owned());
    pairs.insert("OPENAI_BASE_URL".to_owned(), base_url.to_owned());
}
