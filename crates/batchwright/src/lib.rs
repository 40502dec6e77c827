// The example in the README needs these features; where one is missing, there is nothing for `cargo test` to run.
#![cfg_attr(
    any(
        not(doctest),
        all(feature = "openai", feature = "router", feature = "emulator")
    ),
    doc = include_str!("../README.md")
)]

pub use batchwright_core as core;

#[cfg(feature = "emulator")]
pub use batchwright_emulator as emulator;
#[cfg(feature = "openai")]
pub use batchwright_http as http;
#[cfg(feature = "ledger")]
pub use batchwright_ledger as ledger;
#[cfg(feature = "pipeline")]
pub use batchwright_pipeline as pipeline;
#[cfg(feature = "openai")]
pub use batchwright_provider_openai as openai;
#[cfg(feature = "realtime")]
pub use batchwright_realtime as realtime;
#[cfg(feature = "router")]
pub use batchwright_router as router;

/// Runs the examples of the repository's README, which is outside of this package: only tests of the repository see it.
#[cfg(all(
    doctest,
    feature = "openai",
    feature = "realtime",
    feature = "pipeline"
))]
#[doc = include_str!("../../../README.md")]
struct RepositoryReadme;
