//! Users' instances: how the API reports them, and which there are.

use serde_json::Value;
use uuid::Uuid;
use workflows::whatsapp::{evolution::report::Report, provision::PROVISION_INSTANCE};

use crate::ledger::{Result, postgres::Postgres};

/// Take in what the API reports: memory and row of each instance that it changes. Those that cannot
/// be written now, and why: nothing of them was taken. Reports may come twice and in any order,
/// from any number of callers.
pub async fn hear(ledger: &Postgres, reports: &[Report]) -> Result<Vec<(String, String)>> {
    let reports: Value = reports.iter().map(Report::to_json).collect();
    let ask = ledger.database().ask("select instance, error from sluice.hear($1)", |ask| ask.bind(reports));
    ledger.within(async { Ok(ask.await?) }).await
}

/// The names of users' instances after this one, in their order.
pub async fn names(ledger: &Postgres, after: &str, most: usize) -> Result<Vec<String>> {
    let (after, most) = (after.to_owned(), i64::try_from(most).unwrap_or(i64::MAX));
    let ask = ledger.database().ask::<(String,)>(
        "select held.name
         from sluice.resource as held
         where held.name > $1
           and exists (
             select
             from public.evolution_instances as instance
             where instance.instance_name = held.name
               and instance.user_id::text = held.subject
           )
         order by held.name
         limit $2",
        |ask| ask.bind(after).bind(most),
    );
    let names = ledger.within(async { Ok(ask.await?) }).await?;
    Ok(names.into_iter().map(|(name,)| name).collect())
}

/// The run that was started last, of whatever workflow; nil where there is none.
pub async fn last_run(ledger: &Postgres) -> Result<Uuid> {
    let ask = ledger.database().ask::<(Uuid,)>("select id from sluice.run order by id desc limit 1", |ask| ask);
    let last = ledger.within(async { Ok(ask.await?) }).await?;
    Ok(last.first().map_or(Uuid::nil(), |(run,)| *run))
}

/// The runs after this one that are for users, and the name of each one's instance, in the order of
/// their starts.
pub async fn names_since(ledger: &Postgres, after: Uuid, most: usize) -> Result<Vec<(Uuid, String)>> {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let ask = ledger.database().ask(
        "select id, resource
         from sluice.run
         where id > $1
           and workflow = $2
         order by id
         limit $3",
        |ask| ask.bind(after).bind(PROVISION_INSTANCE).bind(most),
    );
    ledger.within(async { Ok(ask.await?) }).await
}
