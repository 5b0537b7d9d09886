//! What a sign-up becomes.

use super::*;

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
