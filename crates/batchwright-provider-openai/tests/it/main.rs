//! The provider over real HTTP: single exchanges against a mock, and what is this vendor's own against the emulator.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod emulated;
mod exchange;
mod presets;
