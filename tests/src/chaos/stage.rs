//! A fleet with users who sign up, and a watch on what becomes of them, through any outage of
//! Postgres.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use sqlx::{Connection, FromRow, PgConnection};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{Options, record::Record};
use crate::{
    consumer::Consumer,
    evolution::{Config, Span, Timings},
    fleet::{Fleet, STEPS},
    servers::{
        postgres,
        redis::{self, Persistence},
    },
};

/// Which processes run.
#[derive(Clone, Copy)]
pub(super) enum Layout {
    /// One relay, and one worker for each step.
    WorkerPerStep,
    /// So many relays, and so many workers that serve every step.
    WholeWorkers { relays: u32, workers: u32 },
}

pub(super) struct Stage {
    /// Hears what is announced, where anything is.
    pub consumer: Option<Consumer>,
    pub fleet: Fleet,
    pub record: Arc<Record>,
    pub say: fn(&str),
}

/// No progress for so long: something is stuck.
const PATIENCE: Duration = Duration::from_secs(240);
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
const SAY_EVERY: Duration = Duration::from_secs(2);

/// As recorded; kept whole, for every overlap to be found afterwards.
pub(super) fn recorded_api() -> Config {
    let timings = Timings { first_qr: Span::ms(120, 900), ..Timings::default() };
    Config { timings, log_limit: 2_000_000, ..Config::default() }
}

impl Stage {
    pub async fn start(options: &Options, layout: Layout, settings: &[(&str, &str)]) -> Result<Self> {
        Self::start_with(recorded_api(), options, layout, settings).await
    }

    /// With an API of another kind.
    pub async fn start_with(api: Config, options: &Options, layout: Layout, settings: &[(&str, &str)]) -> Result<Self> {
        (options.say)("starting private Postgres, Redis, the simulated Evolution API and the processes …");
        let redis = redis::Options::default().persistence(Persistence::Snapshots);
        let fleet = Fleet::prepare(postgres::Options::default(), redis, api).await;
        let mut fleet = fleet.context("start the servers")?;
        for (name, value) in settings {
            fleet.set(name, *value);
        }
        match layout {
            Layout::WorkerPerStep => fleet.start_roles().await?,
            Layout::WholeWorkers { relays, workers } => {
                for number in 1..=relays {
                    fleet.start(&format!("relay-{number}"), &["relay"]).await?;
                }
                let whole: Vec<&str> = ["worker"].into_iter().chain(STEPS).collect();
                for number in 1..=workers {
                    fleet.start(&format!("worker-{number}"), &whole).await?;
                }
            }
        }
        Ok(Self { consumer: None, fleet, record: Arc::default(), say: options.say })
    }

    /// Adds RabbitMQ, and a consumer that hears all that is announced from now on.
    pub async fn listen(&mut self) -> Result<()> {
        let url = self.fleet.add_rabbitmq().await?;
        self.consumer = Some(Consumer::start(&url, "sluice.events", "chaos").await?);
        Ok(())
    }

    /// As `listen`, with two publishers.
    pub async fn announce(&mut self) -> Result<()> {
        self.listen().await?;
        for number in 1..=2 {
            self.fleet.start(&format!("events-{number}"), &["events"]).await?;
        }
        Ok(())
    }

    /// Signs so many users up, one INSERT each, evenly over this time; each is committed when this
    /// ends.
    pub fn sign_up(&self, users: u32, over: Duration) -> impl Future<Output = Result<()>> + use<> {
        self.sign_up_these((0..users).map(|_| Uuid::new_v4()).collect(), over)
    }

    /// The same for users who are named.
    pub fn sign_up_these(&self, users: Vec<Uuid>, over: Duration) -> impl Future<Output = Result<()>> + use<> {
        sign_up(self.fleet.database_url(), users, over)
    }

    pub fn watch(&self) -> Watch {
        Watch {
            url: self.fleet.database_url(),
            session: None,
            began: Instant::now(),
            said: Instant::now(),
            say: self.say,
            record: self.record.clone(),
        }
    }

    /// Starts what ended by itself, as a supervisor does.
    pub fn supervise(&mut self) -> Result<()> {
        for process in self.fleet.parts().processes.values_mut() {
            if process.exited()?.is_some() {
                self.record.ended_by_itself();
                process.start_again()?;
            }
        }
        Ok(())
    }

    /// Waits until as many users as signed up have come to an end, or nothing has moved for long.
    /// What did not end is the verdict's to say.
    pub async fn wait_for_all(&mut self, watch: &mut Watch) -> Result<Counts> {
        self.wait_until(watch, |counts| counts.users == counts.ready + counts.failed && counts.doubted == 0).await
    }

