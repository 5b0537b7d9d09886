//! The way of an attempt: claim, renewals, settle. One statement each.

use std::{slice, time::Instant};

use serde_json::{Value, json};
use sqlx::FromRow;
use uuid::Uuid;
use workflows::{
    ids::Token,
    outcome::{Memory, StepInput},
    secret::Secret,
    state::{RunState, Spent},
};

use super::{Postgres, count, duration, ended::EndedRow, is_locked, is_row_fault, label, parse, seconds};
use crate::ledger::{
    Ask, CarriedOn, Claim, Claimed, Due, DueKey, Error, Key, Lease, Result, Settled, Worker,
    settlement::{Fence, Quiet, Settlement, Then},
};

#[derive(FromRow)]
struct ClaimRow {
    at: i32,
    answer: String,
    workflow: Option<String>,
    version: Option<i16>,
    step: Option<String>,
    subject: Option<String>,
    resource: Option<String>,
    secret: Option<String>,
    memory: Option<Value>,
    exclusive_before: Option<bool>,
    input: Option<Value>,
    failures: Option<i32>,
    crashes: Option<i32>,
    send_backs: Option<i32>,
    defers: Option<i32>,
    attempts: Option<i32>,
    earlier_send_backs: Option<Vec<i32>>,
    traceparent: Option<String>,
    age: Option<f64>,
    waited: Option<Value>,
}

/// In key order, as every caller takes rows; a key that is asked for twice is claimed once.
pub(super) async fn claim(ledger: &Postgres, worker: &Worker, asked: &[Ask]) -> Result<Vec<Claimed>> {
    let mut sorted: Vec<(DueKey, usize)> = asked.iter().map(|ask| ask.key).zip(0..).collect();
    sorted.sort_unstable();
    let tokens: Vec<i64> = sorted.iter().map(|_| rand::random()).collect();
    let spans = || sorted.iter().map(|(_, at)| asked[*at].span.as_ref());
    let contexts: Vec<Option<String>> = spans().map(|span| span.map(|span| span.ids.traceparent())).collect();
    let parents: Vec<Option<String>> = spans().map(|span| span.and_then(|span| span.parent.clone())).collect();
    let runs: Vec<Uuid> = sorted.iter().map(|(key, _)| key.run.uuid()).collect();
    let positions: Vec<i16> = sorted.iter().map(|(key, _)| key.position).collect();
    let generations: Vec<i32> = sorted.iter().map(|(key, _)| key.generation).collect();
    let claim = ledger.ask("select * from sluice.claim($1, $2, $3, $4, $5, $6, $7, $8)", |claim| {
        let claim = claim.bind(worker.name.clone()).bind(ledger.known.to_vec()).bind(runs).bind(positions);
        claim.bind(generations).bind(tokens.clone()).bind(contexts).bind(parents)
    });
    let rows: Vec<ClaimRow> = claim.await?;

    let mut answers: Vec<Claimed> = asked.iter().map(|_| Claimed::Stale).collect();
    for row in rows {
        let at = usize::try_from(row.at - 1).unwrap_or_default();
        if let (Some((key, place)), Some(token)) = (sorted.get(at), tokens.get(at)) {
            answers[*place] = row.answer(*key, Token::new(*token)).unwrap_or_else(|error| {
                tracing::error!(run = %key.run, position = key.position, %error, "cannot run this step: mend its rows");
                Claimed::Stale
            });
        }
    }
    Ok(answers)
}

impl ClaimRow {
    fn answer(self, key: DueKey, token: Token) -> Result<Claimed> {
        Ok(match self.answer.as_str() {
            "yes" => Claimed::Yes(Box::new(self.claim(Key { run: key.run, position: key.position, token })?)),
            refusal => label(refusal).map_or(Claimed::Stale, Claimed::Refused),
        })
    }

