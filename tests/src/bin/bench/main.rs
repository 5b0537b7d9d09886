//! `make bench`: how much of the API's own speed is left when each sign-up goes through Sluice. The same three steps, with the
//! same client against the same simulated API, once called bare from one process that forgets everything, once as sign-ups
//! through Postgres, relay, Redis and workers. The result is a ratio: both halves run on this machine, one after the other. And
//! the same for sign-ups with every trace recorded against sign-ups with none.

#![allow(clippy::print_stdout, reason = "a program that speaks to a person")]

mod tracing;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use futures::{StreamExt, stream};
use serde::Serialize;
use sluice::evolution::{Client, Options as ClientOptions, Timeouts};
use sqlx::PgConnection;
use tests::{
    evolution::Config,
    fleet::Fleet,
    servers::{postgres, redis, until},
};
use tokio::time::Instant;
use uuid::Uuid;
use workflows::{
    ids::{InstanceName, UserId},
    outcome::{Given, Outcome},
    provision,
    secret::Secret,
};

/// Measures sign-ups through Sluice against the same API calls made bare, in the same run.
#[derive(Parser)]
struct Options {
    /// How many users sign up at once in the burst.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    users: u32,
    /// How many users sign up one by one, for the latency.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=1000))]
    singles: u32,
    /// How many of the bare calls run at once: as many as Sluice's workers do (50 per step).
    #[arg(long, default_value_t = 150)]
    concurrency: usize,
    /// How often bursts with and without tracing take turns.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// The figures as JSON.
    #[arg(long)]
    json: bool,
}

/// Rates are sign-ups per second, latencies medians in milliseconds from sign-up to ready.
#[derive(Serialize)]
struct Figures {
    users: u32,
    bare_per_second: f64,
    sluice_per_second: f64,
    throughput_ratio: f64,
    bare_latency_ms: f64,
    sluice_latency_ms: f64,
    latency_ratio: f64,
    untraced_per_second: f64,
    traced_per_second: f64,
    tracing_ratio: f64,
    spans: usize,
}

const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let mut fleet =
        Fleet::prepare(postgres::Options::default().durable(), redis::Options::default(), Config::default()).await?;
    // Two seconds of waiting for a QR code would hide what is measured.
    fleet.set("QR_AT_SIGNUP", "false");
    fleet.start_roles().await?;
    let bare = Bare::new(&fleet)?;
    let mut database = fleet.connect().await?;

    bare.burst(options.concurrency, options.concurrency).await?;
    burst(&mut database, 20).await?;

    let bare_burst = bare.burst(options.users as usize, options.concurrency).await?;
    let sluice_burst = burst(&mut database, options.users).await?;
    let bare_single = bare.one_by_one(options.singles).await?;
    let sluice_single = one_by_one(&mut database, options.singles).await?;
    let tracing = tracing::cost(&mut fleet, &mut database, options.users, options.rounds).await?;
    let rate = |duration: Duration| f64::from(options.users) / duration.as_secs_f64();
    show(
        &options,
        &Figures {
            users: options.users,
            bare_per_second: rate(bare_burst),
            sluice_per_second: rate(sluice_burst),
            throughput_ratio: rate(sluice_burst) / rate(bare_burst),
            bare_latency_ms: bare_single,
            sluice_latency_ms: sluice_single,
            latency_ratio: sluice_single / bare_single,
            untraced_per_second: tracing.untraced_per_second,
            traced_per_second: tracing.traced_per_second,
            tracing_ratio: tracing.traced_per_second / tracing.untraced_per_second,
            spans: tracing.spans,
        },
    )
}

fn show(options: &Options, figures: &Figures) -> Result<()> {
    if options.json {
        println!("{}", serde_json::to_string_pretty(figures).context("write the figures as JSON")?);
        return Ok(());
    }
    let Figures { users, bare_per_second, sluice_per_second, throughput_ratio, .. } = figures;
    println!(
        "burst of {users}:  bare calls {bare_per_second:7.1}/s   Sluice {sluice_per_second:7.1}/s   ratio {throughput_ratio:.2}"
    );
    let Figures { bare_latency_ms, sluice_latency_ms, latency_ratio, .. } = figures;
    println!(
        "one by one:   bare calls {bare_latency_ms:6.0} ms   Sluice {sluice_latency_ms:6.0} ms   ratio {latency_ratio:.2}"
    );
    let Figures { untraced_per_second, traced_per_second, tracing_ratio, spans, .. } = figures;
    println!(
        "tracing:      off        {untraced_per_second:7.1}/s   on     {traced_per_second:7.1}/s   ratio {tracing_ratio:.2}   ({spans} spans, none lost)"
    );
    Ok(())
}

