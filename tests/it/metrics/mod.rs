//! Metrics and health of the roles as separate processes, and the files in deploy/ that are made
//! for them.

mod exposition;
mod files;
mod gauges;
mod health;
mod open_metrics;
mod prometheus;
mod values;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use serde_json::Value;
use tests::{
    evolution::{Config, Fault, Route, Rule, Stage, When},
    fleet::Fleet,
    servers::{Process, postgres, redis, until},
};
use uuid::Uuid;

use self::open_metrics::Series;

/// As Prometheus asks.
const OPEN_METRICS: &str = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

/// Long enough for a loaded machine with two cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// Servers, and no role yet; each role will answer on a port of its own.
async fn fleet() -> Fleet {
    let mut fleet =
        Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default()).await.unwrap();
    fleet.set("HTTP_LISTEN", "127.0.0.1:0");
    fleet
}

/// A process of each role that there is, with a RabbitMQ of their own.
async fn start_every_role(fleet: &mut Fleet) {
    let url = fleet.add_rabbitmq().await.unwrap();
    fleet.set("EVOLUTION_AMQP_URL", url);
    fleet.start_roles().await.unwrap();
    fleet.start("events-1", &["events"]).await.unwrap();
    fleet.start("follow-1", &["follow"]).await.unwrap();
}

/// Where a process answers, as it logged it.
async fn address(process: &mut Process) -> String {
    process.wait_for_log("health and metrics", PATIENCE).await.unwrap();
    let lines = process.log();
    let mut logged = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    // The last one: it may have been started again.
    let line = logged.rfind(|line| line["message"] == "health and metrics").unwrap();
    line["address"].as_str().unwrap().to_owned()
}

/// The addresses of all processes, by their names.
async fn addresses(fleet: &mut Fleet) -> BTreeMap<String, String> {
    let mut addresses = BTreeMap::new();
    for name in fleet.names() {
        addresses.insert(name.clone(), address(fleet.process(&name).unwrap()).await);
    }
    addresses
}

fn client() -> reqwest::Client {
    // One process, one provider: a second installation only says that the first one is there.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().tls_certs_only([]).timeout(PATIENCE).build().unwrap()
}

/// Status and body of a page.
async fn get(address: &str, path: &str) -> (u16, String) {
    let response = client().get(format!("http://{address}{path}")).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// Content type and body of a page that is there.
async fn get_accepting(address: &str, path: &str, accept: &str) -> (String, String) {
    let request = client().get(format!("http://{address}{path}")).header("accept", accept);
    let response = request.send().await.unwrap().error_for_status().unwrap();
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    (kind, response.text().await.unwrap())
}

async fn scrape(address: &str) -> Scrape {
    Scrape::read(get_accepting(address, "/metrics", OPEN_METRICS).await.1)
}

/// What all processes show together.
async fn scrape_all<'a>(addresses: impl IntoIterator<Item = &'a String>) -> Scrape {
    let mut all = Scrape::default();
    for address in addresses {
        let mut one = scrape(address).await;
        all.0.append(&mut one.0);
        all.1 += &one.1;
    }
    all
}

/// The series of an exposition, and its text.
#[derive(Debug, Default)]
struct Scrape(Vec<Series>, String);

impl Scrape {
    fn read(text: String) -> Self {
        Self(open_metrics::read(&text).unwrap_or_else(|wrong| panic!("{wrong}\n{text}")), text)
    }

    /// The names of its samples.
    fn names(&self) -> BTreeSet<&str> {
        self.0.iter().map(|series| series.name.as_str()).collect()
    }

    /// The sum of the series with this name and these labels; none where there is no such series.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted = |series: &&Series| {
            series.name == name
                && labels.iter().all(|(label, value)| series.labels.get(*label).is_some_and(|v| v == value))
        };
        self.0.iter().filter(wanted).map(|series| series.value).reduce(|sum, value| sum + value)
    }
}

/// A metric as docs/metrics.md has it.
struct Documented {
    name: String,
    kind: String,
    labels: BTreeSet<String>,
    help: String,
}

impl Documented {
    fn read(row: &str) -> Self {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let ["", name, kind, labels, help, ""] = cells[..] else { panic!("{row} is no metric") };
        let labels = labels.split_whitespace().map(|label| label.trim_matches('`').to_owned()).collect();
        Self { name: name.trim_matches('`').to_owned(), kind: kind.to_owned(), labels, help: help.to_owned() }
    }

    /// The names of its samples.
    fn samples(&self) -> Vec<String> {
        match self.kind.as_str() {
            "histogram" => ["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", self.name)).to_vec(),
            _ => vec![self.name.clone()],
        }
    }
}

/// The metrics that Sluice says it shows.
fn documented() -> Vec<Documented> {
    let page = std::fs::read_to_string(file("docs/metrics.md")).unwrap();
    page.lines().filter(|line| line.starts_with("| `")).map(Documented::read).collect()
}

/// The names of all samples that Sluice says it shows.
pub fn known() -> BTreeSet<String> {
    documented().iter().flat_map(Documented::samples).collect()
}

/// What happens at the API to one user's next call of this route.
fn arrange(fleet: &Fleet, user: Uuid, route: Route, fault: Fault) {
    let rule = Rule { route: Some(route), name_prefix: Some(format!("user_{user}")), when: When::Next(1), fault };
    fleet.api.with(|world, _| world.faults_mut().rules.push(rule));
}

fn error(status: u16) -> Fault {
    Fault::Error { status, body: None, stage: Stage::BeforeWork }
}

/// Asks the app's database until its answer is true.
async fn until_true(fleet: &Fleet, what: &str, sql: &'static str) {
    let mut session = fleet.connect().await.unwrap();
    let held = until(PATIENCE, async || {
        sqlx::query_scalar::<_, bool>(sql).fetch_one(&mut session).await.unwrap().then_some(())
    });
    assert!(held.await.is_some(), "{what}: not within {PATIENCE:?}");
}

async fn sign_up(fleet: &Fleet, user: Uuid) {
    let mut session = fleet.connect().await.unwrap();
    sqlx::query("insert into auth.users (id, email) values ($1, $2)")
        .bind(user)
        .bind(format!("{user}@example.org"))
        .execute(&mut session)
        .await
        .unwrap();
}

/// One whose worker waits in `configure-webhooks` for an answer of the API that takes a minute, and
/// has just renewed its lease: whoever kills it now kills it between two beats. One that dies in a
/// beat may count as one that lost its lease.
async fn fleet_in_a_long_call() -> Fleet {
    let mut fleet = fleet().await;
    let user = Uuid::new_v4();
    arrange(&fleet, user, Route::WebhookSet, Fault::Latency { ms: 60_000, stage: Stage::BeforeWork });
    sign_up(&fleet, user).await;
    fleet.start_roles().await.unwrap();
    let renewed = "select exists (select from sluice.step where name = 'configure-webhooks' and state = 'running'
        and lease_until > started_at + interval '4.5 seconds')";
    until_true(&fleet, "the step runs, and its lease was renewed", renewed).await;
    fleet
}

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path).canonicalize().unwrap()
}
