//! The models this face serves, with the emulator's own prices.

use crate::batch::RowUsage;

/// A model.
#[derive(Debug)]
pub(super) struct Model {
    /// What clients ask for.
    pub(super) name: &'static str,
    /// What answers say; also accepted in requests.
    pub(super) dated: &'static str,
    pub(super) kind: ModelKind,
    /// US dollars per million input tokens, cached input tokens and output tokens.
    pub(super) prices: [f64; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelKind {
    Chat,
    /// Thinks before it answers, and refuses sampling parameters.
    Reasoning,
    /// Vectors of this many dimensions.
    Embedding(usize),
}

/// Longest prompt of every chat model, in estimated tokens.
pub(super) const CONTEXT: u64 = 128_000;

pub(super) const MODELS: &[Model] = &[
    chat("gpt-4o-mini", "gpt-4o-mini-2024-07-18", [0.15, 0.075, 0.60]),
    chat("gpt-4o", "gpt-4o-2024-08-06", [2.50, 1.25, 10.0]),
    chat("gpt-4.1", "gpt-4.1-2025-04-14", [2.0, 0.50, 8.0]),
    chat(
        "gpt-4.1-mini",
        "gpt-4.1-mini-2025-04-14",
        [0.40, 0.10, 1.60],
    ),
    chat(
        "gpt-4.1-nano",
        "gpt-4.1-nano-2025-04-14",
        [0.10, 0.025, 0.40],
    ),
    reasoning("gpt-5", "gpt-5-2025-08-07", [1.25, 0.125, 10.0]),
    reasoning("gpt-5-mini", "gpt-5-mini-2025-08-07", [0.25, 0.025, 2.0]),
    reasoning("gpt-5-nano", "gpt-5-nano-2025-08-07", [0.05, 0.005, 0.40]),
    reasoning("o4-mini", "o4-mini-2025-04-16", [1.10, 0.275, 4.40]),
    embedding("text-embedding-3-small", 1536, 0.02),
    embedding("text-embedding-3-large", 3072, 0.13),
];

const fn chat(name: &'static str, dated: &'static str, prices: [f64; 3]) -> Model {
    Model {
        name,
        dated,
        kind: ModelKind::Chat,
        prices,
    }
}

const fn reasoning(name: &'static str, dated: &'static str, prices: [f64; 3]) -> Model {
    Model {
        name,
        dated,
        kind: ModelKind::Reasoning,
        prices,
    }
}

const fn embedding(name: &'static str, dimensions: usize, price: f64) -> Model {
    Model {
        name,
        dated: name,
        kind: ModelKind::Embedding(dimensions),
        prices: [price, price, 0.0],
    }
}

impl Model {
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        MODELS
            .iter()
            .find(|model| model.name == name || model.dated == name)
    }

    pub(super) fn is_embedding(&self) -> bool {
        matches!(self.kind, ModelKind::Embedding(_))
    }

    pub(super) fn reasons(&self) -> bool {
        self.kind == ModelKind::Reasoning
    }

    /// Price in US dollars; batches cost half.
    #[expect(
        clippy::cast_precision_loss,
        reason = "token counts of one request are far below 2^53"
    )]
    pub(super) fn price_usd(&self, usage: RowUsage, batch: bool) -> f64 {
        let [input, cached, output] = self.prices;
        let fresh = usage.input.saturating_sub(usage.cached);
        let millionths =
            fresh as f64 * input + usage.cached as f64 * cached + usage.output as f64 * output;
        let full = millionths / 1e6;
        if batch { full / 2.0 } else { full }
    }
}
