//! `cargo xtask bench`: one benchmark, in release.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use xshell::Shell;

use crate::flags::Bench;
use crate::tool;
use crate::workspace::Workspace;

const FOLDER: &str = "benches/src/bin";

/// Runs the benchmark named, or lists them all.
pub(crate) fn run(shell: &Shell, workspace: &Workspace, flags: &Bench) -> Result<()> {
    let known = available(&workspace.root.join(FOLDER))?;
    let Some(name) = &flags.name else {
        if known.is_empty() {
            println!("no benchmarks yet: each is a file in {FOLDER}");
        }
        for name in known {
            println!("{name}");
        }
        return Ok(());
    };
    if !known.contains(name) {
        bail!(
            "there is no benchmark {name} in {FOLDER}; `cargo xtask bench` lists those there are"
        );
    }
    tool::cargo(shell)
        .args([
            "run",
            "--locked",
            "--release",
            "--package",
            "batchwright-benches",
            "--bin",
            name,
        ])
        .arg("--")
        .args(&flags.args)
        .run()?;
    Ok(())
}

/// The programs in `folder`, by name: `a.rs` and `b/main.rs` are `a` and `b`.
fn available(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if !folder.is_dir() {
        return Ok(names);
    }
    let entries = folder
        .read_dir()
        .with_context(|| format!("listing {FOLDER} failed"))?;
    for entry in entries {
        let path = entry?.path();
        let is_program =
            path.extension().is_some_and(|it| it == "rs") || path.join("main.rs").is_file();
        if is_program && let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_files_and_folders_with_a_main() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "fn main() {}").unwrap();
        };
        for name in [
            "realtime.rs",
            "emulator/main.rs",
            "shared/mod.rs",
            "notes.md",
        ] {
            file(name);
        }
        assert_eq!(available(folder.path()).unwrap(), ["emulator", "realtime"]);
        assert!(available(&folder.path().join("absent")).unwrap().is_empty());
    }
}
