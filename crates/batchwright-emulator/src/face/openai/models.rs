//! The models this face serves, with the emulator's own prices.

use crate::model::Model;

pub(super) const MODELS: &[Model] = &[
    Model::chat("gpt-4o-mini", "gpt-4o-mini-2024-07-18", [0.15, 0.075, 0.60]),
    Model::chat("gpt-4o", "gpt-4o-2024-08-06", [2.50, 1.25, 10.0]),
    Model::chat("gpt-4.1", "gpt-4.1-2025-04-14", [2.0, 0.50, 8.0]),
    Model::chat(
        "gpt-4.1-mini",
        "gpt-4.1-mini-2025-04-14",
        [0.40, 0.10, 1.60],
    ),
    Model::chat(
        "gpt-4.1-nano",
        "gpt-4.1-nano-2025-04-14",
        [0.10, 0.025, 0.40],
    ),
    Model::reasoning("gpt-5", "gpt-5-2025-08-07", [1.25, 0.125, 10.0]),
    Model::reasoning("gpt-5-mini", "gpt-5-mini-2025-08-07", [0.25, 0.025, 2.0]),
    Model::reasoning("gpt-5-nano", "gpt-5-nano-2025-08-07", [0.05, 0.005, 0.40]),
    Model::reasoning("o4-mini", "o4-mini-2025-04-16", [1.10, 0.275, 4.40]),
    Model::embedding("text-embedding-3-small", 1536, 0.02),
    Model::embedding("text-embedding-3-large", 3072, 0.13),
];