/// The three steps without an engine: nothing is stored, nothing survives.
struct Bare {
    api: Client,
    settings: provision::Settings,
}

impl Bare {
    fn new(fleet: &Fleet) -> Result<Self> {
        let key = Secret::new(fleet.api.key());
        let base_url = fleet.api.base_url().to_owned();
        let api = Client::new(ClientOptions { base_url, key, timeouts: Timeouts::default() })?;
        let webhook = provision::WebhookOptions {
            url: "http://127.0.0.1:9/hook".to_owned(),
            events: vec!["CONNECTION_UPDATE".to_owned()],
            ..Default::default()
        };
        let options = provision::Options {
            webhook,
            qr_at_signup: provision::QrAtSignup::Skip,
            timings: provision::Timings::default(),
        };
        let settings = provision::Settings::parse(options).map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
        Ok(Self { api, settings })
    }

    async fn burst(&self, users: usize, concurrency: usize) -> Result<Duration> {
        let began = Instant::now();
        let results: Vec<Result<()>> =
            stream::iter(0..users).map(|_| self.sign_up()).buffer_unordered(concurrency).collect().await;
        results.into_iter().collect::<Result<Vec<()>>>()?;
        Ok(began.elapsed())
    }

    async fn one_by_one(&self, users: u32) -> Result<f64> {
        let mut times = Vec::new();
        for _ in 0..users {
            let began = Instant::now();
            self.sign_up().await?;
            times.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        Ok(median(times))
    }

    async fn sign_up(&self) -> Result<()> {
        let user = UserId::new(Uuid::new_v4());
        let mut given = Given {
            subject: user.subject(),
            instance: InstanceName::of_user(user),
            token: Secret::new(Uuid::new_v4().to_string()),
            created_before: false,
            paired_before: false,
            imported: false,
            input: serde_json::json!({}),
        };
        for step in provision::step_names() {
            match provision::run(&step, &self.api, &given, &self.settings).await {
                Some(Outcome::Success { output, .. }) => given.input = output,
                other => bail!("the bare step {step} ended with {other:?}"),
            }
        }
        Ok(())
    }
}

/// From the first sign-up to the last instance that is ready, by Postgres' clock.
async fn burst(database: &mut PgConnection, users: u32) -> Result<Duration> {
    let tag = Uuid::new_v4();
    sqlx::query("insert into auth.users (email) select $1 || n || '@example.org' from generate_series(1, $2) as n")
        .bind(tag.to_string())
        .bind(i32::try_from(users).context("count users")?)
        .execute(&mut *database)
        .await
        .context("sign users up")?;
    let seconds: f64 = finished(database, tag, users).await?;
    Ok(Duration::from_secs_f64(seconds))
}

async fn one_by_one(database: &mut PgConnection, users: u32) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..users {
        times.push(burst(database, 1).await?.as_secs_f64() * 1000.0);
    }
    Ok(median(times))
}

async fn finished(database: &mut PgConnection, tag: Uuid, users: u32) -> Result<f64> {
    let seconds = until(PATIENCE, async || {
        let row: (i64, Option<f64>) = sqlx::query_as(
            "select count(*), extract(epoch from max(queue.processed_at) - min(queue.created_at))::float8
             from auth.users
             join public.evolution_instance_creation_queue as queue on queue.user_id = users.id
             where users.email like $1 || '%'
               and queue.status = 'completed'",
        )
        .bind(tag.to_string())
        .fetch_one(&mut *database)
        .await
        .ok()?;
        row.1.filter(|_| row.0 == i64::from(users))
    });
    seconds.await.with_context(|| format!("{users} sign-ups were not ready within {PATIENCE:?}"))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}
