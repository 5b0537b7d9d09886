//! What the Evolution API reports by itself: its recorded events, in whatever order and however
//! often they come, and the rows of the app that follow them.

use std::{collections::BTreeSet, path::Path, time::Duration};

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions},
    types::FieldTable,
};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::{Value, json};
use sluice::{
    events::{
        feed::{Reader, Verdict},
        publish_once,
    },
    whatsapp::Reports,
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tests::{
    evolution::Config,
    fleet::Fleet,
    ledger::{Ledger, Started},
    servers::{Process, RabbitMq, until},
};
use workflows::{
    ids::RunId,
    outcome::Memory,
    whatsapp::{evolution::report::EVENTS, names::UserId},
};

use super::{Recorder, rabbitmq, unique};
use crate::{
    conformance::{
        bench::{Bench, CREATE, PROVISION, STEPS, VERIFY, new_run, user},
        postgres::{self, InPostgres},
        world::World,
    },
    program,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// The bodies that the API sent, in the order of the record.
fn recorded(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contract").join(file);
    let lines = std::fs::read_to_string(path).unwrap();
    let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let bodies = records.map(|record| match &record["request"]["body"] {
        Value::Null => record["body"].clone(),
        body => body.clone(),
    });
    bodies.filter(Value::is_object).collect()
}

fn instances(events: &[Value]) -> BTreeSet<String> {
    events.iter().filter_map(|event| event["instance"].as_str()).map(str::to_owned).collect()
}

/// A run on an instance of this name.
async fn provision(bench: &Bench<InPostgres>, instance: &str) -> (UserId, RunId) {
    let user = user();
    bench.world.sign_up(user).await;
    let mut run = new_run(PROVISION, user);
    run.resource = instance.parse().unwrap();
    let started = bench.ledger().start(&[run]).await.unwrap();
    let Started::New(run) = started[0] else { panic!("{started:?}") };
    (user, run)
}

/// A ready instance of each of these names.
async fn with_instances(names: &BTreeSet<String>) -> Bench<InPostgres> {
    let bench = postgres::bench().await;
    for name in names {
        let (_, run) = provision(&bench, name).await;
        bench.succeed(run, &STEPS).await;
    }
    bench
}

async fn read(bench: &Bench<InPostgres>, events: &[Value]) -> Vec<Verdict> {
    let bodies: Vec<Vec<u8>> = events.iter().map(|event| event.to_string().into_bytes()).collect();
    let bodies: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    Reports.read(bench.ledger(), &bodies).await.unwrap()
}

async fn all(bench: &Bench<InPostgres>, select: &str) -> Vec<String> {
    let mut session = PgConnection::connect(bench.world.url()).await.unwrap();
    let rows = sqlx::query_scalar(AssertSqlSafe(select.to_owned())).fetch_all(&mut session).await.unwrap();
    session.close().await.unwrap();
    rows
}

async fn run(bench: &Bench<InPostgres>, statement: &str) -> u64 {
    let done = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(bench.world.pool()).await;
    done.unwrap().rows_affected()
}

/// The app's rows, and what the ledger remembers beside each.
async fn rows(bench: &Bench<InPostgres>) -> Vec<String> {
    let select =
        "select format('%s: %s, %s, qr %s %s; remembered %s, %s, qr %s', row.instance_name, row.instance_status,
           row.phone_number, left(md5(row.qr_code), 6), row.last_qr_update is not null, held.memory ->> 'status',
           held.memory ->> 'phone_number', left(md5(held.memory ->> 'qr_code'), 6))
         from evolution_instances as row
         join sluice.resource as held on held.name = row.instance_name
         order by row.instance_name";
    all(bench, select).await
}

/// What the app's own function makes of an event that comes to it as a webhook.
async fn handled_by_the_app(bench: &Bench<InPostgres>, event: &Value) {
    let (data, instance) = (&event["data"], event["instance"].as_str().unwrap_or_default());
    let set = match (event["event"].as_str().unwrap(), data["state"].as_str()) {
        ("connection.update", Some("open")) => {
            let number = data["wuid"].as_str().unwrap().split('@').next().unwrap().to_owned();
            format!("instance_status = 'connected', qr_code = null, last_qr_update = null, phone_number = '{number}'")
        }
        ("connection.update", Some("close")) => {
            "instance_status = 'disconnected', qr_code = null, last_qr_update = null".to_owned()
        }
        ("connection.update", Some("connecting")) => "instance_status = 'connecting'".to_owned(),
        ("qrcode.updated", _) => match data["qrcode"]["base64"].as_str() {
            Some(code) => format!("qr_code = '{code}', last_qr_update = now()"),
            None => return,
        },
        _ => return,
    };
    run(bench, &format!("update evolution_instances set {set} where instance_name = '{instance}'")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_events_give_the_same_rows_in_order_shuffled_and_doubled() {
    for file in ["webhooks.jsonl", "rabbitmq.jsonl"] {
        let events = recorded(file);
        let names = instances(&events);
        let bench = with_instances(&names).await;
        assert!(read(&bench, &events).await.iter().all(|verdict| *verdict == Verdict::Taken));
        let in_order = rows(&bench).await;
        assert_eq!(in_order.len(), names.len());

        for seed in 0..6 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut disorder: Vec<Value> = events.iter().chain(&events).cloned().collect();
            disorder.shuffle(&mut random);
            let bench = with_instances(&names).await;
            for batch in disorder.chunks(1 + usize::try_from(seed).unwrap() * 7) {
                read(&bench, batch).await;
            }
            assert_eq!(rows(&bench).await, in_order, "{file}, seed {seed}");
        }

        let shown = in_order.join("\n");
        match file {
            "webhooks.jsonl" => {
                assert!(shown.contains("flow_a: disconnected, 5511999990778, qr  f;"), "{shown}");
                assert!(shown.contains("flow_nohook: connected, 5511999990103, qr  f;"), "{shown}");
                assert!(shown.contains("off_qr: connecting, , qr  f;"), "{shown}");
            }
            _ => {
                assert!(shown.contains("rm_inst: disconnected, , qr  f;"), "{shown}");
                assert!(shown.contains("glob_limit: disconnected, , qr  f;"), "{shown}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_that_the_app_handles_beside_ours_change_nothing() {
    let events: Vec<Value> = recorded("webhooks.jsonl")
        .into_iter()
        // The app's function knows no "refused".
        .filter(|event| event["instance"].as_str().is_some_and(|name| name.starts_with("flow_")))
        .collect();
    let names = instances(&events);
    let alone = with_instances(&names).await;
    read(&alone, &events).await;
    let expected = rows(&alone).await;

    for lead in [0, 5, events.len()] {
        let bench = with_instances(&names).await;
        let mut disorder = events.clone();
        disorder.shuffle(&mut StdRng::seed_from_u64(lead as u64));
        // The app is so many events ahead.
        for number in 0..events.len() + lead {
            if let Some(event) = events.get(number) {
                handled_by_the_app(&bench, event).await;
            }
            if let Some(event) = number.checked_sub(lead).and_then(|number| disorder.get(number)) {
                read(&bench, std::slice::from_ref(event)).await;
            }
        }
        assert_eq!(rows(&bench).await, expected, "the app is {lead} events ahead");
    }
}

fn event(instance: &str, name: &str, second: u32, data: &Value) -> Value {
    json!({ "event": name, "instance": instance, "data": data, "date_time": format!("2026-11-22T16:23:{second:02}.000Z") })
}

fn connection(instance: &str, state: &str, second: u32) -> Value {
    event(instance, "connection.update", second, &json!({ "state": state, "wuid": "5511999990101@s.whatsapp.net" }))
}

async fn status(bench: &Bench<InPostgres>) -> String {
    let select = "select row.instance_status || ' ' || coalesce(held.memory ->> 'status', '-')
         from evolution_instances as row
         join sluice.resource as held on held.name = row.instance_name";
    all(bench, select).await.join(", ")
}

fn finds(status: &str) -> workflows::outcome::Outcome {
    let memory = Memory::default().with("status", status).with("qr_code", None::<String>);
    workflows::outcome::Outcome::Success { output: json!({}), memory, note: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_looked_before_an_event_does_not_undo_it_and_one_that_looked_after_does() {
    let bench = postgres::bench().await;
    let (user, first) = provision(&bench, "user_1").await;
    bench.succeed(first, &STEPS[..2]).await;
    let looking = bench.take(first, VERIFY).await;

    read(&bench, &[connection("user_1", "open", 5)]).await;
    bench.settle(&looking, finds("connecting")).await;
    let after_the_settle = status(&bench).await;
    let mut again = new_run(PROVISION, user);
    again.resource = "user_1".parse().unwrap();
    let started = bench.ledger().start(&[again]).await.unwrap();
    let Started::New(second) = started[0] else { panic!("{started:?}") };
    bench.work(second, CREATE, finds("disconnected")).await;

    assert_eq!(after_the_settle, "connected connected");
    assert_eq!(status(&bench).await, "disconnected disconnected");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_an_instance_was_linked_is_remembered_though_it_is_over_since() {
    let bench = with_instances(&BTreeSet::from(["user_1".to_owned()])).await;
    let mut late = connection("user_1", "open", 5);
    late["data"].as_object_mut().unwrap().remove("wuid");

    read(&bench, &[connection("user_1", "close", 6)]).await;
    read(&bench, &[late]).await;

    assert_eq!(status(&bench).await, "disconnected disconnected");
    assert_eq!(all(&bench, "select memory ->> 'paired' from sluice.resource").await, ["true"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_of_a_clock_that_was_set_wrong_outdates_no_later_one() {
    let bench = with_instances(&BTreeSet::from(["user_1".to_owned()])).await;
    let mut wrong = connection("user_1", "open", 5);
    wrong["date_time"] = json!("2199-01-01T00:00:00.000Z");
    read(&bench, &[wrong]).await;
    assert_eq!(status(&bench).await, "connected connected");

    let mut right = connection("user_1", "close", 5);
    right["date_time"] = json!(chrono::Utc::now().to_rfc3339());
    read(&bench, &[right]).await;

    assert_eq!(status(&bench).await, "disconnected disconnected");
}

#[tokio::test(flavor = "multi_thread")]
async fn between_runs_an_instance_announces_what_has_become_of_it() {
    let bench = with_instances(&BTreeSet::from(["user_1".to_owned()])).await;
    let broker = Recorder::default();
    while publish_once(bench.ledger(), &broker, "me", 100).await.unwrap().claimed > 0 {}
    broker.taken();

    read(&bench, &[connection("user_1", "connecting", 1)]).await;
    read(&bench, &[connection("user_1", "open", 2)]).await;
    read(&bench, &[connection("user_1", "open", 2), connection("user_1", "connecting", 1)]).await;
    let deleted = event("user_1", "remove.instance", 4, &Value::Null);
    read(&bench, &[deleted.clone(), event("user_1", "logout.instance", 4, &Value::Null)]).await;
    read(&bench, &[deleted, event("user_1", "instance.delete", 5, &Value::Null)]).await;

    while publish_once(bench.ledger(), &broker, "me", 100).await.unwrap().claimed > 0 {}
    let sent = broker.taken();
    let keys: Vec<&str> = sent.iter().map(|message| message.routing_key.as_str()).collect();
    assert_eq!(keys, ["instance.connected", "instance.gone", "instance.disconnected"]);
    let body: Value = serde_json::from_slice(&sent[1].body).unwrap();
    assert_eq!((&body["data"]["resource"], &body["sequence"]), (&json!("user_1"), &json!("2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_passed_over_and_a_row_that_is_locked_is_written_later() {
    let bench = with_instances(&BTreeSet::from(["user_1".to_owned(), "user_2".to_owned()])).await;
    let mut app = PgConnection::connect(bench.world.url()).await.unwrap();
    let mut theirs = app.begin().await.unwrap();
    sqlx::query("select from evolution_instances where instance_name = 'user_1' for update")
        .execute(&mut *theirs)
        .await
        .unwrap();

    let events = ["user_1", "user_2", "nobody"].map(|name| connection(name, "open", 1));
    let locked = read(&bench, &events).await;
    let meanwhile = status(&bench).await;
    theirs.rollback().await.unwrap();
    let free = read(&bench, &events).await;

    assert_eq!(locked, [Verdict::PutOff, Verdict::Taken, Verdict::Taken]);
    assert!(meanwhile.contains("connected connected") && meanwhile.contains("creating -"), "{meanwhile}");
    assert_eq!(free, [Verdict::Taken; 3]);
    assert_eq!(status(&bench).await, "connected connected, connected connected");
    assert_eq!(all(&bench, "select resource from sluice.heard order by 1").await, ["user_1", "user_2"]);
}

/// Who publishes as the API does: its exchange, no properties, no confirms of its own.
struct Api {
    channel: Channel,
    exchange: String,
    _connection: Connection,
}

impl Api {
    async fn at(server: &RabbitMq, exchange: &str) -> Self {
        let connection = Connection::connect(&server.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, FieldTable::default()).await.unwrap();
        Self { channel, exchange: exchange.to_owned(), _connection: connection }
    }

    async fn publish(&self, key: &str, body: &[u8]) {
        let (exchange, options) = (self.exchange.as_str().into(), BasicPublishOptions::default());
        let sent =
            self.channel.basic_publish(exchange, key.into(), options, body, BasicProperties::default()).await.unwrap();
        sent.await.unwrap();
    }

    async fn report(&self, event: &Value) {
        self.publish(event["event"].as_str().unwrap(), event.to_string().as_bytes()).await;
    }
}

fn follower(bench: &Bench<InPostgres>, server: &RabbitMq, exchange: &str) -> Process {
    let variables = [
        ("DATABASE_URL", bench.world.url()),
        ("EVOLUTION_AMQP_URL", &server.url()),
        ("EVOLUTION_AMQP_EXCHANGE", exchange),
        ("EVOLUTION_AMQP_QUEUE", exchange),
    ];
    program::start(&["follow"], &variables)
}

/// Of an API that publishes to an exchange for each instance.
fn follower_of_each(bench: &Bench<InPostgres>, server: &RabbitMq, queue: &str) -> Process {
    let variables = [
        ("DATABASE_URL", bench.world.url()),
        ("EVOLUTION_AMQP_URL", &server.url()),
        ("EVOLUTION_AMQP_MODE", "instance"),
        ("EVOLUTION_AMQP_QUEUE", queue),
    ];
    program::start(&["follow"], &variables)
}

/// Waits until the queue is bound to this exchange by the keys of all seven events, and no other.
async fn until_bound(server: &RabbitMq, exchange: &str, queue: &str, follower: &Process) {
    let bound = until(PATIENCE, async || {
        let names = ["list_bindings", "source_name", "destination_name", "routing_key"];
        let bindings = server.ctl(&names).await.unwrap();
        let bindings = bindings.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        let keys: BTreeSet<String> =
            bindings.filter(|line| line[..2] == [exchange, queue]).map(|line| line[2].to_owned()).collect();
        (keys == BTreeSet::from(EVENTS.map(str::to_owned))).then_some(())
    });
    assert!(bound.await.is_some(), "{queue} is not bound to {exchange}\n{}", follower.log());
}

async fn until_status(bench: &Bench<InPostgres>, wanted: &str, log: impl Fn() -> String) {
    let there = until(PATIENCE, async || (status(bench).await == wanted).then_some(())).await;
    assert!(there.is_some(), "{} is not {wanted}\n{}", status(bench).await, log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_keeps_rows_true_over_its_own_death_and_sets_aside_what_it_cannot_read() {
    let (server, exchange) = (&rabbitmq().await.server, unique("reports"));
    let bench = with_instances(&BTreeSet::from(["user_1".to_owned()])).await;
    // Whoever comes first declares the exchange.
    let mut first = follower(&bench, server, &exchange);
    first.wait_for_log("connected to the broker", PATIENCE).await.unwrap();
    let api = Api::at(server, &exchange).await;

    api.report(&connection("user_1", "open", 1)).await;
    api.publish("connection.update", b"no JSON, with s3cret-t0ken").await;
    until_status(&bench, "connected connected", || first.log()).await;
    let log = first.log();
    drop(first);
    api.report(&event("user_1", "logout.instance", 2, &Value::Null)).await;
    let second = follower(&bench, server, &exchange);

    until_status(&bench, "disconnected disconnected", || second.log()).await;
    let wanted = [&format!("{exchange}.unread"), "1"];
    let there = until(PATIENCE, async || {
        let queues = server.ctl(&["list_queues", "name", "messages"]).await.unwrap();
        queues.lines().any(|line| line.split_whitespace().eq(wanted)).then_some(())
    });
    assert!(there.await.is_some(), "no message in {wanted:?}");
    assert!(log.contains("cannot be read") && !log.contains("s3cret"), "{log}");
}

/// Somebody empties a broker by hand: what nobody can read must not vanish from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_unread_reports_that_was_deleted_is_there_again_for_the_next_one() {
    let (server, exchange) = (&rabbitmq().await.server, unique("unread"));
    let bench = postgres::bench().await;
    let mut follower = follower(&bench, server, &exchange);
    follower.wait_for_log("connected to the broker", PATIENCE).await.unwrap();
    let unread = format!("{exchange}.unread");
    server.ctl(&["delete_queue", &unread]).await.unwrap();

    Api::at(server, &exchange).await.publish("connection.update", b"no JSON").await;

    let wanted = [&unread, "1"];
    let there = until(PATIENCE, async || {
        let queues = server.ctl(&["list_queues", "name", "messages"]).await.unwrap();
        queues.lines().any(|line| line.split_whitespace().eq(wanted)).then_some(())
    });
    assert!(there.await.is_some(), "no message in {wanted:?}\n{}", follower.log());
    let log = follower.log();
    assert_eq!(log.matches("connected to the broker").count(), 1, "{log}");
    assert_eq!(log.matches(&format!("the queue {unread} is gone")).count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_instances_own_exchange_is_followed_also_of_one_that_is_new() {
    let (server, old, new, queue) = (&rabbitmq().await.server, unique("old"), unique("new"), unique("of-each"));
    let bench = with_instances(&BTreeSet::from([old.clone()])).await;
    let mut first = follower_of_each(&bench, server, &queue);
    first.wait_for_log("the queue is bound to every exchange", PATIENCE).await.unwrap();

    // The API declares the exchange as well: a refusal of its declaration would end this.
    let api = Api::at(server, &old).await;
    api.report(&connection(&old, "open", 1)).await;
    until_status(&bench, "connected connected", || first.log()).await;
    let (_, run) = provision(&bench, &new).await;
    until_bound(server, &new, &queue, &first).await;
    bench.succeed(run, &STEPS).await;
    let api_of_new = Api::at(server, &new).await;
    api_of_new.report(&connection(&new, "open", 1)).await;
    until_status(&bench, "connected connected, connected connected", || first.log()).await;

    let log = first.log();
    drop(first);
    for (api, name) in [(&api, &old), (&api_of_new, &new)] {
        api.report(&event(name, "logout.instance", 2, &Value::Null)).await;
    }
    let second = follower_of_each(&bench, server, &queue);
    until_status(&bench, "disconnected disconnected, disconnected disconnected", || second.log()).await;
    let exchanges =
        server.ctl(&["list_exchanges", "name", "type", "durable", "auto_delete", "arguments"]).await.unwrap();
    let line = exchanges.lines().find(|line| line.starts_with(&new)).unwrap();
    assert_eq!(line.split_whitespace().skip(1).collect::<Vec<_>>().join(" "), "topic true false []");
    assert!(!log.contains("nothing is heard"), "{log}");
}

/// The workers, which know no RabbitMQ, tell the API; the follower hears what it then publishes.
#[tokio::test(flavor = "multi_thread")]
async fn who_signs_up_is_told_of_to_the_api_and_followed() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = Config { rabbitmq: true, ..Config::default() };
    let mut fleet = Fleet::prepare(Default::default(), Default::default(), config).await.unwrap();
    fleet.set("EVOLUTION_AMQP_MODE", "instance");
    fleet.start_roles().await.unwrap();
    let url = fleet.add_rabbitmq().await.unwrap();
    fleet.set("EVOLUTION_AMQP_URL", url);
    fleet.start("follow-1", &["follow"]).await.unwrap();
    let mut session = fleet.connect().await.unwrap();

    sqlx::raw_sql("insert into auth.users (email) values ('ada@example.org')").execute(&mut session).await.unwrap();
    let row = "select instance_name, instance_status from evolution_instances where webhook_url <> ''
                 and exists (select from sluice.run where state = 'succeeded')";
    let mut shown = async || sqlx::query_as::<_, (String, String)>(row).fetch_optional(&mut session).await.unwrap();
    let (name, _) = until(PATIENCE, &mut shown).await.unwrap();
    let parts = fleet.parts();
    let find = format!("{}/rabbitmq/find/{name}", parts.api.base_url());
    let find = reqwest::Client::new().get(find).header("apikey", parts.api.key()).send().await.unwrap();
    let found: Value = find.json().await.unwrap();
    let api = Api::at(parts.rabbitmq.unwrap(), &name).await;
    let connected = until(PATIENCE, async || {
        api.report(&connection(&name, "open", 1)).await;
        shown().await.filter(|(_, status)| status == "connected")
    });

    assert!(connected.await.is_some(), "{}", fleet.process("follow-1").unwrap().log());
    assert_eq!((&found["enabled"], found["events"].as_array().map(Vec::len)), (&json!(true), Some(EVENTS.len())));
}

/// A storm of sign-ups, and names that no exchange can have.
#[tokio::test(flavor = "multi_thread")]
async fn every_one_of_many_instances_is_bound_and_one_that_cannot_be_holds_up_no_other() {
    const MANY: usize = 450;
    let (server, prefix, queue) = (&rabbitmq().await.server, unique("many"), unique("of-many"));
    let other_kind = format!("{prefix}-007-fanout");
    let declare = format!(
        "rabbit_exchange:declare({{resource, <<\"/\">>, exchange, <<\"{other_kind}\">>}}, fanout, true, false, false, [], <<\"t\">>)."
    );
    server.ctl(&["eval", &declare]).await.unwrap();
    let bench = postgres::bench().await;
    let name = |number: usize| format!("{prefix}-{number:03}");
    for name in [other_kind.as_str(), "amq.reserved", &"ä".repeat(200), "aa"].map(str::to_owned) {
        provision(&bench, &name).await;
    }
    let mut follower = follower_of_each(&bench, server, &queue);
    follower.wait_for_log("the queue is bound to every exchange", PATIENCE).await.unwrap();

    for number in 0..MANY {
        provision(&bench, &name(number)).await;
    }

    let sources = async || {
        let bindings = server.ctl(&["list_bindings", "source_name", "destination_name"]).await.unwrap();
        let bindings = bindings.lines().filter_map(|line| line.split_once('\t'));
        let sources = bindings.filter(|(source, bound)| *bound == queue && !source.is_empty());
        sources.map(|(source, _)| source.to_owned()).collect::<BTreeSet<_>>()
    };
    let wanted: BTreeSet<String> = (0..MANY).map(name).chain(["aa".to_owned()]).collect();
    let bound = until(PATIENCE, async || (sources().await == wanted).then_some(())).await;
    assert!(bound.is_some(), "{} of {} are bound\n{}", sources().await.len(), wanted.len(), follower.log());
    let log = follower.log();
    assert_eq!(log.matches("nothing is heard from an exchange").count(), 3, "{log}");
    assert_eq!(log.matches("RabbitMQ has no exchange of this name").count(), 2, "{log}");
    assert!(log.contains(&other_kind) && log.contains("amq.reserved"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bindings_outlive_a_broker_that_is_killed_and_those_that_were_missed_are_made() {
    let mut server = RabbitMq::start(tests::servers::rabbitmq::Options::default()).await.unwrap();
    let bench = with_instances(&BTreeSet::from(["user_1".to_owned()])).await;
    let mut follower = follower_of_each(&bench, &server, "sluice.evolution");
    follower.wait_for_log("the queue is bound to every exchange", PATIENCE).await.unwrap();

    Api::at(&server, "user_1").await.report(&connection("user_1", "open", 1)).await;
    until_status(&bench, "connected connected", || follower.log()).await;
    until_bound(&server, "user_1", "sluice.evolution", &follower).await;
    server.write_down_queues().await.unwrap();
    server.kill().await.unwrap();
    // Somebody signs up while the broker is away.
    let (_, run) = provision(&bench, "user_2").await;
    bench.succeed(run, &STEPS).await;
    server.restart().await.unwrap();

    for name in ["user_1", "user_2"] {
        until_bound(&server, name, "sluice.evolution", &follower).await;
        Api::at(&server, name).await.report(&event(name, "logout.instance", 2, &Value::Null)).await;
    }
    until_status(&bench, "disconnected disconnected, disconnected disconnected", || follower.log()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_connection_updates_does_not_become_a_storm_of_writes() {
    const STORM: u32 = 3000;
    let (server, exchange) = (&rabbitmq().await.server, unique("storm"));
    let bench = with_instances(&BTreeSet::from(["user_1".to_owned()])).await;
    run(
        &bench,
        "create table public.written (what text);
         create function public.note_write() returns trigger language plpgsql as
           'begin insert into public.written values (tg_table_name); return null; end';
         grant insert on public.written to public;
         create trigger note_write after update on sluice.heard for each row execute function public.note_write();
         create trigger note_write after update on public.evolution_instances
           for each row execute function public.note_write();",
    )
    .await;
    let mut follower = follower(&bench, server, &exchange);
    follower.wait_for_log("connected to the broker", PATIENCE).await.unwrap();
    let api = Api::at(server, &exchange).await;

    for number in 0..STORM {
        let at = format!("2026-11-22T16:{:02}:{:02}.{:03}Z", number / 60 % 60, number % 60, number % 1000);
        let mut update = connection("user_1", "connecting", 0);
        update["date_time"] = json!(at);
        api.report(&update).await;
    }
    let mut end = connection("user_1", "open", 0);
    end["date_time"] = json!("2026-11-22T17:00:00.000Z");
    api.report(&end).await;

    until_status(&bench, "connected connected", || follower.log()).await;
    let count = async |table: &str| {
        let counted = all(&bench, &format!("select count(*)::text from written where what = '{table}'")).await;
        counted[0].parse::<u32>().unwrap()
    };
    assert_eq!(count("evolution_instances").await, 2, "connecting, and connected");
    let taken = count("heard").await;
    assert!(taken < STORM / 20, "{taken} writes for {STORM} events");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_cannot_be_is_refused_without_its_password() {
    let refused = program::run(
        &["follow"],
        &[("DATABASE_URL", "postgres://a@127.0.0.1/x"), ("EVOLUTION_AMQP_URL", "amqp//ada:hunter2@rabbit")],
    )
    .await;
    let said = program::said(&refused);

    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("EVOLUTION_AMQP_URL=***") && !said.contains("hunter2"), "{said}");
    let unset = program::said(&program::run(&["follow"], &[("DATABASE_URL", "postgres://a@127.0.0.1/x")]).await);
    assert!(unset.contains("EVOLUTION_AMQP_URL: is not set"), "{unset}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mode_that_the_api_does_not_have_is_refused_by_whoever_needs_it_and_said_once() {
    let needed = [
        ("DATABASE_URL", "postgres://a@127.0.0.1/x"),
        ("REDIS_URL", "redis://127.0.0.1:9"),
        ("EVOLUTION_API_BASE_URL", "http://127.0.0.1:9"),
        ("EVOLUTION_API_KEY", "k"),
        ("WEBHOOK_URL", "https://app.example.com"),
        ("EVOLUTION_AMQP_URL", "amqp://127.0.0.1:9/%2f"),
        ("EVOLUTION_AMQP_MODE", "both"),
    ];
    for role in [&["follow"][..], &["worker", "verify"], &["all"]] {
        let refused = program::run(role, &needed).await;
        let said = program::said(&refused);

        assert_eq!(refused.status.code(), Some(2), "{role:?}: {said}");
        let line = "EVOLUTION_AMQP_MODE=both: expected global or instance";
        assert_eq!(said.matches(line).count(), 1, "{role:?}: {said}");
    }
}

/// A queue of an older build, or of somebody else, under our name.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_other_properties_is_refused_by_its_name_with_the_mend_and_ours_has_a_bound() {
    let (server, ours, other) = (&rabbitmq().await.server, unique("bounded"), unique("other"));
    let bench = postgres::bench().await;
    let declare = format!(
        "rabbit_amqqueue:declare({{resource, <<\"/\">>, queue, <<\"{other}\">>}}, true, false, [], none, <<\"t\">>)."
    );
    server.ctl(&["eval", &declare]).await.unwrap();

    let mut refused = follower(&bench, server, &other);
    refused.wait_for_log("set EVOLUTION_AMQP_QUEUE", PATIENCE).await.unwrap();
    let mut follows = follower(&bench, server, &ours);
    follows.wait_for_log("connected to the broker", PATIENCE).await.unwrap();

    let log = refused.log();
    assert!(log.contains(&format!("declare the queue {other}")), "{log}");
    let queues = server.ctl(&["list_queues", "name", "arguments"]).await.unwrap();
    let arguments = queues.lines().find(|line| line.split_whitespace().next() == Some(&ours)).unwrap();
    assert!(arguments.contains("x-max-length") && arguments.contains("50000"), "{arguments}");
}
