//! Starting runs: at most one unfinished per workflow and subject.

use sluice::ledger::{Ledger, Started};
use workflows::state::RunState;

use super::{
    bench::{Bench, DEPROVISION, PROVISION, RECONFIGURE, new_run, user},
    world::{Moment, World},
};

pub async fn starting_again_joins_the_run_that_is_there(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.start(PROVISION, user).await;

    let again = bench.ledger().start(&[new_run(PROVISION, user)]).await.unwrap();

    assert_eq!(again, [Started::Joined(run, RunState::Active)]);
    assert_eq!(bench.step(run, 0).await.moment, Moment::Now);
}

pub async fn starting_twice_in_one_batch_starts_one_run(bench: &Bench<impl World>) {
    let (one, other) = (user(), user());
    let runs = [new_run(PROVISION, one), new_run(PROVISION, other), new_run(PROVISION, one)];

    let started = bench.ledger().start(&runs).await.unwrap();

    let expected = [Started::New(runs[0].id), Started::New(runs[1].id), Started::Joined(runs[0].id, RunState::Active)];
    assert_eq!(started, expected);
    assert_eq!(bench.dispatch("create-instance", 10).await.len(), 2);
}

pub async fn starting_again_joins_a_dead_run_and_does_not_revive_it(bench: &Bench<impl World>) {
    let user = user();
    let run = bench.dead_run(user).await;

    let again = bench.ledger().start(&[new_run(PROVISION, user)]).await.unwrap();

    assert_eq!(again, [Started::Joined(run, RunState::Dead)]);
    assert_eq!(bench.world.run(run).await, RunState::Dead);
}

pub async fn a_subject_may_have_runs_of_several_workflows(bench: &Bench<impl World>) {
    let user = user();

    let started = bench.ledger().start(&[new_run(PROVISION, user), new_run(DEPROVISION, user)]).await.unwrap();

    assert!(started.iter().all(|started| matches!(started, Started::New(_))), "{started:?}");
}

pub async fn a_name_of_another_subject_is_refused(bench: &Bench<impl World>) {
    let owner = new_run(PROVISION, user());
    let mut thief = new_run(PROVISION, user());
    thief.resource = owner.resource.clone();
    let honest = new_run(PROVISION, user());

    let started = bench.ledger().start(&[owner.clone(), thief, honest.clone()]).await.unwrap();

    assert_eq!((&started[0], &started[2]), (&Started::New(owner.id), &Started::New(honest.id)));
    assert!(matches!(&started[1], Started::Refused(why) if why.contains(owner.resource.as_str())), "{started:?}");
}

pub async fn an_unknown_workflow_is_refused_and_harms_no_neighbour(bench: &Bench<impl World>) {
    let known = new_run(PROVISION, user());

    let started = bench.ledger().start(&[new_run("make-tea", user()), known.clone()]).await.unwrap();

    assert!(matches!(&started[0], Started::Refused(why) if why.contains("make-tea")), "{started:?}");
    assert_eq!(started[1], Started::New(known.id));
}

pub async fn the_instance_keeps_the_token_that_was_drawn_first(bench: &Bench<impl World>) {
    let user = user();
    let first = new_run(PROVISION, user);
    bench.ledger().start(std::slice::from_ref(&first)).await.unwrap();

    bench.ledger().start(&[new_run(RECONFIGURE, user)]).await.unwrap();

    assert_eq!(bench.subject_token(&user.subject()).await, first.instance_token.expose());
}
