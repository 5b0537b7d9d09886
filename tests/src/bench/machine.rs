//! On what it was measured, when, and of which commit.

use std::{fs, process::Command};

use anyhow::Result;
use chrono::{SecondsFormat, Utc};
use serde::Serialize;

use super::site::Site;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub date: String,
    /// None where there is no git. With `-dirty` where something is not committed.
    pub commit: Option<String>,
    pub cpu: String,
    pub cores: usize,
    pub memory_gb: f64,
    pub kernel: String,
    pub postgres: String,
    pub fsync: String,
    pub synchronous_commit: String,
    pub build: &'static str,
    /// Whether Postgres and Redis were started for this.
    pub own_servers: bool,
    /// How busy the machine was before: processes that ran or wanted to.
    pub load_before: f64,
}

impl Machine {
    pub async fn read(site: &mut Site) -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let kilobytes = field(&read("/proc/meminfo"), "MemTotal");
        let kilobytes = kilobytes.split(' ').next().and_then(|number| number.parse::<f64>().ok());
        Ok(Self {
            date: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            commit: commit(),
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gb: (kilobytes.unwrap_or_default() / 1_048_576.0).round(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            postgres: site.setting("server_version").await?,
            fsync: site.setting("fsync").await?,
            synchronous_commit: site.setting("synchronous_commit").await?,
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            own_servers: site.is_private(),
            load_before: read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default(),
        })
    }

    pub fn short_commit(&self) -> &str {
        self.commit.as_deref().map_or("?", |commit| commit.get(..7).unwrap_or(commit))
    }
}

fn commit() -> Option<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]).output();
    let output = output.ok().filter(|output| output.status.success())?;
    let commit = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!commit.is_empty()).then_some(commit)
}
