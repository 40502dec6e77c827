#![doc = include_str!("../README.md")]

mod config;
mod credentials;

mod builder;
mod provider;

mod client;
mod storage;
mod table;
mod token;
mod wire;

mod convert;

mod batch;
mod realtime;

mod encoding;
mod error;

pub use builder::VertexBuilder;
pub use config::{Side, VertexConfig};
pub use credentials::{AuthorizedUser, Credentials, ServiceAccount};
pub use provider::Vertex;
