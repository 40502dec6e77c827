//! Models with their prices; each face has a table of its own.

use crate::batch::RowUsage;

/// A model as one face serves it.
#[derive(Debug)]
pub(crate) struct Model {
    /// What clients ask for.
    pub(crate) name: &'static str,
    /// What answers say; also accepted in requests.
    pub(crate) dated: &'static str,
    pub(crate) kind: ModelKind,
    /// Longest prompt, in estimated tokens.
    pub(crate) context: u64,
    /// US dollars per million input tokens, cached input tokens and output tokens.
    pub(crate) prices: [f64; 3],
    /// What a batch row costs of the realtime price.
    pub(crate) batch_share: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelKind {
    Chat,
    /// Thinks before it answers.
    Reasoning,
    /// Vectors of this many dimensions.
    Embedding(usize),
}

impl Model {
    /// A chat model with 128,000 tokens of context and batches at half the price.
    pub(crate) const fn chat(name: &'static str, dated: &'static str, prices: [f64; 3]) -> Self {
        Self {
            name,
            dated,
            kind: ModelKind::Chat,
            context: 128_000,
            prices,
            batch_share: 0.5,
        }
    }

    /// [`Self::chat`] that thinks first.
    pub(crate) const fn reasoning(
        name: &'static str,
        dated: &'static str,
        prices: [f64; 3],
    ) -> Self {
        let mut model = Self::chat(name, dated, prices);
        model.kind = ModelKind::Reasoning;
        model
    }

    /// A model of vectors, with a price per million input tokens.
    pub(crate) const fn embedding(name: &'static str, dimensions: usize, price: f64) -> Self {
        let mut model = Self::chat(name, name, [price, price, 0.0]);
        model.kind = ModelKind::Embedding(dimensions);
        model
    }

    /// Finds a model of a table by either of its names.
    pub(crate) fn find(models: &'static [Self], name: &str) -> Option<&'static Self> {
        models
            .iter()
            .find(|model| model.name == name || model.dated == name)
    }

    pub(crate) fn is_embedding(&self) -> bool {
        matches!(self.kind, ModelKind::Embedding(_))
    }

    pub(crate) fn reasons(&self) -> bool {
        self.kind == ModelKind::Reasoning
    }

    /// Price in US dollars.
    #[expect(
        clippy::cast_precision_loss,
        reason = "token counts of one request are far below 2^53"
    )]
    pub(crate) fn price_usd(&self, usage: RowUsage, batch: bool) -> f64 {
        let [input, cached, output] = self.prices;
        let fresh = usage.input.saturating_sub(usage.cached);
        let millionths =
            fresh as f64 * input + usage.cached as f64 * cached + usage.output as f64 * output;
        let full = millionths / 1e6;
        if batch { full * self.batch_share } else { full }
    }
}
