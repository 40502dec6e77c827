//! `cargo xtask layers`: a crate uses only rows below its own.
//!
//! ```text
//! row 6   batchwright-cli          xtask
//! row 5   batchwright
//! row 4   batchwright-pipeline
//! row 3   batchwright-router       batchwright-realtime
//! row 2   batchwright-provider-*   batchwright-ledger
//! row 1   batchwright-http
//! row 0   batchwright-core
//!
//! beside  batchwright-emulator     batchwright-testkit
//! above   batchwright-benches      examples/*
//! ```

use std::fmt;

use anyhow::{Result, bail};

use crate::workspace::{Dependency, Kind, Workspace};

/// Which row each crate stands in. A new crate is one line here, and one in the picture of `ARCHITECTURE.md`.
const ROWS: &[(u8, &str)] = &[
    (6, "batchwright-cli"),
    (6, "xtask"),
    (5, "batchwright"),
    (4, "batchwright-pipeline"),
    (3, "batchwright-router"),
    (3, "batchwright-realtime"),
    (2, "batchwright-ledger"),
    (1, "batchwright-http"),
    (0, "batchwright-core"),
];

/// Every crate with this prefix stands in the row of providers.
const PROVIDER_PREFIX: &str = "batchwright-provider-";
const PROVIDER_ROW: u8 = 2;

/// The provider whose protocol other services speak: their crates are presets over it.
const DIALECTS: &str = "batchwright-provider-openai";

const CORE: &str = "batchwright-core";
const EMULATOR: &str = "batchwright-emulator";
const TESTKIT: &str = "batchwright-testkit";
/// The pool, of whose strategies the test kit has a double for downstream programs.
const POOL: &str = "batchwright-realtime";
const BENCHES: &str = "batchwright-benches";

/// Who may start the emulator outside tests: the facade hands it out, the command runs it.
const EMULATOR_USERS: &[&str] = &["batchwright", "batchwright-cli"];

/// Where a crate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Row(u8),
    /// It must not share our bugs, so it uses nothing of ours.
    Emulator,
    /// What tests are made of: it may use what providers may, and the pool; only tests use it.
    Testkit,
    /// Benchmarks and examples: they use everything, and nothing uses them.
    Above,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row(row) => write!(formatter, "row {row}"),
            Self::Emulator | Self::Testkit => formatter.write_str("beside"),
            Self::Above => formatter.write_str("above"),
        }
    }
}

/// A crate as the rule sees it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Crate {
    /// Its name.
    pub name: String,
    /// Whether it is one of the programs in `examples/`, which may have any name.
    pub is_example: bool,
    /// What it declares; crates that are not ours are passed over.
    pub dependencies: Vec<Dependency>,
}

impl Crate {
    /// A crate outside `examples/`.
    #[must_use]
    pub fn new(name: &str, dependencies: Vec<Dependency>) -> Self {
        Self {
            name: name.to_owned(),
            is_example: false,
            dependencies,
        }
    }
}

/// The members of a workspace as the rule sees them.
#[must_use]
pub fn crates(workspace: &Workspace) -> Vec<Crate> {
    workspace
        .packages
        .iter()
        .map(|package| Crate {
            name: package.name.clone(),
            is_example: package.folder(&workspace.root).starts_with("examples"),
            dependencies: package.dependencies.clone(),
        })
        .collect()
}

/// Every breach of the rule, one sentence each; empty when the rule holds.
///
/// Normal and build dependencies are judged, optional ones included. Dev-dependencies are free, save core's: its tests
/// must not need what stands above it.
#[must_use]
pub fn check(crates: &[Crate]) -> Vec<String> {
    let place_of = |name: &str| {
        let is_example = crates
            .iter()
            .any(|krate| krate.name == name && krate.is_example);
        place(name, is_example)
    };
    let is_ours = |name: &str| {
        name.starts_with("batchwright")
            || place_of(name).is_some()
            || crates.iter().any(|krate| krate.name == name)
    };

    let mut breaches = Vec::new();
    for krate in crates {
        let from = krate.name.as_str();
        let Some(from_place) = place_of(from) else {
            breaches.push(unplaced(from));
            continue;
        };
        for dependency in &krate.dependencies {
            let to = dependency.name.as_str();
            if !is_ours(to) {
                continue;
            }
            if dependency.kind == Kind::Dev {
                if from == CORE {
                    breaches.push(format!(
                        "{from} has the dev-dependency {to}, but core's tests use none of our crates; move the test to {to}"
                    ));
                }
                continue;
            }
            let Some(to_place) = place_of(to) else {
                // A member without a place is reported once, where it is the subject.
                if !crates.iter().any(|krate| krate.name == to) {
                    breaches.push(format!("{from} uses {to}: {}", unplaced(to)));
                }
                continue;
            };
            if let Err(why) = judge((from, from_place), (to, to_place)) {
                breaches.push(format!(
                    "{from} ({from_place}) uses {to} ({to_place}): {why}"
                ));
            }
        }
    }
    breaches
}

