//! `cargo xtask tidy`: what no linter knows.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::workspace::{Kind, Package, Workspace};

/// The files every provider has under `src`.
const PROVIDER_NEEDS: &[&str] = &[
    "lib", "config", "builder", "provider", "client", "wire", "convert", "error",
];
/// The files a provider has when its vendor needs them; any other name has strayed.
const PROVIDER_MAY: &[&str] = &[
    "batch", "realtime", "stream", "models", "dialect", "auth", "storage",
];
/// The files of a provider that is a preset over another one's protocol.
const PRESET_NEEDS: &[&str] = &["lib", "dialect"];
const PRESET_MAY: &[&str] = &["config", "builder"];

/// Left behind by an unfinished change.
const LEFTOVERS: &[&str] = &["todo!(", "unimplemented!("];
/// Somebody's own machine.
const HOMES: &[&str] = &["/home/", "/root/", "/Users/", "C:\\Users\\"];

/// The files in which homes are looked for.
const TEXT: &[&str] = &["rs", "toml", "md", "json", "jsonl"];

/// Every finding in the workspace, one sentence each; empty when it is tidy.
///
/// # Errors
///
/// When a file cannot be read.
pub fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in workspace.under("crates") {
        let root = package
            .manifest_path
            .parent()
            .context("a manifest lies in a folder")?;
        check_crate(root, package, &mut findings)?;
        if package.name.starts_with("batchwright-provider-") {
            let sources = file_names(&root.join("src"))?;
            let sources: Vec<_> = sources.iter().map(String::as_str).collect();
            let is_preset = package.dependencies.iter().any(|dependency| {
                dependency.kind == Kind::Normal && dependency.name == "batchwright-provider-openai"
            });
            findings.extend(check_provider(&package.name, is_preset, &sources));
            if !root.join("tests/conformance.rs").is_file() {
                findings.push(format!(
                    "{} has no tests/conformance.rs, which proves it against the emulator as the router uses it",
                    package.name
                ));
            }
        }
        for file in text_files(root)? {
            let text = fs::read_to_string(&file)
                .with_context(|| format!("reading {} failed", file.display()))?;
            let shown = file
                .strip_prefix(&workspace.root)
                .unwrap_or(&file)
                .display()
                .to_string();
            let is_source = file.extension().is_some_and(|extension| extension == "rs");
            findings.extend(check_text(&shown, is_source, &text));
        }
    }
    findings.extend(check_members(workspace)?);
    findings.extend(check_changelog(&fs::read_to_string(
        workspace.root.join("CHANGELOG.md"),
    )?));
    Ok(findings)
}

/// Every folder in `crates/` is a member, so that nothing lies there unbuilt and unjudged.
fn check_members(workspace: &Workspace) -> Result<Vec<String>> {
    let members: Vec<_> = workspace
        .under("crates")
        .map(|package| package.folder(&workspace.root))
        .collect();
    Ok(file_names(&workspace.root.join("crates"))?
        .into_iter()
        .map(|name| Path::new("crates").join(name))
        .filter(|folder| !members.contains(&folder.as_path()))
        .map(|folder| format!("{} is no member of the workspace", folder.display()))
        .collect())
}

fn check_crate(root: &Path, package: &Package, findings: &mut Vec<String>) -> Result<()> {
    let name = package.name.as_str();
    let folder = root.file_name().unwrap_or_default();
    if folder != name {
        findings.push(format!(
            "the folder crates/{} holds the crate {name}; give both the same name",
            folder.display()
        ));
    }

    let manifest: toml::Table = fs::read_to_string(&package.manifest_path)?.parse()?;
    if !inherits_lints(&manifest) {
        findings.push(format!(
            "{name} does not set `lints.workspace = true` in its manifest"
        ));
    }

    let mut entry_points = ["src/lib.rs", "src/main.rs"]
        .into_iter()
        .map(|file| root.join(file))
        .filter(|it| it.is_file());
    let is_documented = match entry_points.next() {
        Some(file) => starts_with_docs(&fs::read_to_string(file)?),
        None => false,
    };
    if !is_documented && !root.join("README.md").is_file() {
        findings.push(format!(
            "{name} says nowhere what it is; add a README.md, or `//!` as the first line of its lib.rs or main.rs"
        ));
    }
    Ok(())
}

