#![doc = include_str!("../README.md")]

mod config;
mod dialect;

mod builder;
mod provider;

mod client;
mod wire;

mod convert;

mod batch;
mod realtime;
mod stream;

mod error;

pub use builder::OpenAiBuilder;
pub use config::{ChatApi, OpenAiConfig};
pub use dialect::{Dialect, PRESETS, Paging, Windows};
pub use provider::OpenAi;
