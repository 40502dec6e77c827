//! The programs the commands call.

use xshell::{Cmd, Shell, cmd};

/// `cargo`, as if called from the terminal rather than from inside `cargo run`.
///
/// `cargo run` describes our own package in the environment. Build scripts watch some of those variables (ring's does),
/// so leaving them set would rebuild half the tree each time the two ways of calling alternate.
pub(crate) fn cargo(shell: &Shell) -> Cmd<'_> {
    let mut cargo = cmd!(shell, "cargo");
    for (name, _) in std::env::vars_os() {
        let ours = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_")
                || name.starts_with("CARGO_MANIFEST_")
                || name == "CARGO_CRATE_NAME"
                || name == "CARGO_BIN_NAME"
        });
        if ours {
            cargo = cargo.env_remove(name);
        }
    }
    cargo
}

/// Whether `cargo SUBCOMMAND` is installed.
pub(crate) fn has_subcommand(shell: &Shell, subcommand: &str) -> bool {
    cargo(shell)
        .args([subcommand, "--version"])
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run()
        .is_ok()
}
