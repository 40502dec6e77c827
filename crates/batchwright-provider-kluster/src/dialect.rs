//! What kluster.ai differed in from OpenAI.
//!
//! As documented until July 2025, in the repository `kluster-ai/docs`.

use batchwright_core::{BatchLimits, BatchStatus, Capability, ListMatch};
use batchwright_provider_openai::{Dialect, Windows};
use std::time::Duration;

const CHAT_COMPLETIONS: &str = "/v1/chat/completions";
const EMBEDDINGS: &str = "/v1/embeddings";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// kluster.ai, whose API its vendor has probably withdrawn.
pub static KLUSTER: Dialect = {
    // The documentation called the variable `API_KEY`, which is everybody's.
    let base_url = "https://api.kluster.ai/v1";
    let mut kluster = Dialect::new("kluster", base_url, "KLUSTER_API_KEY", capability);
    kluster.base_url_var = Some("KLUSTER_BASE_URL");
    kluster.base_path = "/v1";
    kluster.windows = Windows::Of(&["24h", "48h", "72h"]);
    // Beside OpenAI's eight.
    kluster.statuses = &[("pre_schedule", BatchStatus::Validating)];
    kluster.max_tokens = "max_tokens";
    // Metadata of a direct call could queue it, and what came back would not be the answer.
    kluster.refused = &["metadata"];
    kluster
};

/// The repository `kluster-ai/docs` of 2025-07-22, the last day with pages on batches; read 2026-11-22.
fn capability() -> Capability {
    // 100 MB, of which 5 are left free. Fewer than 1,000 lines is what the smallest account had; those who paid had
    // 100,000 and more.
    let mut batch = BatchLimits::new(vec![CHAT_COMPLETIONS.to_owned()], 999, 95_000_000);
    batch.one_model = false;
    batch.unsupported = &["stream"];
    batch.windows = vec![DAY, 2 * DAY, 3 * DAY];
    // Prices were by model and window, so no discount is one for all. How long results stayed is not documented:
    // a day past the longest window.
    batch.retention = 4 * DAY;
    batch.list_match = vec![ListMatch::Input, ListMatch::Tag];
    let mut capability = Capability::default();
    capability.realtime_endpoints = vec![CHAT_COMPLETIONS.to_owned(), EMBEDDINGS.to_owned()];
    capability.batch = Some(batch);
    capability.json_schema = true;
    capability.tools = true;
    capability.source = "https://github.com/kluster-ai/docs until 2025-07-22, 2026-11-22";
    capability
}
