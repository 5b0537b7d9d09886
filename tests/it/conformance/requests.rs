//! The inbox: somebody asks for a run with `sluice.start`, in a transaction of their own.

use serde_json::{Value, json};
use sluice::ledger::{OperatorLedger, RelayLedger};
use tests::ledger::Ledger;
use workflows::{ids::RunId, state::RunState};

use super::{
    bench::{BRITTLE, Bench, DEPROVISION, PROVISION, RECONFIGURE, by, new_run, refusal, resource_of, user},
    postgres::InPostgres,
    world::World,
};

async fn ask(bench: &Bench<InPostgres>, workflow: &str, subject: &str, resource: Option<&str>) -> sqlx::Result<()> {
    sqlx::query("select sluice.start($1, $2, $3, $4)")
        .bind(workflow)
        .bind(subject)
        .bind(json!({ "asked": true }))
        .bind(resource)
        .execute(bench.world.pool())
        .await
        .map(drop)
}

/// Those that could not be taken, and why.
async fn refused(bench: &Bench<InPostgres>) -> Vec<String> {
    let select = "select error from sluice.request where refused_at is not null order by id";
    sqlx::query_scalar(select).fetch_all(bench.world.pool()).await.unwrap()
}

async fn input_of(bench: &Bench<InPostgres>, run: RunId) -> Value {
    let select = "select input from sluice.run where id = $1";
    sqlx::query_scalar(select).bind(run.uuid()).fetch_one(bench.world.pool()).await.unwrap()
}

pub async fn a_request_becomes_a_run_that_may_be_pushed(bench: &Bench<InPostgres>) {
    ask(bench, BRITTLE, "somebody", Some("a thing")).await.unwrap();

    let intake = bench.ledger().intake(10).await.unwrap();

    let [taken] = &intake.started[..] else { panic!("{intake:?}") };
    assert_eq!((taken.workflow.as_str(), taken.subject.as_str()), (BRITTLE, "somebody"));
    assert_eq!(input_of(bench, taken.run).await, json!({ "asked": true }));
    assert_eq!(intake.due.iter().map(|due| due.key).collect::<Vec<_>>(), bench.due("first").await);
    let claim = bench.take(taken.run, "first").await;
    assert_eq!(claim.input.resource.as_str(), "a thing");
    assert_eq!(bench.ledger().intake(10).await.unwrap(), Default::default(), "it is taken once");
}

pub async fn a_request_joins_the_run_that_is_there(bench: &Bench<InPostgres>) {
    let user = user();
    let run = bench.start(RECONFIGURE, user).await;
    ask(bench, RECONFIGURE, user.subject().as_str(), None).await.unwrap();
    ask(bench, BRITTLE, "twice", None).await.unwrap();
    ask(bench, BRITTLE, "twice", None).await.unwrap();

    let intake = bench.ledger().intake(10).await.unwrap();

    assert_eq!((intake.started.len(), intake.joined), (1, 2));
    assert_eq!(bench.world.run(run).await, RunState::Active);
}

pub async fn a_request_never_revives_a_dead_run(bench: &Bench<InPostgres>) {
    let user = user();
    let run = bench.start(RECONFIGURE, user).await;
    bench.work(run, "configure-webhooks", refusal()).await;
    ask(bench, RECONFIGURE, user.subject().as_str(), None).await.unwrap();

    let intake = bench.ledger().intake(10).await.unwrap();

    assert_eq!((intake.started.len(), intake.revived.len(), intake.joined), (0, 0, 1));
    assert_eq!(bench.world.run(run).await, RunState::Dead);
    bench.ledger().cancel(run, &by("ana")).await.unwrap();
    ask(bench, RECONFIGURE, user.subject().as_str(), Some(resource_of(user).as_str())).await.unwrap();
    assert_eq!(bench.ledger().intake(10).await.unwrap().started.len(), 1);
}

pub async fn a_request_for_an_unknown_workflow_is_refused_at_once(bench: &Bench<InPostgres>) {
    let error = ask(bench, "make-tea", "somebody", None).await.unwrap_err().to_string();

    assert!(error.contains("make-tea"), "{error}");
    assert_eq!(bench.ledger().intake(10).await.unwrap(), Default::default());
}

