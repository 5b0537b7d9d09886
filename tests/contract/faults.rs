//! Injected faults: each does what it says, is counted, and leaves the server's own work as its
//! stage demands.

use std::time::Duration;

use serde_json::{Value, json};
use tests::evolution::{
    Answer, Config, Fault, Faults, Hit, Outage, Outcome, Request, RetryAfter, Route, Rule, Stage, Ticket, When, World,
};

const KEY: &str = "simulated-global-key";

fn create(name: &str) -> Request {
    let body = json!({"instanceName": name, "token": "t", "integration": "WHATSAPP-BAILEYS"});
    Request::post("/instance/create").key(KEY).json(body)
}

fn world_with(fault: Fault, when: When) -> World {
    let rule = Rule { route: Some(Route::Create), name_prefix: Some("user_".to_owned()), when, fault };
    let faults = Faults { rules: vec![rule], ..Faults::default() };
    World::new(Config { faults, ..Config::default() }, 1)
}

fn answer(world: &mut World, ticket: Ticket, within: Duration) -> Option<Answer> {
    let end = world.now() + within;
    while let Some(at) = world.next_wakeup().filter(|at| *at <= end) {
        if let Some((_, answer)) = world.advance(at).into_iter().find(|(answered, _)| *answered == ticket) {
            return Some(answer);
        }
    }
    world.advance(end);
    None
}

fn call(world: &mut World, name: &str) -> Option<Answer> {
    let now = world.now();
    let ticket = world.begin(now, create(name));
    answer(world, ticket, Duration::from_secs(30))
}

fn status(answer: Option<&Answer>) -> Option<u16> {
    match answer {
        Some(Answer::Response(response)) => Some(response.status),
        Some(Answer::Dropped) | None => None,
    }
}

#[test]
fn a_dropped_answer_hides_whether_the_work_was_done() {
    for (stage, made, hit) in
        [(Stage::BeforeWork, false, Hit::FaultDropBeforeWork), (Stage::AfterWork, true, Hit::FaultDropAfterWork)]
    {
        let mut world = world_with(Fault::Drop { stage }, When::Always);

        let answer = call(&mut world, "user_1");

        assert_eq!(answer, Some(Answer::Dropped));
        assert_eq!(world.instance("user_1").is_some(), made);
        assert_eq!(world.journal().hit_count(hit), 1);
        assert_eq!(world.journal().in_flight("user_1"), 0);
    }
}

#[test]
fn a_rule_strikes_only_its_route_its_names_and_its_number_of_calls() {
    let fault = Fault::Error { status: 502, body: Some(json!({"oops": 1})), stage: Stage::BeforeWork };
    let mut world = world_with(fault, When::Next(1));

    let other_name = call(&mut world, "other_1");
    let struck = call(&mut world, "user_1");
    let spent = call(&mut world, "user_1");

    assert_eq!([&other_name, &struck, &spent].map(|answer| status(answer.as_ref())), [Some(201), Some(502), Some(201)]);
    let Some(Answer::Response(response)) = struck else { panic!("no answer") };
    assert_eq!(response.value(), &json!({"oops": 1}));
}

#[test]
fn latency_before_the_work_and_after_it_delay_the_answer_alike() {
    for (stage, made_early) in [(Stage::BeforeWork, false), (Stage::AfterWork, true)] {
        let mut world = world_with(Fault::Latency { ms: 3_000, stage }, When::Always);
        let ticket = world.begin(Duration::ZERO, create("user_1"));

        let early = answer(&mut world, ticket, Duration::from_secs(2));
        let made = world.instance("user_1").is_some();
        let late = answer(&mut world, ticket, Duration::from_secs(2));

        assert_eq!((early, made), (None, made_early));
        assert_eq!(status(late.as_ref()), Some(201));
    }
}

#[test]
fn a_hanging_call_ends_with_its_client_and_its_work_counts() {
    for (stage, made) in [(Stage::BeforeWork, false), (Stage::AfterWork, true)] {
        let mut world = world_with(Fault::Hang { stage }, When::Always);
        let ticket = world.begin(Duration::ZERO, create("user_1"));
        assert_eq!(answer(&mut world, ticket, Duration::from_secs(30)), None);

        world.cancel(ticket);

        assert_eq!(world.calls_under_way(), 0);
        assert_eq!(world.instance("user_1").is_some(), made);
        assert_eq!(world.journal().log().next().and_then(|entry| entry.outcome), Some(Outcome::ClientGone(None)));
    }
}

#[test]
fn a_client_that_goes_away_does_not_stop_the_work() {
    let mut world = World::new(Config::default(), 1);
    let ticket = world.begin(Duration::ZERO, create("user_1"));
    world.advance(Duration::from_millis(3));
    world.cancel(ticket);

    assert_eq!(world.journal().in_flight("user_1"), 1);
    assert_eq!(answer(&mut world, ticket, Duration::from_secs(1)), None);

    assert!(world.instance("user_1").expect("it was made").answered_201);
    let outcome = world.journal().log().next().and_then(|entry| entry.outcome);
    assert_eq!(outcome, Some(Outcome::ClientGone(Some(201))));
    assert_eq!(world.journal().in_flight("user_1"), 0);
}