fn inherits_lints(manifest: &toml::Table) -> bool {
    manifest
        .get("lints")
        .and_then(|lints| lints.get("workspace"))
        .and_then(toml::Value::as_bool)
        == Some(true)
}

fn starts_with_docs(source: &str) -> bool {
    source.starts_with("//!") || source.starts_with("#![doc")
}

/// Judges the entries of a provider's `src`: the next one must be as boring as the last.
///
/// A module may be a file or a folder, or both when its submodules or tests lie in the folder.
#[must_use]
pub fn check_provider(name: &str, is_preset: bool, entries: &[&str]) -> Vec<String> {
    let (needs, may) = if is_preset {
        (PRESET_NEEDS, PRESET_MAY)
    } else {
        (PROVIDER_NEEDS, PROVIDER_MAY)
    };
    let modules: Vec<_> = entries
        .iter()
        .map(|entry| entry.strip_suffix(".rs").unwrap_or(entry))
        .collect();
    let missing = needs
        .iter()
        .filter(|needed| !modules.contains(needed))
        .map(|needed| format!("{name} has no src/{needed}.rs, which every provider has"));
    let strayed = entries
        .iter()
        .zip(&modules)
        .filter(|(_, module)| !needs.contains(module) && !may.contains(module))
        .map(|(entry, _)| {
            format!(
                "{name} has src/{entry}, which no other provider has; use {}, {}, or a submodule of one",
                needs.join(", "),
                may.join(", ")
            )
        });
    missing.chain(strayed).collect()
}

/// Judges one file's text; `shown` is its path in the findings.
#[must_use]
pub fn check_text(shown: &str, is_source: bool, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if is_source && let Some(leftover) = LEFTOVERS.iter().find(|it| line.contains(**it)) {
            findings.push(format!(
                "{shown}:{number}: finish what `{leftover}…)` stands for"
            ));
        }
        if let Some(home) = HOMES.iter().find(|home| line.contains(**home)) {
            findings.push(format!(
                "{shown}:{number}: `{home}…` is on somebody's own machine; use a relative path or a temporary folder"
            ));
        }
    }
    findings
}

/// Judges the changelog.
#[must_use]
pub fn check_changelog(text: &str) -> Option<String> {
    let has_unreleased = text.lines().any(|line| line == crate::release::UNRELEASED);
    (!has_unreleased).then(|| {
        format!(
            "CHANGELOG.md has no line `{}`; add it above the newest version",
            crate::release::UNRELEASED
        )
    })
}

fn file_names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let entries =
        fs::read_dir(folder).with_context(|| format!("listing {} failed", folder.display()))?;
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn text_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for name in file_names(folder)? {
        let path = folder.join(name);
        if path.is_dir() {
            files.extend(text_files(&path)?);
        } else if path
            .extension()
            .is_some_and(|it| TEXT.iter().any(|text| it == *text))
        {
            files.push(path);
        }
    }
    Ok(files)
}

/// Prints the findings; fails when there are any.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let findings = check(workspace)?;
    if findings.is_empty() {
        println!("tidy: {} crates", workspace.under("crates").count());
        return Ok(());
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    bail!("{} thing(s) to tidy, named above", findings.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lints_are_inherited_in_either_spelling_only() {
        let check = |manifest: &str| inherits_lints(&manifest.parse().unwrap());
        assert!(check("[lints]\nworkspace = true"));
        assert!(check("lints.workspace = true"));
        assert!(!check("[lints]\nworkspace = false"));
        assert!(!check("[lints.rust]\nunsafe_code = \"forbid\""));
        assert!(!check("[package]\nname = \"x\""));
    }

    #[test]
    fn docs_come_first() {
        assert!(starts_with_docs("//! What it is.\n"));
        assert!(starts_with_docs(
            "#![doc = include_str!(\"../README.md\")]\n"
        ));
        assert!(!starts_with_docs("mod a;\n//! Too late.\n"));
        assert!(!starts_with_docs("// Not a doc comment.\n"));
    }
}
