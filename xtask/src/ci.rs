//! `cargo xtask ci`: everything the server runs, in its order.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;
use xshell::Shell;

use crate::flags::{Ci, Conformance, Step};
use crate::workspace::{Package, Workspace};
use crate::{conformance, layers, tidy, tool};

/// What ends a step that did not fail.
#[derive(Debug, PartialEq, Eq)]
enum Finish {
    Passed,
    /// It passed, but could not look at everything.
    Partly(String),
    /// It could not look at anything.
    LeftOut(String),
}

/// One row of the summary.
#[derive(Debug)]
struct Row {
    step: Step,
    /// `None` when an earlier failure ended the run.
    ended: Option<(Result<Finish>, Duration)>,
}

/// Runs the steps asked for and prints the summary; fails when a step did.
pub(crate) fn run(shell: &Shell, workspace: &Workspace, flags: &Ci) -> Result<()> {
    let steps: Vec<_> = Step::value_variants()
        .iter()
        .copied()
        .filter(|step| flags.steps.is_empty() || flags.steps.contains(step))
        .collect();
    let rows = walk(&steps, flags.keep_going, |step| {
        eprintln!("\n== {}", name(step));
        perform(step, shell, workspace)
    });
    println!("\n{}", summary(&rows));
    let failed: Vec<_> = rows
        .iter()
        .filter(|row| matches!(row.ended, Some((Err(_), _))))
        .map(|row| name(row.step))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    bail!(
        "failed: {0}; run `cargo xtask ci {0}` again after mending",
        failed.join(" ")
    );
}

fn walk(
    steps: &[Step],
    keep_going: bool,
    mut perform: impl FnMut(Step) -> Result<Finish>,
) -> Vec<Row> {
    let mut stopped = false;
    let mut rows = Vec::new();
    for &step in steps {
        if stopped {
            rows.push(Row { step, ended: None });
            continue;
        }
        let start = Instant::now();
        let ended = perform(step);
        if let Err(error) = &ended {
            eprintln!("{} failed: {error:#}", name(step));
            stopped = !keep_going;
        }
        rows.push(Row {
            step,
            ended: Some((ended, start.elapsed())),
        });
    }
    rows
}

fn perform(step: Step, shell: &Shell, workspace: &Workspace) -> Result<Finish> {
    match step {
        Step::Fmt => fmt(shell),
        Step::Clippy => clippy(shell),
        Step::Test => test(shell),
        Step::Doctest => doctest(shell),
        Step::Docs => docs(shell),
        Step::Layers => layers::run(workspace).map(|()| Finish::Passed),
        Step::Tidy => tidy::run(workspace).map(|()| Finish::Passed),
        Step::Features => features(shell, workspace),
        Step::Examples => examples(shell, workspace),
        Step::Conformance => sdks(shell, workspace),
        Step::Deny => deny(shell),
        Step::Advisories => advisories(shell),
    }
}

const EVERYTHING: [&str; 3] = ["--locked", "--workspace", "--all-features"];

fn fmt(shell: &Shell) -> Result<Finish> {
    if !tool::has_subcommand(shell, "fmt") {
        bail!("rustfmt is not installed; `rustup component add rustfmt`");
    }
    tool::cargo(shell)
        .args(["fmt", "--all", "--check"])
        .run()
        .context("run `cargo fmt --all`")?;
    Ok(Finish::Passed)
}

fn clippy(shell: &Shell) -> Result<Finish> {
    if !tool::has_subcommand(shell, "clippy") {
        bail!("clippy is not installed; `rustup component add clippy`");
    }
    tool::cargo(shell)
        .arg("clippy")
        .args(EVERYTHING)
        .args(["--all-targets", "--", "-D", "warnings"])
        .run()
        .context("mend the lints above; an exception takes `#[expect(lint, reason = \"…\")]`")?;
    Ok(Finish::Passed)
}

fn test(shell: &Shell) -> Result<Finish> {
    if tool::has_subcommand(shell, "nextest") {
        tool::cargo(shell)
            .args(["nextest", "run"])
            .args(EVERYTHING)
            .run()?;
        return Ok(Finish::Passed);
    }
    tool::cargo(shell)
        .arg("test")
        .args(EVERYTHING)
        .args(["--lib", "--bins", "--tests", "--examples"])
        .run()?;
    Ok(Finish::Partly(
        "cargo-nextest is not installed: `cargo test` ran the same tests, without a process for each".to_owned(),
    ))
}

fn doctest(shell: &Shell) -> Result<Finish> {
    tool::cargo(shell)
        .args(["test", "--doc"])
        .args(EVERYTHING)
        .run()?;
    Ok(Finish::Passed)
}

