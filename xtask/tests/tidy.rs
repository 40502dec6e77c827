//! The workspace is tidy, and untidiness is found.

use xshell::Shell;
use xtask::tidy::{check, check_changelog, check_provider, check_text};
use xtask::workspace::Workspace;

#[test]
fn the_workspace_is_tidy() {
    let workspace = Workspace::load(&Shell::new().unwrap()).unwrap();
    assert_eq!(check(&workspace).unwrap(), Vec::<String>::new());
}

const WHOLE: &[&str] = &[
    "builder.rs",
    "client.rs",
    "config.rs",
    "convert.rs",
    "error.rs",
    "lib.rs",
    "provider.rs",
    "wire.rs",
];

#[test]
fn a_provider_has_every_needed_file() {
    assert_eq!(check_provider("p", false, WHOLE), Vec::<String>::new());
    for missing in WHOLE {
        let rest: Vec<_> = WHOLE
            .iter()
            .copied()
            .filter(|name| name != missing)
            .collect();
        let findings = check_provider("p", false, &rest);
        assert_eq!(findings.len(), 1, "without {missing}: {findings:?}");
        assert!(findings[0].contains(missing), "{findings:?}");
    }
}

#[test]
fn a_preset_is_its_dialect() {
    assert_eq!(
        check_provider("p", true, &["lib.rs", "dialect.rs"]),
        Vec::<String>::new()
    );
    let findings = check_provider("p", true, &["lib.rs", "client.rs"]);
    assert_eq!(findings.len(), 2, "{findings:?}");
}

#[test]
fn a_provider_has_no_file_of_its_own() {
    let with = |extra: &'static str| check_provider("p", false, &[WHOLE, &[extra]].concat());
    for allowed in [
        "batch.rs",
        "stream.rs",
        "models.rs",
        "dialect.rs",
        "batch",
        "convert",
    ] {
        assert_eq!(with(allowed), Vec::<String>::new(), "{allowed}");
    }
    for strayed in ["utils.rs", "retry.rs", "helpers", "wire2.rs", "config.json"] {
        let findings = with(strayed);
        assert_eq!(findings.len(), 1, "{strayed}: {findings:?}");
        assert!(findings[0].contains(strayed), "{findings:?}");
    }
}

#[test]
fn leftovers_and_homes_are_found_by_line() {
    let unfinished = format!("fn a() {{\n    {}!()\n}}\n", "todo");
    assert!(check_text("a.rs", true, &unfinished)[0].starts_with("a.rs:2:"));
    assert_eq!(check_text("a.md", false, &unfinished), Vec::<String>::new());
    let home = "path = \"/home/ann/project\"\n";
    assert!(check_text("Cargo.toml", false, home)[0].starts_with("Cargo.toml:1:"));
    assert_eq!(
        check_text("a.rs", true, "let todo = home;\n"),
        Vec::<String>::new()
    );
}

#[test]
fn a_changelog_has_an_unreleased_section() {
    assert_eq!(check_changelog("# Changelog\n\n## Unreleased\n"), None);
    assert!(check_changelog("# Changelog\n\n## 0.1.0 - 2026-01-01\n").is_some());
}
