//! The adoption report, and a person's word on each class of it. Nothing old starts without it.

use serde_json::Value;
use tests::servers;
use uuid::Uuid;

use super::{INSTANCES, QUEUE, migrate, sluice};
use crate::{
    app::{App, Session, existing_user},
    program::{printed, said, start, url_of},
};

async fn classes(app: &App) -> Vec<(String, i64, i64)> {
    let report = sluice(app, &["adopt", "status", "--json"]).await;
    assert_eq!(report.status.code(), Some(0), "{}", said(&report));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let class = |class: &Value| {
        (class["class"].as_str().unwrap().to_owned(), class["users"].as_i64().unwrap(), class["open"].as_i64().unwrap())
    };
    report["classes"].as_array().unwrap().iter().map(class).collect()
}

async fn row(session: &mut Session, user: Uuid) -> String {
    session.one(&format!("select concat_ws(' ', status, retry_count) from {QUEUE} where user_id = '{user}'")).await
}

async fn held_back(session: &mut Session) -> Vec<Uuid> {
    session.all("select subject from sluice.held_back order by subject").await
}

/// The existing project, with something in every class.
async fn existing() -> App {
    let app = App::existing().await;
    app.owner()
        .await
        .run(&format!(
            "update {QUEUE} set retry_count = 3 where user_id = '{seven}';
             update {INSTANCES} set instance_status = 'error' where user_id = '{one}';
             update {INSTANCES} set instance_name = 'the-shop' where user_id = '{two}';
             delete from {INSTANCES} where user_id = '{three}';
             delete from {QUEUE} where user_id = '{eleven}'",
            one = existing_user(1),
            two = existing_user(2),
            three = existing_user(3),
            seven = existing_user(7),
            eleven = existing_user(11),
        ))
        .await;
    app
}

#[tokio::test]
async fn the_report_has_everybody_whom_the_first_migration_found_in_one_class() {
    let app = existing().await;
    let young = Uuid::new_v4();
    app.sign_up(young).await.unwrap();

    let said = migrate(&app).await;

    let found = classes(&app).await;
    let found: Vec<_> = found.iter().map(|(class, users, open)| (class.as_str(), *users, *open)).collect();
    assert_eq!(
        found,
        [
            ("imported", 3, 0),
            ("unfinished", 1, 1),
            ("foreign-name", 1, 1),
            ("pending-spent", 1, 1),
            ("pending-orphan", 1, 1),
            ("stuck", 2, 2),
            ("failed", 1, 1),
            ("gone", 1, 1),
            ("older-users", 1, 1),
        ]
    );
    assert!(said.contains("sluice adopt start stuck"), "{said}");
    let mut owner = app.owner().await;
    assert!(!held_back(&mut owner).await.contains(&young), "what is younger than the old set-up's next round starts");
}

#[tokio::test]
async fn each_class_starts_with_a_word_and_no_other_does() {
    let app = existing().await;
    migrate(&app).await;
    let mut owner = app.owner().await;
    let cases = [
        ("unfinished", existing_user(1), "pending 0"),
        ("pending-spent", existing_user(7), "pending 0"),
        ("stuck", existing_user(8), "pending 0"),
        ("failed", existing_user(4), "pending 0"),
        ("gone", existing_user(3), "pending 0"),
        ("older-users", existing_user(11), "pending 0"),
    ];
    for (class, user, expected) in cases {
        let before = held_back(&mut owner).await;
        let started = sluice(&app, &["adopt", "start", class]).await;
        let again = sluice(&app, &["adopt", "start", class]).await;

        assert_eq!(started.status.code(), Some(0), "{class}: {}", said(&started));
        assert_eq!(again.status.code(), Some(4), "{class}");
        assert_eq!(row(&mut owner, user).await, expected, "{class}");
        let after = held_back(&mut owner).await;
        assert!(!after.contains(&user), "{class}");
        assert!(after.iter().all(|held| before.contains(held)), "{class}");
    }
    for class in ["foreign-name", "pending-orphan"] {
        assert_eq!(sluice(&app, &["adopt", "start", class]).await.status.code(), Some(1), "{class}");
    }
    let kept: i64 = owner.one("select count(*) from sluice.audit where actor = 'ana' and action = 'adopt.start'").await;
    assert_eq!(kept, 6);
    assert_eq!(held_back(&mut owner).await, [existing_user(2), existing_user(12)]);
}

