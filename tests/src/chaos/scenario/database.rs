//! The API's own database restarts ten times, each time in the middle of creates: half with the
//! API's cache of instances off, half with it on. Some creates leave a name without a row, some a
//! row without a name. No run counts a failure for it.

use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::{NO_QR, Scenario};
use crate::{
    chaos::{
        Fault, Options, Report,
        stage::{Layout, Stage},
    },
    evolution::{Database, Hit, Route},
};

const RESTARTS: u32 = 10;
/// Connections are cut one after another, then none is taken, and then the first come through
/// again.
const COURSE: [(Database, u64); 4] =
    [(Database::Flapping(0.5), 150), (Database::Restarting, 300), (Database::Flapping(0.3), 150), (Database::Up, 0)];

pub(super) async fn run(options: &Options) -> Result<Report> {
    let users = options.users.unwrap_or(300);
    let each = Duration::from_secs(options.seconds.unwrap_or(60).into()) / RESTARTS;
    let mut stage = Stage::start(options, Layout::WorkerPerStep, &[NO_QR]).await?;
    let mut watch = stage.watch();
    for restart in 0..RESTARTS {
        stage.fleet.api.with(|world, _| world.save_instances(restart >= RESTARTS / 2));
        // So many sign-ups at once that some creates are under way whatever happens.
        let more = users * (restart + 1) / RESTARTS - users * restart / RESTARTS;
        let signing = tokio::spawn(stage.sign_up(more, COURSE_TAKES));
        sleep(COURSE_TAKES / 3).await;
        for (database, ms) in COURSE {
            stage.fleet.api.with(|world, _| world.faults_mut().database = database);
            sleep(Duration::from_millis(ms)).await;
        }
        stage.record.injected(Fault::ApiDatabaseRestarted);
        signing.await??;
        sleep(each.saturating_sub(COURSE_TAKES * 4 / 3)).await;
        stage.supervise()?;
        watch.counts().await;
    }
    stage.wait_for_all(&mut watch).await?;
    report(options, users, &stage).await
}

const COURSE_TAKES: Duration = Duration::from_millis(600);

async fn report(options: &Options, users: u32, stage: &Stage) -> Result<Report> {
    let mut report = Report::of(Scenario::Database, options.seed, users, stage).await?;
    let (phantoms, unloaded, cut, refused) = stage.fleet.api.with(|world, _| {
        let journal = world.journal();
        let hits = [Hit::PhantomLeft, Hit::DatabaseLeftRowUnloaded, Hit::DatabaseCreateFailed];
        let [phantoms, unloaded, cut] = hits.map(|hit| journal.hit_count(hit));
        (phantoms, unloaded, cut, journal.count(Route::Create, 403))
    });
    let failures = report.failures();
    report.notes.push(format!(
        "{cut} creates met the restarts; they left {phantoms} names without a row and {unloaded} rows without a name; {refused} \
         creates were refused for what an earlier one had left; {failures} attempts counted as failures"
    ));
    report.expect(cut > 0, || "no create met a restart".to_owned());
    report.expect(failures == 0, || format!("{failures} attempts counted as failures"));
    report.expect(refused <= phantoms, || format!("{refused} creates for {phantoms} names without a row"));
    let dead = report.verdict.dead.clone();
    report.expect(dead.is_empty(), || format!("dead letters: {dead:?}"));
    report.expect_all_ready();
    Ok(report)
}