    fn claim(self, key: Key) -> Result<Claim> {
        let (Some(workflow), Some(version), Some(step), Some(subject), Some(resource), Some(secret)) =
            (self.workflow, self.version, self.step, self.subject, self.resource, self.secret)
        else {
            return Err(Error::Unreadable(format!("a claim of {} without all its columns", key.run)));
        };
        let number = |column: Option<i32>| count(column.unwrap_or_default());
        Ok(Claim {
            key,
            workflow: parse(&workflow)?,
            version,
            step: parse(&step)?,
            spent: Spent {
                failures: number(self.failures),
                crashes: number(self.crashes),
                send_backs: number(self.send_backs),
                defers: number(self.defers),
            },
            send_backs: self.earlier_send_backs.unwrap_or_default().into_iter().map(count).collect(),
            attempt: number(self.attempts),
            input: StepInput {
                subject: parse(&subject)?,
                resource: parse(&resource)?,
                secret: Secret::new(secret),
                memory: memory(self.memory),
                exclusive_before: self.exclusive_before.unwrap_or(true),
                input: self.input.unwrap_or_default(),
            },
            traceparent: self.traceparent,
            age: duration(self.age),
            waited: self.waited.and_then(|waited| serde_json::from_value(waited).ok()),
        })
    }
}

fn memory(column: Option<Value>) -> Memory {
    column.and_then(|memory| serde_json::from_value(memory).ok()).unwrap_or_default()
}

/// A sign of life is one even where a lease cannot be renewed. Where one of the rows is locked,
/// each lease has a transaction of its own, which may take long: the sign of life goes before.
pub(super) async fn renew(ledger: &Postgres, worker: &Worker, leases: &[Lease]) -> Result<Vec<Option<bool>>> {
    let error = match renew_all(ledger, worker, leases).await {
        Err(error) if is_locked(&error) || !leases.is_empty() => error,
        renewed => return renewed,
    };
    renew_all(ledger, worker, &[]).await?;
    if !is_locked(&error) {
        return Err(error);
    }
    let mut renewed = Vec::with_capacity(leases.len());
    for lease in leases {
        match renew_all(ledger, worker, slice::from_ref(lease)).await {
            Ok(alone) => renewed.extend(alone),
            Err(error) if is_locked(&error) => renewed.push(None),
            Err(error) => return Err(error),
        }
    }
    Ok(renewed)
}

async fn renew_all(ledger: &Postgres, worker: &Worker, leases: &[Lease]) -> Result<Vec<Option<bool>>> {
    let runs: Vec<Uuid> = leases.iter().map(|lease| lease.key.run.uuid()).collect();
    let positions: Vec<i16> = leases.iter().map(|lease| lease.key.position).collect();
    let tokens: Vec<i64> = leases.iter().map(|lease| lease.key.token.bits()).collect();
    let lengths: Vec<f64> = leases.iter().map(|lease| seconds(lease.length)).collect();
    let renew = ledger.database.ask_one("select sluice.renew($1, $2, $3, $4, $5, $6)", |renew| {
        let renew = renew.bind(worker.name.clone()).bind(runs).bind(positions).bind(tokens).bind(lengths);
        renew.bind(ledger.database.has_sessions())
    });
    let (kept,): (Vec<bool>,) = renew.await?;
    Ok(kept.into_iter().map(Some).collect())
}

/// All in one transaction; where the database refuses what one of them holds, or one of their rows
/// is locked for too long, each has its own.
pub(super) async fn settle(ledger: &Postgres, settlements: &[Settlement]) -> Result<Vec<Settled>> {
    match settle_together(ledger, settlements).await {
        Err(error) if is_row_fault(&error) || is_locked(&error) && settlements.len() > 1 => {
            let mut settled = Vec::with_capacity(settlements.len());
            for settlement in settlements {
                settled.push(match settle_together(ledger, slice::from_ref(settlement)).await {
                    Ok(mut alone) => alone.remove(0),
                    Err(error) if is_row_fault(&error) => Settled::Refused(error.to_string()),
                    Err(error) if is_locked(&error) => Settled::Locked,
                    Err(error) => return Err(error),
                });
            }
            Ok(settled)
        }
        result => result,
    }
}

