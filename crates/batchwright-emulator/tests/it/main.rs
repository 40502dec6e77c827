//! The emulator over real sockets.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod anthropic;
mod client;
mod compatible;
mod faults;
mod files;
mod gemini;
mod groq;
mod kluster;
mod lifecycle;
mod page;
mod persistence;
mod realtime;
mod validation;
mod vertex;
mod wire;