#[test]
fn retry_after_comes_in_seconds_or_as_a_date_after_the_servers_own() {
    let limited = |retry_after| Fault::Limited { status: 429, retry_after };
    let mut seconds = world_with(limited(RetryAfter::Seconds(7)), When::Always);
    let mut date = world_with(limited(RetryAfter::DateIn(7)), When::Always);

    let Some(Answer::Response(seconds)) = call(&mut seconds, "user_1") else { panic!("no answer") };
    let Some(Answer::Response(date)) = call(&mut date, "user_1") else { panic!("no answer") };

    assert_eq!((seconds.status, seconds.header("retry-after")), (429, Some("7")));
    let parse = |name| {
        let text = date.header(name).expect("a header");
        chrono::DateTime::parse_from_rfc2822(text).expect("an HTTP date")
    };
    assert_eq!((parse("retry-after") - parse("date")).num_seconds(), 7);
}

#[test]
fn an_outage_refuses_hangs_or_errs_for_every_route() {
    for (outage, hit) in [
        (Outage::Refuse, Hit::OutageRefuse),
        (Outage::Hang, Hit::OutageHang),
        (Outage::Error(503), Hit::OutageError),
        (Outage::Page(404), Hit::OutagePage),
        (Outage::Unlicensed, Hit::OutageUnlicensed),
    ] {
        let mut world = World::new(Config::default(), 1);
        world.faults_mut().outage = Some(outage);

        let answer = call(&mut world, "user_1");

        match outage {
            Outage::Refuse => assert_eq!(answer, Some(Answer::Dropped)),
            Outage::Hang => assert_eq!(answer, None),
            Outage::Error(expected) | Outage::Page(expected) => assert_eq!(status(answer.as_ref()), Some(expected)),
            Outage::Unlicensed => assert_eq!(status(answer.as_ref()), Some(503)),
        }
        assert!(world.instance("user_1").is_none());
        assert_eq!(world.journal().hit_count(hit), 1);
    }
}

#[test]
fn a_kill_drops_what_is_under_way_and_what_comes_until_the_server_is_back() {
    let mut world = World::new(Config::default(), 1);
    let first = world.begin(Duration::ZERO, create("user_1"));
    world.restart(Duration::from_millis(2), Duration::from_secs(1));
    let second = world.begin(Duration::from_millis(3), create("user_1"));

    let answers = world.advance(Duration::from_millis(3));
    world.advance(Duration::from_secs(2));
    let third = call(&mut world, "user_1");

    assert_eq!(answers, [(first, Answer::Dropped), (second, Answer::Dropped)]);
    assert_eq!(status(third.as_ref()), Some(201));
    assert_eq!(world.journal().hit_count(Hit::Killed), 1);
    assert_eq!(world.journal().hit_count(Hit::Down), 1);
}

#[test]
fn without_the_quirk_a_delete_answers_when_it_is_done() {
    let mut world = World::new(Config::default(), 1);
    world.quirks_mut().delete_answers_early = false;
    assert_eq!(status(call(&mut world, "user_1").as_ref()), Some(201));
    let begun = world.now();
    let ticket = world.begin(begun, Request::delete("/instance/delete/user_1").key(KEY));

    let answer = answer(&mut world, ticket, Duration::from_secs(5));

    assert_eq!(status(answer.as_ref()), Some(200));
    assert!(world.instance("user_1").is_none());
    assert!(world.now() - begun > Duration::from_millis(100));
}

#[test]
fn faults_are_written_as_the_help_of_the_program_shows_them() {
    let text = r#"{"outage": {"error": 502}, "database": {"flapping": 0.2}, "whatsapp": "unreachable",
        "dead_hooks": ["http://127.0.0.1:9/"],
        "rules": [{"route": "create", "name_prefix": "user_", "when": {"probability": 0.1},
                   "fault": {"drop": {"stage": "after_work"}}},
                  {"fault": {"limited": {"status": 429, "retry_after": {"date_in": 3}}}, "when": {"next": 3}},
                  {"fault": {"latency": {"ms": 800, "stage": "before_work"}}}]}"#;

    let faults: Faults = serde_json::from_str(text).expect("the help shows valid faults");

    assert_eq!(faults.outage, Some(Outage::Error(502)));
    assert_eq!(faults.rules[2].when, When::Always);
    let refused = serde_json::from_str::<Faults>(r#"{"outtage": "refuse"}"#);
    assert!(refused.expect_err("a typo").to_string().contains("outtage"));
}

#[test]
fn no_key_or_token_is_ever_printed() {
    let mut world = World::new(Config::default(), 1);
    let request = create("user_1");
    let printed = format!("{request:?} {:?}", world.config());
    call(&mut world, "user_1");
    let instance = world.instance("user_1").expect("it was made");

    assert!(!printed.contains(KEY));
    assert!(format!("{instance:?}").contains("***"));
    let stored = serde_json::to_value(&instance).expect("an instance as JSON");
    assert_eq!(stored.get("token"), None::<&Value>);
}
