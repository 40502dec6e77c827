//! `cargo xtask conformance`: the vendors' own packages, unmodified, against the emulator.
//!
//! Each script in [`FOLDER`] drives one face through the package its vendor publishes. What passes proves that the
//! emulator speaks the protocol, and not merely what our own clients expect of it.

use std::{
    env::consts::EXE_SUFFIX,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::{flags::Conformance, tool, workspace::Workspace};

/// Where the scripts are, each `NAME_sdk.py`, beside the packages they need.
pub const FOLDER: &str = "crates/batchwright-emulator/tests/sdk";
const PACKAGES: &str = "requirements.txt";

/// Which part of the emulator each script is given as its base URL.
pub const FACES: &[(&str, &str)] = &[
    ("anthropic", "/anthropic"),
    ("compatible", "/compatible/v1"),
    ("gemini", "/gemini"),
    ("groq", "/groq/openai/v1"),
    ("openai", "/openai/v1"),
    ("vertex", "/vertex"),
];

/// Runs the scripts asked for, or all.
pub(crate) fn run(shell: &Shell, workspace: &Workspace, flags: &Conformance) -> Result<()> {
    if let Some(missing) = missing_tool(shell) {
        bail!("{missing}");
    }
    let faces: Vec<_> = match flags.names.as_slice() {
        [] => FACES.to_vec(),
        names => names
            .iter()
            .map(|name| {
                let known = FACES.iter().find(|(face, _)| face == name).copied();
                known.with_context(|| format!("there is no script {FOLDER}/{name}_sdk.py"))
            })
            .collect::<Result<_>>()?,
    };
    let folder = workspace.root.join(FOLDER);
    let python = environment(shell, workspace, &folder)?;
    build(shell)?;
    for (name, path) in faces {
        println!("\n-- {name}");
        // One each: a script may stop the clock.
        let emulator = Emulator::start(&workspace.target)?;
        let script = folder.join(format!("{name}_sdk.py"));
        let url = format!("{}{path}", emulator.origin);
        cmd!(shell, "{python} {script} {url}")
            .run()
            .with_context(|| format!("the emulator is not what the package of {name} expects"))?;
    }
    Ok(())
}

/// Why nothing can be run here, if so.
pub(crate) fn missing_tool(shell: &Shell) -> Option<&'static str> {
    let works = cmd!(shell, "python3 -c 'import venv, ensurepip'")
        .quiet()
        .ignore_stdout()
        .ignore_stderr()
        .run();
    works
        .is_err()
        .then_some("Python 3 with venv is not installed: `apt-get install python3-venv`")
}

/// The interpreter of an environment that holds the packages; made again when their list changes.
fn environment(shell: &Shell, workspace: &Workspace, folder: &Path) -> Result<PathBuf> {
    let wanted = shell.read_file(folder.join(PACKAGES))?;
    let home = workspace.target.join("sdk-venv");
    let python = home.join(if cfg!(windows) {
        "Scripts/python.exe"
    } else {
        "bin/python"
    });
    let installed = home.join(PACKAGES);
    if shell.read_file(&installed).is_ok_and(|text| text == wanted) {
        return Ok(python);
    }
    shell.remove_path(&home)?;
    cmd!(shell, "python3 -m venv {home}").run()?;
    let packages = folder.join(PACKAGES);
    cmd!(
        shell,
        "{python} -m pip install --quiet --disable-pip-version-check --no-input --requirement {packages}"
    )
    .run()
    .context("install the vendors' packages")?;
    // Last, so that half an installation is not taken for a whole one.
    shell.write_file(&installed, wanted)?;
    Ok(python)
}

fn build(shell: &Shell) -> Result<()> {
    let package = ["--package", "batchwright-emulator", "--example", "serve"];
    tool::cargo(shell)
        .args(["build", "--quiet", "--locked"])
        .args(package)
        .run()?;
    Ok(())
}

/// The emulator as a process of its own, ended with this.
struct Emulator {
    process: Child,
    origin: String,
}

impl Emulator {
    fn start(target: &Path) -> Result<Self> {
        let program = target
            .join("debug/examples")
            .join(format!("serve{EXE_SUFFIX}"));
        let mut process = Command::new(&program)
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let output = process.stdout.take().context("read from the emulator")?;
        let mut emulator = Self {
            process,
            origin: String::new(),
        };
        let mut url = String::new();
        BufReader::new(output).read_line(&mut url)?;
        let origin = url.trim().strip_suffix("/openai/v1");
        ensure!(origin.is_some(), "the emulator did not start");
        emulator.origin = origin.unwrap_or_default().to_owned();
        Ok(emulator)
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
