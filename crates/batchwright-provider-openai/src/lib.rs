#![doc = include_str!("../README.md")]

mod config;

mod builder;
mod provider;

mod client;
mod wire;

mod convert;

mod batch;
mod error;

pub use builder::OpenAiBuilder;
pub use config::{
    API_KEY_VAR, BASE_URL_VAR, ChatApi, DEFAULT_BASE_URL, ORGANIZATION_VAR, OpenAiConfig,
    PROJECT_VAR,
};
pub use provider::OpenAi;