pub async fn a_request_that_cannot_be_taken_says_why_and_harms_no_neighbour(bench: &Bench<InPostgres>) {
    let owner = user();
    bench.start(PROVISION, owner).await;
    ask(bench, BRITTLE, "thief", Some(resource_of(owner).as_str())).await.unwrap();
    ask(bench, BRITTLE, "honest", None).await.unwrap();

    let intake = bench.ledger().intake(10).await.unwrap();

    assert_eq!((intake.started.len(), intake.failed), (1, 1));
    let refused = refused(bench).await;
    assert!(refused.len() == 1 && refused[0].contains(resource_of(owner).as_str()), "{refused:?}");
    assert_eq!(bench.ledger().intake(10).await.unwrap(), Default::default(), "it is tried once");
}

pub async fn a_request_in_another_relays_hands_is_passed_over(bench: &Bench<InPostgres>) {
    ask(bench, BRITTLE, "busy", None).await.unwrap();
    let mut held = bench.world.pool().begin().await.unwrap();
    sqlx::query("select from sluice.request for update").execute(&mut *held).await.unwrap();
    ask(bench, BRITTLE, "free", None).await.unwrap();

    let meanwhile = bench.ledger().intake(10).await.unwrap();
    held.commit().await.unwrap();

    let [taken] = &meanwhile.started[..] else { panic!("{meanwhile:?}") };
    assert_eq!(taken.subject.as_str(), "free");
    assert_eq!(bench.ledger().intake(10).await.unwrap().started.len(), 1);
}

/// Its run could be claimed by nobody.
pub async fn a_subject_whose_own_resource_would_be_too_long_is_refused_at_once(bench: &Bench<InPostgres>) {
    let (workflow, subject) = ("w".repeat(60), "s".repeat(200));
    sqlx::query("insert into sluice.workflow (name, version, first_step, deadline) values ($1, 1, 'first', '1 day')")
        .bind(&workflow)
        .execute(bench.world.pool())
        .await
        .unwrap();

    let refused = ask(bench, &workflow, &subject, None).await.unwrap_err().to_string();

    assert!(refused.contains("is not valid: 1 to 255 characters"), "{refused}");
    ask(bench, &workflow, &subject, Some("a thing")).await.unwrap();
    ask(bench, &workflow, &subject[..194], None).await.unwrap();
}

pub async fn of_two_relays_each_takes_other_requests(bench: &Bench<InPostgres>) {
    for number in 0..20 {
        ask(bench, BRITTLE, &format!("somebody {number}"), None).await.unwrap();
    }
    let (one, other) = (bench.ledger().clone(), bench.ledger().clone());

    let (a, b) = tokio::join!(one.intake(20), other.intake(20));

    assert_eq!(a.unwrap().started.len() + b.unwrap().started.len(), 20);
    assert_eq!(bench.due("first").await.len(), 20);
}

pub async fn a_name_that_belongs_to_a_neighbour_in_the_batch_is_refused(bench: &Bench<InPostgres>) {
    for owner_comes_first in [true, false] {
        let (one, other) = (user(), user());
        let (owner, robbed) = if owner_comes_first { (one, other) } else { (other, one) };
        let mut taken = new_run(DEPROVISION, owner);
        taken.resource = resource_of(robbed);
        bench.ledger().start(&[taken]).await.unwrap();
        bench.world.sign_up(owner).await;
        bench.world.sign_up(robbed).await;

        let intake = bench.ledger().intake(10).await.unwrap();

        assert_eq!((intake.started.len(), intake.failed), (1, 1), "{owner_comes_first}");
        assert_eq!(bench.world.queue_row(owner).await.status, "processing", "{owner_comes_first}");
        let row = bench.world.queue_row(robbed).await;
        assert_eq!(row.status, "failed", "{owner_comes_first}");
        assert!(row.error.unwrap().contains("belongs to another subject"), "{owner_comes_first}");
    }
}
