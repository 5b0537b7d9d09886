//! An API whose cache hides what it has not loaded (CACHE_REDIS_SAVE_INSTANCES=true): for a minute
//! after each start its instances seem not to be there, and a create for one of them destroys it.
//! It is killed three times in the middle of a burst, with kills of ours, and rows of users who are
//! ready are set to pending. Nobody's instance is made again.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::Scenario;
use crate::{
    chaos::{
        Fault, Options, Report,
        stage::{Layout, Stage, Watch, recorded_api},
    },
    evolution::{Config, Hit, Span},
};

const RESTARTS: u32 = 3;
const DOWN: Duration = Duration::from_secs(2);
/// Between two kills of ours, at most.
const BETWEEN_KILLS: Duration = Duration::from_millis(1_500);

pub(super) async fn run(options: &Options) -> Result<Report> {
    let users = options.users.unwrap_or(300);
    let over = Duration::from_secs(options.seconds.unwrap_or(90).into());
    // Two thirds of a burst's time until the last one is loaded: each restart but the last comes
    // while the API loads.
    let load = u32::try_from(over.as_millis() * 2 / 3).unwrap_or(u32::MAX);
    let mut stage = Stage::start_with(caching(load), options, Layout::WorkerPerStep, &[]).await?;
    let mut watch = stage.watch();
    let old: Vec<Uuid> = (0..users * 2 / 3).map(|_| Uuid::new_v4()).collect();
    stage.sign_up_these(old.clone(), over / 10).await?;
    stage.wait_for_all(&mut watch).await?;
    let paired = pair_every_fourth(&stage, &old);
    let before = ids(&stage);

    let signing = tokio::spawn(stage.sign_up(users, over));
    let began = Instant::now();
    for restart in 0..RESTARTS {
        let until = began + over * (2 * restart + 1) / (2 * RESTARTS);
        kill_ours(&mut stage, &mut watch, BETWEEN_KILLS.min(over / 18), until).await?;
        stage.fleet.api.with(|world, now| world.restart(now, DOWN));
        stage.record.injected(Fault::ApiKilled);
        sleep(DOWN + Duration::from_millis(200)).await;
        set_to_pending(&stage, &old, restart).await?;
    }
    signing.await??;
    stage.wait_for_all(&mut watch).await?;
    report(options, &stage, Before { old: old.len(), paired, ids: before }).await
}

fn caching(load_ms: u32) -> Config {
    let mut config = Config { save_instances: true, ..recorded_api() };
    config.timings.load = Span::ms(load_ms / 3, load_ms);
    config
}

/// The API as it was before the burst.
struct Before {
    old: usize,
    paired: Vec<String>,
    ids: BTreeMap<String, String>,
}

async fn report(options: &Options, stage: &Stage, before: Before) -> Result<Report> {
    let users = before.old as u32 + options.users.unwrap_or(300);
    let mut report = Report::of(Scenario::Loading, options.seed, users, stage).await?;
    let (hidden, after, unpaired) = stage.fleet.api.with(|world, _| {
        let unpaired = |name: &&String| world.instance(name).is_none_or(|there| there.owner_jid.is_none());
        let unpaired: Vec<String> = before.paired.iter().filter(unpaired).cloned().collect();
        (world.journal().hit_count(Hit::NotLoadedHidden), ids_of(world.instances()), unpaired)
    });
    let replaced: Vec<_> = before.ids.iter().filter(|(name, id)| after.get(*name) != Some(id)).collect();
    report.notes.push(format!(
        "{} instances were there before, {} of them paired; {hidden} calls were told that one which is stored does not exist; \
         {} attempts counted as failures",
        before.old,
        before.paired.len(),
        report.failures(),
    ));
    report.expect(hidden > 0, || "no call came while the API loaded: the trap was not there".to_owned());
    report.expect(replaced.is_empty(), || format!("replaced: {replaced:?}"));
    report.expect(unpaired.is_empty(), || format!("not paired any more: {unpaired:?}"));
    let dead = report.verdict.dead.clone();
    report.expect(dead.is_empty(), || format!("dead letters: {dead:?}"));
    report.expect_all_ready();
    Ok(report)
}

fn ids(stage: &Stage) -> BTreeMap<String, String> {
    stage.fleet.api.with(|world, _| ids_of(world.instances()))
}

fn ids_of(instances: Vec<crate::evolution::Instance>) -> BTreeMap<String, String> {
    instances.into_iter().map(|instance| (instance.name, instance.id)).collect()
}

/// A phone each; the names of those.
fn pair_every_fourth(stage: &Stage, users: &[Uuid]) -> Vec<String> {
    let names = users.iter().step_by(4).map(|user| format!("user_{user}"));
    stage.fleet.api.with(|world, now| {
        names
            .enumerate()
            .filter(|(number, name)| world.pair(now, name, &format!("5511{number:09}")))
            .map(|(_, name)| name)
            .collect()
    })
}

/// One of ours after another, until then.
async fn kill_ours(stage: &mut Stage, watch: &mut Watch, each: Duration, until: Instant) -> Result<()> {
    for round in 0.. {
        let next = Instant::now() + each;
        if next > until {
            break;
        }
        sleep_until(next).await;
        watch.counts().await;
        let names = stage.fleet.names();
        let name = &names[round % names.len()];
        stage.fleet.replace(name).await?;
        stage.record.injected(if name.starts_with("relay") { Fault::RelayKilled } else { Fault::WorkerKilled });
    }
    sleep_until(until).await;
    Ok(())
}

/// As the old guide says: a third of the users who are ready, each time others.
async fn set_to_pending(stage: &Stage, users: &[Uuid], turn: u32) -> Result<()> {
    let turn = users.iter().skip(turn as usize).step_by(RESTARTS as usize).copied().collect::<Vec<_>>();
    let set = sqlx::query(
        "update public.evolution_instance_creation_queue set status = 'pending', retry_count = 0 where user_id = any ($1)",
    );
    let mut session = stage.fleet.connect().await?;
    let set = set.bind(turn).execute(&mut session).await.context("set queue rows to pending")?;
    for _ in 0..set.rows_affected() {
        stage.record.injected(Fault::RowsSetToPending);
    }
    Ok(())
}