fn docs(shell: &Shell) -> Result<Finish> {
    tool::cargo(shell)
        .args(["doc", "--no-deps"])
        .args(EVERYTHING)
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()?;
    Ok(Finish::Passed)
}

/// `cargo xtask check-features`.
pub(crate) fn check_features(shell: &Shell, workspace: &Workspace) -> Result<()> {
    if let Finish::Partly(what) = features(shell, workspace)? {
        println!("{what}");
    }
    Ok(())
}

/// Each crate with features is built with each set of at most two of them.
fn features(shell: &Shell, workspace: &Workspace) -> Result<Finish> {
    if !tool::has_subcommand(shell, "hack") {
        alone(shell, workspace)?;
        return Ok(Finish::Partly(
            "no two features together: cargo-hack is not installed: `cargo install --locked cargo-hack`"
                .to_owned(),
        ));
    }
    let packages = workspace
        .under("crates")
        .filter(|package| !features_of(package).is_empty());
    let packages = packages.flat_map(|package| ["--package", &package.name]);
    tool::cargo(shell)
        .args([
            "hack",
            "check",
            "--locked",
            "--feature-powerset",
            "--depth",
            "2",
        ])
        .args(packages)
        .run()
        .context("a set of features does not build")?;
    Ok(Finish::Passed)
}

/// Without any, then with each alone.
fn alone(shell: &Shell, workspace: &Workspace) -> Result<()> {
    let mut passed = 0;
    for package in workspace.under("crates") {
        for feature in features_of(package) {
            let what = match feature {
                Some(feature) => format!("{} with the feature {feature} alone", package.name),
                None => format!("{} without features", package.name),
            };
            tool::cargo(shell)
                .args([
                    "check",
                    "--locked",
                    "--package",
                    &package.name,
                    "--no-default-features",
                ])
                .args(feature.iter().flat_map(|feature| ["--features", feature]))
                .run()
                .with_context(|| format!("{what} does not build"))?;
            passed += 1;
        }
    }
    println!("features: {passed} combinations build");
    Ok(())
}

/// None, then each; nothing at all for a crate that has no features, which the other steps have built.
fn features_of(package: &Package) -> Vec<Option<&str>> {
    let each: Vec<_> = package
        .features
        .keys()
        .filter(|feature| *feature != "default")
        .map(|feature| Some(feature.as_str()))
        .collect();
    if each.is_empty() {
        each
    } else {
        [vec![None], each].concat()
    }
}

/// Runs every program in `examples/`. They need no account, so no key is in their environment.
fn examples(shell: &Shell, workspace: &Workspace) -> Result<Finish> {
    let keys: Vec<_> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| name.to_str().is_some_and(|name| name.ends_with("_API_KEY")))
        .collect();
    let mut ran = 0;
    for package in workspace.under("examples") {
        for target in &package.targets {
            let flag = match target.kind.first().map(String::as_str) {
                Some("bin") => "--bin",
                Some("example") => "--example",
                _ => continue,
            };
            let mut run = tool::cargo(shell)
                .args(["run", "--quiet", "--locked"])
                .args(["--package", &package.name, flag, &target.name]);
            for key in &keys {
                run = run.env_remove(key);
            }
            run.run().with_context(|| {
                format!("the example {} of {} failed", target.name, package.name)
            })?;
            ran += 1;
        }
    }
    if ran == 0 {
        return Ok(Finish::LeftOut(
            "there are no packages in examples/".to_owned(),
        ));
    }
    println!("examples: {ran} ran");
    Ok(Finish::Passed)
}

/// The vendors' packages, where there is a Python to run them; installing them needs their registry.
fn sdks(shell: &Shell, workspace: &Workspace) -> Result<Finish> {
    if let Some(missing) = conformance::missing_tool(shell) {
        return Ok(Finish::LeftOut(missing.to_owned()));
    }
    conformance::run(shell, workspace, &Conformance { names: Vec::new() })?;
    Ok(Finish::Passed)
}

const NO_DENY: &str = "cargo-deny is not installed: `cargo install --locked cargo-deny`";

fn deny(shell: &Shell) -> Result<Finish> {
    if !tool::has_subcommand(shell, "deny") {
        return Ok(Finish::LeftOut(NO_DENY.to_owned()));
    }
    tool::cargo(shell)
        .args(["deny", "--locked", "check", "licenses", "bans", "sources"])
        .run()
        .context("change the dependency, or add the exception and its reason to deny.toml")?;
    Ok(Finish::Passed)
}

