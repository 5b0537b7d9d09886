//! `make demo`: the main job on real servers that it starts itself. Users sign up by plain INSERTs
//! while calls to the API fail and a worker is killed; it shows the progress and ends with a table
//! of what became of each.

#![allow(clippy::print_stdout, reason = "a program that speaks to a person")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Parser;
use sqlx::{FromRow, PgConnection};
use tests::{
    consumer::{Consumer, Received},
    evolution::{Config, Fault, RetryAfter, Route, Rule, Stage, When},
    fleet::Fleet,
    servers::{postgres, redis, until},
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

/// Signs users up against a Sluice of its own and shows what becomes of them.
///
/// Starts a private Postgres, Redis and RabbitMQ, a simulated Evolution API, one relay, three
/// workers and a publisher of events, all on free ports of 127.0.0.1; nothing of it is left
/// afterwards. Ends with 0 when every user has a ready instance.
#[derive(Parser)]
struct Options {
    /// How many users sign up.
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=5000))]
    users: u32,
    /// Over how many seconds they sign up.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    over: f64,
    /// Stay up afterwards, to look around, until ctrl-c.
    #[arg(long)]
    keep: bool,
    /// The table as JSON, and no progress.
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "expected a number from 0 to 3600".to_owned())
}

/// What happens to some of the users, in turn; the others are left alone.
const MISHAPS: [(&str, Route, Fault); 5] = [
    ("create answers 500 once", Route::Create, Fault::Error { status: 500, body: None, stage: Stage::BeforeWork }),
    ("create is done, its answer lost", Route::Create, Fault::Drop { stage: Stage::AfterWork }),
    (
        "webhook/set answers 503 once",
        Route::WebhookSet,
        Fault::Error { status: 503, body: None, stage: Stage::BeforeWork },
    ),
    (
        "API asks for 1 s of rest",
        Route::WebhookSet,
        Fault::Limited { status: 429, retry_after: RetryAfter::Seconds(1) },
    ),
    ("webhook/find takes 2 s", Route::WebhookFind, Fault::Latency { ms: 2000, stage: Stage::BeforeWork }),
];

