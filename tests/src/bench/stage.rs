//! Roles of `sluice` as processes, as a user starts them, on a site and before a simulated API.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{
    Say,
    api::{Api, Times},
    cpu::{Meter, memory},
    site::{Database, Given, Site},
};
use crate::{
    fleet::STEPS,
    servers::{Process, Program, binary},
};

const STARTS_WITHIN: Duration = Duration::from_secs(30);
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Which processes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Roles {
    /// So many relays, and so many workers of each step.
    Separate { relays: u32, workers: u32 },
    /// A relay, and one worker that works on every step.
    Pair,
    /// So many processes that are every role.
    All(u32),
    /// No worker: what is taken in stays.
    OneRelay,
}

impl Roles {
    pub const USUAL: Self = Self::Separate { relays: 1, workers: 1 };

    /// What is measured where these are asked for: beside workers of one step, one that carries
    /// runs on.
    pub fn and_beside(self) -> Vec<Self> {
        if self == Self::USUAL { vec![self, Self::Pair] } else { vec![self] }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Separate { .. } => "a process per role",
            Self::Pair => "a relay and a worker",
            Self::All(_) => "all in one",
            Self::OneRelay => "a relay",
        }
    }

    fn commands(self) -> Vec<(String, Vec<&'static str>)> {
        match self {
            Self::OneRelay => vec![("relay".to_owned(), vec!["relay"])],
            Self::Pair => {
                let worker = std::iter::once("worker").chain(STEPS).collect();
                vec![("relay".to_owned(), vec!["relay"]), ("worker".to_owned(), worker)]
            }
            Self::All(number) => (1..=number).map(|number| (format!("all-{number}"), vec!["all"])).collect(),
            Self::Separate { relays, workers } => {
                let relays = (1..=relays).map(|number| (format!("relay-{number}"), vec!["relay"]));
                let workers = STEPS.iter().flat_map(|step| {
                    (1..=workers).map(move |number| (format!("{step}-{number}"), vec!["worker", *step]))
                });
                relays.chain(workers).collect()
            }
        }
    }
}

/// How Sluice runs in one measurement.
#[derive(Clone, Debug)]
pub struct Setup {
    pub roles: Roles,
    pub database: Database,
    /// Beside what every role needs.
    pub environment: Vec<(&'static str, String)>,
}

impl Setup {
    pub fn new(roles: Roles, database: &Database) -> Self {
        Self { roles, database: database.clone(), environment: Vec::new() }
    }

    pub fn set(mut self, name: &'static str, value: impl ToString) -> Self {
        self.environment.push((name, value.to_string()));
        self
    }
}

/// What a role holds in memory, in MB.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    pub process: String,
    pub at_most: f64,
    pub now: f64,
}

pub struct Stage {
    roles: BTreeMap<String, Process>,
    pub api: Api,
    pub site: Site,
    pub say: Say,
}

impl Stage {
    pub async fn open(given: &Given, say: Say) -> Result<Self> {
        // reqwest asks for one, and takes the first that is there.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let site = Site::open(given, say).await?;
        Ok(Self { roles: BTreeMap::new(), api: Api::start(Times::None).await?, site, say })
    }

    pub async fn new_database(&mut self) -> Result<Database> {
        self.site.new_database(async |url| migrate(url).await).await
    }

    /// Starts the roles and waits until each says that it is ready. None runs before.
    pub async fn start(&mut self, setup: &Setup) -> Result<()> {
        if !self.roles.is_empty() {
            bail!("the roles before still run");
        }
        for (name, arguments) in setup.roles.commands() {
            let program = Program::new(binary("sluice")?).args(arguments);
            let environment = self.environment(&setup.database).into_iter().chain(setup.environment.clone());
            let program = environment.fold(program, |program, (name, value)| program.env(name, value));
            self.roles.insert(name, program.start()?);
        }
        for process in self.roles.values_mut() {
            process.wait_for_log("ready", STARTS_WITHIN).await?;
        }
        Ok(())
    }

    fn environment(&self, database: &Database) -> Vec<(&'static str, String)> {
        vec![
            ("DATABASE_URL", database.services_url.clone()),
            ("REDIS_URL", self.site.redis_url().to_owned()),
            ("REDIS_PREFIX", database.redis_prefix.clone()),
            ("EVOLUTION_API_BASE_URL", self.api.url.clone()),
            ("EVOLUTION_API_KEY", self.api.key.to_owned()),
            ("SUPABASE_URL", "http://127.0.0.1:9".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
            // Two seconds of waiting for a QR code would hide what is measured.
            ("QR_AT_SIGNUP", "false".to_owned()),
        ]
    }

    /// SIGKILL of all roles, which are started again at once.
    pub async fn kill_and_start_again(&mut self) -> Result<()> {
        for process in self.roles.values_mut() {
            process.kill().await?;
        }
        self.roles.values_mut().try_for_each(Process::start_again)
    }

    /// Ends the roles in good order. Postgres then knows all that they did.
    pub async fn stop(&mut self) -> Result<()> {
        for process in self.roles.values_mut() {
            process.terminate()?;
        }
        for (name, process) in &mut self.roles {
            let status = process.wait_for_exit(ENDS_WITHIN).await?;
            if !status.success() {
                bail!("{name} ended with {status}; its log ends:\n{}", process.log_tail());
            }
        }
        self.roles.clear();
        Ok(())
    }

    /// Whose time counts now.
    pub fn meter(&self) -> Meter {
        let sluice = self.roles.values().map(Process::pid).collect();
        Meter { sluice, api: Some(self.api.pid()), ..self.site.meter() }
    }

    pub fn memory(&self) -> Vec<Memory> {
        let of = |(name, process): (&String, &Process)| {
            let (at_most, now) = memory(process.pid())?;
            Some(Memory { process: name.clone(), at_most, now })
        };
        self.roles.iter().filter_map(of).collect()
    }

    /// The roles' processes by name.
    pub fn pids(&self) -> impl Iterator<Item = (&str, u32)> {
        self.roles.iter().map(|(name, process)| (name.as_str(), process.pid()))
    }
}

async fn migrate(url: &str) -> Result<()> {
    let mut process = Program::new(binary("sluice")?).args(["migrate"]).env("DATABASE_URL", url).start()?;
    let status = process.wait_for_exit(ENDS_WITHIN).await.context("migrate the database")?;
    if !status.success() {
        bail!("sluice migrate ended with {status}:\n{}", process.log());
    }
    Ok(())
}
