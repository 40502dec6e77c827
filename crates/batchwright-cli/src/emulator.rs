//! `emulator`.

use crate::{args::EmulatorArgs, exit::Exit, named_file, providers, signals, terminal::say};
use anyhow::Context;
use batchwright::emulator::{Emulator, EmulatorConfig, FaultRule, Limits};

pub(crate) async fn emulator(args: EmulatorArgs) -> anyhow::Result<Exit> {
    let mut config = EmulatorConfig::default()
        .with_listen(args.listen)
        .with_keys(args.keys);
    if let Some(data) = args.data {
        config = config.with_data_dir(data);
    }
    if let Some(scale) = args.time_scale {
        if !scale.is_finite() || scale < 0.0 {
            anyhow::bail!("--time-scale is a number from 0");
        }
        config = config.with_time_scale(scale);
    }
    if let Some(seed) = args.seed {
        config = config.with_seed(seed);
    }
    if let Some(latency) = args.latency {
        config = config.with_latency(latency);
    }
    if let Some(path) = args.faults {
        let text = named_file::read(&path)?;
        let rules =
            FaultRule::list_from_json(&text).with_context(|| format!("read {}", path.display()))?;
        config = config.with_faults(rules);
    }
    let mut limits = Limits::default();
    limits.requests_per_minute = args.rpm;
    limits.tokens_per_minute = args.tpm;
    limits.max_in_flight = args.max_concurrency;
    limits.enqueued_tokens = args.enqueued_tokens;
    let emulator = Emulator::start(config.with_limits(limits)).await?;
    for line in providers::base_urls(&emulator) {
        say(line);
    }
    say(format_args!("control: {}", emulator.control_url()));
    signals::signal().await;
    emulator.shutdown().await;
    Ok(Exit::Done)
}
