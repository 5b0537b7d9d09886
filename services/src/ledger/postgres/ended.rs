//! Attempts whose lease ran out, and runs that have ended.

use std::time::{Duration, Instant};

use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    ids::{RunId, Token},
    state::{DeathReason, RunState, Spent},
};

use super::{count, duration, parse};
use crate::ledger::{AttemptSpan, Expired, Key, Result, SpanIds, WholeRun};

#[derive(FromRow)]
pub(super) struct ExpiredRow {
    pub run_id: Uuid,
    pub step_position: i16,
    token: i64,
    workflow: String,
    version: i16,
    step: String,
    failures: i32,
    crashes: i32,
    send_backs: i32,
    defers: i32,
    attempts: i32,
    worker: String,
    traceparent: Option<String>,
    worker_lives: bool,
    generation: i32,
    attempt_traceparent: Option<String>,
    parent_span: Option<String>,
    age: Option<f64>,
}

impl ExpiredRow {
    pub fn expired(self) -> Result<Expired> {
        let ids = self.attempt_traceparent.as_deref().and_then(SpanIds::of);
        Ok(Expired {
            key: Key { run: RunId::new(self.run_id), position: self.step_position, token: Token::new(self.token) },
            workflow: parse(&self.workflow)?,
            version: self.version,
            step: parse(&self.step)?,
            spent: Spent {
                failures: count(self.failures),
                crashes: count(self.crashes),
                send_backs: count(self.send_backs),
                defers: count(self.defers),
            },
            attempt: count(self.attempts),
            worker: self.worker,
            generation: self.generation,
            age: duration(self.age),
            span: ids.map(|ids| AttemptSpan { ids, parent: self.parent_span }),
            traceparent: self.traceparent,
            worker_lives: self.worker_lives,
        })
    }
}

/// What the database says of a run that has ended, or may have.
#[derive(FromRow)]
pub(super) struct EndedRow {
    pub workflow: String,
    subject: String,
    pub traceparent: Option<String>,
    asked_traceparent: Option<String>,
    attempts: Option<i32>,
    lasted: Option<f64>,
    #[sqlx(default)]
    ended_ago: Option<f64>,
}

impl EndedRow {
    pub fn whole(self, run: RunId, state: RunState, reason: Option<DeathReason>, asked: Instant) -> WholeRun {
        // Without a moment of its own, it ended while it was asked for.
        let (lasted, ended_ago) = match self.ended_ago {
            Some(ago) => (duration(self.lasted), duration(Some(ago)) + asked.elapsed()),
            None => (duration(self.lasted) + asked.elapsed(), Duration::ZERO),
        };
        WholeRun {
            run,
            workflow: self.workflow,
            subject: self.subject,
            state,
            reason,
            attempts: count(self.attempts.unwrap_or_default()),
            lasted,
            ended_ago,
            traceparent: self.traceparent,
            asked_traceparent: self.asked_traceparent,
        }
    }
}
