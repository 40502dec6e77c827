//! The provider over real HTTP: what is this vendor's own against the emulator.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod emulated;
