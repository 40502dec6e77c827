//! The models this face serves, what each allows, and the emulator's own prices.

use crate::model::Model;

/// A model and what it allows.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) model: Model,
    pub(super) display_name: &'static str,
    pub(super) created_at: &'static str,
    /// Shortest prefix that is cached, in tokens.
    pub(super) min_cache: u64,
    /// Largest `max_tokens`.
    pub(super) max_tokens: u64,
    pub(super) thinking: Thinking,
    /// Whether sampling may differ from its defaults.
    pub(super) sampling: bool,
    /// Whether the last message may be the assistant's.
    pub(super) prefill: bool,
    /// Still listed, and fails.
    pub(super) retired: bool,
}

/// Which kinds of thinking a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thinking {
    /// Only `enabled`, with a budget.
    Enabled,
    /// Either.
    Both,
    /// Only `adaptive`.
    Adaptive,
    /// Only `adaptive`, also unasked.
    Default,
    /// `adaptive`, also unasked, and it cannot be disabled.
    Always,
}

impl Facts {
    const fn new(
        name: &'static str,
        dated: &'static str,
        display_name: &'static str,
        created_at: &'static str,
        prices: [f64; 3],
    ) -> Self {
        let mut model = Model::chat(name, dated, prices);
        model.context = 1_000_000;
        Self {
            model,
            display_name,
            created_at,
            min_cache: 1_024,
            max_tokens: 128_000,
            thinking: Thinking::Adaptive,
            sampling: false,
            prefill: false,
            retired: false,
        }
    }

    /// A model of the 4.5 line: 200,000 tokens in, 64,000 out, thinking by budget, sampling and prefill.
    const fn older(mut self) -> Self {
        self.model.context = 200_000;
        self.max_tokens = 64_000;
        self.thinking = Thinking::Enabled;
        self.sampling = true;
        self.prefill = true;
        self
    }

    /// A model of the 4.6 line: both kinds of thinking, sampling, no prefill.
    const fn between(mut self) -> Self {
        self.thinking = Thinking::Both;
        self.sampling = true;
        self
    }

    const fn cached_from(mut self, min_cache: u64) -> Self {
        self.min_cache = min_cache;
        self
    }

    const fn thinking(mut self, thinking: Thinking) -> Self {
        self.thinking = thinking;
        self
    }

    const fn at_most(mut self, max_tokens: u64) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    const fn retired(mut self) -> Self {
        self.retired = true;
        self
    }

    /// Finds a model by either of its names; a retired one is not found.
    pub(super) fn find(name: &str) -> Option<&'static Self> {
        Self::listed(name).filter(|facts| !facts.retired)
    }

    /// Finds a model of the list by either of its names.
    pub(super) fn listed(name: &str) -> Option<&'static Self> {
        MODELS
            .iter()
            .find(|facts| facts.model.name == name || facts.model.dated == name)
    }
}

pub(super) static MODELS: &[Facts] = &[
    Facts::new(
        "claude-opus-5",
        "claude-opus-5",
        "Claude Opus 5",
        "2026-07-24T00:00:00Z",
        [5.0, 0.50, 25.0],
    )
    .cached_from(512)
    .thinking(Thinking::Default),
    Facts::new(
        "claude-fable-5",
        "claude-fable-5",
        "Claude Fable 5",
        "2026-07-01T00:00:00Z",
        [10.0, 1.0, 50.0],
    )
    .cached_from(512)
    .thinking(Thinking::Always),
    Facts::new(
        "claude-sonnet-5",
        "claude-sonnet-5",
        "Claude Sonnet 5",
        "2026-06-15T00:00:00Z",
        [2.0, 0.20, 10.0],
    )
    .thinking(Thinking::Default),
    Facts::new(
        "claude-opus-4-8",
        "claude-opus-4-8",
        "Claude Opus 4.8",
        "2026-05-28T00:00:00Z",
        [5.0, 0.50, 25.0],
    ),
    Facts::new(
        "claude-opus-4-7",
        "claude-opus-4-7",
        "Claude Opus 4.7",
        "2026-04-16T00:00:00Z",
        [5.0, 0.50, 25.0],
    )
    .cached_from(2_048),
    Facts::new(
        "claude-sonnet-4-6",
        "claude-sonnet-4-6",
        "Claude Sonnet 4.6",
        "2026-02-17T00:00:00Z",
        [3.0, 0.30, 15.0],
    )
    .between()
    .at_most(64_000),
    Facts::new(
        "claude-opus-4-6",
        "claude-opus-4-6",
        "Claude Opus 4.6",
        "2026-02-05T00:00:00Z",
        [5.0, 0.50, 25.0],
    )
    .between()
    .cached_from(4_096),
    Facts::new(
        "claude-opus-4-5",
        "claude-opus-4-5-20251101",
        "Claude Opus 4.5",
        "2025-11-01T00:00:00Z",
        [5.0, 0.50, 25.0],
    )
    .older()
    .cached_from(4_096),
    Facts::new(
        "claude-haiku-4-5",
        "claude-haiku-4-5-20251001",
        "Claude Haiku 4.5",
        "2025-10-01T00:00:00Z",
        [1.0, 0.10, 5.0],
    )
    .older()
    .cached_from(4_096),
    Facts::new(
        "claude-sonnet-4-5",
        "claude-sonnet-4-5-20250929",
        "Claude Sonnet 4.5",
        "2025-09-29T00:00:00Z",
        [3.0, 0.30, 15.0],
    )
    .older(),
    Facts::new(
        "claude-opus-4-1",
        "claude-opus-4-1-20250805",
        "Claude Opus 4.1",
        "2025-08-05T00:00:00Z",
        [15.0, 1.50, 75.0],
    )
    .older()
    .at_most(32_000)
    .retired(),
];
