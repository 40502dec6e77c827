//! `cargo xtask release`: version, changelog date, commit, tag, in that order.
//!
//! Each part looks at what is already there, so a run that was interrupted is finished by running it again.

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use crate::flags::Release;
use crate::tool;
use crate::workspace::Workspace;

/// The heading of the changes that are in no release yet.
pub const UNRELEASED: &str = "## Unreleased";

/// The tag of a version.
#[must_use]
pub fn tag(version: &str) -> String {
    format!("v{version}")
}

/// Releases the version named, or says what it would do.
pub(crate) fn run(shell: &Shell, workspace: &Workspace, flags: &Release) -> Result<()> {
    let version = flags.version.as_str();
    let current = workspace
        .package("batchwright-core")
        .map(|package| package.version.as_str())
        .context("the workspace has no batchwright-core to take the current version from")?;
    if parse(version)? < parse(current)? {
        bail!("{version} is older than {current}, the version in Cargo.toml; name a newer one");
    }
    let changes = cmd!(shell, "git status --porcelain").quiet().read()?;
    if !changes.is_empty() {
        bail!("the tree has changes; commit or discard them first:\n{changes}");
    }
    let tag = tag(version);
    if !cmd!(shell, "git tag --list {tag}")
        .quiet()
        .read()?
        .is_empty()
    {
        let commit = cmd!(shell, "git rev-list -n 1 {tag}").quiet().read()?;
        if current == version {
            println!("{tag} is already released, at commit {commit}; nothing to do");
            return Ok(());
        }
        bail!(
            "the tag {tag} exists at commit {commit}, but Cargo.toml says {current}; name another version"
        );
    }

    let manifest = shell.read_file("Cargo.toml")?;
    let changelog = shell.read_file("CHANGELOG.md")?;
    let today = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    let new_manifest = with_version(&manifest, version)?;
    let new_changelog = with_dated(&changelog, version, &today)?;

    let is_new = new_manifest != manifest || new_changelog != changelog;
    if flags.dry_run {
        if is_new {
            println!("would set the version in Cargo.toml and Cargo.lock: {current} -> {version}");
            println!("would date the changelog: ## {version} - {today}");
            println!("would commit: {}", message(version));
        }
        println!("would tag: {tag}");
        return Ok(());
    }
    if is_new {
        shell.write_file("Cargo.toml", new_manifest)?;
        shell.write_file("CHANGELOG.md", new_changelog)?;
        tool::cargo(shell)
            .args(["update", "--workspace"])
            .run()
            .context("Cargo.lock is not updated; `git checkout .` undoes the edits made so far")?;
        let message = message(version);
        cmd!(
            shell,
            "git commit --quiet -m {message} -- Cargo.toml Cargo.lock CHANGELOG.md"
        )
        .run()?;
    }
    cmd!(shell, "git tag --annotate {tag} -m {tag}").run()?;
    println!(
        "{tag} is committed and tagged here; next: `git push --follow-tags`, then `cargo xtask publish`"
    );
    Ok(())
}

fn message(version: &str) -> String {
    format!("workspace: release {version}")
}

/// `1.2.3` or `1.2.3-rc.1` as something that sorts: a pre-release before its release.
fn parse(version: &str) -> Result<(Vec<u64>, bool, String)> {
    let (numbers, pre) = match version.split_once('-') {
        Some((numbers, pre)) => (numbers, pre),
        None => (version, ""),
    };
    let parsed: Option<Vec<u64>> = numbers
        .split('.')
        .map(|number| number.parse().ok())
        .collect();
    let is_plain = pre
        .chars()
        .all(|it| it.is_ascii_alphanumeric() || it == '.' || it == '-');
    match parsed {
        Some(numbers) if numbers.len() == 3 && is_plain && !version.ends_with('-') => {
            Ok((numbers, pre.is_empty(), pre.to_owned()))
        }
        _ => bail!("{version} is no version; write it as 1.2.3 or 1.2.3-rc.1"),
    }
}

/// The root manifest with `version` for the workspace and for each of our crates among its dependencies.
///
/// Edited as text, line by line, so that comments and layout stay.
///
/// # Errors
///
/// When `[workspace.package]` has no version.
pub fn with_version(manifest: &str, version: &str) -> Result<String> {
    let mut section = "";
    let mut is_set = false;
    let mut edited = String::with_capacity(manifest.len());
    for line in manifest.split_inclusive('\n') {
        let trimmed = line.trim();
        if trimmed.starts_with('[') && trimmed.ends_with(']') {
            section = trimmed;
        }
        let is_package = section == "[workspace.package]" && trimmed.starts_with("version =");
        let is_ours = section == "[workspace.dependencies]"
            && trimmed.starts_with("batchwright")
            && trimmed.contains("path =");
        if is_package || is_ours {
            edited.push_str(&with_version_line(line, version));
            is_set |= is_package;
        } else {
            edited.push_str(line);
        }
    }
    if !is_set {
        bail!("Cargo.toml has no `version = …` below [workspace.package]; add it");
    }
    Ok(edited)
}

/// The line with the string after its `version =` replaced; as it is when there is none.
fn with_version_line(line: &str, version: &str) -> String {
    let replaced = line.split_once("version =").and_then(|(before, after)| {
        let (space, after) = after.split_once('"')?;
        let (_, after) = after.split_once('"')?;
        Some(format!("{before}version ={space}\"{version}\"{after}"))
    });
    replaced.unwrap_or_else(|| line.to_owned())
}

