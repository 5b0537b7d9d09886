//! Carries a schedule out: one hand each for the processes, Redis, Postgres, the API and RabbitMQ,
//! side by side. Every hand leaves behind what it touched running.

mod processes;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep, sleep_until};

use super::{Fault, Schedule, fault::Planned, record::Record};
use crate::{
    evolution::{Outage, server::Server},
    fleet::Parts,
    servers::{Postgres, RabbitMq, Redis},
};

/// All five, to the end of the schedule.
pub(super) async fn carry_out(schedule: &Schedule, parts: Parts<'_>, url: &str, record: &Record) -> Result<()> {
    let Parts { processes, api, redis, postgres, rabbitmq } = parts;
    let began = Instant::now();
    let hit_processes = processes::Hand { processes, api, url, record, began, still: Vec::new() };
    tokio::try_join!(
        hit_processes.carry_out(&schedule.processes),
        hit_redis(redis, &schedule.redis, began, record),
        hit_postgres(postgres, &schedule.postgres, began, record),
        hit_api(api, &schedule.api, began, record),
        hit_broker(rabbitmq, &schedule.broker, began, record),
    )?;
    Ok(())
}

async fn hit_redis(redis: &mut Redis, planned: &[Planned], began: Instant, record: &Record) -> Result<()> {
    for Planned { at, fault, lasts, .. } in planned {
        sleep_until(began + *at).await;
        match fault {
            Fault::RedisWiped => redis.flush_all().await?,
            Fault::RedisRestarted => redis.restart().await?,
            Fault::RedisEmptied => {
                let snapshot = snapshot(redis).await?;
                redis.kill().await?;
                forget(&snapshot)?;
                redis.restart().await?;
            }
            Fault::RedisRestored => {
                redis.ask(&["SAVE"]).await?;
                sleep(*lasts).await;
                redis.kill().await?;
                redis.restart().await?;
            }
            Fault::RedisStalled => {
                redis.pause()?;
                sleep(*lasts).await;
                redis.resume()?;
            }
            _ => continue,
        }
        record.injected(*fault);
    }
    Ok(())
}

async fn snapshot(redis: &Redis) -> Result<PathBuf> {
    let setting = redis.ask(&["CONFIG", "GET", "dir"]).await?;
    Ok(PathBuf::from(setting.into_iter().nth(1).context("Redis does not tell its directory")?).join("dump.rdb"))
}

fn forget(snapshot: &PathBuf) -> Result<()> {
    match fs::remove_file(snapshot) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("remove Redis' snapshot"),
        _ => Ok(()),
    }
}

async fn hit_postgres(postgres: &mut Postgres, planned: &[Planned], began: Instant, record: &Record) -> Result<()> {
    for Planned { at, fault, lasts, .. } in planned {
        sleep_until(began + *at).await;
        match fault {
            Fault::PostgresKilled => {
                postgres.kill().await?;
                postgres.restart().await?;
            }
            Fault::PostgresAway => {
                postgres.stop().await?;
                sleep(*lasts).await;
                postgres.restart().await?;
            }
            Fault::PostgresStalled => {
                postgres.pause()?;
                sleep(*lasts).await;
                postgres.resume()?;
            }
            _ => continue,
        }
        record.injected(*fault);
    }
    Ok(())
}

async fn hit_broker(broker: Option<&mut RabbitMq>, planned: &[Planned], began: Instant, record: &Record) -> Result<()> {
    let Some(broker) = broker else { return Ok(()) };
    for Planned { at, fault, lasts, .. } in planned {
        sleep_until(began + *at).await;
        match fault {
            Fault::BrokerKilled => broker.restart().await?,
            Fault::BrokerStalled => {
                broker.pause()?;
                sleep(*lasts).await;
                broker.resume()?;
            }
            _ => continue,
        }
        record.injected(*fault);
    }
    Ok(())
}

async fn hit_api(api: &Server, planned: &[Planned], began: Instant, record: &Record) -> Result<()> {
    for Planned { at, fault, lasts, .. } in planned {
        sleep_until(began + *at).await;
        if let Some(outage) = outage(*fault) {
            api.with(|world, _| world.faults_mut().outage = Some(outage));
            sleep(*lasts).await;
            api.with(|world, _| world.faults_mut().outage = None);
            record.injected(*fault);
        }
    }
    Ok(())
}

pub(super) fn outage(fault: Fault) -> Option<Outage> {
    match fault {
        Fault::ApiRefuses => Some(Outage::Refuse),
        Fault::ApiHangs => Some(Outage::Hang),
        Fault::ApiFails => Some(Outage::Error(500)),
        _ => None,
    }
}
