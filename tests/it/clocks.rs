//! Whose clock decides: between processes Postgres', within one a monotonic one. A wall clock may
//! jump, so nothing that decides reads one; people are shown moments (`cli`), and telemetry stamps
//! what it sends.

use std::{
    fs,
    path::{Path, PathBuf},
};

const SOURCES: [&str; 2] = ["services/src", "workflows/src"];
/// Below `services/src`: they show moments, and decide nothing.
const MAY_READ: [&str; 2] = ["services/src/cli", "services/src/telemetry"];
const READS: [&str; 4] = ["SystemTime", "Utc::now", "Local::now", "clock_gettime"];

#[test]
fn nothing_that_decides_reads_a_clock_that_can_jump() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut files = Vec::new();
    SOURCES.iter().for_each(|source| collect(&root.join(source), &mut files));

    let is_bound = |file: &&PathBuf| MAY_READ.iter().all(|allowed| !file.starts_with(root.join(allowed)));
    let bound: Vec<_> = files.iter().filter(is_bound).collect();
    let found: Vec<String> = bound.iter().flat_map(|file| reads(file, &fs::read_to_string(file).unwrap())).collect();

    assert!(bound.len() > 100 && bound.len() < files.len(), "{} of {} files were read", bound.len(), files.len());
    assert_eq!(found, Vec::<String>::new(), "only Postgres' clock and monotonic ones may decide");
}

#[test]
fn a_file_that_reads_the_wall_clock_is_named_with_its_line() {
    let found = reads(Path::new("lease.rs"), "let a = Instant::now();\nlet b = chrono::Utc::now();\n");

    assert_eq!(found, ["lease.rs:2: let b = chrono::Utc::now();"]);
}

fn reads(file: &Path, text: &str) -> Vec<String> {
    let lines = text.lines().enumerate().filter(|(_, line)| READS.iter().any(|read| line.contains(read)));
    lines.map(|(number, line)| format!("{}:{}: {}", file.display(), number + 1, line.trim())).collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