#[tokio::test]
async fn who_is_passed_over_for_a_lock_is_counted_and_starts_the_next_time() {
    let app = existing().await;
    migrate(&app).await;
    let mut holder = app.owner().await;
    let start = async || sluice(&app, &["adopt", "start", "stuck"]).await;

    holder.run(&format!("begin; lock table {QUEUE} in access exclusive mode")).await;
    let all_locked = start().await;
    holder.run("rollback").await;
    holder.run(&format!("begin; select from {QUEUE} where user_id = '{}' for update", existing_user(8))).await;
    let one_locked = start().await;
    holder.run("rollback").await;
    let rest = start().await;

    let remark = |users| format!("{users} passed over, whose rows somebody has locked: run it again\n");
    for (output, code, out, err) in [
        (&all_locked, 1, "0 started\n", remark(2)),
        (&one_locked, 1, "1 started\n", remark(1)),
        (&rest, 0, "1 started\n", String::new()),
    ] {
        assert_eq!((output.status.code(), printed(output).as_str(), said(output)), (Some(code), out, err));
    }
}

#[tokio::test]
async fn the_word_is_given_in_a_database_that_is_read_only_by_default() {
    let app = existing().await;
    migrate(&app).await;
    let mut superuser = app.superuser().await;
    let name: String = superuser.one("select current_database()::text").await;
    superuser.run(&format!("alter database {name} set default_transaction_read_only = on")).await;

    let started = sluice(&app, &["adopt", "start", "failed"]).await;

    assert_eq!((started.status.code(), printed(&started).as_str()), (Some(0), "1 started\n"), "{}", said(&started));
}

#[tokio::test]
async fn who_is_left_alone_stays_so_until_somebody_writes_the_row() {
    let app = existing().await;
    migrate(&app).await;
    let mut owner = app.owner().await;
    let user = existing_user(7);

    let left = sluice(&app, &["adopt", "leave", "pending-spent", "--note", "gone long ago"]).await;
    let open: Vec<_> = classes(&app).await.into_iter().filter(|class| class.0 == "pending-spent").collect();
    let held = held_back(&mut owner).await;
    owner.run(&format!("update {QUEUE} set status = 'pending', retry_count = 0 where user_id = '{user}'")).await;

    assert_eq!(printed(&left), "1 left alone\n");
    assert_eq!(open, [("pending-spent".to_owned(), 1, 0)]);
    assert!(held.contains(&user));
    assert!(!held_back(&mut owner).await.contains(&user), "SQL on the queue is a command");
}

#[tokio::test]
async fn the_services_role_gives_the_word_and_cannot_write_the_report() {
    let app = existing().await;
    app.migrate().await;
    let mut services = app.login("sluice_runtime").await;

    let left = services.one::<i64>("select sluice.adopt_leave('failed', 'ana', null)").await;

    assert_eq!(left, 1);
    for attempt in [
        "update sluice.adoption set held_back = false",
        "delete from sluice.adoption",
        "insert into sluice.adoption (subject, class, held_back) values (gen_random_uuid(), 'imported', false)",
    ] {
        assert_eq!(services.refusal(attempt).await, "42501", "{attempt}");
    }
}

/// With a relay at work: what is young starts, what is old waits.
#[tokio::test]
async fn a_relay_starts_no_old_row() {
    let app = existing().await;
    let young = Uuid::new_v4();
    app.sign_up(young).await.unwrap();
    migrate(&app).await;
    let redis = servers::shared().await.redis.url();
    let prefix = servers::prefix().replace(':', "");
    let url = url_of(&app);
    let variables = [
        ("DATABASE_URL", url.as_str()),
        ("REDIS_URL", &redis),
        ("REDIS_PREFIX", &prefix),
        ("EVOLUTION_API_BASE_URL", "http://127.0.0.1:9"),
    ];
    let _relay = start(&["relay"], &variables);
    let mut session = app.superuser().await;
    let subjects = "select subject from sluice.run order by created_at";

    let patience = std::time::Duration::from_secs(60);
    let first = servers::until(patience, async || session.all::<String>(subjects).await.first().cloned()).await;
    sluice(&app, &["adopt", "start", "pending-spent"]).await;
    let second = servers::until(patience, async || session.all::<String>(subjects).await.get(1).cloned()).await;

    assert_eq!(first, Some(young.to_string()));
    assert_eq!(second, Some(existing_user(7).to_string()));
    assert_eq!(session.all::<String>(subjects).await.len(), 2);
}
