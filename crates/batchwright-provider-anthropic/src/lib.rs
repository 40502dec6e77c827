#![doc = include_str!("../README.md")]

mod config;

mod builder;
mod provider;

mod client;
mod wire;

mod convert;

mod batch;
mod realtime;
mod stream;

mod error;

pub use batch::Cursor;
pub use builder::AnthropicBuilder;
pub use config::{AnthropicConfig, Auth, CacheTtl};
pub use provider::Anthropic;
