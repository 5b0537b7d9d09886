//! Least privilege, also for ourselves.

use uuid::Uuid;

use super::{INSTANCES, QUEUE};
use crate::app::App;

const REFUSED: &str = "42501";

#[tokio::test]
async fn the_services_cannot_write_what_decides_about_them() {
    for app in [App::migrated().await, App::adopted().await] {
        app.owner()
            .await
            .run("create table if not exists sluice._sqlx_migrations (version bigint); select sluice.adapt()")
            .await;
        let mut services = app.login("sluice_runtime").await;
        for table in ["sluice.setting", "sluice._sqlx_migrations", "sluice.adoption"] {
            services.run(&format!("select from {table}")).await;
            for attempt in [
                format!("insert into {table} select * from {table}"),
                format!("delete from {table}"),
                format!("truncate {table}"),
            ] {
                assert_eq!(services.refusal(&attempt).await, REFUSED, "{attempt}");
            }
        }
        for attempt in [
            "update sluice.setting set value = 'off'",
            "update sluice.audit set actor = 'nobody'",
            "select sluice.adapt()",
            "select sluice.decide('sign_up_trigger', 'off')",
            "select sluice.release_adopted(gen_random_uuid())",
            "select sluice.import_instance(gen_random_uuid(), 'n', '{}')",
            "select sluice.let_runtime_in()",
            "select sluice.fill_status(1)",
            "create function sluice.mine() returns int language sql as 'select 1'",
            "alter table sluice.run disable trigger all",
        ] {
            assert_eq!(services.refusal(attempt).await, REFUSED, "{attempt}");
        }
    }
}

#[tokio::test]
async fn our_policies_are_on_our_role_alone() {
    let app = App::existing().await;
    let mut owner = app.owner().await;

    app.migrate().await;

    let elsewhere = "select policyname || ' to ' || roles::text from pg_policies where policyname like 'sluice:%' and roles <> '{sluice_runtime}'";
    assert_eq!(owner.all::<String>(elsewhere).await, [""; 0]);
}

#[tokio::test]
async fn what_the_owner_grants_or_opens_later_is_not_taken_back() {
    let app = App::migrated().await;
    let mut owner = app.owner().await;
    app.sign_up(Uuid::new_v4()).await.unwrap();
    owner
        .run(&format!("grant select on {QUEUE} to anon; create policy open on {QUEUE} for select to anon using (true)"))
        .await;

    owner.run("select sluice.adapt()").await;

    assert_eq!(app.login("anon").await.all::<String>(&format!("select status from {QUEUE}")).await, ["pending"]);
    owner.run(&format!("alter table {INSTANCES} disable row level security")).await;
    let missing: Vec<String> = owner.all("select item from sluice.missing()").await;
    assert_eq!(missing, [format!("row level security on {INSTANCES}")]);
}
