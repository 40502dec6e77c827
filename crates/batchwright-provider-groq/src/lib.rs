#![doc = include_str!("../README.md")]

mod builder;
mod dialect;

pub use batchwright_provider_openai::{OpenAi, OpenAiBuilder, OpenAiConfig};
pub use builder::{builder, from_env};
pub use dialect::GROQ;
