#![doc = include_str!("../README.md")]

mod config;

mod builder;
mod provider;

mod client;
mod wire;

mod convert;

mod batch;
mod realtime;

mod error;

pub use builder::GeminiBuilder;
pub use config::GeminiConfig;
pub use provider::Gemini;
pub use realtime::{CachePage, CachedContent, GeminiContext, NewCache, TokenCount};
