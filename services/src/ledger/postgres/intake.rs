//! Intake: pending queue rows into runs. Whoever set a row to `pending`, the sign-up trigger or a person with SQL, gave a
//! command: no run, or one that ended well or was cancelled → a new run; a dead one → revived; a waiting step → due now;
//! one under way → nothing but the status back.

use std::collections::HashMap;

use uuid::Uuid;
use workflows::{ids::UserId, state::RunState};

use super::{Intake, NewRun, Postgres, Result, Started, Tx, command, is_row_fault, start};
use crate::{
    ledger::{By, sign_up},
    supabase::{
        PendingRows,
        queue_rows::{self, Pending},
    },
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
    let intake = take(ledger, &mut tx, &rows).await?;
    tx.commit().await?;
    Ok(intake)
}

async fn take(ledger: &Postgres, tx: &mut Tx, rows: &[Pending]) -> Result<Intake> {
    let runs: Vec<_> = rows
        .iter()
        .map(|row| {
            let user = UserId::new(row.user);
            let (id, token) = ((ledger.setup.draw_run)(), (ledger.setup.draw_token)());
            let run = sign_up(&ledger.setup, user, id, token, row.traceparent.clone());
            NewRun { age: row.age(), ..run }
        })
        .collect();
    let started = start::start_in(ledger, tx, &runs).await?;
    let mut intake = Intake::default();
    let mut joined = HashMap::new();
    for (row, started) in rows.iter().zip(started) {
        match started {
            Started::New(_) => intake.started += 1,
            Started::Joined(run, RunState::Dead) => {
                let by = By { actor: "sql".to_owned(), note: Some("the queue row was set to pending".to_owned()) };
                command::revive_in(ledger, tx, run, &by).await?;
                intake.revived += 1;
            }
            Started::Joined(run, _) => {
                joined.insert(run.uuid(), row.retry_count == 0);
                intake.joined += 1;
            }
            Started::Refused(reason) => {
                queue_rows::refuse(tx, row.user, &reason).await?;
                intake.failed += 1;
            }
        }
    }
    due_now(tx, &joined).await?;
    let subjects: Vec<String> = rows.iter().map(|row| row.user.to_string()).collect();
    ledger.projection.write(tx, &subjects, PendingRows::Take).await?;
    Ok(intake)
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
