//! The layer rule holds for the workspace, and catches the edges it is there to catch.

use xshell::Shell;
use xtask::layers::{Crate, check, crates};
use xtask::workspace::{Dependency, Kind, Workspace};

#[test]
fn the_workspace_keeps_the_rule() {
    let workspace = Workspace::load(&Shell::new().unwrap()).unwrap();
    let crates = crates(&workspace);
    assert!(
        crates.iter().any(|krate| krate.name == "batchwright-core"),
        "read another workspace"
    );
    assert_eq!(check(&crates), Vec::<String>::new());
}

/// Judges a workspace of one crate that uses one other.
fn breach(from: &str, to: &str, kind: Kind) -> Option<String> {
    let breaches = check(&[Crate::new(from, vec![Dependency::new(to, kind)])]);
    assert!(breaches.len() <= 1, "one edge, one breach: {breaches:?}");
    breaches.into_iter().next()
}

#[test]
fn wrong_edges_are_caught() {
    let wrong = [
        // The same row.
        (
            "batchwright-router",
            "batchwright-realtime",
            "rows below its own",
        ),
        (
            "batchwright-ledger",
            "batchwright-provider-openai",
            "rows below its own",
        ),
        ("batchwright-cli", "xtask", "rows below its own"),
        (
            "batchwright-provider-openai",
            "batchwright-provider-acme",
            "rows below its own",
        ),
        // Upward.
        ("batchwright-core", "batchwright-http", "rows below its own"),
        (
            "batchwright-http",
            "batchwright-provider-openai",
            "rows below its own",
        ),
        (
            "batchwright-ledger",
            "batchwright-router",
            "rows below its own",
        ),
        ("batchwright-pipeline", "batchwright", "rows below its own"),
        // Beside.
        (
            "batchwright-emulator",
            "batchwright-core",
            "no other crate of ours",
        ),
        (
            "batchwright-emulator",
            "batchwright",
            "no other crate of ours",
        ),
        (
            "batchwright-pipeline",
            "batchwright-emulator",
            "make it a dev-dependency",
        ),
        (
            "batchwright-provider-openai",
            "batchwright-emulator",
            "make it a dev-dependency",
        ),
        (
            "batchwright-testkit",
            "batchwright-provider-openai",
            "it knows none",
        ),
        (
            "batchwright-testkit",
            "batchwright-router",
            "it uses rows below theirs",
        ),
        ("batchwright-router", "batchwright-testkit", "only tests"),
        (
            "batchwright-emulator",
            "batchwright-testkit",
            "no other crate of ours",
        ),
        // Above.
        ("batchwright", "batchwright-benches", "nothing uses"),
        // In no row.
        ("batchwright-foo", "serde", "place it in a row"),
        ("batchwright-router", "batchwright-foo", "place it in a row"),
        (
            "batchwright-router",
            "batchwright-provider-",
            "place it in a row",
        ),
        ("newcomer", "serde", "place it in a row"),
    ];
    for (from, to, why) in wrong {
        for kind in [Kind::Normal, Kind::Build] {
            let breach = breach(from, to, kind).unwrap_or_else(|| panic!("{from} -> {to} passed"));
            assert!(
                breach.contains(why),
                "{from} -> {to} is explained by: {breach}"
            );
            assert!(
                breach.contains(from) && breach.contains(to) || to == "serde",
                "{breach}"
            );
        }
    }
}

#[test]
fn right_edges_pass() {
    let right = [
        ("batchwright-http", "batchwright-core"),
        ("batchwright-provider-acme", "batchwright-provider-openai"),
        ("batchwright-testkit", "batchwright-core"),
        ("batchwright-testkit", "batchwright-emulator"),
        ("batchwright-testkit", "batchwright-realtime"),
        ("batchwright-provider-acme", "batchwright-http"),
        ("batchwright-router", "batchwright-ledger"),
        ("batchwright-pipeline", "batchwright-realtime"),
        ("batchwright", "batchwright-emulator"),
        ("batchwright-cli", "batchwright-emulator"),
        ("batchwright-cli", "batchwright-core"),
        ("batchwright-benches", "batchwright-router"),
        ("batchwright-core", "serde"),
        ("batchwright-emulator", "tokio"),
    ];
    for (from, to) in right {
        assert_eq!(breach(from, to, Kind::Normal), None);
    }
}

#[test]
fn dev_dependencies_are_free_except_in_core() {
    assert_eq!(
        breach("batchwright-pipeline", "batchwright-emulator", Kind::Dev),
        None
    );
    assert_eq!(
        breach("batchwright-http", "batchwright-provider-openai", Kind::Dev),
        None
    );
    let breach = breach("batchwright-core", "batchwright-http", Kind::Dev).unwrap();
    assert!(breach.contains("core's tests"), "{breach}");
}

#[test]
fn an_example_may_have_any_name_and_use_everything_but_not_be_used() {
    let mut example = Crate::new(
        "reviews",
        vec![Dependency::new("batchwright", Kind::Normal)],
    );
    example.is_example = true;
    let facade = Crate::new("batchwright", Vec::new());
    assert_eq!(check(&[example, facade]), Vec::<String>::new());

    let mut example = Crate::new("reviews", Vec::new());
    example.is_example = true;
    let cli = Crate::new(
        "batchwright-cli",
        vec![Dependency::new("reviews", Kind::Normal)],
    );
    let breaches = check(&[example, cli]);
    assert_eq!(breaches.len(), 1, "{breaches:?}");
    assert!(breaches[0].contains("nothing uses"), "{breaches:?}");
}
