//! `cargo xtask`: automation of the workspace, in Rust so that it needs nothing but Rust.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::run()
}
