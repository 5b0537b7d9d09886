//! Who changes something by hand, and why: kept in the audit.

use std::env;

use clap::Args;

use crate::ledger::By;

#[derive(Args)]
#[command(next_help_heading = "Audit")]
pub struct ByOptions {
    /// Who does it [default: the user of this session]
    #[arg(long, value_name = "NAME", value_parser = name)]
    by: Option<String>,

    /// Why
    #[arg(long, value_name = "TEXT", value_parser = note)]
    note: Option<String>,
}

impl ByOptions {
    pub fn by(&self) -> By {
        By { actor: self.by.clone().unwrap_or_else(session_user), note: self.note.clone() }
    }
}

fn name(text: &str) -> Result<String, String> {
    fits(text, 100)
}

fn note(text: &str) -> Result<String, String> {
    fits(text, 1000)
}

fn fits(text: &str, most: usize) -> Result<String, String> {
    let text = text.trim();
    match text.is_empty() || text.chars().count() > most || text.chars().any(char::is_control) {
        true => Err(format!("expected 1 to {most} characters in one line")),
        false => Ok(text.to_owned()),
    }
}

/// A container often has no variable for it: then whoever owns this process.
fn session_user() -> String {
    let named = ["USER", "LOGNAME"].into_iter().find_map(|name| fits(&env::var(name).ok()?, 100).ok());
    named.or_else(owner).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(unix)]
fn owner() -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let id = std::fs::metadata("/proc/self").ok()?.uid().to_string();
    let known = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = known.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == id).then(|| name.to_owned())
    });
    Some(name.unwrap_or_else(|| format!("user {id}")))
}

#[cfg(not(unix))]
fn owner() -> Option<String> {
    None
}
