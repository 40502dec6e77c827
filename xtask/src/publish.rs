//! `cargo xtask publish`: the crates in dependency order.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use xshell::{Shell, cmd};

use crate::flags::Publish;
use crate::workspace::{Package, Workspace};
use crate::{release, tool};

/// Prints the order, then packs and builds every crate, and without `--dry-run` uploads them.
pub(crate) fn run(shell: &Shell, workspace: &Workspace, flags: &Publish) -> Result<()> {
    let published: Vec<_> = workspace
        .packages
        .iter()
        .filter(|package| package.is_published())
        .map(|package| Node {
            name: package.name.as_str(),
            needs: needs(package),
        })
        .collect();
    let order = order(&published)?;
    for name in &order {
        println!("{name}");
    }
    let names = order.iter().flat_map(|name| ["--package", name]);
    let publish = tool::cargo(shell).args(["publish", "--locked"]).args(names);
    if flags.dry_run {
        publish.arg("--dry-run").run()?;
        return Ok(());
    }
    check_released(shell, workspace)?;
    publish.run()?;
    Ok(())
}

/// What goes out is what was released: version, changelog and tag agree, and the tag is here.
fn check_released(shell: &Shell, workspace: &Workspace) -> Result<()> {
    let Some(core) = workspace.package("batchwright-core") else {
        bail!("the workspace has no batchwright-core to take the version from");
    };
    let version = core.version.as_str();
    if !release::is_dated(&shell.read_file("CHANGELOG.md")?, version) {
        bail!(
            "CHANGELOG.md has no dated section for {version}; run `cargo xtask release {version}`"
        );
    }
    let tag = release::tag(version);
    let tags = cmd!(shell, "git tag --points-at HEAD").quiet().read()?;
    if !tags.lines().any(|it| it == tag) {
        bail!(
            "HEAD is not tagged {tag}; check out the tag, or run `cargo xtask release {version}`"
        );
    }
    Ok(())
}

/// A crate and what must be at the registry before it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// The names it needs; those that are not ours are passed over.
    pub needs: BTreeSet<&'a str>,
}

impl<'a> Node<'a> {
    /// The crate `name`, which needs `needs`.
    pub fn new(name: &'a str, needs: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            name,
            needs: needs.into_iter().collect(),
        }
    }
}

/// A dev-dependency by path alone has no version to look up, and is dropped when the crate is packed.
fn needs(package: &Package) -> BTreeSet<&str> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.req != "*")
        .map(|dependency| dependency.name.as_str())
        .collect()
}

/// The names so that each comes after what it needs; by name where that leaves a choice.
///
/// # Errors
///
/// When crates need each other in a circle.
pub fn order<'a>(nodes: &[Node<'a>]) -> Result<Vec<&'a str>> {
    let mut waiting: BTreeSet<&str> = nodes.iter().map(|node| node.name).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while !waiting.is_empty() {
        let ready = nodes
            .iter()
            .filter(|node| waiting.contains(node.name) && waiting.is_disjoint(&node.needs))
            .map(|node| node.name)
            .min();
        let Some(ready) = ready else {
            let circle = waiting.into_iter().collect::<Vec<_>>().join(", ");
            bail!(
                "these crates need each other in a circle: {circle}; give a dev-dependency among them no version"
            );
        };
        waiting.remove(ready);
        order.push(ready);
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_after_what_it_needs() {
        let nodes = [
            Node::new("facade", ["router", "core", "serde"]),
            Node::new("core", ["serde"]),
            Node::new("router", ["core"]),
            Node::new("emulator", []),
        ];
        assert_eq!(
            order(&nodes).unwrap(),
            ["core", "emulator", "router", "facade"]
        );
    }

    #[test]
    fn a_circle_is_named() {
        let nodes = [
            Node::new("a", ["b"]),
            Node::new("b", ["a"]),
            Node::new("c", []),
        ];
        let error = order(&nodes).unwrap_err().to_string();
        assert!(error.contains("a, b") && !error.contains("c,"), "{error}");
    }

    #[test]
    fn the_workspace_has_an_order_that_ends_with_the_command() {
        let workspace = Workspace::load(&Shell::new().unwrap()).unwrap();
        let nodes: Vec<_> = workspace
            .packages
            .iter()
            .filter(|package| package.is_published())
            .map(|package| Node {
                name: &package.name,
                needs: needs(package),
            })
            .collect();
        let order = order(&nodes).unwrap();
        let at = |name| order.iter().position(|it| *it == name);
        assert!(at("batchwright-core") < at("batchwright-router"));
        assert!(at("batchwright") < at("batchwright-cli"));
        assert_eq!(at("xtask"), None, "xtask is not published");
    }
}
