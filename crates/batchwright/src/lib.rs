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
#[cfg(any(
    feature = "openai",
    feature = "anthropic",
    feature = "gemini",
    feature = "vertex",
    feature = "groq",
    feature = "kluster"
))]
pub use batchwright_http as http;
#[cfg(feature = "ledger")]
pub use batchwright_ledger as ledger;
#[cfg(feature = "pipeline")]
pub use batchwright_pipeline as pipeline;
#[cfg(feature = "anthropic")]
pub use batchwright_provider_anthropic as anthropic;
#[cfg(feature = "gemini")]
pub use batchwright_provider_gemini as gemini;
#[cfg(feature = "groq")]
pub use batchwright_provider_groq as groq;
#[cfg(feature = "kluster")]
pub use batchwright_provider_kluster as kluster;
#[cfg(feature = "openai")]
pub use batchwright_provider_openai as openai;
#[cfg(feature = "vertex")]
pub use batchwright_provider_vertex as vertex;
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
