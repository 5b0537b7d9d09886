//! A whole project as its new owner finds it: the roles and grants of Supabase, the auth server's
//! users, profiles with their sign-up trigger, users who may write their own row, conversations
//! that hang on instances, the old set-up's rows in every state and names of every age. It is taken
//! over, worked by `sluice all` against the simulated API, and attacked.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};
use sqlx::ConnectOptions;
use tests::{
    evolution::{Config, Planted, server::Server},
    servers::{self, Process, until},
};
use uuid::Uuid;

use super::{INSTANCES, QUEUE, TRIGGER, migrate, sluice};
use crate::{
    app::{App, Session, existing_user},
    program::{printed, said, start},
};

/// Long enough for a loaded machine with two cores.
const PATIENCE: Duration = Duration::from_secs(90);
const PHONE: &str = "5511999999999";
/// Another tenant's instance at the same API, which a user of this app names in her row.
const TENANT: &str = "other-tenant";
/// One that another user names once Sluice is there.
const SHOP: &str = "the-shop";

const EVE: u8 = 7;
const MALLORY: u8 = 4;

/// What must come out of the take-over as it went in: conversations, and whose instance each hangs
/// on.
const CONVERSATIONS: &str = "
    select string_agg(concat_ws(' ', c.id, c.contact_phone, i.user_id, i.id, i.instance_name), ';' order by c.id)
    from public.conversations as c
    join public.evolution_instances as i on i.id = c.instance_id";

struct Project {
    app: App,
    api: Server,
    /// At the API before Sluice came: names and tokens.
    there: BTreeMap<String, String>,
    owner: Session,
}

impl Project {
    async fn new() -> Self {
        let app = App::existing().await;
        let mut owner = app.owner().await;
        let supabase: bool = owner
            .one(
                "select not rolsuper and not pg_has_role(oid, 'supabase_auth_admin', 'member')
                 from pg_roles where rolname = current_user",
            )
            .await;
        assert!(supabase, "the owner is what Supabase's postgres is");
        app.superuser()
            .await
            .run("alter table auth.users add column is_anonymous boolean not null default false")
            .await;
        owner
            .run(&format!(
                "create policy mine on {INSTANCES} for insert to authenticated with check (auth.uid() = user_id);
                 create policy changes on {INSTANCES} for update to authenticated using (auth.uid() = user_id);
                 update {INSTANCES} set instance_token = 'token-of-' || user_id;
                 update {INSTANCES} set instance_name = instance_name || '_1730000000000' where user_id = '{five}';
                 update {INSTANCES} set instance_name = instance_name || '_v2' where user_id = '{six}';
                 update {INSTANCES} set instance_status = 'error' where user_id = '{ten}';
                 update {QUEUE} set retry_count = 3 where user_id = '{nine}';
                 update {QUEUE} set status = 'pending' where user_id in ('{nine}', '{eve}')",
                five = existing_user(5),
                six = existing_user(6),
                nine = existing_user(9),
                ten = existing_user(10),
                eve = existing_user(EVE),
            ))
            .await;
        forge(&app, EVE, TENANT).await.unwrap();
        let api = Server::start(Config::default()).await.unwrap();
        let there = plant(&mut owner, &api).await;
        Self { app, api, there, owner }
    }

    /// `sluice all`, in the role that the services need and no more.
    async fn start_all(&self) -> Process {
        let mut url = self.app.options().to_url_lossy();
        url.query_pairs_mut().clear().append_pair("options", "-c role=sluice_runtime");
        let (redis, prefix) = (servers::shared().await.redis.url(), servers::prefix().replace(':', ""));
        start(
            &["all"],
            &[
                ("DATABASE_URL", url.as_str()),
                ("REDIS_URL", &redis),
                ("REDIS_PREFIX", &prefix),
                ("EVOLUTION_API_BASE_URL", self.api.base_url()),
                ("EVOLUTION_API_KEY", self.api.key()),
                ("WEBHOOK_URL", "http://127.0.0.1:9/hook/{user_id}"),
            ],
        )
    }

    async fn completed(&mut self, user: Uuid, all: &Process) {
        let ready = format!("select exists (select from {QUEUE} where user_id = '{user}' and status = 'completed')");
        let ready = until(PATIENCE, async || self.owner.one::<bool>(&ready).await.then_some(())).await;
        if ready.is_none() {
            let row = format!("select to_jsonb(queue)::text from {QUEUE} as queue where user_id = '{user}'");
            panic!("not ready: {:?}\n{}", self.owner.all::<String>(&row).await, all.log_tail());
        }
    }

