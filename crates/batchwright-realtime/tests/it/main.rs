//! The pool's public behaviour, against providers in memory and on a paused clock.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod double;
mod hooks;
mod limits;
mod money;
mod pace;
mod shapes;
mod stop;
mod watch;
