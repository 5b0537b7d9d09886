//! Where the burst's CPU goes: perf samples Sluice, Postgres and Redis while it runs; the stacks
//! become a flame graph and a list of what costs most.

use std::{collections::BTreeMap, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::process::Command;

use super::{
    app::App,
    burst::warm_up,
    flame::{self, Stack},
    stage::{Roles, Setup, Stage},
};

#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    pub samples: usize,
    /// The drawing.
    #[serde(skip)]
    pub flame: String,
    /// The largest first.
    pub costs: Vec<Cost>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    pub what: String,
    pub percent: f64,
}

/// A sample belongs to the innermost function of its stack that one of these knows.
const KINDS: [(&str, &str); 29] = [
    ("pg_plan_quer", "Postgres: planning"),
    ("standard_planner", "Postgres: planning"),
    ("GetCachedPlan", "Postgres: planning"),
    ("parse_analyze", "Postgres: parsing"),
    ("pg_parse_query", "Postgres: parsing"),
    ("pg_analyze_and_rewrite", "Postgres: parsing"),
    ("CommitTransactionCommand", "Postgres: commit and WAL"),
    ("XLogFlush", "Postgres: commit and WAL"),
    ("XLogInsert", "Postgres: commit and WAL"),
    ("ExecInitNode", "Postgres: starting statements"),
    ("standard_ExecutorStart", "Postgres: starting statements"),
    ("standard_ExecutorRun", "Postgres: running statements"),
    ("standard_ExecutorFinish", "Postgres: running statements"),
    ("secure_read", "Postgres: talking to clients"),
    ("pq_getbyte", "Postgres: talking to clients"),
    ("socket_flush", "Postgres: talking to clients"),
    ("ReadyForQuery", "Postgres: talking to clients"),
    ("PostgresMain", "Postgres: the rest of a statement"),
    ("PostmasterMain", "Postgres: background and start-up"),
    ("redisCommand", "Redis"),
    ("aeMain", "Redis"),
    ("apalis", "Sluice: apalis"),
    ("redis::", "Sluice: talking to Redis"),
    ("sqlx_", "Sluice: sqlx"),
    ("reqwest", "Sluice: HTTP client"),
    ("hyper", "Sluice: HTTP client"),
    ("tracing", "Sluice: logs and spans"),
    ("sluice::", "Sluice: its own code"),
    ("tokio", "Sluice: tokio"),
];

pub async fn burst(stage: &mut Stage, roles: Roles, users: usize) -> Result<Profile> {
    stage.api.reset().await?;
    let setup = Setup::new(roles, &stage.new_database().await?);
    stage.start(&setup).await?;
    let mut app = App::connect(&setup.database, 2).await?;
    warm_up(&mut app).await?;

    let directory = std::env::temp_dir().join(format!("sluice-bench-{:08x}", rand::random::<u32>()));
    std::fs::create_dir(&directory).context("make a directory for perf")?;
    let measured = sample(stage, &mut app, users, &directory).await;
    let script = match measured {
        Ok(()) => script(&directory.join("perf.data")).await,
        Err(error) => Err(error),
    };
    std::fs::remove_dir_all(&directory).context("remove perf's directory")?;
    let stacks = flame::stacks(&script?, &names(stage));
    stage.stop().await?;
    app.close().await?;

    let samples: usize = stacks.values().sum();
    ensure!(samples > 0, "perf took no sample");
    Ok(Profile { samples, costs: costs(&stacks, samples), flame: flame::draw(&stacks) })
}

/// Processes by their ids, as the flame graph names them.
fn names(stage: &Stage) -> BTreeMap<u32, String> {
    let meter = stage.meter();
    let roles = stage.pids().map(|(name, pid)| (pid, format!("sluice {name}")));
    roles.chain(meter.redis.map(|pid| (pid, "redis".to_owned()))).collect()
}

async fn sample(stage: &Stage, app: &mut App, users: usize, directory: &Path) -> Result<()> {
    let pids: Vec<String> = stage.meter().pids().iter().map(u32::to_string).collect();
    let mut perf = Command::new("perf");
    perf.args(["record", "--freq", "249", "--call-graph", "dwarf,8192", "--output", "perf.data", "--pid"]);
    perf.arg(pids.join(",")).current_dir(directory).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut perf = perf.spawn().context("start perf, which this part needs")?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let together = app.together(users).await?;
    app.await_ready(&together.users).await?;
    let pid = perf.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).context("perf has ended early")?;
    kill_process(pid, Signal::INT).context("end perf")?;
    perf.wait().await.context("wait for perf").map(drop)
}

async fn script(data: &Path) -> Result<String> {
    let mut perf = Command::new("perf");
    perf.args(["script", "--no-inline", "--fields", "comm,pid,ip,sym,dso", "--input"]).arg(data);
    let output = perf.stderr(Stdio::null()).output().await.context("read perf's samples")?;
    if !output.status.success() {
        bail!("perf script ended with {}: may this user sample (kernel.perf_event_paranoid)?", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn costs(stacks: &BTreeMap<Stack, usize>, samples: usize) -> Vec<Cost> {
    let mut by_kind = BTreeMap::<String, usize>::new();
    for (stack, count) in stacks {
        let known = stack.iter().rev().find_map(|function| {
            KINDS.iter().find(|(part, _)| function.contains(part)).map(|(_, kind)| (*kind).to_owned())
        });
        let process = match stack.first().map_or("", String::as_str) {
            name if name.starts_with("sluice") => "Sluice",
            "redis" => "Redis",
            _ => "Postgres",
        };
        let kind = known.unwrap_or_else(|| format!("{process}: the rest"));
        *by_kind.entry(kind).or_default() += count;
    }
    let cost = |(what, count)| Cost { what, percent: count as f64 * 100.0 / samples as f64 };
    let mut costs: Vec<Cost> = by_kind.into_iter().map(cost).collect();
    costs.sort_by(|one, other| other.percent.total_cmp(&one.percent));
    costs
}