    async fn started(&mut self) -> Vec<String> {
        self.owner.all("select distinct subject from sluice.run order by 1").await
    }

    async fn shown(&mut self, user: Uuid) -> String {
        let row = format!(
            "select concat_ws(' ', instance_name, instance_status, phone_number, qr_code is not null)
             from {INSTANCES} where user_id = '{user}'"
        );
        self.owner.one(&row).await
    }
}

/// A user makes an own row with somebody else's name, a token of their invention and a moment long
/// ago.
async fn forge(app: &App, user: u8, name: &str) -> Result<u64, sqlx::Error> {
    let user = existing_user(user);
    app.user(user)
        .await
        .attempt(&format!(
            "insert into {INSTANCES} (user_id, instance_name, instance_status, instance_token, phone_number, webhook_url, created_at)
             values ('{user}', '{name}', 'connected', 'forged', '999', 'https://forged.example', '2020-01-01')"
        ))
        .await
}

/// At the API: what the old set-up made, and two of other tenants.
async fn plant(owner: &mut Session, api: &Server) -> BTreeMap<String, String> {
    let column =
        |column| format!("select {column} from {INSTANCES} where instance_token <> 'forged' order by instance_name");
    let names: Vec<String> = owner.all(&column("instance_name")).await;
    let tokens: Vec<String> = owner.all(&column("instance_token")).await;
    let mut there: BTreeMap<_, _> = names.into_iter().zip(tokens).collect();
    for name in [TENANT, SHOP] {
        there.insert(name.to_owned(), format!("own-token-of-{name}"));
    }
    api.with(|world, now| {
        for (name, token) in &there {
            let webhook = json!({ "enabled": true, "url": "https://old.example/hook", "events": [] });
            let phone = Some(PHONE.to_owned());
            world.plant(now, Planted { webhook: Some(webhook), phone, ..Planted::new(name, token) });
        }
    });
    there
}

