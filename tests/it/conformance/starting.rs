//! Starting runs: at most one unfinished per workflow and subject.

use tests::ledger::{Ledger, Started};
use workflows::state::RunState;

use super::{
    bench::{Bench, CREATE, DEPROVISION, PROVISION, RECONFIGURE, new_run, resource_of, user},
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

    let [Started::New(first), Started::New(second), Started::Joined(joined, RunState::Active)] = started[..] else {
        panic!("{started:?}")
    };
    assert!(first == joined && first != second, "{started:?}");
    assert_eq!(bench.due(CREATE).await.len(), 2);
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

    let started = bench.ledger().start(&[owner.clone(), thief, honest]).await.unwrap();

    let [Started::New(_), Started::Refused(why), Started::New(_)] = &started[..] else { panic!("{started:?}") };
    assert!(why.contains(owner.resource.as_str()), "{why}");
}

pub async fn an_unknown_workflow_is_refused_and_harms_no_neighbour(bench: &Bench<impl World>) {
    let known = new_run(PROVISION, user());

    let started = bench.ledger().start(&[new_run("make-tea", user()), known]).await.unwrap();

    let [Started::Refused(why), Started::New(_)] = &started[..] else { panic!("{started:?}") };
    assert!(why.contains("make-tea"), "{why}");
}

pub async fn a_resource_keeps_the_secret_that_was_drawn_first(bench: &Bench<impl World>) {
    let user = user();
    let secret = async || bench.world.resource(&resource_of(user)).await.secret;
    bench.start(PROVISION, user).await;
    let first = secret().await;

    bench.start(RECONFIGURE, user).await;

    assert!(first.len() >= 16, "nobody guesses it: {first}");
    assert_eq!(secret().await, first);
}

pub async fn each_resource_has_a_secret_of_its_own(bench: &Bench<impl World>) {
    let (one, other) = (user(), user());
    bench.ledger().start(&[new_run(PROVISION, one), new_run(PROVISION, other)]).await.unwrap();

    let secret = async |user| bench.world.resource(&resource_of(user)).await.secret;
    assert_ne!(secret(one).await, secret(other).await);
}