/// The changelog with everything under Unreleased moved below a heading for `version`, dated `date`.
///
/// As it is when the version has a heading already.
///
/// # Errors
///
/// When there is no Unreleased section, or nothing in it.
pub fn with_dated(changelog: &str, version: &str, date: &str) -> Result<String> {
    if is_dated(changelog, version) {
        return Ok(changelog.to_owned());
    }
    let mut lines = changelog.lines();
    let mut before = Vec::new();
    if !lines.by_ref().any(|line| {
        before.push(line);
        line == UNRELEASED
    }) {
        bail!("CHANGELOG.md has no line `{UNRELEASED}`; add it above the newest version");
    }
    let after: Vec<_> = lines.skip_while(|line| line.trim().is_empty()).collect();
    if after.first().is_none_or(|line| line.starts_with("## ")) {
        bail!("CHANGELOG.md has nothing under `{UNRELEASED}`; say what changes for a user");
    }
    Ok(format!(
        "{}\n\n## {version} - {date}\n\n{}\n",
        before.join("\n"),
        after.join("\n")
    ))
}

/// Whether the changelog has a dated heading for `version`.
#[must_use]
pub fn is_dated(changelog: &str, version: &str) -> bool {
    let heading = format!("## {version} - ");
    changelog.lines().any(|line| line.starts_with(&heading))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"[workspace]
members = ["crates/*"]

[workspace.package]
version = "0.1.0" # One for all.
rust-version = "1.95"

[workspace.dependencies]
serde = { version = "0.1.0" }

# local
batchwright = { path = "crates/batchwright", version = "0.1.0", default-features = false }
batchwright-core = { version = "0.1.0", path = "crates/batchwright-core" }
batchwright-router = { path = "crates/batchwright-router" }

[profile.dev]
debug = "line-tables-only"
"#;

    #[test]
    fn only_our_versions_change() {
        let edited = with_version(MANIFEST, "0.2.0-rc.1").unwrap();
        let changed: Vec<_> = MANIFEST
            .lines()
            .zip(edited.lines())
            .filter(|(old, new)| old != new)
            .map(|(_, new)| new)
            .collect();
        assert_eq!(
            changed,
            [
                r#"version = "0.2.0-rc.1" # One for all."#,
                r#"batchwright = { path = "crates/batchwright", version = "0.2.0-rc.1", default-features = false }"#,
                r#"batchwright-core = { version = "0.2.0-rc.1", path = "crates/batchwright-core" }"#,
            ]
        );
        assert_eq!(
            with_version(&edited, "0.1.0").unwrap(),
            MANIFEST,
            "and back"
        );
    }

    #[test]
    fn the_real_manifest_is_understood() {
        let manifest = std::fs::read_to_string("../Cargo.toml").unwrap();
        let edited = with_version(&manifest, "98.7.6").unwrap();
        let edited: toml::Table = edited.parse().unwrap();
        let workspace = &edited["workspace"];
        assert_eq!(workspace["package"]["version"].as_str(), Some("98.7.6"));
        let ours: Vec<_> = workspace["dependencies"]
            .as_table()
            .unwrap()
            .iter()
            .filter(|(_, dependency)| dependency.get("path").is_some())
            .collect();
        assert!(!ours.is_empty());
        for (name, dependency) in ours {
            if let Some(version) = dependency.get("version") {
                assert_eq!(version.as_str(), Some("98.7.6"), "{name}");
            }
        }
    }

    #[test]
    fn a_manifest_without_a_version_is_refused() {
        assert!(with_version("[workspace]\nversion = \"0.1.0\"\n", "0.2.0").is_err());
    }

    #[test]
    fn unreleased_entries_move_below_a_dated_heading() {
        let dated = with_dated(
            "# Changelog\n\n## Unreleased\n\n- core: new.\n\n## 0.1.0 - 2026-01-01\n\n- core: old.\n",
            "0.2.0",
            "2026-02-03",
        )
        .unwrap();
        assert_eq!(
            dated,
            "# Changelog\n\n## Unreleased\n\n## 0.2.0 - 2026-02-03\n\n- core: new.\n\n## 0.1.0 - 2026-01-01\n\n- core: old.\n"
        );
        assert_eq!(
            with_dated(&dated, "0.2.0", "2026-12-31").unwrap(),
            dated,
            "twice is once"
        );
        assert!(
            with_dated(&dated, "0.3.0", "2026-12-31").is_err(),
            "nothing new to release"
        );
    }

    #[test]
    fn a_changelog_without_news_is_refused() {
        for text in [
            "",
            "# Changelog\n",
            "## Unreleased\n",
            "## Unreleased\n\n\n## 0.1.0 - 2026-01-01\n",
        ] {
            assert!(with_dated(text, "0.2.0", "2026-02-03").is_err(), "{text:?}");
        }
    }

    #[test]
    fn versions_sort() {
        let parse = |version| parse(version).unwrap();
        assert!(parse("0.2.0") < parse("0.10.0"));
        assert!(parse("1.0.0-rc.1") < parse("1.0.0"));
        assert!(parse("0.9.9") < parse("1.0.0-rc.1"));
        assert!(parse("0.1.0") == parse("0.1.0"));
    }

    #[test]
    fn other_words_are_no_versions() {
        for word in [
            "",
            "1",
            "1.2",
            "1.2.x",
            "v1.2.3",
            "1.2.3-",
            "1.2.3.4",
            "1.2.3-a b",
            "-1.2.3",
        ] {
            assert!(parse(word).is_err(), "{word:?}");
        }
    }
}