/// How long the last announcements may take.
const HEARD_WITHIN: Duration = Duration::from_secs(20);
/// How long all users together may take after the last sign-up.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let mut demo = Demo::start(options).await?;
    demo.sign_up().await?;
    let done = demo.watch().await?;
    demo.show().await?;
    if demo.options.keep {
        demo.stay().await?;
    }
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Demo {
    options: Options,
    fleet: Fleet,
    database: PgConnection,
    began: Instant,
    mishaps: Vec<(Uuid, &'static str)>,
    consumer: Consumer,
}

#[derive(FromRow)]
struct Counts {
    users: i64,
    pending: i64,
    processing: i64,
    ready: i64,
    failed: i64,
}

#[derive(FromRow, serde::Serialize)]
struct User {
    user: String,
    instance: Option<String>,
    queue: Option<String>,
    status: Option<String>,
    attempts: i64,
    not_at_once: Option<String>,
    seconds: Option<f64>,
    #[sqlx(skip)]
    mishap: Option<&'static str>,
    /// What a consumer at RabbitMQ was told of the user, in the order of its arrival.
    #[sqlx(skip)]
    announced: Vec<String>,
}

impl Demo {
    async fn start(options: Options) -> Result<Self> {
        let say = |text: &str| {
            if !options.json {
                eprintln!("{text}");
            }
        };
        say("starting private Postgres, Redis, RabbitMQ and the simulated Evolution API, and migrating the database …");
        let fleet =
            Fleet::prepare(postgres::Options::default().durable(), redis::Options::default(), Config::default());
        let mut fleet = fleet.await.context("start the servers")?;
        for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
            fleet.set(&name, value);
        }
        let url = fleet.add_rabbitmq().await.context("start RabbitMQ")?;
        let consumer = Consumer::start(&url, "sluice.events", "demo").await?;
        say("starting one relay, three workers and a publisher of events, each a process …");
        fleet.start_roles().await.context("start the roles")?;
        fleet.start("events-1", &["events"]).await.context("start the publisher")?;
        let database = fleet.connect().await?;
        Ok(Self { options, fleet, database, began: Instant::now(), mishaps: Vec::new(), consumer })
    }

    /// One INSERT per user, as Supabase's auth server does it; and one worker is killed halfway.
    async fn sign_up(&mut self) -> Result<()> {
        self.began = Instant::now();
        let pause = Duration::from_secs_f64((self.options.over / f64::from(self.options.users)).max(0.0));
        for number in 1..=self.options.users {
            let user = Uuid::new_v4();
            self.arrange(number, user);
            sqlx::query("insert into auth.users (id, email) values ($1, $2)")
                .bind(user)
                .bind(format!("user{number:02}@example.org"))
                .execute(&mut self.database)
                .await
                .context("sign a user up")?;
            if number == self.options.users.div_ceil(2) {
                self.say("· killing the worker of create-instance (SIGKILL) and starting a new one");
                self.fleet.replace("worker-create-instance-1").await?;
            }
            self.progress().await?;
            sleep(pause).await;
        }
        Ok(())
    }

    /// Every third user meets a fault of the API.
    fn arrange(&mut self, number: u32, user: Uuid) {
        if !number.is_multiple_of(3) {
            return;
        }
        let (what, route, fault) = &MISHAPS[(number / 3 - 1) as usize % MISHAPS.len()];
        let rule = Rule {
            route: Some(*route),
            name_prefix: Some(format!("user_{user}")),
            when: When::Next(1),
            fault: fault.clone(),
        };
        self.fleet.api.with(|world, _| world.faults_mut().rules.push(rule));
        self.mishaps.push((user, *what));
    }

    /// Whether all became ready in time.
    async fn watch(&mut self) -> Result<bool> {
        let until = Instant::now() + PATIENCE;
        loop {
            let counts = self.progress().await?;
            if counts.ready == counts.users {
                self.say("");
                return Ok(true);
            }
            if counts.failed > 0 && counts.ready + counts.failed == counts.users || Instant::now() > until {
                self.say("");
                return Ok(false);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    async fn progress(&mut self) -> Result<Counts> {
        let counts: Counts = sqlx::query_as(
            "select count(*) as users,
               count(*) filter (where status = 'pending') as pending,
               count(*) filter (where status = 'processing') as processing,
               count(*) filter (where status = 'completed') as ready,
               count(*) filter (where status = 'failed') as failed
             from public.evolution_instance_creation_queue",
        )
        .fetch_one(&mut self.database)
        .await
        .context("count the queue's rows")?;
        if !self.options.json && std::io::stderr().is_terminal() {
            let Counts { users, pending, processing, ready, failed } = counts;
            eprint!(
                "\r{:6.1} s   signed up {users:3}   pending {pending:3}   processing {processing:3}   ready {ready:3}   failed {failed:3} ",
                self.began.elapsed().as_secs_f64()
            );
        }
        Ok(counts)
    }

    async fn show(&mut self) -> Result<()> {
        self.hear_all().await?;
        let users = self.users().await?;
        if self.options.json {
            print_json(&users)?;
            return Ok(());
        }
        print_table(&users);
        let mut seconds: Vec<f64> = users.iter().filter_map(|user| user.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        let ready = users.iter().filter(|user| user.queue.as_deref() == Some("completed")).count();
        let (made, twice, overlaps) = self.fleet.api.with(|world, _| {
            let journal = world.journal();
            (journal.creates_ok().values().sum::<u32>(), journal.duplicate_creates, journal.overlaps)
        });
        println!(
            "\n{ready} of {} ready; sign-up to ready: median {:.2} s, slowest {:.2} s (2 s of each is the API's wait for a QR code)",
            users.len(),
            seconds.get(seconds.len() / 2).copied().unwrap_or_default(),
            seconds.last().copied().unwrap_or_default(),
        );
        println!(
            "at the API: {made} creates answered 201, {twice} for a name that existed, {overlaps} that overlapped"
        );
        println!("at the gates: {}", self.closed().await?);
        println!("at RabbitMQ: {}", heard(&self.consumer.received()));
        Ok(())
    }

    /// For how long gates were closed: why some users waited who met no fault.
    async fn closed(&mut self) -> Result<String> {
        let all: Vec<(String, f64)> = sqlx::query_as(
            "select scope || ' ' || name || ' (' || cause || ')',
               sum(extract(epoch from least(passed_at, now()) - closed_at))::float8
             from sluice.closed_time
             where scope <> 'run'
             group by scope, name, cause
             order by scope, name, cause",
        )
        .fetch_all(&mut self.database)
        .await
        .context("read for how long gates were closed")?;
        let all: Vec<String> = all.iter().map(|(gate, seconds)| format!("{gate} closed for {seconds:.1} s")).collect();
        Ok(if all.is_empty() { "none was closed".to_owned() } else { all.join(", ") })
    }

    /// Waits until what is announced has arrived, but not for ever.
    async fn hear_all(&mut self) -> Result<()> {
        let select = "select count(*) from sluice.event where published_at is null";
        let all = until(HEARD_WITHIN, async || {
            let waiting: i64 = sqlx::query_scalar(select).fetch_one(&mut self.database).await.ok()?;
            (waiting == 0).then_some(())
        });
        if all.await.is_none() {
            self.say("· not everything was announced in time");
        }
        Ok(())
    }

    async fn users(&mut self) -> Result<Vec<User>> {
        let mut users: Vec<User> = sqlx::query_as(
            "select users.email as user, shown.instance_name as instance, queue.status as queue, shown.status,
               count(attempt.id) as attempts,
               string_agg(attempt.step || ': ' || attempt.outcome || coalesce(' (' || attempt.class || ')', ''), ', '
                 order by attempt.id) filter (where attempt.outcome <> 'succeeded') as not_at_once,
               extract(epoch from queue.processed_at - queue.created_at)::float8 as seconds
             from auth.users
             left join public.evolution_instance_creation_queue as queue on queue.user_id = users.id
             left join public.evolution_instances as shown on shown.user_id = users.id
             left join sluice.run on run.subject = users.id::text
             left join sluice.attempt on attempt.run_id = run.id
             group by users.email, shown.instance_name, queue.status, shown.status, queue.processed_at, queue.created_at
             order by users.email",
        )
        .fetch_all(&mut self.database)
        .await
        .context("read what became of the users")?;
        let received = self.consumer.received();
        for user in &mut users {
            let id = user.instance.as_deref().and_then(|name| name.strip_prefix("user_"));
            let met = self.mishaps.iter().find(|(mishap, _)| Some(mishap.to_string().as_str()) == id);
            user.mishap = met.map(|(_, what)| *what);
            let about = |message: &&Received| message.event["subject"].as_str() == id;
            user.announced = received.iter().filter(about).map(|message| word(&message.routing_key)).collect();
        }
        Ok(users)
    }

    async fn stay(&self) -> Result<()> {
        println!("\nEverything stays up until ctrl-c. In another terminal:");
        // The roles log as JSON, for the demo; a person's commands need not.
        for (name, value) in self.fleet.variables().iter().filter(|(name, _)| *name != "LOG_FORMAT") {
            println!("  export {name}='{value}'");
        }
        let sluice = std::env::current_exe().context("find the program sluice")?.with_file_name("sluice");
        for command in ["queue stats", "runs list", "events tail"] {
            println!("  {} {command}", sluice.display());
        }
        println!("  psql \"$DATABASE_URL\" -c \"insert into auth.users (email) values ('me@example.org')\"");
        println!(
            "  psql \"$DATABASE_URL\" -c 'select * from evolution_instance_creation_queue order by created_at desc limit 5'"
        );
        tokio::signal::ctrl_c().await.context("wait for ctrl-c")
    }

    fn say(&self, text: &str) {
        if !self.options.json {
            eprintln!("{}{text}", if std::io::stderr().is_terminal() { "\n" } else { "" });
        }
    }
}

fn print_table(users: &[User]) {
    println!(
        "{:<20} {:<42} {:<11} {:<12} {:>8} {:>7}  {:<24} what went wrong on the way",
        "user", "instance", "queue", "instance is", "attempts", "seconds", "announced"
    );
    for user in users {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "–".to_owned());
        let seconds = user.seconds.map_or_else(|| "–".to_owned(), |seconds| format!("{seconds:.2}"));
        let story: Vec<&str> = user.mishap.into_iter().chain(user.not_at_once.as_deref()).collect();
        let line = format!(
            "{:<20} {:<42} {:<11} {:<12} {:>8} {:>7}  {:<24} {}",
            user.user,
            text(&user.instance),
            text(&user.queue),
            text(&user.status),
            user.attempts,
            seconds,
            user.announced.join(" "),
            story.join(" → ")
        );
        println!("{}", line.trim_end());
    }
}

/// What happened, without to what: `started`.
fn word(routing_key: &str) -> String {
    routing_key.rsplit('.').next().unwrap_or_default().to_owned()
}

/// How many messages of each kind arrived, and how many of them twice.
fn heard(received: &[Received]) -> String {
    let mut kinds = BTreeMap::<&str, usize>::new();
    for message in received {
        *kinds.entry(&message.routing_key).or_default() += 1;
    }
    let ids: BTreeSet<&str> = received.iter().map(|message| message.id.as_str()).collect();
    let kinds: Vec<String> = kinds.into_iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    format!("{} ({} twice)", kinds.join(", "), received.len() - ids.len())
}

fn print_json(users: &[User]) -> Result<()> {
    println!("{}", serde_json::to_string_pretty(users).context("write the table as JSON")?);
    Ok(())
}
