//! The end of a run: its state, its dead letter, its event, and the turn of the next run on its resource.

use uuid::Uuid;
use workflows::{
    ids::RunId,
    outcome::Class,
    state::{DeathReason, RunState},
};

use super::{Result, Tx};

/// A run that ends in this transaction. Its row is locked by the caller.
pub(super) struct Ended {
    pub run: RunId,
    pub state: RunState,
    pub death: Option<Death>,
}

/// Why it needs a person, and where a revival resumes.
pub(super) struct Death {
    pub position: i16,
    pub step: String,
    pub reason: DeathReason,
    pub class: Option<Class>,
    pub error: Option<String>,
}

pub(super) async fn end(tx: &mut Tx, ended: &[Ended]) -> Result<()> {
    if ended.is_empty() {
        return Ok(());
    }
    let runs: Vec<Uuid> = ended.iter().map(|end| end.run.uuid()).collect();
    let states: Vec<_> = ended.iter().map(|end| end.state.as_str()).collect();
    tx.query(
        "update sluice.run as run
         set state = ended.state, ended_at = now()
         from unnest($1::uuid[], $2::text[]) as ended (id, state)
         where run.id = ended.id",
    )
    .bind(&runs)
    .bind(&states)
    .execute(tx.connection())
    .await?;
    cancel_open_steps(tx, &runs).await?;
    bury(tx, ended).await?;
    announce(tx, &runs).await?;
    pass_turn(tx, &runs).await
}

/// Nothing of a cancelled run waits any more.
async fn cancel_open_steps(tx: &mut Tx, runs: &[Uuid]) -> Result<()> {
    tx.query(
        "update sluice.step as step
         set state = 'cancelled', token = null, due_at = null
         from sluice.run
         where run.id = any($1)
           and run.state = 'cancelled'
           and step.run_id = run.id
           and step.state in ('due', 'dispatched', 'dead')",
    )
    .bind(runs)
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// One dead letter per run that died, and its step dead. Where that is an earlier step than the one that settled, those
/// after it wait for it, so that a revived run comes past them again.
async fn bury(tx: &mut Tx, ended: &[Ended]) -> Result<()> {
    for end in ended {
        let Some(death) = &end.death else { continue };
        tx.query(
            "with after as (
               update sluice.step
               set state = 'due', due_at = null
               where run_id = $1
                 and position > $2
                 and state = 'succeeded'
             ),
             step as (
               update sluice.step
               set state = 'dead', due_at = null
               where run_id = $1
                 and position = $2
                 and state in ('due', 'succeeded')
             )
             insert into sluice.dead_letter (run_id, position, step, reason, class, error)
             values ($1, $2, $3, $4, $5, $6)",
        )
        .bind(end.run.uuid())
        .bind(death.position)
        .bind(death.step.clone())
        .bind(death.reason.as_str())
        .bind(death.class.map(Class::as_str))
        .bind(death.error.clone())
        .execute(tx.connection())
        .await?;
    }
    Ok(())
}

/// One event per end: `provision-instance.succeeded` and the like. It holds ids and names, never a token.
async fn announce(tx: &mut Tx, runs: &[Uuid]) -> Result<()> {
    tx.query(
        "insert into sluice.event (run_id, sequence, routing_key, payload, traceparent)
         select run.id,
           1 + coalesce((select max(sequence) from sluice.event where event.run_id = run.id), 0),
           run.workflow || '.' || run.state,
           jsonb_build_object(
             'run', run.id, 'workflow', run.workflow, 'version', run.version, 'subject', run.subject,
             'resource', run.resource, 'state', run.state, 'ended_at', run.ended_at,
             'reason', letter.reason, 'step', letter.step, 'error', letter.error, 'cancelled_by', run.cancel_by),
           run.traceparent
         from sluice.run
         left join sluice.dead_letter as letter
           on letter.run_id = run.id
           and letter.resolved_at is null
         where run.id = any($1)",
    )
    .bind(runs)
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// The resource goes to the run that has waited longest, whose current step becomes due. The resource is locked first, so
/// that a run which starts on it meanwhile sees either this turn or the next.
async fn pass_turn(tx: &mut Tx, ended: &[Uuid]) -> Result<()> {
    let held: Vec<(String,)> = tx
        .query_as(
            "select name
             from sluice.resource
             where name in (select resource from sluice.run where id = any($1))
             order by name
             for no key update",
        )
        .bind(ended)
        .fetch_all(tx.connection())
        .await?;
    let names: Vec<String> = held.into_iter().map(|row| row.0).collect();
    give_turn(tx, &names).await
}

/// Give each of these resources, which the caller has locked, to the first run that waits, unless it is an active run's
/// already.
pub(super) async fn give_turn(tx: &mut Tx, names: &[String]) -> Result<()> {
    tx.query(
        "with turn as (
           update sluice.resource as resource
           set run_id = (
             select run.id
             from sluice.run
             where run.resource = resource.name
               and run.state = 'active'
             order by run.created_at, run.id
             limit 1
           )
           where resource.name = any($1)
             and not exists (select from sluice.run where run.id = resource.run_id and run.state = 'active')
           returning resource.run_id
         )
         update sluice.step as step
         set due_at = now()
         from turn
         where step.run_id = turn.run_id
           and step.state = 'due'
           and step.due_at is null
           and step.position = (
             select min(position)
             from sluice.step as open
             where open.run_id = turn.run_id
               and open.state <> 'succeeded'
           )",
    )
    .bind(names)
    .execute(tx.connection())
    .await?;
    Ok(())
}
