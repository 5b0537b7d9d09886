//! The simulated Evolution API, in a process of its own so that its time can be told from the
//! others'.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::json;

use crate::servers::{Process, Program, binary};

/// How long it works on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// No time at all: what is left is Sluice.
    None,
    /// As the real server was recorded.
    Recorded,
    /// So many milliseconds for every call.
    Slow { ms: u64 },
}

pub struct Api {
    process: Process,
    pub url: String,
    pub key: &'static str,
}

#[derive(Deserialize)]
struct Announced {
    url: String,
}

#[derive(Deserialize)]
struct Stats {
    answers: BTreeMap<String, u64>,
    duplicate_creates: u64,
    instances_made: BTreeMap<String, u32>,
}

/// What was created since the last reset.
pub struct Creates {
    /// Instances that were made more than once.
    pub made_twice: usize,
    /// Calls that create a name which exists or is being made.
    pub duplicates: u64,
}

impl Api {
    pub async fn start(times: Times) -> Result<Self> {
        let key = "bench-global-key";
        let scale = if times == Times::Recorded { "1" } else { "0" };
        let mut program = Program::new(binary("evolution-sim")?).args(["--json", "--time-scale", scale]);
        if let Times::Slow { ms } = times {
            let latency = json!({"rules": [{"fault": {"latency": {"ms": ms, "stage": "before_work"}}}]});
            program = program.args(["--faults", &latency.to_string()]);
        }
        let mut process = program.env("EVOLUTION_API_KEY", key).start()?;
        process.wait_for_log("}\n", Duration::from_secs(30)).await?;
        let announced: Announced =
            serde_json::from_str(&process.log()).context("read what the simulated API says of itself")?;
        Ok(Self { process, url: announced.url, key })
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How many calls it has answered.
    pub async fn calls(&self) -> Result<u64> {
        Ok(self.stats().await?.answers.values().sum())
    }

    pub async fn creates(&self) -> Result<Creates> {
        let stats = self.stats().await?;
        let made_twice = stats.instances_made.values().filter(|times| **times > 1).count();
        Ok(Creates { made_twice, duplicates: stats.duplicate_creates })
    }

    async fn stats(&self) -> Result<Stats> {
        reqwest::get(format!("{}/_sim/stats", self.url))
            .await
            .context("ask the simulated API for its figures")?
            .json()
            .await
            .context("read the simulated API's figures")
    }

    /// Forgets every instance.
    pub async fn reset(&self) -> Result<()> {
        let answer = reqwest::Client::new().post(format!("{}/_sim/reset", self.url)).send().await;
        answer.and_then(reqwest::Response::error_for_status).context("reset the simulated API").map(drop)
    }
}
