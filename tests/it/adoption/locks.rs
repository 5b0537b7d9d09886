//! Migrating a project of some size: nobody's sign-up or webhook waits for it.

use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::{INSTANCES, QUEUE, migrate};
use crate::app::{App, existing_user};

/// A migration holds a lock for 100 ms at the most while it waits for another one. This machine
/// does much else.
const BEARABLE: Duration = Duration::from_millis(600);

/// 20,000 users with an instance each, some 200 MB of QR codes among them.
const WIDE: &str = "
    alter table auth.users disable trigger on_auth_user_created;
    insert into auth.users (id, email) select gen_random_uuid(), 'wide' || n || '@example.org' from generate_series(1, 20000) as n;
    alter table auth.users enable trigger on_auth_user_created;
    alter table public.profiles disable trigger user;
    insert into public.profiles (id, email, full_name)
      select id, email, repeat('x', 1500) from auth.users where email like 'wide%';
    alter table public.profiles enable trigger user;
    insert into public.evolution_instance_creation_queue (user_id, request_id, status, error_message)
      select id, gen_random_uuid(), 'completed', repeat('x', 500) from public.profiles where email like 'wide%';
    create temporary table code as
      select string_agg(md5(random()::text), '') as text from generate_series(1, 300);
    insert into public.evolution_instances (user_id, instance_name, instance_status, webhook_url, qr_code)
      select id, 'user_' || id, 'connected', 'u', (select text from code) || id from public.profiles where email like 'wide%'";

#[tokio::test(flavor = "multi_thread")]
async fn no_sign_up_and_no_webhook_waits_for_a_migration_of_twenty_thousand_wide_rows() {
    let app = Arc::new(App::existing().await);
    let mut superuser = app.superuser().await;
    superuser.run(WIDE).await;
    superuser.run("alter table public.evolution_instances drop constraint evolution_instances_instance_name_key").await;
    let files = format!(
        "select concat_ws(' ', pg_relation_filenode('{INSTANCES}'), pg_relation_filenode('{QUEUE}'), pg_relation_filenode('public.profiles'))"
    );
    let before: String = superuser.one(&files).await;
    let stop = Arc::new(AtomicBool::new(false));
    let user = existing_user(1);
    let watched = [
        ("a sign-up", None),
        ("a webhook", Some(format!("update {INSTANCES} set qr_code = md5(random()::text) where user_id = '{user}'"))),
    ];
    let watches = watched.map(|(what, statement)| {
        let (app, stop) = (Arc::clone(&app), Arc::clone(&stop));
        tokio::spawn(async move {
            let (mut session, mut longest, mut rounds) = (app.superuser().await, Duration::ZERO, 0);
            let mut pace = tokio::time::interval(Duration::from_millis(50));
            pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !stop.load(Ordering::Relaxed) {
                let began = Instant::now();
                match &statement {
                    None => session.sign_up(Uuid::new_v4(), "{}").await.unwrap(),
                    Some(statement) => drop(session.run(statement).await),
                }
                longest = longest.max(began.elapsed());
                rounds += 1;
                pace.tick().await;
            }
            (what, longest, rounds)
        })
    });

    migrate(&app).await;

    stop.store(true, Ordering::Relaxed);
    for watch in watches {
        let (what, longest, rounds) = watch.await.unwrap();
        assert!(longest < BEARABLE && rounds > 3, "{what} took {longest:?}, of {rounds}");
    }
    assert_eq!(superuser.one::<String>(&files).await, before, "a table was rewritten");
    let key = "select count(*) from pg_index where indexrelid = 'public.sluice_instances_instance_name_key'::regclass and indisvalid";
    assert_eq!(superuser.one::<i64>(key).await, 1, "one user per name again");
    assert_eq!(superuser.one::<i64>(&format!("select count(*) from {INSTANCES} where status is null")).await, 0);
}
