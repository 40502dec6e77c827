//! The provider: an emulator that outlives every run of the command.

use batchwright_emulator::{BatchPace, Emulator, EmulatorConfig, Face, FaultRule, InvoiceLine};
use std::time::Duration;
use tokio::runtime::Runtime;

pub(crate) const CHAT: &str = "/openai/v1/chat/completions";
pub(crate) const FILES: &str = "/openai/v1/files";
pub(crate) const BATCHES: &str = "/openai/v1/batches";

pub(crate) struct Provider {
    // Before the runtime, which is dropped last.
    emulator: Emulator,
    runtime: Runtime,
}

impl Provider {
    /// A provider whose batches end within half a second.
    pub(crate) fn new() -> Self {
        Self::start(quick())
    }

    pub(crate) fn start(config: EmulatorConfig) -> Self {
        let runtime = Runtime::new().unwrap();
        let emulator = runtime.block_on(Emulator::start(config)).unwrap();
        Self { emulator, runtime }
    }

    pub(crate) fn base_url(&self) -> String {
        self.emulator.base_url(Face::OpenAi)
    }

    /// The base URL of another face.
    pub(crate) fn base_url_of(&self, face: Face) -> String {
        self.emulator.base_url(face)
    }

    /// Every billed unit.
    pub(crate) fn invoice(&self) -> Vec<InvoiceLine> {
        self.runtime.block_on(self.emulator.invoice()).unwrap()
    }

    /// How often a route was called.
    pub(crate) fn calls(&self, method: &str, route: &str) -> u64 {
        self.emulator.calls(method, route)
    }

    /// Calls that make or buy something.
    pub(crate) fn paid_calls(&self) -> u64 {
        [CHAT, FILES, BATCHES]
            .into_iter()
            .map(|route| self.calls("POST", route))
            .sum()
    }

    pub(crate) fn peak_in_flight(&self) -> u64 {
        self.emulator.peak_in_flight()
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.runtime.block_on(self.emulator.advance(by)).unwrap();
    }

    /// Adds fault rules, written as the emulator's README has them.
    pub(crate) fn fault(&self, script: &serde_json::Value) {
        let rules = FaultRule::list_from_json(&script.to_string()).unwrap();
        self.emulator.add_faults(rules);
    }

    pub(crate) fn heal(&self) {
        self.emulator.clear_faults();
    }
}

/// Batches that end within half a second.
pub(crate) fn quick() -> EmulatorConfig {
    let pace = BatchPace::default()
        .with_validating(Duration::from_secs(4))
        .with_warm_up(Duration::from_secs(2))
        .with_per_row(Duration::from_millis(20))
        .with_finalizing(Duration::from_secs(4))
        .with_cancelling(Duration::from_secs(4));
    EmulatorConfig::default().with_pace(pace)
}
