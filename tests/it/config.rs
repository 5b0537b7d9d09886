//! What may be set: what is refused, all of it at once and without its secrets; and that the
//! program, its help and `.env.example` agree.

use std::{collections::BTreeMap, path::Path, time::Duration};

use clap::{CommandFactory, Parser};
use sluice::{
    cli::migrate::Choices,
    config::{All, AllOptions, Config, Faults},
    database::Pooling,
    telemetry::Vitals,
    whatsapp::{ReportOptions, WorkflowOptions},
};
use workflows::workflow::Catalog;

use crate::program::{run, said};

/// What `sluice all` cannot do without.
const NEEDED: [(&str, &str); 5] = [
    ("DATABASE_URL", "postgres://ada:hunter2@db.example.com/app"),
    ("REDIS_URL", "redis://:hunter2@cache.example.com"),
    ("EVOLUTION_API_BASE_URL", "http://evolution.example.com:8080"),
    ("EVOLUTION_API_KEY", "hunter2"),
    ("SUPABASE_URL", "https://project.supabase.co"),
];

const COLLECTOR: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    product: WorkflowOptions,
    #[command(flatten)]
    engine: AllOptions,
    #[command(flatten)]
    reports: ReportOptions,
    #[command(flatten)]
    _choices: Choices,
}

/// The settings of `sluice all` from what it needs and `more`.
pub fn parsed(more: &[(&str, &str)]) -> All {
    configured(more).role
}

fn configured(more: &[(&str, &str)]) -> Config<All> {
    let mut settings = BTreeMap::from(NEEDED);
    settings.extend(more.iter().copied());
    read(&settings).map_err(|faults| faults.to_string()).unwrap()
}

fn read(settings: &BTreeMap<&str, &str>) -> Result<Config<All>, Faults> {
    let flags =
        settings.iter().map(|(name, value)| format!("--{}={value}", name.to_ascii_lowercase().replace('_', "-")));
    let program = Program::parse_from(std::iter::once("sluice".to_owned()).chain(flags));
    let mut faults = Faults::default();
    let catalog = program.product.add_to(Catalog::default(), &Vitals::new("all"), &mut faults);
    let feed = program.reports.read_if_given(program.product.amqp_mode(), &mut faults);
    program.engine.parse(&catalog, feed, faults)
}

/// The lines that `sluice all` refuses to start with, given what it needs and `more`.
async fn faults(more: &[(&str, &str)]) -> Vec<String> {
    let mut settings = BTreeMap::from(NEEDED);
    settings.extend(more.iter().copied());
    let settings: Vec<_> = settings.into_iter().collect();
    let refused = run(&["all"], &settings).await;
    let said = said(&refused);
    assert_eq!(refused.status.code(), Some(2), "{said}");
    let lines: Vec<_> = said.lines().map(str::to_owned).collect();
    lines[1..lines.len() - 1].to_vec()
}

