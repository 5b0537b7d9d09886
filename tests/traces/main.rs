//! What a collector sees of sign-ups, with every role a process of its own and OTLP on the wire.

#![allow(clippy::unwrap_used)]

mod calls;
mod events;
mod losing;
mod sampling;
mod tree;

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection, PgConnection};
use tests::{
    collector::{Collector, Span},
    evolution::{Config, Fault, Route, Rule, Stage, When},
    fleet::Fleet,
    servers::{postgres, redis, until},
};
use uuid::Uuid;

/// Long enough for a loaded machine with two cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the app's own span is called, in every trace.
const APP_SPAN: &str = "b7ad6b7169203331";

const SERVER_ERROR: Fault = Fault::Error { status: 500, body: None, stage: Stage::BeforeWork };

/// A fleet whose roles export to a collector, and a connection to its database.
struct Traced {
    fleet: Fleet,
    database: PgConnection,
}

/// A trace that the app began.
struct AppTrace {
    id: String,
    traceparent: String,
}

impl AppTrace {
    fn new(flags: &str) -> Self {
        let id = Uuid::new_v4().simple().to_string();
        let traceparent = format!("00-{id}-{APP_SPAN}-{flags}");
        Self { id, traceparent }
    }

    fn spans(&self, collector: &Collector) -> Vec<Span> {
        collector.spans().into_iter().filter(|span| span.trace == self.id).collect()
    }
}

impl Traced {
    async fn prepare(endpoint: &str) -> Self {
        let servers = Fleet::prepare(postgres::Options::default(), redis::Options::default(), Config::default());
        let mut fleet = servers.await.unwrap();
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("QR_AT_SIGNUP", "false"),
            ("RETRY_BASE", "100ms"),
            ("RETRY_LIMIT", "2"),
        ] {
            fleet.set(name, value);
        }
        let database = fleet.connect().await.unwrap();
        Self { fleet, database }
    }

    /// The next creates, whosever they are.
    fn break_create(&self, times: u32, fault: Fault) {
        let rule = Rule { route: Some(Route::Create), name_prefix: None, when: When::Next(times), fault };
        self.fleet.api.with(|world, _| world.faults_mut().rules.push(rule));
    }

    async fn sign_up(&mut self, trace: Option<&AppTrace>) -> Uuid {
        let user = Uuid::new_v4();
        let metadata = trace.map(|trace| json!({ "traceparent": trace.traceparent }));
        sqlx::query("insert into auth.users (id, email, raw_user_meta_data) values ($1, $2, $3)")
            .bind(user)
            .bind(format!("{user}@example.org"))
            .bind(metadata)
            .execute(&mut self.database)
            .await
            .unwrap();
        user
    }

    /// Waits until the user's queue row has this status.
    async fn wait_for(&mut self, user: Uuid, status: &str) {
        let mut now = String::new();
        let reached = until(PATIENCE, async || {
            now = sqlx::query_scalar("select status from evolution_instance_creation_queue where user_id = $1")
                .bind(user)
                .fetch_one(&mut self.database)
                .await
                .unwrap();
            (now == status).then_some(())
        });
        assert!(reached.await.is_some(), "{user} is {now}, and not {status}, after {PATIENCE:?}");
    }

    /// Ends all roles in good order, which sends their last spans.
    async fn stop(&mut self) -> Vec<String> {
        let mut logs = Vec::new();
        for name in self.fleet.names() {
            let process = self.fleet.process(&name).unwrap();
            process.terminate().unwrap();
            assert!(process.wait_for_exit(PATIENCE).await.unwrap().success(), "{name}:\n{}", process.log());
            logs.push(process.log());
        }
        logs
    }

    async fn close(self) {
        self.database.close().await.unwrap();
    }
}
