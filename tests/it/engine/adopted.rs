//! A project of some years, taken over and worked against the API: nobody's instance, token or
//! conversation is lost, and nobody gets another tenant's. And what users, or the time, make of a
//! row that Sluice shows.

use std::collections::BTreeMap;

use sluice::ledger::RelayLedger;
use tests::evolution::Planted;

use super::*;
use crate::{
    app::existing_user,
    program::{run, said, url_of},
};

const PHONE: &str = "5511999999999";
const TENANT: &str = "other-tenant";

/// The project as `sql/existing.sql` has it, with older names, a token of its own for each
/// instance, and a user who may make her row herself and names another tenant's.
async fn old_project(eve: Uuid) -> App {
    let app = App::existing().await;
    app.owner()
        .await
        .run(&format!(
            "create policy mine on evolution_instances for insert to authenticated with check (auth.uid() = user_id);
             update evolution_instances set instance_token = 'token-of-' || user_id;
             update evolution_instances set instance_name = instance_name || '_1730000000000' where user_id = '{five}';
             update evolution_instances set instance_name = instance_name || '_v2' where user_id = '{six}';
             update evolution_instances set instance_status = 'error' where user_id = '{ten}';
             update evolution_instance_creation_queue set status = 'pending' where user_id = '{eve}'",
            five = existing_user(5),
            six = existing_user(6),
            ten = existing_user(10),
        ))
        .await;
    app.user(eve)
        .await
        .run(&format!(
            "insert into evolution_instances
               (user_id, instance_name, instance_status, instance_token, phone_number, webhook_url, created_at)
             values ('{eve}', '{TENANT}', 'connected', 'forged', '999', 'https://eve.example', '2020-01-01')"
        ))
        .await;
    app
}

