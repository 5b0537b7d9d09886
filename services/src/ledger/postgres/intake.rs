//! Intake: pending queue rows into runs. Whoever set a row to `pending`, the sign-up trigger or a person with SQL, gave a
//! command: no run, or one that ended well or was cancelled → a new run; a dead one → revived; a waiting step → due now;
//! one under way → nothing but the status back.

use std::collections::HashMap;

use tracing::Span;
use uuid::Uuid;
use workflows::{
    ids::{RunId, UserId},
    state::RunState,
};

use super::{Intake, NewRun, Postgres, Result, Started, Tx, command, is_row_fault, start};
use crate::{
    ledger::{By, sign_up},
    supabase::{
        PendingRows,
        queue_rows::{self, Pending},
    },
    telemetry::{spans, trace},
};

pub(super) async fn intake(ledger: &Postgres, limit: usize) -> Result<Intake> {
    match intake_together(ledger, limit, None).await {
        Err(error) if is_row_fault(&error) => intake_apart(ledger, limit).await,
        result => result,
    }
}

/// One transaction per row, so that the row at fault is found; it is set to `failed` with the reason.
async fn intake_apart(ledger: &Postgres, limit: usize) -> Result<Intake> {
    let mut tx = ledger.begin().await?;
    let rows = queue_rows::lock_pending(&mut tx, limit, None).await?;
    tx.commit().await?;
    let mut total = Intake::default();
    for row in rows {
        match intake_together(ledger, 1, Some(row.user)).await {
            Ok(one) => {
                total.started += one.started;
                total.revived += one.revived;
                total.joined += one.joined;
            }
            Err(error) if is_row_fault(&error) => {
                total.failed += 1;
                let mut tx = ledger.begin().await?;
                queue_rows::refuse(&mut tx, row.user, &error.to_string()).await?;
                tx.commit().await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

async fn intake_together(ledger: &Postgres, limit: usize, only: Option<Uuid>) -> Result<Intake> {
    let mut tx = ledger.begin().await?;
    queue_rows::reset_budgets(&mut tx).await?;
    let rows = queue_rows::lock_pending(&mut tx, limit, only).await?;
    if rows.is_empty() {
        tx.commit().await?;
        return Ok(Intake::default());
    }
    let taken = take(ledger, &mut tx, &rows).await?;
    tx.commit().await?;
    Ok(taken.committed())
}

/// What a transaction came to, to be said once it is committed.
#[derive(Default)]
struct Taken {
    intake: Intake,
    started: Vec<(NewRun, Span)>,
    revived: Vec<RunId>,
}

impl Taken {
    fn committed(self) -> Intake {
        for (run, span) in &self.started {
            trace::keep(span);
            let (workflow, subject) = (&run.workflow, &run.subject);
            tracing::info!(run = %run.id, %workflow, %subject, trace_id = trace::id(span), "run started");
        }
        for run in &self.revived {
            tracing::info!(%run, "run revived: its queue row was set to pending");
        }
        self.intake
    }
}

async fn take(ledger: &Postgres, tx: &mut Tx, rows: &[Pending]) -> Result<Taken> {
    let (runs, spans): (Vec<_>, Vec<_>) = rows.iter().map(|row| new_run(ledger, row)).unzip();
    let answers = start::start_in(ledger, tx, &runs).await?;
    let mut taken = Taken::default();
    let mut joined = HashMap::new();
    for (((row, run), span), started) in rows.iter().zip(runs).zip(spans).zip(answers) {
        match started {
            Started::New(_) => {
                taken.intake.started += 1;
                taken.started.push((run, span));
            }
            Started::Joined(run, RunState::Dead) => {
                let by = By { actor: "sql".to_owned(), note: Some("the queue row was set to pending".to_owned()) };
                command::revive_in(ledger, tx, run, &by).await?;
                taken.intake.revived += 1;
                taken.revived.push(run);
            }
            Started::Joined(run, _) => {
                joined.insert(run.uuid(), row.retry_count == 0);
                taken.intake.joined += 1;
            }
            Started::Refused(reason) => {
                queue_rows::refuse(tx, row.user, &reason).await?;
                taken.intake.failed += 1;
            }
        }
    }
    due_now(tx, &joined).await?;
    let subjects: Vec<String> = rows.iter().map(|row| row.user.to_string()).collect();
    ledger.projection.write(tx, &subjects, PendingRows::Take).await?;
    Ok(taken)
}

/// The run that a row asks for. What is below it is in its span; without one it keeps what the app gave.
fn new_run(ledger: &Postgres, row: &Pending) -> (NewRun, Span) {
    let run = sign_up(&ledger.setup, UserId::new(row.user));
    let mut run = NewRun { age: row.age(), traceparent: row.traceparent.clone(), ..run };
    let span = spans::intake(&run);
    run.traceparent = trace::traceparent(&span).or(run.traceparent);
    (run, span)
}

/// The waiting steps of these runs are due now; where the row's `retry_count` was set to 0 their failures are forgotten.
/// A step that is locked is being moved this moment: it needs no push.
async fn due_now(tx: &mut Tx, runs: &HashMap<Uuid, bool>) -> Result<()> {
    let ids: Vec<_> = runs.keys().copied().collect();
    let reset: Vec<_> = runs.values().copied().collect();
    tx.query(
        "with waiting as (
           select step.run_id, step.position, asked.reset
           from unnest($1::uuid[], $2::boolean[]) as asked (run_id, reset)
           join sluice.step on step.run_id = asked.run_id
           where step.state = 'due'
             and step.due_at is not null
           order by step.run_id
           for no key update of step skip locked
         )
         update sluice.step as step
         set due_at = least(step.due_at, now()),
           failures = case when waiting.reset then 0 else step.failures end
         from waiting
         where step.run_id = waiting.run_id
           and step.position = waiting.position",
    )
    .bind(&ids)
    .bind(&reset)
    .execute(tx.connection())
    .await?;
    Ok(())
}