    async fn say_what_waits(&self) -> Result<()> {
        let mut session = self.fleet.connect().await?;
        let waiting: Vec<String> = sqlx::query_scalar(
            "select concat_ws(' ', run.resource, step.name, step.state, 'until', step.due_at, step.error)
             from sluice.step
             join sluice.run on run.id = step.run_id
             where step.state in ('due', 'running')
             order by run.id, step.position
             limit 20",
        )
        .fetch_all(&mut session)
        .await
        .context("read what waits")?;
        waiting.iter().for_each(|step| (self.say)(&format!("   waits: {step}")));
        Ok(())
    }

    pub async fn wait_until(&mut self, watch: &mut Watch, there: impl Fn(&Counts) -> bool) -> Result<Counts> {
        let mut before = Counts::default();
        let mut moved = Instant::now();
        loop {
            self.supervise()?;
            if let Some(counts) = watch.counts().await {
                if there(&counts) {
                    return Ok(counts);
                }
                if counts != before {
                    (before, moved) = (counts, Instant::now());
                }
            }
            if moved.elapsed() > PATIENCE {
                (self.say)(&format!("nothing has moved for {PATIENCE:?}: {before}"));
                self.say_what_waits().await?;
                return Ok(before);
            }
            sleep(Duration::from_millis(20)).await;
        }
    }
}

/// How far the users are, by the rows that the app sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub(super) struct Counts {
    pub users: i64,
    pub pending: i64,
    pub processing: i64,
    pub ready: i64,
    pub failed: i64,
    /// Instances that are still to be looked at again, or are looked at now.
    pub doubted: i64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { users, pending, processing, ready, failed, doubted } = self;
        write!(
            f,
            "{users} signed up, {pending} pending, {processing} processing, {ready} ready, {failed} failed, {doubted} in doubt"
        )
    }
}

/// Asks again and again, over a connection that is made anew whenever it is lost.
pub(super) struct Watch {
    url: String,
    session: Option<PgConnection>,
    began: Instant,
    said: Instant,
    say: fn(&str),
    record: Arc<Record>,
}

impl Watch {
    /// None while Postgres does not answer.
    pub async fn counts(&mut self) -> Option<Counts> {
        let counts = timeout(ANSWERS_WITHIN, self.ask()).await.ok().and_then(Result::ok);
        if counts.is_none() {
            self.session = None;
        }
        if self.said.elapsed() > SAY_EVERY {
            self.said = Instant::now();
            let now = counts.map_or_else(|| "Postgres does not answer".to_owned(), |counts| counts.to_string());
            (self.say)(&format!("{:6.1} s  {} faults  {now}", self.began.elapsed().as_secs_f64(), self.record.total()));
        }
        counts
    }

    async fn ask(&mut self) -> Result<Counts> {
        let session = match &mut self.session {
            Some(session) => session,
            none => none.insert(PgConnection::connect(&self.url).await.context("connect")?),
        };
        let counts = sqlx::query_as(
            "select count(*) as users,
               count(*) filter (where queue.status is null or queue.status = 'pending') as pending,
               count(*) filter (where queue.status = 'processing') as processing,
               count(*) filter (where queue.status = 'completed') as ready,
               count(*) filter (where queue.status = 'failed') as failed,
               (select count(*) from sluice.resource where doubted_at is not null)
                 + (select count(*) from sluice.run where internal and state = 'active') as doubted
             from auth.users
             left join public.evolution_instance_creation_queue as queue on queue.user_id = users.id",
        );
        counts.fetch_one(session).await.context("count the users")
    }
}

async fn sign_up(url: String, users: Vec<Uuid>, over: Duration) -> Result<()> {
    let began = Instant::now();
    let count = users.len().max(1) as f64;
    let mut session = None;
    for (number, user) in users.into_iter().enumerate() {
        let due = over.mul_f64(number as f64 / count);
        sleep(due.saturating_sub(began.elapsed())).await;
        insert(&url, &mut session, user).await?;
    }
    Ok(())
}

/// Tries again until it is known to be committed: what is not committed, nobody promised to serve.
pub(super) async fn insert(url: &str, session: &mut Option<PgConnection>, user: Uuid) -> Result<()> {
    let began = Instant::now();
    loop {
        match timeout(ANSWERS_WITHIN, try_insert(url, session, user)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if began.elapsed() > PATIENCE => return Err(error.context("sign a user up")),
            Err(_) if began.elapsed() > PATIENCE => bail!("Postgres took no sign-up for {PATIENCE:?}"),
            Ok(Err(_)) | Err(_) => *session = None,
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn try_insert(url: &str, session: &mut Option<PgConnection>, user: Uuid) -> Result<()> {
    let session = match session {
        Some(session) => session,
        none => none.insert(PgConnection::connect(url).await.context("connect")?),
    };
    sqlx::query("insert into auth.users (id, email) values ($1, $2) on conflict (id) do nothing")
        .bind(user)
        .bind(format!("{user}@example.org"))
        .execute(session)
        .await
        .context("insert a user")?;
    Ok(())
}