fn place(name: &str, is_example: bool) -> Option<Place> {
    if is_example || name == BENCHES {
        return Some(Place::Above);
    }
    if name == EMULATOR {
        return Some(Place::Emulator);
    }
    if name == TESTKIT {
        return Some(Place::Testkit);
    }
    if name
        .strip_prefix(PROVIDER_PREFIX)
        .is_some_and(|vendor| !vendor.is_empty())
    {
        return Some(Place::Row(PROVIDER_ROW));
    }
    ROWS.iter()
        .find(|(_, known)| *known == name)
        .map(|(row, _)| Place::Row(*row))
}

fn judge(from: (&str, Place), to: (&str, Place)) -> Result<(), &'static str> {
    let (allowed, why) = match (from.1, to.1) {
        (_, Place::Above) => (false, "nothing uses a benchmark or an example"),
        (Place::Above, _) => return Ok(()),
        (Place::Emulator, _) => (
            false,
            "the emulator uses no other crate of ours, or it would share our bugs",
        ),
        (Place::Testkit, Place::Emulator) => return Ok(()),
        (Place::Testkit, Place::Row(to_row)) => (
            to_row < PROVIDER_ROW || to.0 == POOL,
            "the test kit must fit every provider, so it knows none; it uses rows below theirs, and the pool",
        ),
        (_, Place::Testkit) => (
            false,
            "only tests use the test kit; make it a dev-dependency",
        ),
        (Place::Row(_), Place::Emulator) => (
            EMULATOR_USERS.contains(&from.0),
            "outside tests only the facade and the command start the emulator; make it a dev-dependency",
        ),
        (Place::Row(PROVIDER_ROW), Place::Row(PROVIDER_ROW))
            if from.0.starts_with(PROVIDER_PREFIX) && to.0 == DIALECTS =>
        {
            return Ok(());
        }
        (Place::Row(from_row), Place::Row(to_row)) => (
            from_row > to_row,
            "a crate uses only rows below its own; move what both need down a row",
        ),
    };
    if allowed { Ok(()) } else { Err(why) }
}

fn unplaced(name: &str) -> String {
    format!("{name} is in no row; place it in a row: add it to ROWS in xtask/src/layers.rs")
}

/// Prints the rows with what each crate uses, then judges.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let crates = crates(workspace);
    let mut placed: Vec<_> = crates
        .iter()
        .map(|krate| (place(&krate.name, krate.is_example), krate))
        .collect();
    placed.sort_by_key(|(place, krate)| {
        let height = match place {
            Some(Place::Above) => i16::MIN,
            Some(Place::Row(row)) => -i16::from(*row),
            Some(Place::Emulator | Place::Testkit) => 1,
            None => 2,
        };
        (height, krate.name.clone())
    });
    for (place, krate) in placed {
        let place = place.map_or_else(|| "no row".to_owned(), |place| place.to_string());
        let uses: Vec<_> = krate
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind != Kind::Dev)
            .map(|dependency| dependency.name.as_str())
            .filter(|name| crates.iter().any(|krate| krate.name == *name))
            .collect();
        let uses = if uses.is_empty() {
            "-".to_owned()
        } else {
            uses.join(" ")
        };
        println!("{place:<7} {:<30} {uses}", krate.name);
    }

    let breaches = check(&crates);
    if breaches.is_empty() {
        return Ok(());
    }
    for breach in &breaches {
        eprintln!("{breach}");
    }
    bail!(
        "the layer rule is broken in {} place(s), named above",
        breaches.len()
    );
}