/// The database is fetched by a command of its own: a failure there says nothing about our dependencies, while any
/// failure of the check that follows does.
fn advisories(shell: &Shell) -> Result<Finish> {
    if !tool::has_subcommand(shell, "deny") {
        return Ok(Finish::LeftOut(NO_DENY.to_owned()));
    }
    let fetch = tool::cargo(shell)
        .args(["deny", "--locked", "fetch", "db"])
        .ignore_status()
        .output()?;
    if !fetch.status.success() {
        let stderr = String::from_utf8_lossy(&fetch.stderr);
        eprint!("{stderr}");
        if is_unreachable(&stderr) {
            return Ok(Finish::LeftOut(
                "the advisory database could not be fetched, see above".to_owned(),
            ));
        }
        bail!("cargo-deny refused to start, see above; mend deny.toml");
    }
    // Offline, so that this run judges the database just fetched and cannot fail for lack of a network; that needs the
    // crates here, those for other systems too.
    tool::cargo(shell).args(["fetch", "--locked"]).run()?;
    tool::cargo(shell)
        .args(["deny", "--frozen", "check", "advisories"])
        .run()
        .context("update the dependency, or add the advisory and the reason why it does not matter to deny.toml")?;
    Ok(Finish::Passed)
}

/// Whether the fetch failed for lack of the database, rather than for what deny.toml says.
fn is_unreachable(stderr: &str) -> bool {
    stderr.contains("failed to fetch")
}

fn name(step: Step) -> String {
    step.to_possible_value()
        .map(|value| value.get_name().to_owned())
        .unwrap_or_default()
}

fn summary(rows: &[Row]) -> String {
    let mut lines = vec![format!(
        "{:<11} {:<8} {:>7}  left out",
        "step", "result", "seconds"
    )];
    for row in rows {
        let (result, left_out) = match &row.ended {
            None => ("not run", "an earlier step failed"),
            Some((Err(_), _)) => ("FAILED", ""),
            Some((Ok(Finish::Passed), _)) => ("passed", ""),
            Some((Ok(Finish::Partly(what)), _)) => ("passed", what.as_str()),
            Some((Ok(Finish::LeftOut(what)), _)) => ("left out", what.as_str()),
        };
        let seconds = row.ended.as_ref().map_or_else(
            || "-".to_owned(),
            |(_, took)| format!("{:.1}", took.as_secs_f64()),
        );
        let line = format!(
            "{:<11} {result:<8} {seconds:>7}  {left_out}",
            name(row.step)
        );
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [Step; 3] = [Step::Fmt, Step::Test, Step::Deny];

    fn second_fails(step: Step) -> Result<Finish> {
        match step {
            Step::Test => bail!("a test failed"),
            Step::Deny => Ok(Finish::LeftOut("no tool".to_owned())),
            _ => Ok(Finish::Passed),
        }
    }

    /// The words of the summary, seconds left out.
    fn results(keep_going: bool) -> Vec<String> {
        summary(&walk(&STEPS, keep_going, second_fails))
            .lines()
            .skip(1)
            .map(|line| {
                let words: Vec<_> = line
                    .split_whitespace()
                    .filter(|word| word.parse::<f64>().is_err())
                    .collect();
                words.join(" ")
            })
            .collect()
    }

    #[test]
    fn the_first_failure_ends_the_run() {
        assert_eq!(
            results(false),
            [
                "fmt passed",
                "test FAILED",
                "deny not run - an earlier step failed"
            ]
        );
    }

    #[test]
    fn keep_going_runs_the_rest() {
        assert_eq!(
            results(true),
            ["fmt passed", "test FAILED", "deny left out no tool"]
        );
    }

    #[test]
    fn a_partial_pass_says_what_is_missing() {
        let rows = walk(&[Step::Test], false, |_| {
            Ok(Finish::Partly("no nextest".to_owned()))
        });
        let summary = summary(&rows);
        assert!(
            summary.contains("passed") && summary.contains("no nextest"),
            "{summary}"
        );
    }

    #[test]
    fn only_a_missing_database_is_excused() {
        assert!(is_unreachable(
            "[ERROR] failed to fetch database: failed to fetch advisory database https://… with cli: failed to clone"
        ));
        assert!(!is_unreachable(
            "[ERROR] failed to validate configuration file deny.toml"
        ));
    }

    #[test]
    fn steps_run_in_the_documented_order() {
        let names: Vec<_> = Step::value_variants()
            .iter()
            .map(|step| name(*step))
            .collect();
        assert_eq!(
            names.join(" "),
            "fmt clippy test doctest docs layers tidy features examples conformance deny advisories"
        );
    }
}
