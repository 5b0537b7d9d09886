//! The hand that kills and freezes relays, workers and publishers. What it killed it starts again
//! at once, as a supervisor does.

use std::collections::BTreeMap;

use anyhow::Result;
use tokio::time::{Instant, sleep_until};

use crate::{
    chaos::{
        Fault,
        fault::Planned,
        hold::{Hold, Place},
        record::{Frozen, Moment, Record},
    },
    evolution::server::Server,
    servers::Process,
};

pub(in crate::chaos) struct Hand<'a> {
    pub processes: &'a mut BTreeMap<String, Process>,
    pub api: &'a Server,
    pub url: &'a str,
    pub record: &'a Record,
    pub began: Instant,
    pub still: Vec<Still>,
}

/// A process that stands still.
pub(in crate::chaos) struct Still {
    name: String,
    pid: u32,
    since: Moment,
    until: Instant,
}

impl Hand<'_> {
    pub async fn carry_out(mut self, planned: &[Planned]) -> Result<()> {
        for planned in planned {
            self.wait_until(self.began + planned.at).await?;
            self.supervise()?;
            if self.hit(planned).await? {
                self.record.injected(planned.fault);
            }
        }
        while let Some(last) = self.still.iter().map(|still| still.until).max() {
            self.wait_until(last).await?;
        }
        self.supervise()
    }

    /// Lets those go on whose time is over meanwhile.
    async fn wait_until(&mut self, moment: Instant) -> Result<()> {
        while let Some(next) = self.still.iter().map(|still| still.until).min().filter(|next| *next <= moment) {
            sleep_until(next).await;
            let (over, still) = std::mem::take(&mut self.still).into_iter().partition(|still| still.until <= next);
            self.still = still;
            for still in over {
                self.wake(still)?;
            }
        }
        sleep_until(moment).await;
        Ok(())
    }

    async fn hit(&mut self, planned: &Planned) -> Result<bool> {
        match planned.fault {
            Fault::WorkerKilled => self.kill_one("worker", planned.target).await,
            Fault::RelayKilled => self.kill_one("relay", planned.target).await,
            Fault::PublisherKilled => self.kill_one("events", planned.target).await,
            Fault::WorkerFrozen => self.freeze(planned),
            // While Postgres is away nobody commits and nobody claims.
            Fault::RelayKilledBeforePush => Ok(self.kill_before_push("relay", Place::Intake).await.unwrap_or(false)),
            Fault::WorkerKilledBeforePush => Ok(self.kill_before_push("worker", Place::Settle).await.unwrap_or(false)),
            Fault::WorkerKilledBeforeClaim => Ok(self.kill_before_claim().await.unwrap_or(false)),
            _ => Ok(false),
        }
    }

    async fn kill_one(&mut self, role: &str, target: usize) -> Result<bool> {
        let names = self.awake(role);
        let Some(name) = names.get(target % names.len().max(1)) else { return Ok(false) };
        self.kill(name).await?;
        Ok(true)
    }

    fn freeze(&mut self, planned: &Planned) -> Result<bool> {
        let running = self.awake("worker");
        let Some(name) = running.get(planned.target % running.len().max(1)) else { return Ok(false) };
        let Some(process) = self.processes.get_mut(name) else { return Ok(false) };
        let (pid, since) = (process.pid(), Moment::now(self.api));
        process.pause()?;
        self.still.push(Still { name: name.clone(), pid, since, until: Instant::now() + planned.lasts });
        // Counted when it wakes.
        Ok(false)
    }

    fn wake(&mut self, still: Still) -> Result<()> {
        if let Some(process) = self.processes.get_mut(&still.name) {
            process.resume()?;
        }
        self.record.frozen(Frozen { pid: still.pid, from: still.since, to: Moment::now(self.api) });
        self.record.injected(Fault::WorkerFrozen);
        Ok(())
    }

    /// All of a role stand still from the moment in which one of them commits, and die when the
    /// commit is done.
    async fn kill_before_push(&mut self, role: &str, place: Place) -> Result<bool> {
        let mut hold = Hold::at(self.url, place).await?;
        let caught = hold.caught().await?;
        let names = self.awake(role);
        if caught {
            for name in &names {
                if let Some(process) = self.processes.get_mut(name) {
                    process.pause()?;
                }
            }
        }
        // Whatever Postgres says: nobody stays frozen.
        let released = hold.release().await;
        if caught {
            for name in &names {
                self.kill(name).await?;
            }
        }
        released?;
        Ok(caught)
    }

    /// All workers die while one of them claims: their transactions never commit.
    async fn kill_before_claim(&mut self) -> Result<bool> {
        let mut hold = Hold::at(self.url, Place::Claim).await?;
        let caught = hold.caught().await?;
        if caught {
            for name in self.awake("worker") {
                self.kill(&name).await?;
            }
        }
        hold.release().await?;
        Ok(caught)
    }

    async fn kill(&mut self, name: &str) -> Result<()> {
        if let Some(process) = self.processes.get_mut(name) {
            process.kill().await?;
            process.start_again()?;
        }
        Ok(())
    }

    /// Who is frozen is left alone: it is to wake up and find that its step is another's.
    fn awake(&self, role: &str) -> Vec<String> {
        let is_awake = |name: &&String| self.still.iter().all(|still| still.name != **name);
        self.processes.keys().filter(|name| name.starts_with(role)).filter(is_awake).cloned().collect()
    }

    fn supervise(&mut self) -> Result<()> {
        for process in self.processes.values_mut() {
            if process.exited()?.is_some() {
                self.record.ended_by_itself();
                process.start_again()?;
            }
        }
        Ok(())
    }
}