async fn open(project: &Project) -> BTreeMap<String, i64> {
    let report = sluice(&project.app, &["adopt", "status", "--json"]).await;
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let class = |class: &Value| (class["class"].as_str().unwrap().to_owned(), class["open"].as_i64().unwrap());
    report["classes"].as_array().unwrap().iter().map(class).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_project_is_taken_over_and_worked_and_stands_every_attack() {
    let mut project = Project::new().await;
    let conversations: String = project.owner.one(CONVERSATIONS).await;
    let young = Uuid::new_v4();
    project.app.sign_up(young).await.unwrap();

    // Migrated: everybody who was there is in a class, and nothing old starts.
    let migrated = sluice(&project.app, &["migrate", "--provision-anonymous", "off"]).await;
    assert_eq!(migrated.status.code(), Some(0), "{}", said(&migrated));
    assert!(printed(&migrated).contains(&format!("sluice adopt allow '{TENANT}'")), "{}", printed(&migrated));
    let classes = open(&project).await;
    let waiting: Vec<(&str, i64)> =
        classes.iter().map(|(class, open)| (class.as_str(), *open)).filter(|(_, open)| *open > 0).collect();
    assert_eq!(
        waiting,
        [
            ("failed", 2),
            ("foreign-name", 1),
            ("pending-orphan", 1),
            ("pending-spent", 1),
            ("stuck", 1),
            ("unfinished", 1)
        ]
    );
    let mut all = project.start_all().await;
    project.completed(young, &all).await;
    assert_eq!(project.started().await, [young.to_string()], "nothing old starts without a word");

    // Adopted, a class at a time.
    for class in ["failed", "pending-spent", "stuck", "unfinished"] {
        let started = sluice(&project.app, &["adopt", "start", class]).await;
        assert_eq!(started.status.code(), Some(0), "{class}: {}", said(&started));
    }
    let left = sluice(&project.app, &["adopt", "leave", "pending-orphan"]).await;
    assert_eq!(printed(&left), "1 left alone\n");
    let made = [existing_user(4), existing_user(8), existing_user(9), existing_user(11)];
    for user in made.into_iter().chain([existing_user(10)]) {
        project.completed(user, &all).await;
    }
    assert_eq!(project.owner.one::<String>(CONVERSATIONS).await, conversations);

    users_attack(&mut project, &all).await;
    the_owner_decides(&mut project, &all).await;
    assert_services_are_confined(&project).await;
    assert_nobody_lost_anything(&mut project, &made, young).await;
    all.terminate().unwrap();
    assert!(all.wait_for_exit(PATIENCE).await.unwrap().success(), "{}", all.log_tail());
}

/// Items 1, 4 and 8 of the issue: another tenant's name, a row that says what is not so, a forged
/// number.
async fn users_attack(project: &mut Project, all: &Process) {
    let (mallory, one) = (existing_user(MALLORY), existing_user(1));
    let set = format!(
        "update {INSTANCES} set instance_name = '{SHOP}', instance_token = 'forged' where user_id = '{mallory}'"
    );
    project.app.user(mallory).await.run(&set).await;
    let forged = format!(
        "update {INSTANCES} set instance_status = 'connected', phone_number = '666', qr_code = 'old' where user_id = '{one}'"
    );
    project.app.user(one).await.run(&forged).await;
    assert!(project.api.with(|world, now| world.unlink(now, &format!("user_{one}"))));

    let ask = format!(
        "update {QUEUE} set status = 'pending', retry_count = 0 where user_id in ('{mallory}', '{one}', '{}')",
        existing_user(EVE)
    );
    project.owner.run(&ask).await;
    project.completed(mallory, all).await;
    project.completed(one, all).await;

    assert!(project.shown(mallory).await.starts_with(&format!("user_{mallory} ")), "{}", project.shown(mallory).await);
    assert_eq!(project.shown(one).await, format!("user_{one} connecting {PHONE} t"));
    assert!(!project.started().await.contains(&existing_user(EVE).to_string()), "her own word does not count");
    assert_eq!(project.shown(existing_user(EVE)).await, format!("{TENANT} connected 999 f"));
}

/// Items 5 and 6: who gets an instance, and a trigger that was disabled on purpose.
async fn the_owner_decides(project: &mut Project, all: &Process) {
    let (anonymous, unseen, later) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let insert = format!("insert into auth.users (id, is_anonymous) values ('{anonymous}', true)");
    project.app.login("supabase_auth_admin").await.run(&insert).await;
    project.owner.run(&format!("alter table public.profiles disable trigger {TRIGGER}")).await;
    let told = migrate(&project.app).await;
    project.app.sign_up(unseen).await.unwrap();
    let on = sluice(&project.app, &["migrate", "--sign-up-trigger", "on"]).await;
    project.app.sign_up(later).await.unwrap();
    project.completed(later, all).await;

    assert!(told.contains(&format!("missing: trigger {TRIGGER}")), "{told}");
    assert_eq!(on.status.code(), Some(0), "{}", said(&on));
    let queued = format!("select count(*) from {QUEUE} where user_id in ('{anonymous}', '{unseen}')");
    assert_eq!(project.owner.one::<i64>(&queued).await, 0);
}

/// Item 8: least privilege for ourselves.
async fn assert_services_are_confined(project: &Project) {
    let mut services = project.app.login("sluice_runtime").await;
    for attempt in [
        "update sluice.setting set value = 'x'",
        "delete from sluice._sqlx_migrations",
        "update sluice.adoption set held_back = false",
        "delete from public.evolution_instances",
        "select raw_user_meta_data from auth.users",
    ] {
        assert_eq!(services.refusal(attempt).await, "42501", "{attempt}");
    }
}

/// Items 1 and 2: every instance that was there is there, with its token, and its owner's row shows
/// it; each new user has one.
async fn assert_nobody_lost_anything(project: &mut Project, made: &[Uuid], young: Uuid) {
    let there = &project.there;
    project.api.with(|world, _| {
        let journal = world.journal();
        assert_eq!((journal.destroyed().count(), journal.duplicate_creates), (0, 0));
        assert!(journal.creates_ok().values().all(|times| *times == 1));
        for user in made.iter().chain([&young]) {
            assert!(journal.creates_ok().contains_key(&format!("user_{user}")), "{user} has none");
        }
        for (name, token) in there {
            assert_eq!(world.instance(name).unwrap().token.reveal(), token, "{name}");
        }
        for name in [TENANT, SHOP] {
            assert_eq!(world.instance(name).unwrap().webhook.unwrap().url, "https://old.example/hook", "{name}");
            assert!(!journal.log().any(|entry| entry.name.as_deref() == Some(name)), "a call for {name}");
        }
    });
    let wrong = format!(
        "select count(*) from {INSTANCES} as shown where user_id <> '{}'
         and not exists (select from sluice.resource as held where held.name = shown.instance_name
           and held.subject = shown.user_id::text and coalesce(held.memory ->> 'token', held.secret) = shown.instance_token)",
        existing_user(EVE)
    );
    assert_eq!(project.owner.one::<i64>(&wrong).await, 0, "a row shows its own instance and token");
}