/// At the API: what the old set-up made, and another tenant's.
async fn plant(engine: &Engine) -> BTreeMap<String, String> {
    let mut session = engine.app.superuser().await;
    let names = session
        .all::<String>("select instance_name from evolution_instances where instance_token <> 'forged' order by 1")
        .await;
    let tokens = session
        .all::<String>(
            "select instance_token from evolution_instances where instance_token <> 'forged' order by instance_name",
        )
        .await;
    let mut there: BTreeMap<_, _> = names.into_iter().zip(tokens).collect();
    there.insert(TENANT.to_owned(), "the-tenants-own".to_owned());
    engine.api.with(|world, now| {
        for (name, token) in &there {
            let webhook = serde_json::json!({ "enabled": true, "url": "https://old.example/hook", "events": [] });
            let phone = Some(PHONE.to_owned());
            world.plant(now, Planted { webhook: Some(webhook), phone, ..Planted::new(name, token) });
        }
    });
    there
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_project_is_taken_over_and_worked_and_nothing_of_anybodys_is_lost() {
    let eve = existing_user(7);
    let app = old_project(eve).await;
    let mut owner = app.owner().await;
    let kept =
        "select string_agg(concat_ws(' ', c.id, c.contact_phone, i.user_id, i.id, i.instance_name), ';' order by c.id)
        from conversations as c join evolution_instances as i on i.id = c.instance_id";
    let before: String = owner.one(kept).await;
    app.migrate().await;
    let mut engine = Engine::idle(app, Options::default()).await;
    let there = plant(&engine).await;

    engine.start_roles().await;
    let young = Uuid::new_v4();
    engine.app.sign_up(young).await.unwrap();
    let completed = |user: Uuid| {
        format!(
            "select exists (select from evolution_instance_creation_queue where user_id = '{user}' and status = 'completed')"
        )
    };
    engine.until("who signs up now is ready", &completed(young)).await;
    let untouched: i64 = owner.one("select count(*) from sluice.run").await;
    for class in ["unfinished", "pending", "stuck", "failed"] {
        let started = run(&["adopt", "start", class], &[("DATABASE_URL", &url_of(&engine.app))]).await;
        assert!(matches!(started.status.code(), Some(0 | 4)), "{class}: {}", said(&started));
    }
    let made = [existing_user(4), existing_user(8), existing_user(9), existing_user(11)];
    for user in made.into_iter().chain([existing_user(10)]) {
        engine.until("an old row is served", &completed(user)).await;
    }

    assert_eq!(untouched, 1, "nothing old starts without a word");
    assert_eq!(owner.one::<String>(kept).await, before, "conversations, and the instances they hang on");
    engine.api.with(|world, _| {
        let journal = world.journal();
        let mut created: Vec<_> = journal.creates_ok().iter().map(|(name, times)| (name.clone(), *times)).collect();
        let mut expected: Vec<_> = made.iter().chain([&young]).map(|user| (format!("user_{user}"), 1)).collect();
        created.sort();
        expected.sort();
        assert_eq!(created, expected);
        assert_eq!((journal.destroyed().count(), journal.duplicate_creates), (0, 0));
        for (name, token) in &there {
            let instance = world.instance(name).unwrap();
            assert_eq!(instance.token.reveal(), token, "{name}");
        }
        let hook = world.instance(TENANT).unwrap().webhook.unwrap().url;
        assert_eq!(hook, "https://old.example/hook", "another tenant's webhook");
        assert!(
            !journal.log().any(|entry| entry.name.as_deref() == Some(TENANT)),
            "a call for another tenant's instance"
        );
    });
    let eves: String = owner
        .one(&format!(
            "select concat_ws(' ', instance_name, instance_token) from evolution_instances where user_id = '{eve}'"
        ))
        .await;
    assert_eq!(eves, format!("{TENANT} forged"));
    let wrong: i64 = owner
        .one(&format!(
            "select count(*) from evolution_instances as shown where user_id <> '{eve}'
             and not exists (select from sluice.resource as held where held.name = shown.instance_name
               and held.subject = shown.user_id::text and coalesce(held.memory ->> 'token', held.secret) = shown.instance_token)",
        ))
        .await;
    assert_eq!(wrong, 0, "a row shows its own instance and token");
    engine.stop().await;
}

/// Ready, and then its phone has scanned the code: the app's webhook wrote the row.
async fn connected() -> (Engine, Uuid) {
    let engine = Engine::start().await;
    let user = Uuid::new_v4();
    engine.app.sign_up(user).await.unwrap();
    engine.until("the user is ready", READY).await;
    assert!(engine.api.with(|world, now| world.pair(now, &format!("user_{user}"), PHONE)));
    (engine, user)
}

const READY: &str = "select status = 'completed' from evolution_instance_creation_queue";

/// Somebody asks again, with the SQL of the guide.
async fn ask_again(engine: &Engine) {
    engine
        .app
        .owner()
        .await
        .run("update evolution_instance_creation_queue set status = 'pending', retry_count = 0")
        .await;
    engine.until("it is ready again", READY).await;
}

const SHOWN: &str =
    "select concat_ws(' ', instance_status, phone_number, qr_code is not null) from evolution_instances";

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_number_and_an_old_code_do_not_survive_the_next_change() {
    let (engine, _) = connected().await;
    let mut owner = engine.app.owner().await;
    let code: bool = owner.one("select qr_code is not null from evolution_instances").await;
    owner.run("update evolution_instances set instance_status = 'connected', phone_number = '666'").await;

    ask_again(&engine).await;
    let seen: String = owner.one(SHOWN).await;
    owner
        .run("update evolution_instances set qr_code = 'forged', phone_number = '666', instance_status = 'error'")
        .await;
    ask_again(&engine).await;

    assert!(code, "there was a code to forget");
    assert_eq!(seen, format!("connected {PHONE} f"));
    assert_eq!(owner.one::<String>(SHOWN).await, seen);
    engine.stop().await;
}

/// What the API says decides once it was asked: until then the row keeps what the app's webhook
/// wrote.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_has_not_seen_the_instance_yet_takes_back_nothing_of_what_the_app_wrote() {
    let (mut engine, _) = connected().await;
    let mut owner = engine.app.owner().await;
    owner
        .run(&format!(
            "update evolution_instances set instance_status = 'connected', phone_number = '{PHONE}', qr_code = null"
        ))
        .await;
    engine.stop_roles().await;
    let before: String = owner.one(SHOWN).await;

    owner.run("update evolution_instance_creation_queue set status = 'pending'").await;
    engine.ledger.intake(10).await.unwrap();

    assert_eq!(owner.one::<String>("select status from evolution_instance_creation_queue").await, "processing");
    assert_eq!(owner.one::<String>(SHOWN).await, before);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_connected_and_is_no_more_gets_a_code_to_scan() {
    let (engine, user) = connected().await;
    let mut owner = engine.app.owner().await;
    owner.run("update evolution_instances set instance_status = 'connected', qr_code = null").await;
    assert!(engine.api.with(|world, now| world.unlink(now, &format!("user_{user}"))));

    ask_again(&engine).await;

    assert_eq!(owner.one::<String>(SHOWN).await, format!("connecting {PHONE} t"));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_gone_before_their_create_gets_nothing() {
    let mut engine = Engine::idle(App::migrated().await, Options::default()).await;
    let (gone, there) = (Uuid::new_v4(), Uuid::new_v4());
    for user in [gone, there] {
        engine.app.sign_up(user).await.unwrap();
    }
    engine.ledger.intake(10).await.unwrap();
    engine.app.login("supabase_auth_admin").await.run(&format!("delete from auth.users where id = '{gone}'")).await;

    engine.start_roles().await;
    engine.until("the other is ready", READY).await;
    engine.until("nobody waits", "select count(*) = 0 from sluice.run where state = 'active'").await;

    let mut session = engine.app.superuser().await;
    let ends = "select concat_ws(' ', state, cancel_by, cancel_reason) from sluice.run where subject = ";
    assert_eq!(session.one::<String>(&format!("{ends}'{gone}'")).await, "cancelled sluice its subject is gone");
    assert_eq!(session.one::<String>(&format!("{ends}'{there}'")).await, "succeeded");
    let calls: Vec<String> = engine.api.with(|world, _| world.instances().into_iter().map(|made| made.name).collect());
    assert_eq!(calls, [format!("user_{there}")]);
    engine.stop().await;
}

/// The app's own table may be locked, or closed to us: then nobody counts as gone.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_gone_where_that_cannot_be_told() {
    let app = App::migrated().await;
    let mut services = app.login("sluice_runtime").await;
    let (gone, there) = (Uuid::new_v4(), Uuid::new_v4());
    app.sign_up(there).await.unwrap();
    let ask = format!("select sluice.gone_users(array['{gone}', '{there}', 'the-shop'])");
    let told: Vec<String> = services.one(&ask).await;

    let mut holder = app.owner().await;
    holder.run("begin; lock table profiles in access exclusive mode").await;
    let locked: Vec<String> = services.one(&ask).await;
    holder.run("rollback").await;
    app.superuser()
        .await
        .run(
            "grant select on profiles to supabase_auth_admin; grant usage on schema sluice to supabase_auth_admin;
              grant execute on function sluice.profiles_key(), sluice.auth_users() to supabase_auth_admin;
              alter function sluice.gone_users(text[]) owner to supabase_auth_admin",
        )
        .await;
    let hidden: Vec<String> = services.one(&ask).await;

    assert_eq!(told, [gone.to_string()]);
    assert_eq!((locked, hidden), (vec![], vec![]));
}

/// Whatever column the profiles have, and where there are none.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_gone_is_told_by_every_kind_of_project() {
    let app = App::migrated().await;
    let (gone, there) = (Uuid::new_v4(), Uuid::new_v4());
    app.sign_up(there).await.unwrap();
    let ask = format!("select sluice.gone_users(array['{gone}', '{there}', 'the-shop'])");
    let changes = [
        "select 1",
        "alter table public.profiles rename column id to user_id",
        "alter table public.profiles rename to people",
        "alter table public.people rename to profiles",
    ];
    let (mut owner, mut services) = (app.owner().await, app.login("sluice_runtime").await);
    for change in changes {
        owner.run(change).await;

        let told: Vec<String> = services.one(&ask).await;

        assert_eq!(told, [gone.to_string()], "{change}");
    }
}
