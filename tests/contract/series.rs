//! The measured series of the record, as behaviours of the simulated server over many seeds: races,
//! bursts, windows.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tests::evolution::{
    Answer, Config, Database, Destroyer, Hit, LinkState, Planted, Request, Response, Route, Span, Ticket, Whatsapp,
    World,
};

const KEY: &str = "simulated-global-key";
pub const ROUNDS: u64 = 200;

pub fn create(name: &str, token: &str) -> Request {
    create_with(name, token, json!({}))
}

pub fn create_with(name: &str, token: &str, more: Value) -> Request {
    let mut body = json!({"instanceName": name, "token": token, "integration": "WHATSAPP-BAILEYS"});
    for (key, value) in more.as_object().expect("fields") {
        body[key] = value.clone();
    }
    Request::post("/instance/create").key(KEY).json(body)
}

fn get(target: &str) -> Request {
    Request::get(target).key(KEY)
}

fn set_webhook(name: &str) -> Request {
    let webhook = json!({"enabled": true, "url": "http://127.0.0.1:8098/hook", "events": ["CALL"]});
    Request::post(format!("/webhook/set/{name}")).key(KEY).json(json!({"webhook": webhook}))
}

/// Lets the world run until nothing is left to do, or for a minute.
pub fn settle(world: &mut World) -> BTreeMap<Ticket, Answer> {
    let end = world.now() + Duration::from_secs(60);
    let mut answers = BTreeMap::new();
    while let Some(at) = world.next_wakeup().filter(|at| *at <= end) {
        answers.extend(world.advance(at));
    }
    answers
}

pub fn ask(world: &mut World, request: Request) -> Response {
    let now = world.now();
    let ticket = world.begin(now, request);
    while let Some(at) = world.next_wakeup() {
        for (answered, answer) in world.advance(at) {
            if let (true, Answer::Response(response)) = (answered == ticket, answer) {
                return response;
            }
        }
    }
    panic!("no answer to {ticket:?}");
}

pub fn fresh(seed: u64) -> World {
    World::new(Config::default(), seed)
}

