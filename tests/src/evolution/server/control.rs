//! The control routes under `/_sim/`, for tests that run in another process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use super::shared::Shared;
use crate::evolution::{Destroyed, Faults, Instance, Quirks, World};

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/stats", get(stats))
        .route("/faults", get(read_faults).put(set_faults))
        .route("/quirks", put(set_quirks))
        .route("/pair/{name}", post(pair))
        .route("/restart", post(restart))
        .route("/reset", post(reset))
}

/// Everything that a test in another process can assert on.
#[derive(Serialize)]
struct Stats {
    up: bool,
    /// `create 201` → count: by route and status, and `create dropped`.
    answers: BTreeMap<String, u64>,
    calls_under_way: usize,
    duplicate_creates: u64,
    overlaps: u64,
    creates_while_leaving: u64,
    creates_ok: BTreeMap<String, u32>,
    instances_made: BTreeMap<String, u32>,
    instances: Vec<Instance>,
    destroyed: Vec<Destroyed>,
    hits: BTreeMap<&'static str, u64>,
}

impl Stats {
    fn of(world: &World) -> Self {
        let journal = world.journal();
        let statuses = journal.statuses().iter();
        let statuses = statuses.map(|((route, status), count)| (format!("{} {status}", route.as_str()), *count));
        let dropped = journal.dropped().iter();
        let dropped = dropped.map(|(route, count)| (format!("{} dropped", route.as_str()), *count));
        Self {
            up: world.is_up(),
            answers: statuses.chain(dropped).collect(),
            calls_under_way: world.calls_under_way(),
            duplicate_creates: journal.duplicate_creates,
            overlaps: journal.overlaps,
            creates_while_leaving: journal.creates_while_leaving,
            creates_ok: journal.creates_ok().clone(),
            instances_made: world.instances_made().clone(),
            instances: world.instances(),
            destroyed: journal.destroyed().cloned().collect(),
            hits: journal.hits(),
        }
    }
}

async fn stats(State(shared): State<Arc<Shared>>) -> Json<Stats> {
    Json(shared.with(|world, _| Stats::of(world)))
}

async fn read_faults(State(shared): State<Arc<Shared>>) -> Json<Faults> {
    Json(shared.with(|world, _| world.faults_mut().clone()))
}

async fn set_faults(State(shared): State<Arc<Shared>>, Json(faults): Json<Faults>) -> StatusCode {
    shared.with(|world, _| *world.faults_mut() = faults);
    StatusCode::NO_CONTENT
}

async fn set_quirks(State(shared): State<Arc<Shared>>, Json(quirks): Json<Quirks>) -> StatusCode {
    shared.with(|world, _| *world.quirks_mut() = quirks);
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
struct Scan {
    #[serde(default = "default_number")]
    number: String,
}

fn default_number() -> String {
    "5511999990101".to_owned()
}

/// 204 when the phone has scanned; 409 where no QR code is on show.
async fn pair(State(shared): State<Arc<Shared>>, Path(name): Path<String>, Query(scan): Query<Scan>) -> StatusCode {
    if shared.with(|world, now| world.pair(now, &name, &scan.number)) {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::CONFLICT
    }
}

#[derive(Deserialize)]
struct Outage {
    #[serde(default = "default_down_ms")]
    down_ms: u64,
}

fn default_down_ms() -> u64 {
    1_000
}

async fn restart(State(shared): State<Arc<Shared>>, Query(outage): Query<Outage>) -> StatusCode {
    shared.with(|world, now| world.restart(now, Duration::from_millis(outage.down_ms)));
    StatusCode::NO_CONTENT
}

async fn reset(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.reset();
    StatusCode::NO_CONTENT
}
