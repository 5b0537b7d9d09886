//! What the documents promise of the tests and of the source: every test that a page names is
//! there, and the engine names no product.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// Every file below a folder of the project that ends so.
fn files(below: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(below)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.to_string_lossy().ends_with(ending) => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    found
}

#[test]
fn every_test_that_the_page_of_promises_names_is_there() {
    let page = fs::read_to_string(root().join("docs/promises.md")).unwrap();
    let sources: String = ["tests", "examples"]
        .iter()
        .flat_map(|folder| files(folder, ".rs"))
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();

    let named = page.split('`').skip(1).step_by(2).filter(|name| name.contains('_') && !name.contains(['/', '.']));
    let named: Vec<_> = named.collect();

    assert!(named.len() > 30, "{named:?}");
    for name in named {
        assert!(sources.contains(&format!("fn {name}(")), "docs/promises.md names {name}, and no test is called so");
    }
}

#[test]
fn the_engine_names_no_product() {
    let engine = [
        "workflows/src/engine",
        "services/src/database",
        "services/src/events",
        "services/src/ledger",
        "services/src/process",
        "services/src/queue",
        "services/src/relay",
        "services/src/telemetry",
        "services/src/worker",
    ];
    let words = ["whatsapp", "evolution", "supabase", "instance", "webhook"];

    let rust = engine.iter().flat_map(|folder| files(folder, ".rs"));
    let sql = ["_ledger.sql", "_protocol.sql"].iter().flat_map(|name| files("migrations", name));
    for file in rust.chain(sql) {
        let path = file.to_string_lossy().into_owned();
        // The engine's own tests have a workflow to be tested with.
        if path.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap().to_lowercase();
        for word in words {
            // "For instance" is a way of speaking, and an attribute of OpenTelemetry's has the
            // word.
            let found = text
                .replace("for instance", "")
                .replace("service.instance", "")
                .replace("service_instance", "")
                .contains(word);
            assert!(!found, "{path} says {word:?}: the engine knows no product");
        }
    }
}

#[test]
fn a_comment_is_at_most_100_columns_wide() {
    let folders = ["workflows", "services", "tests", "examples", "migrations", "deploy"];
    let sources = folders.iter().flat_map(|folder| [files(folder, ".rs"), files(folder, ".sql")]).flatten();
    for file in sources {
        for (number, line) in fs::read_to_string(&file).unwrap().lines().enumerate() {
            let is_comment = ["//", "--"].iter().any(|mark| line.trim_start().starts_with(mark));
            assert!(!is_comment || line.chars().count() <= 100, "{}:{}", file.display(), number + 1);
        }
    }
}