#[tokio::test]
async fn every_fault_is_said_at_once_in_one_line_and_without_its_secret() {
    let refused = run(
        &["worker", "create-instance", "create-instnce"],
        &[
            ("DATABASE_URL", "postgres://ada:hun/ter2@db.example.com:5432/app"),
            ("DATABASE_POOLING", "sess"),
            ("DATABASE_MAX_CONNECTIONS", "0"),
            ("RETRY_BASE", "soon"),
            ("RETRY_LIMIT", "-1"),
            ("STEP_TIMEOUT", "10s"),
            ("REDIS_URL", "rediss:hunter2"),
            ("REDIS_PREFIX", "a b"),
            ("EVOLUTION_API_BASE_URL", "https://evolution.example.com/?key=hunter2"),
            ("EVOLUTION_API_KEY", "hunter2\nhunter2"),
            ("WEBHOOK_EVENTS", "QRCODE_UPDATED"),
            ("WEBHOOK_HEADERS", r#"{"authorization": hunter2}"#),
            ("QR_AT_SIGNUP", "perhaps"),
            ("DRAIN_GRACE", "25"),
            ("LOG_FORMAT", "xml"),
        ],
    )
    .await;

    assert_eq!(refused.status.code(), Some(2));
    let expected = "\
sluice cannot start, for these settings are not right:
STEP=create-instnce: is no step of this build: expected create-instance, configure-webhooks, verify
DATABASE_POOLING=sess: expected auto, session or transaction
DATABASE_URL=***: is no URL (invalid port number): expected postgres://user:password@host:5432/database, with %40 for \
an @ in the password, %2F for a /, %3A for a :, %3F for a ?, %23 for a #, %25 for a %
DATABASE_MAX_CONNECTIONS=0: expected a number from 1 to 100
REDIS_URL=***: expected redis:// or rediss:// and a host
REDIS_PREFIX=a b: expected 1 to 40 letters, digits, hyphens or underscores
DRAIN_GRACE=25: is no duration: write a number and its unit, e.g. 500ms, 25s or 24h
LOG_FORMAT=xml: expected pretty or json
EVOLUTION_API_BASE_URL=https://evolution.example.com: has a query or a fragment: expected scheme, host and at most \
a path
EVOLUTION_API_KEY=***: is empty or holds characters that no header can carry
WEBHOOK_URL: is not set: give where the API shall send events, or SUPABASE_URL for the app's evolution-webhook-handler
WEBHOOK_HEADERS=***: is no JSON object of texts (line 1, column 19): expected {\"name\": \"value\"}
QR_AT_SIGNUP=perhaps: expected true or false
RETRY_BASE=soon: is no duration: write a number and its unit, e.g. 500ms, 25s or 24h
RETRY_LIMIT=-1: expected a number from 1 to 10000
STEP_TIMEOUT=10s: is not longer than one call that creates (15s), so every slow one would be cut
Every setting is a variable and a flag: see --help and .env.example.
";
    assert_eq!(said(&refused), expected);
}

#[tokio::test]
async fn what_a_role_does_not_need_is_not_asked_for() {
    let migrate = run(&["migrate"], &[]).await;
    let relay = run(&["relay"], &[("SUPABASE_DB_URL", "postgres://ada@db:6543/app?sslmode=sure")]).await;

    let unset = "DATABASE_URL: is not set: give the address of Postgres, postgres://user:password@host:5432/database";
    assert_eq!(said(&migrate).lines().nth(1), Some(unset));
    assert_eq!(said(&migrate).lines().count(), 3, "{}", said(&migrate));
    let relay = said(&relay);
    let relay: Vec<_> = relay.lines().collect();
    assert!(relay[1].starts_with("SUPABASE_DB_URL=postgres://db:6543: has an unknown sslmode"), "{relay:?}");
    assert!(relay[2].starts_with("REDIS_URL: is not set"), "{relay:?}");
    assert!(relay[3].starts_with("EVOLUTION_API_BASE_URL: is not set"), "{relay:?}");
    assert_eq!(relay.len(), 5, "{relay:?}");
}

#[tokio::test]
async fn settings_that_contradict_each_other_are_refused() {
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&[("RETRY_BASE", "2m")], "RETRY_CAP=60s: is shorter than the first delay (RETRY_BASE 2m): make it longer"),
        (
            &[("STEP_TIMEOUT", "5m"), ("RUN_DEADLINE", "4m")],
            "RUN_DEADLINE=4m: is not longer than one attempt (STEP_TIMEOUT 5m): make it longer",
        ),
        (&[("QUEUE_HIGH_WATER", "0")], "QUEUE_HIGH_WATER=0: expected a number from 1 to 100000"),
        (&[("INTAKE_POLL", "10ms")], "INTAKE_POLL=10ms: expected a duration from 100ms to 1m"),
        (
            &[
                ("DATABASE_URL", "postgres://ada:hunter2@aws-0.pooler.supabase.com:6543/app"),
                ("DATABASE_POOLING", "session"),
            ],
            "DATABASE_URL=postgres://aws-0.pooler.supabase.com:6543: is Supabase's transaction pooler, and \
             DATABASE_POOLING is session: set it to transaction or auto, or take the address on port 5432",
        ),
        (
            &[("LISTEN_DATABASE_URL", "postgres://ada:hunter2@db:6543/app")],
            "LISTEN_DATABASE_URL=postgres://db:6543: is a transaction pooler, through which LISTEN hears \
             nothing: take the address on port 5432",
        ),
        (
            &[("DATABASE_URL", "postgres://postgres:[YOUR-PASSWORD]@db:5432/app")],
            "DATABASE_URL=postgres://db:5432: still has [YOUR-PASSWORD] in it: put the database's password there",
        ),
        (
            &[("DATABASE_URL", "postgres://ada@db/app?sslmode=verify-full&sslrootcert=/nowhere/ca.pem")],
            "DATABASE_URL=postgres://db: its sslrootcert names \"/nowhere/ca.pem\", which is no file here",
        ),
        (
            &[("DATABASE_URL", "\"postgres://ada:hunter2@db/app\"")],
            "DATABASE_URL=***: stands in quotes: give it without them",
        ),
        (
            &[("DATABASE_URL", "postgres://ada:hunter2@db1:5432,db2:5432/app")],
            "DATABASE_URL=***: names several hosts: give one",
        ),
        (
            &[("DATABASE_URL", "postgres://ada:hunter2@db1,db2/app?application_name=a@b")],
            "DATABASE_URL=***: names several hosts: give one",
        ),
        // An @ in the query begins no host.
        (
            &[("DATABASE_URL", "postgres://ada:hunter2@db/app?sslmode=a@b,c")],
            "DATABASE_URL=***: has an unknown sslmode",
        ),
        (
            &[("DATABASE_URL", "postgres://ada%3Ahunter2%40db/app?sslmode=sure")],
            "DATABASE_URL=***: has an unknown sslmode",
        ),
        (&[("DATABASE_URL", "postgres://ada%3Ahunter2%40db/app")], "DATABASE_URL=***: has a % in its host"),
        (
            &[("REDIS_URL", "redis://default:ab@cd/hunter2@host")],
            "REDIS_URL=***: has behind its host what is no number of a database: give a number or nothing; in a password \
             write %2F for a /",
        ),
        (
            &[("WEBHOOK_EVENTS", "MESSAGES_UPSERT, MESSAGE_UPSERT")],
            "WEBHOOK_EVENTS=MESSAGES_UPSERT, MESSAGE_UPSERT: event \"MESSAGE_UPSERT\" is unknown: expected one of \
             APPLICATION_STARTUP",
        ),
        (
            &[("WEBHOOK_HEADERS", r#"{"host": "hunter2"}"#)],
            "WEBHOOK_HEADERS=***: \"host\" belongs to the connection and cannot be set",
        ),
        (
            &[COLLECTOR, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
            "OTEL_EXPORTER_OTLP_PROTOCOL=grpc: is not built in: set http/protobuf, and an endpoint that takes it (port \
             4318, not 4317)",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318?key=hunter2")],
            "OTEL_EXPORTER_OTLP_ENDPOINT=***: is no address of a collector: expected http(s)://host:4318",
        ),
        (
            &[COLLECTOR, ("OTEL_EXPORTER_OTLP_HEADERS", "authorization: hunter2")],
            "OTEL_EXPORTER_OTLP_HEADERS=***: is no list of headers",
        ),
        (
            &[COLLECTOR, ("OTEL_TRACES_SAMPLER", "jaeger_remote")],
            "OTEL_TRACES_SAMPLER=jaeger_remote: expected always_on, always_off, traceidratio, or parentbased_ and one",
        ),
        (
            &[COLLECTOR, ("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")],
            "OTEL_TRACES_SAMPLER_ARG=2: expected a number from 0 to 1",
        ),
        (&[COLLECTOR, ("OTEL_TRACES_EXPORTER", "zipkin")], "OTEL_TRACES_EXPORTER=zipkin: expected otlp or none"),
        (&[("RUST_LOG", "sluice=loud")], "RUST_LOG=sluice=loud: is no filter"),
    ];

    for (settings, expected) in cases {
        let faults = faults(settings).await;
        assert!(faults.len() == 1 && faults[0].starts_with(expected), "{settings:?}: {faults:#?}");
        assert!(!faults[0].contains("hunter2"), "{faults:#?}");
    }
}

#[tokio::test]
async fn migrate_refuses_a_transaction_pooler() {
    let refused = run(&["migrate"], &[("DATABASE_URL", "postgres://ada:hunter2@db:6543/app")]).await;

    assert_eq!(refused.status.code(), Some(2));
    let said = said(&refused);
    assert!(said.contains("\nDATABASE_URL=postgres://db:6543: leads through a transaction pooler"), "{said}");
}

#[tokio::test]
async fn a_variable_that_is_set_but_empty_counts_as_not_set() {
    let settings = [
        ("REDIS_URL", "redis://cache"),
        ("REDIS_PREFIX", ""),
        ("RETRY_LIMIT", " "),
        ("EVOLUTION_API_BASE_URL", "http://evolution"),
        ("DATABASE_URL", ""),
    ];

    let refused = run(&["relay"], &settings).await;

    let said = said(&refused);
    assert!(said.lines().count() == 3 && said.contains("DATABASE_URL: is not set"), "{said}");
}

#[test]
fn an_address_of_ipv6_is_an_address_and_no_name() {
    let all = parsed(&[("DATABASE_URL", "postgres://ada:hunter2@[::1]:5433/app")]);

    let options = all.relay.ledger.database.connect("test");

    assert_eq!((options.get_host(), options.get_port()), ("::1", 5433));
}

/// Each process has a connection of its own beside those it works with, a relay for LISTEN and a
/// worker for leases.
#[test]
fn one_process_of_each_role_leaves_a_person_room_in_a_pool_of_15() {
    let (of_relay, of_worker) = (parsed(&[]).relay.ledger.max_connections, parsed(&[]).worker.ledger.max_connections);
    let workers = u32::try_from(tests::fleet::STEPS.len()).unwrap();

    // A person's command has two.
    assert!((of_relay + 1) + workers * (of_worker + 1) + 2 <= 15, "{of_relay} of a relay, {of_worker} of a worker");
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    assert!(text.contains(&format!("at most {} connections ({of_relay} and one for LISTEN)", of_relay + 1)));
    assert!(text.contains(&format!("a worker {} ({of_worker} and one for leases)", of_worker + 1)));
}

/// What stands in a setting, and where in it a secret may stand: encoded as it must be, or not.
#[test]
fn no_part_of_an_address_or_of_headers_that_may_be_secret_is_ever_said() {
    let secrets = [
        "hunter2",
        "hun/hunter2",
        "1/hunter2",
        "hun?hunter2",
        "hun#hunter2",
        "hun@hunter2",
        "hun@cd/hunter2",
        "1@cd:1/hunter2",
        "hun:hunter2",
        "hun%hunter2",
        "1%2Fhunter2",
        "hun\\hunter2",
        "1\\hunter2",
        "hun hunter2",
        "hun,hunter2",
        "[hunter2",
        "hun\nhunter2",
        "hun%zzhunter2",
        "\"hunter2",
    ];
    let shapes = [
        "SCHEME://ada:SECRET@db.example.com:5432/app",
        "SCHEME://:SECRET@db.example.com",
        "SCHEME://ada:SECRET@db.example.com/app?sslmode=sure",
        "SCHEME://ada:SECRET@db.example.com:port/app",
        "SCHEME://ada:SECRET@a,b/app",
        "SCHEME://ada:SECRET@[::1/app",
        "SCHEME://SECRET@db.example.com:99999/app",
        "SCHEME:ada:SECRET@db/app",
        "SCHEME://db.example.com:99999/SECRET",
        "SCHEME://db.example.com/SECRET@x",
        "SCHEME://db.example.com/x?key=SECRET",
        "SCHEME://db.example.com/x?sslmode=SECRET",
        "SCHEME://db.example.com/x?hostaddr=SECRET",
        "SCHEME://db.example.com/x?statement-cache-capacity=SECRET",
        "SCHEME://db.example.com/x?port=SECRET",
        "SCHEME://db.example.com/x?sslmode=sure&options=SECRET",
        "SCHEME://db.example.com:port/x#SECRET",
        "SCHEME://ada%3ASECRET%40db/app?sslmode=sure",
        "ada:SECRET@db.example.com/app",
        "\"SCHEME://ada:SECRET@db.example.com/app\"",
        "SECRET",
        "Bearer SECRET",
        "SECRET://db.example.com",
    ];
    let addresses = [
        "DATABASE_URL",
        "SUPABASE_DB_URL",
        "LISTEN_DATABASE_URL",
        "REDIS_URL",
        "EVOLUTION_API_BASE_URL",
        "SUPABASE_URL",
        "WEBHOOK_URL",
        COLLECTOR.0,
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    ];
    let schemes = ["postgres", "redis", "rediss", "http", "https", "ftp"];
    let headers =
        ["WEBHOOK_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "EVOLUTION_API_KEY"];
    let header_shapes = [
        "SECRET",
        r#"{"authorization": "SECRET"}"#,
        r#"{"authorization": "SECRET\n"}"#,
        r#"{"host": "SECRET"}"#,
        r#"{"SECRET": "x"}"#,
        r#"{"SECRET\n": "x"}"#,
        r#"{"authorization": ["SECRET"]}"#,
        r#"{"jwt_key": "SECRET", "host": "x"}"#,
        "authorization: SECRET",
        "authorization=SECRET=,x",
        "SECRET=x",
        "authorization=%ff SECRET",
        "authorization=\nSECRET",
    ];
    let given = addresses.iter().flat_map(|setting| shapes.iter().map(move |shape| (*setting, *shape)));
    let given =
        given.chain(headers.iter().flat_map(|setting| header_shapes.iter().map(move |shape| (*setting, *shape))));

    let (mut tried, mut refused) = (0, 0);
    for (setting, shape) in given {
        for secret in secrets {
            // Each shape and secret meets one of the schemes, another one in the next setting.
            let scheme = schemes[tried % schemes.len()];
            let value = shape.replace("SCHEME", scheme).replace("SECRET", secret);
            let mut settings = BTreeMap::from(NEEDED);
            settings.insert(COLLECTOR.0, COLLECTOR.1);
            if setting == "SUPABASE_DB_URL" {
                settings.remove("DATABASE_URL");
            }
            settings.insert(setting, &value);
            tried += 1;
            if let Err(faults) = read(&settings) {
                refused += 1;
                let said = faults.to_string();
                assert!(!said.contains("hunter2"), "{setting}={value:?} is answered with:\n{said}");
            }
        }
    }
    assert!(tried > 4_000 && refused > tried / 3, "{refused} of {tried} were refused");
}

#[test]
fn an_address_of_rabbitmq_that_names_no_vhost_means_the_default_one() {
    for (url, vhost) in [
        ("amqp://ada:hunter2@rabbit:5672", "/"),
        ("amqp://ada:hunter2@rabbit:5672/", "/"),
        ("amqp://ada:hunter2@rabbit:5672/%2f", "/"),
        ("amqp://ada:hunter2@rabbit:5672/shop", "shop"),
    ] {
        let All { events, .. } = parsed(&[("AMQP_URL", url)]);

        let address = &events.unwrap().settings.address;

        assert_eq!(address.to_string(), format!("amqp://rabbit:5672 (vhost {vhost:?})"), "{url}");
    }
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let All { relay, worker, events, follow } = parsed(&[]);
    assert!(events.is_none() && follow.is_none(), "no broker was named");
    let All { follow, .. } = parsed(&[("EVOLUTION_AMQP_URL", "amqp://sluice:hunter2@rabbit:5672/%2f")]);
    let follow = format!("{:?}", follow.unwrap().feed);
    assert_eq!(follow, "evolution_exchange of amqp://rabbit:5672 (vhost \"/\"), by sluice.evolution");
    let each = [("EVOLUTION_AMQP_URL", "amqp://rabbit:5672"), ("EVOLUTION_AMQP_MODE", "instance")];
    let each = format!("{:?}", parsed(&each).follow.unwrap().feed);
    assert_eq!(each, "an exchange for each of amqp://rabbit:5672 (vhost \"/\"), by sluice.evolution");

    let workflow = relay.ledger.registry.all().next().unwrap();
    let step = &workflow.steps[0];
    let host = "evolution.example.com:8080";
    assert_eq!(relay.ledger.database.pooling, Pooling::Session);
    assert!(relay.listen.is_some());
    assert_eq!((relay.settings.batch, relay.queue.high_water), (200, 1000));
    assert!(workflow.steps.iter().all(|step| step.host.as_deref() == Some(host)));
    assert!(worker.catalog.probe(host).is_some());
    assert_eq!(worker.settings.concurrency.get(), 50);
    assert_eq!(worker.settings.grace, Duration::from_secs(25));
    assert_eq!(step.retry, workflows::policy::Retry::default());
    assert_eq!((step.timeout, workflow.deadline), (Duration::from_secs(90), Duration::from_secs(86_400)));
    assert_eq!(worker.settings.steps, relay.ledger.registry.queues());
}

#[test]
fn the_three_retries_of_the_guide_can_be_had() {
    let all = parsed(&[("RETRY_LIMIT", "3")]);

    let workflow = all.worker.ledger.registry.all().next().unwrap();

    assert!(workflow.steps.iter().all(|step| step.retry.limits.failures == 3));
}

#[test]
fn a_transaction_pooler_is_known_by_its_port_and_gives_no_listener() {
    let pooler = ("DATABASE_URL", "postgres://ada@db:6543/app");
    let direct = ("LISTEN_DATABASE_URL", "postgres://ada@db:5432/app");

    let (alone, beside) = (parsed(&[pooler]), parsed(&[pooler, direct]));

    assert_eq!(alone.relay.ledger.database.pooling, Pooling::Transaction);
    assert!(alone.relay.listen.is_none());
    assert!(beside.relay.listen.is_some());
}

#[test]
fn traces_are_exported_only_where_somebody_says_where_to() {
    let service = |more: &[(&str, &str)]| configured(more).traces.map(|traces| traces.service);

    assert_eq!(service(&[]), None);
    assert_eq!(service(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]), None, "what is meant for others is refused");
    assert_eq!(service(&[COLLECTOR, ("OTEL_SDK_DISABLED", "true")]), None);
    assert_eq!(service(&[COLLECTOR, ("OTEL_TRACES_EXPORTER", "none")]), None);
    assert_eq!(service(&[COLLECTOR]).as_deref(), Some("sluice-relay"));
    assert_eq!(service(&[COLLECTOR, ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a%20b")]).as_deref(), Some("a b"));
}

#[test]
fn no_secret_is_printed_with_the_settings() {
    let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hunter2");
    let Config { traces, role: All { relay, .. }, .. } = configured(&[COLLECTOR, headers]);

    assert!(!format!("{relay:?}").contains("hunter2"), "{relay:?}");
    assert!(traces.is_some() && !format!("{traces:?}").contains("hunter2"), "{traces:?}");
}

/// Every variable of the program, and its default.
fn variables() -> BTreeMap<String, Option<String>> {
    let command = Program::command();
    let variables = command.get_arguments().filter_map(|argument| {
        let default = argument.get_default_values().first().map(|value| value.to_str().unwrap().to_owned());
        Some((argument.get_env()?.to_str()?.to_owned(), default))
    });
    variables.collect()
}

#[test]
fn every_option_is_a_variable_and_a_flag_of_the_same_name() {
    for argument in Program::command().get_arguments() {
        let flag = argument.get_long().unwrap().to_ascii_uppercase().replace('-', "_");
        assert_eq!(argument.get_env().and_then(|name| name.to_str()), Some(flag.as_str()));
        assert!(argument.get_help().is_some(), "{flag} is not explained");
    }
}

#[test]
fn the_example_has_every_variable_with_its_default_and_no_other() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.env.example");
    let text = std::fs::read_to_string(file).unwrap();
    let mut shown = BTreeMap::new();
    for line in text.lines() {
        let setting = line.strip_prefix("# ").unwrap_or(line).split_once('=');
        let Some((name, value)) = setting else { continue };
        if name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_') {
            assert_eq!(shown.insert(name.to_owned(), value.to_owned()), None, "{name} is there twice");
        }
    }

    // What the TLS clients read themselves.
    assert_eq!(shown.remove("SSL_CERT_FILE"), Some(String::new()));
    let variables = variables();
    assert_eq!(shown.keys().collect::<Vec<_>>(), variables.keys().collect::<Vec<_>>());
    for (name, default) in variables {
        if let Some(default) = default {
            assert_eq!(shown[&name], default, "{name}");
        }
    }
}

#[tokio::test]
async fn the_help_has_every_variable_and_shows_none_of_their_values() {
    let mut helps = String::new();

    for role in ["migrate", "relay", "worker", "all"] {
        let help = run(&[role, "--help"], &NEEDED).await;
        assert!(help.status.success());
        helps += &String::from_utf8(help.stdout).unwrap();
    }

    for (name, default) in variables() {
        assert!(helps.contains(&format!("[env: {name}]")), "{name} is in no help");
        let default = default.map(|default| format!("[env: {name}] [default: {default}]"));
        assert!(default.as_ref().is_none_or(|text| helps.contains(text)), "{default:?} is in no help");
    }
    assert!(!helps.contains("hunter2"), "the help shows a secret");
}
