//! Starts servers as a test does, says which processes they are, and waits to be killed:
//! `start-servers running|paused|stopped`. For tests whose question is what then is left of them.

use std::{
    io::{Write, stdout},
    time::Duration,
};

use anyhow::{Result, bail};
use tests::servers::{Postgres, Program, Redis, postgres, redis};

const OFFSPRING: &str = "trap '' TERM; sleep 1000 & echo child $!; (sleep 1000 & echo grandchild $!; wait)";

#[tokio::main]
async fn main() -> Result<()> {
    let trouble = std::env::args().nth(1).unwrap_or_default();
    let mut postgres = Postgres::start(postgres::Options::default()).await?;
    let mut redis = Redis::start(redis::Options::default()).await?;
    let mut program = Program::new("/bin/sh").args(["-c", OFFSPRING]).start()?;
    program.wait_for_log("grandchild", Duration::from_secs(10)).await?;
    let log = program.log();
    let offspring: Vec<&str> = log.split_whitespace().filter(|word| word.parse::<u32>().is_ok()).collect();
    match trouble.as_str() {
        "running" => {}
        "paused" => {
            postgres.pause()?;
            redis.pause()?;
        }
        "stopped" => {
            postgres.stop().await?;
            redis.kill().await?;
        }
        other => bail!("usage: start-servers running|paused|stopped, not {other:?}"),
    }

    let started = [postgres.pid(), redis.pid(), program.pid()].map(|pid| pid.to_string());
    writeln!(stdout(), "started {} {}", started.join(" "), offspring.join(" "))?;
    std::future::pending().await
}
