//! The command in a folder of its own.

use crate::provider::Provider;
use serde_json::Value;
use std::{
    fs::{self, File},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// A run that takes longer hangs (I5).
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the tests look whether something they wait for has happened.
pub(crate) const LOOK: Duration = Duration::from_millis(4);

/// A key like those of the vendor; no test may find it in any output.
pub(crate) const KEY: &str = "sk-canary-0123456789abcdefghijklmnopqrstuvwxyz";

/// A folder to work in, and the environment the command finds there.
pub(crate) struct Place {
    dir: TempDir,
    environment: Vec<(String, String)>,
    runs: AtomicU32,
}

impl Place {
    /// A place without any account.
    pub(crate) fn bare() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            environment: Vec::new(),
            runs: AtomicU32::new(0),
        }
    }

    /// A place whose account is at this address.
    pub(crate) fn at(base_url: &str) -> Self {
        Self::bare()
            .with("OPENAI_API_KEY", KEY)
            .with("OPENAI_BASE_URL", base_url)
    }

    /// A place whose account is at this provider.
    pub(crate) fn of(provider: &Provider) -> Self {
        Self::at(&provider.base_url())
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The folder of a job in the default state folder.
    pub(crate) fn job(&self, name: &str) -> PathBuf {
        self.path(".batchwright").join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Starts the command with nothing in its environment but the account.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        // Outside the place, so that a test can look at every file the command itself made.
        let captured = tempfile::tempdir().unwrap();
        let [stdout, stderr] =
            ["out", "err"].map(|end| captured.path().join(format!("{run}.{end}")));
        let child = Command::new(env!("CARGO_BIN_EXE_batchwright"))
            .args(arguments)
            .current_dir(self.dir())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        Running {
            child,
            stdout,
            stderr,
            _captured: captured,
            arguments: arguments.join(" "),
        }
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).wait()
    }

    /// `verify` finds nothing wrong with the job, whose every row is there.
    pub(crate) fn assert_verified(&self, job: &str) {
        self.run(&["verify", job]).assert_code(0);
    }

    /// What `status --json` says.
    pub(crate) fn status(&self, job: &str) -> Value {
        let ended = self.run(&["status", job, "--json"]).assert_code(0);
        serde_json::from_str(&ended.stdout).unwrap()
    }
}

/// The command while it runs; killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    _captured: TempDir,
    arguments: String,
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success(), "send {name}");
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Kills it; `false` where it had ended before.
    pub(crate) fn kill(mut self) -> bool {
        let was_running = self.is_running();
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        was_running && status.signal() == Some(9)
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap()).into_owned()
    }

    /// Waits until `happened`, which must be before the command ends.
    pub(crate) fn until(&mut self, what: &str, happened: impl Fn(&Self) -> bool) {
        let since = Instant::now();
        while !happened(self) {
            let running = self.is_running();
            assert!(
                running || happened(self),
                "it ended before {what}: {}",
                self.stderr()
            );
            assert!(since.elapsed() < PATIENCE, "no {what}: {}", self.stderr());
            std::thread::sleep(LOOK);
        }
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        let since = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                since.elapsed() < PATIENCE,
                "`batchwright {}` hangs: {}",
                self.arguments,
                self.stderr()
            );
            std::thread::sleep(LOOK);
        };
        let text = |path| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        let ended = Ended {
            status,
            stdout: text(&self.stdout),
            stderr: text(&self.stderr),
            arguments: std::mem::take(&mut self.arguments),
        };
        // F-192: whatever a test is about, the key is nowhere.
        for shown in [&ended.stdout, &ended.stderr] {
            assert!(!shown.contains(KEY), "the key is shown: {ended:?}");
        }
        assert!(!ended.stderr.contains("panicked"), "{ended:?}");
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    arguments: String,
}

impl Ended {
    /// The exit code.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(crate) fn assert_code(self, code: i32) -> Self {
        assert_eq!(
            self.code(),
            Some(code),
            "batchwright {}\n{}{}",
            self.arguments,
            self.stderr,
            self.stdout
        );
        self
    }

    /// Standard error has each of these.
    pub(crate) fn assert_says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(
                self.stderr.contains(word),
                "batchwright {}\nsays nothing of {word:?}:\n{}",
                self.arguments,
                self.stderr
            );
        }
        self
    }

    /// The summary of a run with `--json`.
    pub(crate) fn summary(&self) -> Value {
        self.stderr
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find(|line| line["event"] == "summary")
            .unwrap_or_else(|| panic!("no summary: {}", self.stderr))
    }
}