#[test]
fn a_webhook_can_be_set_right_after_a_create_and_many_at_once_make_one_row() {
    let mut world = fresh(7);
    for round in 0..60 {
        let name = format!("tight_{round}");
        assert_eq!(ask(&mut world, create(&name, "t")).status, 201);
        assert_eq!(ask(&mut world, set_webhook(&name)).status, 201);
        let state = Request::get(format!("/instance/connectionState/{name}")).key("t");
        assert_eq!(ask(&mut world, state).status, 200);
    }

    let now = world.now();
    for _ in 0..20 {
        world.begin(now, set_webhook("tight_0"));
    }
    let mut ids = Vec::new();
    for answer in settle(&mut world).into_values() {
        let Answer::Response(response) = answer else { panic!("dropped") };
        assert_eq!(response.status, 201);
        ids.push(response.value()["id"].clone());
    }
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn two_hundred_creates_at_once_all_succeed_at_the_recorded_pace() {
    let mut world = fresh(3);
    for number in 0..200 {
        world.begin(Duration::ZERO, create(&format!("rate_{number}"), "t"));
    }

    settle(&mut world);

    assert_eq!(world.journal().count(Route::Create, 201), 200);
    let last = world.journal().log().filter_map(|entry| entry.ended).max().expect("an end");
    assert!((1..6).contains(&last.as_secs()), "200 creates took {last:?}");
}

#[test]
fn other_calls_see_an_instance_while_its_create_still_waits_for_the_qr_code() {
    let mut world = fresh(5);
    let ticket = world.begin(Duration::ZERO, create_with("during", "t", json!({"qrcode": true})));
    let early = ask(&mut world, get("/instance/connectionState/during"));
    world.advance(Duration::from_millis(200));

    let fetched = ask(&mut world, get("/instance/fetchInstances?instanceName=during"));
    let set = ask(&mut world, set_webhook("during"));
    let state = ask(&mut world, get("/instance/connectionState/during"));

    assert_eq!((early.status, fetched.status, set.status), (404, 200, 201));
    assert_eq!(state.value()["instance"]["state"], "connecting");
    assert!(world.now() < Duration::from_secs(1));
    let Answer::Response(created) = &settle(&mut world)[&ticket] else { panic!("dropped") };
    assert_eq!(created.status, 201);
}

#[test]
fn after_a_restart_instances_are_there_before_they_are_loaded() {
    let mut world = fresh(11);
    world.plant(Duration::ZERO, Planted::new("old", "t"));
    world.restart(Duration::ZERO, Duration::from_secs(1));
    world.advance(Duration::from_millis(1_010));

    let state = ask(&mut world, get("/instance/connectionState/old"));
    let fetched = ask(&mut world, get("/instance/fetchInstances?instanceName=old"));
    let listed = ask(&mut world, get("/instance/fetchInstances"));
    let found = ask(&mut world, get("/webhook/find/old"));
    let set = ask(&mut world, set_webhook("old"));
    let created = ask(&mut world, create("old", "t"));
    world.advance(Duration::from_secs(6));
    let loaded = ask(&mut world, get("/instance/connectionState/old"));

    assert_eq!(state.value(), &json!({"instance": {"instanceName": "old"}}));
    assert_eq!((fetched.status, found.value(), created.status), (404, &Value::Null, 403));
    assert_eq!(listed.value().as_array().map(Vec::len), Some(1));
    assert_eq!(set.status, 500);
    assert!(set.value().to_string().contains("reading 'instanceId'"));
    assert_eq!(loaded.value()["instance"]["state"], "connecting");
    for hit in [Hit::NotLoadedState, Hit::NotLoadedFetch, Hit::NotLoadedFind, Hit::NotLoadedSet, Hit::NotLoadedCreate] {
        assert_eq!(world.journal().hit_count(hit), 1, "{}", hit.name());
    }
}

#[test]
fn a_kill_in_a_burst_leaves_half_made_instances_but_loses_no_201() {
    let hook = json!({"webhook": {"url": "http://127.0.0.1:8098/restart", "events": ["QRCODE_UPDATED"]}});
    let (mut without_settings, mut without_webhook) = (0, 0);
    for seed in 0..ROUNDS {
        let mut world = fresh(seed);
        for number in 0..12 {
            world.begin(Duration::ZERO, create_with(&format!("burst_{number}"), "t", hook.clone()));
        }
        world.advance(Duration::from_millis(80));
        world.kill(Duration::from_millis(80));
        let rows = world.instances();
        without_settings += rows.iter().filter(|row| !row.has_settings).count();
        without_webhook += rows.iter().filter(|row| row.webhook.is_none()).count();
        for name in world.journal().creates_ok().keys() {
            assert!(world.instance(name).is_some(), "seed {seed}: {name} had a 201");
        }
    }
    assert!(without_settings > without_webhook && without_webhook > 0, "{without_settings} {without_webhook}");
}

#[test]
fn a_flapping_database_makes_creates_answer_400_or_500_and_may_leave_the_row() {
    let mut world = fresh(2);
    world.faults_mut().database = Database::Flapping(0.3);
    for number in 0..300 {
        let now = world.now();
        world.begin(now, create(&format!("flap_{number}"), "t"));
        settle(&mut world);
    }

    let journal = world.journal();
    let left = world.instances().iter().filter(|row| !row.answered_201).count();
    assert!(journal.count(Route::Create, 201) > 50 && journal.count(Route::Create, 400) > 10);
    assert!(journal.count(Route::Create, 500) > 50);
    assert!(left > 3, "{left} rows left by creates that answered an error");
    for name in journal.creates_ok().keys() {
        assert!(world.instance(name).is_some(), "{name} had a 201");
    }
}

#[test]
fn a_dead_webhook_target_keeps_a_deleted_instance_alive_for_twenty_minutes() {
    let mut world = fresh(4);
    world.faults_mut().dead_hooks = vec!["http://127.0.0.1:8098/s500/".to_owned()];
    let hook = json!({"enabled": true, "url": "http://127.0.0.1:8098/s500/dead", "events": []});
    world.plant(Duration::ZERO, Planted { webhook: Some(hook), ..Planted::new("dead_hook", "t") });

    let deleted = ask(&mut world, Request::delete("/instance/delete/dead_hook").key(KEY));
    world.advance(Duration::from_secs(1_198));
    let alive = world.instance("dead_hook").is_some();
    world.advance(Duration::from_secs(1_201));

    assert_eq!(deleted.status, 200);
    assert!(alive && world.instance("dead_hook").is_none());
}

#[test]
fn a_second_delete_can_hit_a_newer_instance_of_that_name() {
    let mut world = fresh(4);
    world.faults_mut().dead_hooks = vec!["http://dead/".to_owned()];
    let hook = json!({"enabled": true, "url": "http://dead/x", "events": []});
    world.plant(Duration::ZERO, Planted { webhook: Some(hook), ..Planted::new("twice", "t") });
    ask(&mut world, Request::delete("/instance/delete/twice").key(KEY));
    world.faults_mut().dead_hooks.clear();
    ask(&mut world, Request::delete("/instance/delete/twice").key(KEY));
    settle(&mut world);
    assert_eq!(ask(&mut world, create("twice", "new")).status, 201);

    world.advance(Duration::from_secs(1_300));

    assert!(world.instance("twice").is_none());
    assert_eq!(world.journal().hit_count(Hit::DeleteDestroyedNewer), 1);
    assert!(world.journal().destroyed().any(|one| one.by == Destroyer::StaleDelete));
}

#[test]
fn without_whatsapp_the_state_flips_and_no_qr_code_comes() {
    let mut world = fresh(6);
    world.faults_mut().whatsapp = Whatsapp::Unreachable;
    let created = ask(&mut world, create_with("off", "t", json!({"qrcode": true})));
    let mut seen = BTreeMap::new();

    for _ in 0..80 {
        let state = ask(&mut world, get("/instance/connectionState/off"));
        let state = state.value()["instance"]["state"].as_str().expect("a state").to_owned();
        *seen.entry(state).or_insert(0) += 1;
        let next = world.now() + Duration::from_millis(120);
        world.advance(next);
    }

    assert_eq!(created.value()["qrcode"], json!({"count": 0}));
    assert!(seen["connecting"] > seen["close"] && seen["close"] > 10, "{seen:?}");
}

#[test]
fn qr_codes_change_every_45_seconds_until_their_limit() {
    let mut config = Config { qr_limit: 3, ..Config::default() };
    config.timings.first_qr = Span::ms(1_000, 1_000);
    let mut world = World::new(config, 1);
    world.plant(Duration::ZERO, Planted::new("qr", "t"));
    assert_eq!(ask(&mut world, get("/instance/connect/qr")).value()["count"], 1);
    let mut counts = Vec::new();

    for second in [40, 50, 95, 140] {
        world.advance(Duration::from_secs(second));
        let state = world.instance("qr").and_then(|instance| instance.state);
        if state == Some(LinkState::Connecting) {
            counts.push(ask(&mut world, get("/instance/connect/qr")).value()["count"].clone());
        } else {
            assert_eq!(state, Some(LinkState::Close));
        }
    }

    assert_eq!(counts, [1, 2, 3]);
}

#[test]
fn a_body_over_the_limit_is_413() {
    let mut world = World::new(Config { body_limit: 100, ..Config::default() }, 1);
    let mut request = create("big", "t");
    request.body = tests::evolution::Body::Text(format!("{{\"pad\":\"{}\"}}", "x".repeat(100)));

    let answer = ask(&mut world, request);

    assert_eq!(answer.status, 413);
    assert_eq!(answer.value()["response"]["message"], "request entity too large");
}

#[test]
fn with_the_cache_of_instances_a_name_that_is_not_loaded_seems_free() {
    let mut world = World::new(Config { save_instances: true, ..Config::default() }, 11);
    world.plant(Duration::ZERO, Planted::new("old", "t"));
    world.restart(Duration::ZERO, Duration::from_secs(1));
    world.advance(Duration::from_millis(1_010));

    let state = ask(&mut world, get("/instance/connectionState/old"));
    let found = ask(&mut world, get("/webhook/find/old"));
    let fetched = ask(&mut world, get("/instance/fetchInstances?instanceName=old"));
    let own = ask(&mut world, Request::get("/instance/fetchInstances?instanceName=old").key("t"));
    let stranger = ask(&mut world, Request::get("/instance/fetchInstances?instanceName=old").key("another"));
    let listed = ask(&mut world, get("/instance/fetchInstances"));
    let deleted = ask(&mut world, Request::delete("/instance/delete/old").key(KEY));
    let created = ask(&mut world, create("old", "t"));
    settle(&mut world);

    assert_eq!([&state, &found, &fetched, &own, &deleted].map(|answer| answer.status), [404; 5]);
    assert_eq!((stranger.status, listed.value().as_array().map(Vec::len)), (401, Some(1)));
    assert_eq!(created.status, 400);
    assert!(created.value().to_string().contains("Setting_instanceId_fkey"));
    assert!(world.instance("old").is_none());
    assert!(world.journal().destroyed().any(|one| one.by == Destroyer::FailedCreate && one.answered_201));
    assert_eq!(world.journal().hit_count(Hit::NotLoadedHidden), 4);
}

#[test]
fn a_right_token_is_refused_while_the_database_is_away_and_the_list_says_so() {
    let mut world = fresh(12);
    world.plant(Duration::ZERO, Planted::new("old", "t"));
    world.faults_mut().database = Database::Restarting;

    let own = ask(&mut world, Request::get("/instance/fetchInstances?instanceName=old").key("t"));
    let listed = ask(&mut world, get("/instance/fetchInstances"));
    let by_id = ask(&mut world, get("/instance/fetchInstances?instanceId=00000000-0000-0000-0000-000000000000"));
    let settings = ask(&mut world, get("/settings/find/old"));

    assert_eq!((own.status, listed.status, by_id.status), (401, 500, 500));
    assert_eq!((settings.status, settings.value()), (200, &Value::Null));
}

#[test]
fn a_database_that_restarts_in_a_create_leaves_phantoms_and_rows_without_memory() {
    let (mut phantoms, mut unloaded) = (0, 0);
    for seed in 0..ROUNDS {
        let mut world = fresh(seed);
        for number in 0..12 {
            world.begin(Duration::ZERO, create(&format!("user_{number}"), "t"));
        }
        world.advance(Duration::from_millis(40));
        // All connections, or some of them.
        let cut = if seed % 2 == 0 { Database::Restarting } else { Database::Flapping(0.4) };
        world.faults_mut().database = cut;
        world.advance(Duration::from_millis(110));
        world.faults_mut().database = Database::Up;
        settle(&mut world);
        for number in 0..12 {
            let name = format!("user_{number}");
            let fetched = ask(&mut world, get(&format!("/instance/fetchInstances?instanceName={name}")));
            let state = ask(&mut world, get(&format!("/instance/connectionState/{name}")));
            match (fetched.status, state.status, world.instance(&name)) {
                (200, 200, None) => {
                    assert_eq!((fetched.value(), &state.value()["instance"]["state"]), (&json!([]), &json!("close")));
                    assert_eq!(ask(&mut world, create(&name, "t")).status, 403);
                    let deleted = ask(&mut world, Request::delete(format!("/instance/delete/{name}")).key(KEY));
                    settle(&mut world);
                    assert_eq!((deleted.status, ask(&mut world, create(&name, "t")).status), (200, 201));
                    phantoms += 1;
                }
                (404, 200, Some(row)) => {
                    assert_eq!(row.state, None);
                    assert_eq!(ask(&mut world, create(&name, "t")).status, 403);
                    unloaded += 1;
                }
                (200, 200, Some(_)) | (404, 404, None) => {}
                other => panic!("seed {seed}: {other:?}"),
            }
        }
    }
    assert!(phantoms > 10 && unloaded > 0, "{phantoms} phantoms, {unloaded} rows without memory");
}

#[test]
fn settings_can_be_set_and_are_null_where_there_are_none() {
    let mut world = fresh(13);
    world.plant(Duration::ZERO, Planted { settings: false, ..Planted::new("half", "t") });
    let set = |body: Value| Request::post("/settings/set/half").key(KEY).json(body);
    let whole = workflows::whatsapp::evolution::default_settings();

    let before = ask(&mut world, get("/settings/find/half"));
    let refused = ask(&mut world, set(json!({"rejectCall": false})));
    let stored = ask(&mut world, set(whole.clone()));
    let after = ask(&mut world, get("/settings/find/half"));
    world.unload(Duration::from_secs(60), "half");
    let unloaded = ask(&mut world, set(whole.clone()));

    assert_eq!((before.value(), refused.status, stored.status), (&Value::Null, 400, 201));
    assert_eq!(after.value(), &whole);
    assert_eq!(unloaded.status, 500);
    assert!(unloaded.value().to_string().contains("reading 'setSettings'"));
}

#[test]
fn a_later_version_connects_after_a_restart_only_what_was_connected() {
    for (version, state) in [("2.3.6", "connecting"), ("2.3.7", "close")] {
        let mut world = World::new(Config { version: version.to_owned(), ..Config::default() }, 14);
        world.plant(Duration::ZERO, Planted::new("closed", "t"));
        world.restart(Duration::ZERO, Duration::from_secs(1));
        world.advance(Duration::from_secs(10));

        assert_eq!(ask(&mut world, get("/instance/connectionState/closed")).value()["instance"]["state"], state);
        assert_eq!(ask(&mut world, get("/")).value()["version"], version);
    }
}

#[test]
fn a_server_of_the_first_version_takes_a_create_and_refuses_its_webhook() {
    let mut world = World::new(Config { version: "1.8.6".to_owned(), ..Config::default() }, 15);

    let created = ask(&mut world, create("old", "t"));
    let set = ask(&mut world, set_webhook("old"));

    assert_eq!((created.status, set.status), (201, 400));
    assert_eq!(set.value()["response"]["message"][0][0], "instance requires property \"url\"");
}
