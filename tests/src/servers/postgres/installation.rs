//! Finds the programs of a Postgres server on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

pub(super) struct Installation {
    programs: PathBuf,
}

impl Installation {
    /// The newest server that has what is needed.
    pub fn find(needs_cron: bool) -> Result<Self> {
        let installed = installed();
        if installed.is_empty() {
            bail!("found no Postgres server, neither in /usr/lib/postgresql nor on PATH: run tests/setup");
        }

        let found =
            installed.into_iter().find(|(_, extensions)| !needs_cron || extensions.join("pg_cron.control").exists());
        match found {
            Some((programs, _)) => Ok(Self { programs }),
            None => bail!("none of the installed Postgres servers has pg_cron: run tests/setup"),
        }
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }
}

/// Directories of programs and extensions; Debian's, newest first, then what `pg_config` on the
/// PATH tells of.
fn installed() -> Vec<(PathBuf, PathBuf)> {
    let mut versions: Vec<u32> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable_by(|one, other| other.cmp(one));

    let debian = versions.into_iter().map(|version| {
        let programs = PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"));
        (programs, PathBuf::from(format!("/usr/share/postgresql/{version}/extension")))
    });
    debian.chain(on_path()).filter(|(programs, _)| has_server(programs)).collect()
}

fn on_path() -> Option<(PathBuf, PathBuf)> {
    let ask = |what: &str| {
        let answer = Command::new("pg_config").arg(what).output().ok()?;
        Some(PathBuf::from(String::from_utf8(answer.stdout).ok()?.trim()))
    };
    Some((ask("--bindir")?, ask("--sharedir")?.join("extension")))
}

fn has_server(programs: &Path) -> bool {
    programs.join("initdb").exists() && programs.join("postgres").exists()
}
