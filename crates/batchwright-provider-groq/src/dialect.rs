//! What Groq differs in from OpenAI.
//!
//! Read 2026-11-22 in the documentation and in the types of the official package, `groq` 1.7.0 for Python.

use batchwright_core::{BatchLimits, Capability, ErrorKind, ListMatch, RetryClass};
use batchwright_http::ErrorTable;
use batchwright_provider_openai::{Dialect, Paging, Windows};
use std::time::Duration;

const CHAT_COMPLETIONS: &str = "/v1/chat/completions";
const DAY: Duration = Duration::from_secs(24 * 3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Groq.
pub static GROQ: Dialect = {
    let base_url = "https://api.groq.com/openai/v1";
    let mut groq = Dialect::new("groq", base_url, "GROQ_API_KEY", capability);
    groq.base_url_var = Some("GROQ_BASE_URL");
    // The vendor's own package takes the host alone.
    groq.base_path = "/openai/v1";
    groq.errors = ERRORS;
    groq.windows = Windows::Between(DAY, WEEK);
    groq.paging = Paging::Cursor;
    groq.refused = &[
        "n",
        "logprobs",
        "top_logprobs",
        "logit_bias",
        "frequency_penalty",
        "presence_penalty",
        "metadata",
        "store",
    ];
    groq
};

/// <https://console.groq.com/docs/errors> and <https://console.groq.com/docs/flex-processing>, read 2026-11-22.
const ERRORS: ErrorTable = Dialect::OPENAI
    .errors
    .with_own_codes(&[
        // The model called a tool, or wrote JSON, against the schema: by chance, and after it had worked.
        (
            "tool_use_failed",
            ErrorKind::ProviderFault,
            RetryClass::Ambiguous,
        ),
        (
            "json_validate_failed",
            ErrorKind::ProviderFault,
            RetryClass::Ambiguous,
        ),
        // The organization's own spending limit, as a 400 (<https://console.groq.com/docs/spend-limits>).
        (
            "blocked_api_access",
            ErrorKind::QuotaExceeded,
            RetryClass::JobStop,
        ),
        (
            "organization_restricted",
            ErrorKind::PermissionDenied,
            RetryClass::JobStop,
        ),
        (
            "capacity_exceeded",
            ErrorKind::Overloaded,
            RetryClass::Rejected,
        ),
    ])
    .with_statuses(&[
        // An answer that made no sense is among its causes.
        (422, ErrorKind::ProviderFault, RetryClass::Ambiguous),
        // No capacity for flex, said at once.
        (498, ErrorKind::Overloaded, RetryClass::Rejected),
    ]);

/// <https://console.groq.com/docs/batch>, read 2026-11-22.
fn capability() -> Capability {
    let endpoints = || vec![CHAT_COMPLETIONS.to_owned()];
    // 200 MB by the documentation, 100 MB by the package: the smaller, and 5 MB are left free.
    let mut batch = BatchLimits::new(endpoints(), 50_000, 95_000_000);
    batch.one_model = false;
    batch.unsupported = &["stream"];
    batch.windows = vec![DAY, WEEK];
    // 25 until about the middle of 2025. It does not add up with the discount for cached input.
    batch.discount_percent = Some(50);
    // Inputs and results alike, from the day each is made.
    batch.retention = 30 * DAY;
    batch.list_match = vec![ListMatch::Input, ListMatch::Tag];
    let mut capability = Capability::default();
    capability.realtime_endpoints = endpoints();
    capability.batch = Some(batch);
    capability.json_schema = true;
    capability.tools = true;
    capability.source = "https://console.groq.com/docs/batch, 2026-11-22";
    capability
}
