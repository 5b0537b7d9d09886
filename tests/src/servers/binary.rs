//! Finds the programs of this workspace that cargo built beside the running test or program.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

/// The path of our own program `name` (`sluice`), built with the same profile as the caller.
/// Refuses one that is older than its sources: a test of yesterday's program proves nothing.
pub fn binary(name: &str) -> Result<PathBuf> {
    let program = build_directory()?.join(name);
    let Ok(built) = modified(&program) else {
        bail!("there is no program {}: run `cargo build --workspace --bins` (make test does)", program.display());
    };

    if let Some(source) = newer_source(&program, built) {
        bail!(
            "{} is older than {}: run `cargo build --workspace --bins` (make test does)",
            program.display(),
            source.display()
        );
    }

    Ok(program)
}

/// Where cargo puts programs: tests run from `deps` below it, programs from the directory itself.
fn build_directory() -> Result<PathBuf> {
    let running = std::env::current_exe().context("find the running program")?;
    let directory = running.parent().context("find the running program's directory")?;
    let directory = match directory.file_name() {
        Some(name) if name == "deps" || name == "examples" => directory.parent().unwrap_or(directory),
        _ => directory,
    };
    Ok(directory.to_owned())
}

/// Cargo lists what a program was made of in `<program>.d`, as `program: source source …`.
fn newer_source(program: &Path, built: SystemTime) -> Option<PathBuf> {
    let list = fs::read_to_string(program.with_extension("d")).ok()?;
    let (_, sources) = list.split_once(": ")?;
    let sources = sources.replace("\\ ", "\0");
    sources
        .split_whitespace()
        .map(|source| PathBuf::from(source.replace('\0', " ")))
        .find(|source| modified(source).is_ok_and(|changed| changed > built))
}

fn modified(path: &Path) -> std::io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}
