//! The models this face serves.

use crate::model::{Model, ModelKind};

/// Tokens a prompt may have.
const CONTEXT: u64 = 1_048_576;

/// Most tokens of an answer, as the list of models shows it.
pub(super) const MAX_OUTPUT: u64 = 65_536;

/// Dollars per million tokens: input, cached input, output.
pub(super) static MODELS: &[Model] = &[
    thinking("gemini-2.5-flash", [0.3, 0.03, 2.5]),
    thinking("gemini-2.5-pro", [1.25, 0.125, 10.0]),
    chat("gemini-2.5-flash-lite", [0.1, 0.01, 0.4]),
    thinking("gemini-3-flash-preview", [0.5, 0.05, 3.0]),
    thinking("gemini-3-pro-preview", [2.0, 0.2, 12.0]),
    Model::embedding("gemini-embedding-001", 3072, 0.15),
];

/// The same ones for requests that turn thinking off.
static UNTHINKING: &[Model] = &[
    chat("gemini-2.5-flash", [0.3, 0.03, 2.5]),
    chat("gemini-2.5-flash-lite", [0.1, 0.01, 0.4]),
    chat("gemini-3-flash-preview", [0.5, 0.05, 3.0]),
];

const fn chat(name: &'static str, prices: [f64; 3]) -> Model {
    let mut model = Model::chat(name, name, prices);
    model.context = CONTEXT;
    model
}

const fn thinking(name: &'static str, prices: [f64; 3]) -> Model {
    let mut model = chat(name, prices);
    model.kind = ModelKind::Reasoning;
    model
}

/// The model of this name, with or without `models/` before it.
pub(super) fn find(name: &str) -> Option<&'static Model> {
    Model::find(MODELS, name.strip_prefix("models/").unwrap_or(name))
}

/// The model with its thinking turned off; `None` where it always thinks.
pub(super) fn unthinking(model: &Model) -> Option<&'static Model> {
    Model::find(UNTHINKING, model.name)
}

/// Fewest tokens of cached content.
pub(super) fn least_cached(model: &Model) -> u64 {
    if model.name.contains("pro") {
        4_096
    } else {
        1_024
    }
}
