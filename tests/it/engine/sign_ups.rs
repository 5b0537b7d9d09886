//! What a sign-up becomes.

use sluice::ledger::RelayLedger;

use super::*;

/// The finder looks every half minute.
const FOUND_WITHIN: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_becomes_a_ready_instance() {
    let engine = Engine::start().await;
    let user = Uuid::new_v4();

    engine.app.sign_up(user).await.unwrap();

    engine.until("the row is completed", "select status = 'completed' from evolution_instance_creation_queue").await;
    let mut session = engine.app.superuser().await;
    let shown: String = session
        .one(
            "select concat_ws(' ', instance_name, status, webhook_url, qr_code is not null, instance_token is not null)
             from evolution_instances",
        )
        .await;
    assert_eq!(shown, format!("user_{user} connecting http://127.0.0.1:9/hook/{user} t t"));
    engine.stop().await;
}

/// The app has started another workflow for the same user.
#[tokio::test]
async fn what_another_workflow_works_on_is_not_taken_for_the_users_instance() {
    let engine = Engine::idle(App::migrated().await, Options::default()).await;
    let user = Uuid::new_v4();
    let mut session = engine.app.superuser().await;
    session.run(&another_workflows(user)).await;

    engine.app.sign_up(user).await.unwrap();
    engine.ledger.intake(10).await.unwrap();

    let resources = "select resource from sluice.run where workflow = 'provision-instance'";
    assert_eq!(session.all::<String>(resources).await, [format!("user_{user}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_sign_ups_makes_each_instance_once() {
    let engine = Engine::start().await;

    let mut session = engine.app.login("supabase_auth_admin").await;
    session
        .run("insert into auth.users (email) select 'user' || n || '@example.org' from generate_series(1, 100) n")
        .await;

    engine
        .until(
            "all are completed",
            "select count(*) = 100 from evolution_instance_creation_queue where status = 'completed'",
        )
        .await;
    let (made, duplicates, overlaps) = engine.api.with(|world, _| {
        let journal = world.journal();
        (
            journal.creates_ok().values().filter(|count| **count == 1).count(),
            journal.duplicate_creates,
            journal.overlaps,
        )
    });
    assert_eq!((made, duplicates, overlaps), (100, 0, 0));
    engine.stop().await;
}

/// Fifty producers at once, three times over, where the replaced set-up had two: upserts of the
/// queue row, rows set back by hand, and roles that stop and start in between.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_requests_for_one_user_make_one_instance() {
    let mut engine = Engine::start().await;
    let user = Uuid::new_v4();
    engine.app.sign_up(user).await.unwrap();

    let mut producers = futures::future::join_all((0..50).map(|_| engine.app.owner())).await;
    for wave in 0..REQUESTS.len() {
        let requests = producers.iter_mut().enumerate().map(|(number, producer)| async move {
            let sql = REQUESTS[(number + wave) % REQUESTS.len()].replace("{user}", &user.to_string());
            producer.run(&sql).await
        });
        futures::future::join_all(requests).await;
        engine.restart_roles().await;
    }

    engine.until("the row is completed", "select status = 'completed' from evolution_instance_creation_queue").await;
    engine.until("no run is active", "select count(*) = 0 from sluice.run where state = 'active'").await;
    let name = format!("user_{user}");
    let (made, duplicates, overlaps, there) = engine.api.with(|world, _| {
        let journal = world.journal();
        (journal.creates_ok().get(&name).copied(), journal.duplicate_creates, journal.overlaps, world.instances().len())
    });
    assert_eq!((made, duplicates, overlaps, there), (Some(1), 0, 0, 1));
    let mut session = engine.app.superuser().await;
    let failures: i64 = session.one("select count(*) from sluice.attempt where outcome in ('failed', 'refused')").await;
    assert_eq!(failures, 0);
    engine.stop().await;
}

/// What producers of the replaced set-up sent: the old trigger's upsert, the front end's, and the
/// guide's reset.
const REQUESTS: [&str; 3] = [
    "insert into evolution_instance_creation_queue (user_id, request_id, status)
     values ('{user}', gen_random_uuid(), 'pending') on conflict (user_id) do update set status = 'pending'",
    "insert into evolution_instance_creation_queue (user_id) values ('{user}') on conflict (user_id) do nothing",
    "update evolution_instance_creation_queue
     set status = 'pending', retry_count = 0, error_message = null, updated_at = now() where user_id = '{user}'",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_row_forged_by_its_user_harms_nobody_else() {
    let engine = Engine::start().await;
    let (victim, forger) = (Uuid::new_v4(), Uuid::new_v4());
    engine.app.sign_up(forger).await.unwrap();
    engine.until("the forger is ready", "select status = 'completed' from evolution_instance_creation_queue").await;

    let mut session = engine.app.superuser().await;
    session
        .run(&format!(
            "update evolution_instances
             set instance_name = 'user_{victim}', instance_token = 'forged', webhook_url = 'http://127.0.0.1:9/forged'
             where user_id = '{forger}'"
        ))
        .await;
    engine.app.sign_up(victim).await.unwrap();
    engine
        .until(
            "the victim is ready, under its own name",
            &format!(
                "select exists (select from evolution_instance_creation_queue
                   where user_id = '{victim}' and status = 'completed')
                 and exists (select from evolution_instances
                   where user_id = '{victim}' and instance_name = 'user_{victim}' and instance_status = 'connecting')"
            ),
        )
        .await;

    let forged: String =
        session.one(&format!("select instance_name from evolution_instances where user_id = '{forger}'")).await;
    assert_eq!(forged, format!("user_{forger}"));
    let (token, hook) = engine.api.with(|world, _| {
        let instance = world.instance(&format!("user_{victim}")).unwrap();
        (instance.token, instance.webhook.unwrap().url)
    });
    assert_ne!(token.reveal(), "forged");
    assert_eq!(hook, format!("http://127.0.0.1:9/hook/{victim}"));
    engine.stop().await;
}

/// By the finder of the relay that runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_sign_up_is_found() {
    let engine = Engine::start().await;
    let mut owner = engine.app.owner().await;
    owner.run("alter table profiles disable trigger on_profile_created_create_evolution_instance").await;

    engine.app.sign_up(Uuid::new_v4()).await.unwrap();
    owner.run("alter table profiles enable trigger on_profile_created_create_evolution_instance").await;

    let mut session = engine.app.superuser().await;
    let completed = "select exists (select from evolution_instance_creation_queue where status = 'completed')";
    let found = servers::until(FOUND_WITHIN, async || session.one::<bool>(completed).await.then_some(())).await;
    assert!(found.is_some(), "the finder found nothing within {FOUND_WITHIN:?}");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_older_than_the_adoption_is_not_started() {
    let engine = Engine::start_on(App::adopted().await, Options::default()).await;
    let mut session = engine.app.superuser().await;
    session.run("delete from evolution_instance_creation_queue; delete from evolution_instances").await;

    let queued = supabase::find_once(&engine.ledger, Duration::from_secs(86_400 * 365)).await.unwrap();

    assert_eq!(queued, 0);
    engine.stop().await;
}
