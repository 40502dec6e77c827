//! What `cargo metadata` says about our own crates.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use xshell::Shell;

use crate::tool;

/// The workspace: its root and its members, sorted by name.
#[derive(Debug, Deserialize)]
#[non_exhaustive]
pub struct Workspace {
    /// The folder of the root manifest.
    #[serde(rename = "workspace_root")]
    pub root: PathBuf,
    /// Where cargo builds.
    #[serde(rename = "target_directory")]
    pub target: PathBuf,
    /// The members.
    pub packages: Vec<Package>,
}

/// One member.
#[derive(Debug, Deserialize)]
#[non_exhaustive]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its manifest, absolute.
    pub manifest_path: PathBuf,
    /// What it declares, other people's crates included.
    pub dependencies: Vec<Dependency>,
    /// What it builds.
    pub targets: Vec<Target>,
    /// Its features, each with what it turns on.
    pub features: std::collections::BTreeMap<String, Vec<String>>,
    /// The registries it may go to: all when absent, none when empty (`publish = false`).
    publish: Option<Vec<String>>,
}

/// One line under `[dependencies]`, `[build-dependencies]` or `[dev-dependencies]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Dependency {
    /// The package's own name, whatever it is renamed to.
    pub name: String,
    /// Which table it stands in.
    #[serde(default, deserialize_with = "kind")]
    pub kind: Kind,
    /// The version asked for; `*` when only a path is given.
    #[serde(default)]
    pub req: String,
}

/// The table a dependency stands in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "cargo has these three tables")]
pub enum Kind {
    /// `[dependencies]`, optional ones included.
    #[default]
    Normal,
    /// `[build-dependencies]`.
    Build,
    /// `[dev-dependencies]`.
    Dev,
}

fn kind<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
    Ok(
        match Option::<String>::deserialize(deserializer)?.as_deref() {
            Some("dev") => Kind::Dev,
            Some("build") => Kind::Build,
            _ => Kind::Normal,
        },
    )
}

/// Something a package builds.
#[derive(Debug, Deserialize)]
#[non_exhaustive]
pub struct Target {
    /// Its name.
    pub name: String,
    /// `lib`, `bin`, `example`, `test`, …
    pub kind: Vec<String>,
}

impl Dependency {
    /// A dependency on `name` from the table `kind`, without a version.
    pub fn new(name: &str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            req: "*".to_owned(),
        }
    }
}

impl Package {
    /// Where it lives, relative to `root`.
    #[must_use]
    pub fn folder<'a>(&'a self, root: &Path) -> &'a Path {
        let folder = self.manifest_path.parent().unwrap_or(&self.manifest_path);
        folder.strip_prefix(root).unwrap_or(folder)
    }

    /// Whether it may go to a registry.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.publish
            .as_ref()
            .is_none_or(|registries| !registries.is_empty())
    }
}

impl Workspace {
    /// Asks cargo, from the shell's current folder.
    ///
    /// # Errors
    ///
    /// When cargo cannot read the manifests or `Cargo.lock` would have to change; cargo's own words are on stderr.
    pub fn load(shell: &Shell) -> Result<Self> {
        let json = tool::cargo(shell)
            .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
            .quiet()
            .read()
            .context("reading the workspace failed; mend the manifest cargo names above")?;
        let mut workspace: Self =
            serde_json::from_str(&json).context("`cargo metadata` has an unexpected shape")?;
        workspace
            .packages
            .sort_by(|one, other| one.name.cmp(&other.name));
        Ok(workspace)
    }

    /// The member called `name`.
    #[must_use]
    pub fn package(&self, name: &str) -> Option<&Package> {
        self.packages.iter().find(|package| package.name == name)
    }

    /// The members below the folder `folder` of the root, such as `crates`.
    pub fn under<'a>(&'a self, folder: &'a str) -> impl Iterator<Item = &'a Package> {
        self.packages
            .iter()
            .filter(move |package| package.folder(&self.root).starts_with(folder))
    }
}
