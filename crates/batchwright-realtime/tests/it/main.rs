//! The pool's public behaviour, against providers in memory and on a paused clock.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod balance;
mod broken;
mod context;
mod double;
mod fallback;
mod harness;
mod hooks;
mod limits;
mod money;
mod pace;
mod shapes;
mod stop;
mod strategy_cache;
#[cfg(feature = "structured")]
mod strategy_composed;
mod strategy_double;
mod strategy_ladder;
mod strategy_simple;
#[cfg(feature = "structured")]
mod strategy_structured;
mod vendor;
mod watch;
