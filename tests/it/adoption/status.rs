//! The column `status` of an instance: the guide reads it, the app knows nothing of it, and whole
//! rows can be written all the same.

use uuid::Uuid;

use super::{INSTANCES, migrate};
use crate::app::{App, existing_user};

#[tokio::test]
async fn a_row_that_was_read_whole_is_written_back_whole_and_the_status_follows() {
    let app = App::adopted().await;
    let mut user = app.user(existing_user(1)).await;
    let mut service = app.login("service_role").await;
    let row: String = user.one(&format!("select json_agg(shown)::text from {INSTANCES} as shown")).await;
    let changed = row.replace("\"instance_status\":\"connected\"", "\"instance_status\":\"error\"");

    // As PostgREST writes it: all columns that the row has.
    for (session, row) in [(&mut user, &changed), (&mut service, &row)] {
        let upsert = format!(
            "insert into {INSTANCES} (id, user_id, instance_name, instance_status, status, qr_code, phone_number, webhook_url)
             select id, user_id, instance_name, instance_status, status, qr_code, phone_number, webhook_url
             from json_populate_recordset(null::{INSTANCES}, '{row}')
             on conflict (id) do update
             set user_id = excluded.user_id, instance_name = excluded.instance_name,
               instance_status = excluded.instance_status, status = excluded.status, qr_code = excluded.qr_code,
               phone_number = excluded.phone_number, webhook_url = excluded.webhook_url"
        );
        if row == &changed {
            // A user may change their row, and insert none.
            let set = format!(
                "update {INSTANCES} as shown
                 set (instance_status, status, qr_code, webhook_url) =
                   (given.instance_status, given.status, given.qr_code, given.webhook_url)
                 from json_populate_recordset(null::{INSTANCES}, '{row}') as given
                 where shown.id = given.id"
            );
            assert_eq!(session.run(&set).await, 1);
        } else {
            assert_eq!(session.run(&upsert).await, 1);
        }
        let shown: String = session
            .one(&format!(
                "select concat_ws(' ', instance_status, status) from {INSTANCES} where user_id = '{}'",
                existing_user(1)
            ))
            .await;
        assert_eq!(shown, if row == &changed { "error error" } else { "connected connected" });
    }
    let kind: i64 = service
        .one(&format!(
            "select count(*) from pg_attribute where attrelid = '{INSTANCES}'::regclass and attgenerated <> ''"
        ))
        .await;
    assert_eq!(kind, 0, "Realtime publishes no generated column");
}

#[tokio::test]
async fn a_table_copied_out_is_copied_in() {
    let app = App::adopted().await;
    let mut owner = app.owner().await;
    owner.run(&format!("create table public.copied as select * from {INSTANCES}; delete from {INSTANCES}")).await;

    owner.run(&format!("insert into {INSTANCES} select * from public.copied")).await;

    assert_eq!(owner.one::<i64>(&format!("select count(*) from {INSTANCES} where status = instance_status")).await, 6);
}

#[tokio::test]
async fn old_rows_get_their_status_and_nothing_else_of_them_changes() {
    let app = App::existing().await;
    let mut owner = app.owner().await;
    owner
        .run(&format!(
            "create function public.touch() returns trigger language plpgsql as
               $$ begin new.updated_at := now(); new.webhook_url := 'touched'; return new; end $$;
             create trigger touch before update on {INSTANCES} for each row execute function public.touch()"
        ))
        .await;
    let rows = format!(
        "select string_agg(row (id, user_id, instance_name, instance_status, webhook_url, updated_at)::text, ' ' order by id)
         from {INSTANCES}"
    );
    let before: String = owner.one(&rows).await;
    let file = format!("select pg_relation_filenode('{INSTANCES}')::bigint");
    let written = owner.one::<i64>(&file).await;

    migrate(&app).await;

    assert_eq!(owner.one::<String>(&rows).await, before);
    assert_eq!(owner.one::<i64>(&format!("select count(*) from {INSTANCES} where status = instance_status")).await, 6);
    assert_eq!(owner.one::<i64>(&file).await, written, "the table was rewritten");
}

#[tokio::test]
async fn a_status_that_somebody_writes_alone_does_not_stay() {
    let app = App::migrated().await;
    let mut owner = app.owner().await;
    let user = Uuid::new_v4();
    app.sign_up(user).await.unwrap();

    owner.run(&format!("insert into {INSTANCES} (user_id, instance_name, webhook_url, status) values ('{user}', 'n', 'u', 'forged')")).await;
    owner.run(&format!("update {INSTANCES} set status = 'connected'")).await;

    assert_eq!(owner.one::<String>(&format!("select status from {INSTANCES}")).await, "creating");
}
