//! What this build runs, told to the database: SQL starts runs by it, claims read leases and hosts
//! from it.

use workflows::definition::{Definition, Reach};

use super::{Postgres, Result, seconds};
use crate::database::Tx;

/// Older builds beside this one keep what a newer one has registered.
pub(super) async fn register(ledger: &Postgres) -> Result<()> {
    let mut tx = ledger.database.begin().await?;
    for definition in ledger.registry.all() {
        for (position, step) in (0_i16..).zip(&definition.steps) {
            let sql = "insert into sluice.definition as known
                  (workflow, version, position, step, host, lease, exclusive, deadline)
                values ($1, $2, $3, $4, $5, make_interval(secs => $6), $7, make_interval(secs => $8))
                on conflict (workflow, version, position) do update
                set step = excluded.step, host = excluded.host, lease = excluded.lease, exclusive = excluded.exclusive,
                  deadline = excluded.deadline
                where (known.step, known.host, known.lease, known.exclusive, known.deadline)
                  is distinct from (excluded.step, excluded.host, excluded.lease, excluded.exclusive, excluded.deadline)";
            let known = tx.query(sql).bind(definition.name.to_string()).bind(definition.version).bind(position);
            let known = known.bind(step.name.to_string()).bind(step.host.clone()).bind(seconds(step.lease));
            let known = known.bind(step.reach == Reach::Exclusive).bind(seconds(definition.deadline));
            known.execute(tx.connection()).await?;
        }
    }
    for definition in newest(ledger) {
        let Some(first) = definition.steps.first() else { continue };
        let sql = "insert into sluice.workflow as known (name, version, first_step, priority, deadline, projection, source, gone)
            values ($1, $2, $3, $4, make_interval(secs => $5), $6, $7, $8)
            on conflict (name) do update
            set version = excluded.version, first_step = excluded.first_step, priority = excluded.priority,
              deadline = excluded.deadline, projection = excluded.projection, source = excluded.source,
              gone = excluded.gone
            where known.version <= excluded.version
              and (known.version, known.first_step, known.priority, known.deadline, known.projection, known.source,
                known.gone) is distinct from (excluded.version, excluded.first_step, excluded.priority, excluded.deadline,
                  excluded.projection, excluded.source, excluded.gone)";
        let newest = tx.query(sql).bind(definition.name.to_string()).bind(definition.version);
        let newest = newest.bind(first.name.to_string()).bind(definition.priority).bind(seconds(definition.deadline));
        let newest = newest.bind(definition.projection).bind(definition.source).bind(definition.gone);
        newest.execute(tx.connection()).await?;
    }
    let sql = "insert into sluice.gate (scope, name)
        select 'step', name from unnest($1::text[]) as step (name)
        union all
        select 'host', name from unnest($2::text[]) as host (name)
        order by 1, 2
        on conflict do nothing";
    let gates = tx.query(sql).bind(ledger.queues.to_vec()).bind(ledger.registry.hosts());
    gates.execute(tx.connection()).await?;
    say_of_two_hosts(&mut tx).await?;
    Ok(tx.commit().await?)
}

/// A step's name is one queue, and has one host's gate before it, in all workflows of a database.
/// Within one program that is a fault; another program may be about to name the same host.
async fn say_of_two_hosts(tx: &mut Tx) -> Result<()> {
    let sql = "select known.step, string_agg(known.workflow || ' calls ' || coalesce(known.host, 'none'), ', ' order by known.workflow)
        from sluice.definition as known
        join sluice.workflow as newest on newest.name = known.workflow and newest.version = known.version
        group by known.step
        having count(distinct coalesce(known.host, '')) > 1";
    let shared: Vec<(String, String)> = tx.query_as(sql).fetch_all(tx.connection()).await?;
    for (step, hosts) in shared {
        tracing::warn!(step, hosts, "workflows have a step of one name that calls different hosts: rename one of them");
    }
    Ok(())
}

fn newest(ledger: &Postgres) -> impl Iterator<Item = &Definition> {
    let registry = &ledger.registry;
    registry.all().filter(|known| registry.newest(&known.name).is_some_and(|newest| newest.version == known.version))
}
