#![doc = include_str!("../README.md")]

pub use batchwright_core as core;

#[cfg(feature = "emulator")]
pub use batchwright_emulator as emulator;
#[cfg(feature = "openai")]
pub use batchwright_http as http;
#[cfg(feature = "ledger")]
pub use batchwright_ledger as ledger;
#[cfg(feature = "openai")]
pub use batchwright_provider_openai as openai;
#[cfg(feature = "pipeline")]
pub use batchwright_pipeline as pipeline;
#[cfg(feature = "realtime")]
pub use batchwright_realtime as realtime;
#[cfg(feature = "router")]
pub use batchwright_router as router;
