#![doc = include_str!("../README.md")]

mod auth;
mod config;

mod builder;
mod provider;

mod client;
mod storage;
mod wire;

mod convert;

mod batch;
mod realtime;

mod error;

pub use auth::{AuthorizedUser, Credentials, ServiceAccount};
pub use builder::VertexBuilder;
pub use config::{Side, VertexConfig};
pub use provider::Vertex;
