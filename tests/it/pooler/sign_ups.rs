//! What a sign-up becomes behind a pooler, also one that is killed meanwhile.

use tests::evolution::{Config, Fault, Faults, Route, Rule, Stage, When, server::Server};
use uuid::Uuid;

use super::*;

const STEPS: [&str; 4] = ["worker", "create-instance", "configure-webhooks", "verify"];
const NO_LISTEN: &str = "no connection for LISTEN: requests are found by polling";

/// A relay and two workers, each with more connections of its own than the pooler has for all of
/// them.
async fn start_roles(fleet: &mut Fleet) {
    fleet.start(&["relay"]).await;
    fleet.start(&STEPS).await;
    fleet.start(&STEPS).await;
}

async fn sign_up(fleet: &Fleet, users: usize) {
    let sign_ups = (0..users).map(|_| fleet.app.sign_up(Uuid::new_v4()));
    futures::future::try_join_all(sign_ups).await.unwrap();
}

async fn until_all_are_ready(fleet: &Fleet, users: usize) {
    let completed =
        format!("select count(*) = {users} from evolution_instance_creation_queue where status = 'completed'");
    fleet.until("all are ready", &completed).await;
}

/// Each instance was made once, and nothing was counted against a run. A lease may have ended while
/// nobody could renew it.
async fn assert_nothing_was_lost_or_done_twice(fleet: &Fleet, api: &Server, users: usize) {
    let (made, duplicates, overlaps) = api.with(|world, _| {
        let journal = world.journal();
        let once = journal.creates_ok().values().filter(|count| **count == 1).count();
        (once, journal.duplicate_creates, journal.overlaps)
    });
    assert_eq!((made, duplicates, overlaps), (users, 0, 0));
    let mut session = fleet.app.superuser().await;
    let counted: Vec<String> = session
        .all(
            "select concat_ws(' ', position, outcome, error)
             from sluice.attempt
             where outcome not in ('succeeded', 'deferred')",
        )
        .await;
    assert_eq!(counted, <[&str; 0]>::default());
    let letters: i64 = session.one("select count(*) from sluice.dead_letter").await;
    assert_eq!(letters, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_ups_become_ready_through_a_pooler_with_fewer_connections_than_clients() {
    const USERS: usize = 30;
    let pooler = shared().await;
    let api = Server::start(Config::default()).await.unwrap();
    let mut fleet = Fleet::behind(pooler, api.base_url(), api.key()).await;
    start_roles(&mut fleet).await;

    sign_up(&fleet, USERS).await;
    until_all_are_ready(&fleet, USERS).await;

    let (clients, connections) = pooler.clients_and_connections(&database(&fleet.app)).await.unwrap();
    assert!(clients > connections && (1..=4).contains(&connections), "{clients} clients on {connections} connections");
    assert_nothing_was_lost_or_done_twice(&fleet, &api, USERS).await;
    let relay = fleet.processes[0].log();
    assert_eq!(occurrences(&relay, NO_LISTEN), 1, "{relay}");
    for process in &fleet.processes {
        assert_eq!(occurrences(&process.log(), "prepared statement"), 0, "{}", process.log());
    }
    api.stop().await;
}

/// Twice: back at once, and away for as long as it takes that more users sign up.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_is_killed_while_steps_run_loses_nothing() {
    const USERS: usize = 8;
    let mut pooler = start(options()).await;
    let api = Server::start(Config::default()).await.unwrap();
    let fault = Fault::Latency { ms: 2_000, stage: Stage::BeforeWork };
    let rule = Rule { route: Some(Route::WebhookSet), name_prefix: None, when: When::Always, fault };
    api.with(|world, _| *world.faults_mut() = Faults { rules: vec![rule], ..Faults::default() });
    let mut fleet = Fleet::behind(&pooler, api.base_url(), api.key()).await;
    start_roles(&mut fleet).await;
    let running = "select count(*) >= 3 from sluice.step where state = 'running' and name = 'configure-webhooks'";

    sign_up(&fleet, USERS).await;
    fleet.until("steps are running", running).await;
    pooler.restart().await.unwrap();
    until_all_are_ready(&fleet, USERS).await;
    sign_up(&fleet, USERS).await;
    fleet.until("steps are running again", running).await;
    pooler.kill().await.unwrap();
    sign_up(&fleet, USERS).await;
    pooler.restart().await.unwrap();

    until_all_are_ready(&fleet, 3 * USERS).await;
    assert_nothing_was_lost_or_done_twice(&fleet, &api, 3 * USERS).await;
    for process in &mut fleet.processes {
        assert!(process.exited().unwrap().is_none(), "{}", process.log());
    }
    api.stop().await;
}
