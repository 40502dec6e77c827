#![doc = include_str!("../README.md")]

mod client;
mod convert;
mod provider;
mod wire;

pub use provider::{Quillmere, QuillmereConfig};