#[derive(FromRow)]
struct SettledRow {
    at: i32,
    run_state: String,
    due_step: Option<String>,
    due_position: Option<i16>,
    due_generation: Option<i32>,
    linked: Option<String>,
    #[sqlx(flatten)]
    of: EndedRow,
    carried_on: bool,
    known: Option<Value>,
}

async fn settle_together(ledger: &Postgres, settlements: &[Settlement]) -> Result<Vec<Settled>> {
    let mut sorted: Vec<(&Settlement, usize)> = settlements.iter().zip(0..).collect();
    sorted.sort_unstable_by_key(|(settlement, at)| (settlement.key, *at));
    let tokens: Vec<Token> = settlements.iter().map(|_| Token::new(rand::random())).collect();
    let all: Vec<Value> = sorted.iter().map(|(settlement, at)| columns(settlement, *at, tokens[*at])).collect();
    let sent = Instant::now();
    let rows: Vec<SettledRow> =
        ledger.database.ask("select * from sluice.settle($1)", |settle| settle.bind(Value::Array(all))).await?;
    let mut settled = vec![Settled::Stale; settlements.len()];
    for row in rows {
        let at = usize::try_from(row.at).unwrap_or_default();
        let settlement = settlements.get(at).ok_or_else(|| Error::Unreadable("a settlement of nobody's".to_owned()))?;
        settled[at] = row.settled(settlement, tokens[at], sent)?;
    }
    Ok(settled)
}

impl SettledRow {
    /// `sent` is when the settlement was, `token` what it gave for the step after its own.
    fn settled(self, settlement: &Settlement, token: Token, sent: Instant) -> Result<Settled> {
        let run: RunState = label(&self.run_state)?;
        let due = match (self.due_step, self.due_position, self.due_generation) {
            (Some(step), Some(position), Some(generation)) => Some(Due {
                key: DueKey { run: settlement.key.run, position, generation },
                step: parse(&step)?,
                workflow: parse(&self.of.workflow)?,
                traceparent: self.of.traceparent.clone(),
                linked: self.linked,
            }),
            _ => None,
        };
        let reason = match settlement.then {
            Then::Die { reason, .. } if run == RunState::Dead => Some(reason),
            _ => None,
        };
        let whole = (run != RunState::Active).then(|| self.of.whole(settlement.key.run, run, reason, sent));
        let carried_on = self.carried_on.then(|| CarriedOn { token, memory: memory(self.known) });
        Ok(Settled::Done { run, due, carried_on, whole: whole.map(Box::new) })
    }
}

/// What `sluice.settle` reads of one settlement; what is absent is null there.
fn columns(settlement: &Settlement, at: usize, next_token: Token) -> Value {
    let Settlement { key, attempt, spent, memory, carry_on, .. } = settlement;
    let span = carry_on.as_ref().and_then(|carry_on| carry_on.span.as_ref());
    let of_step = json!({
        "at": at,
        "run": key.run,
        "position": key.position,
        "token": key.token.bits(),
        "expiry": settlement.fence == Fence::Expiry,
        "to_state": settlement.to.as_str(),
        "due": settlement.due.map(seconds),
        "failures": spent.failures,
        "crashes": spent.crashes,
        "defers": spent.defers,
        "output": settlement.output,
        "memory": (!memory.is_empty()).then(|| memory.as_json()),
        "quiet": settlement.quiet == Quiet::Yes,
        "exclusive": settlement.exclusive,
        "carry_on": carry_on.as_ref().map(|_| next_token.bits()),
        "lease": carry_on.as_ref().map(|carry_on| seconds(carry_on.lease)),
        "context": span.map(|span| span.ids.traceparent()),
        "parent": span.and_then(|span| span.parent.as_deref()),
    });
    let parts = [of_step, json!(attempt), json!(settlement.then)];
    let columns = parts.into_iter().filter_map(|part| if let Value::Object(part) = part { Some(part) } else { None });
    columns.flatten().filter(|(_, value)| !value.is_null()).collect()
}
