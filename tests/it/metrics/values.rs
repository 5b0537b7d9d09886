//! That the numbers are true: what processes count against what the ledger says.

use super::*;

const ATTEMPTS: &str = "select step, outcome, coalesce(class, 'none'), count(*) from sluice.attempt group by 1, 2, 3";

/// The ledger's attempts by step, outcome and class.
async fn attempts(fleet: &Fleet) -> BTreeMap<[String; 3], f64> {
    let mut session = fleet.connect().await.unwrap();
    let rows: Vec<(String, String, String, i64)> = sqlx::query_as(ATTEMPTS).fetch_all(&mut session).await.unwrap();
    rows.into_iter().map(|(step, outcome, class, count)| ([step, outcome, class], count as f64)).collect()
}

/// The attempts that processes have counted.
fn counted(scrape: &Scrape) -> BTreeMap<[String; 3], f64> {
    let mut counted = BTreeMap::new();
    for series in scrape.0.iter().filter(|series| series.name == "sluice_attempts_total" && series.value > 0.0) {
        let key = ["step", "outcome", "class"].map(|label| series.labels[label].clone());
        *counted.entry(key).or_default() += series.value;
    }
    counted
}

#[tokio::test(flavor = "multi_thread")]
async fn what_processes_count_is_what_the_ledger_says() {
    let mut fleet = fleet().await;
    let users: Vec<Uuid> = (0..5).map(|_| Uuid::new_v4()).collect();
    for user in &users {
        sign_up(&fleet, *user).await;
    }
    let mut session = fleet.connect().await.unwrap();
    sqlx::query(
        "update evolution_instance_creation_queue set created_at = now() - interval '10 minutes' where user_id = $1",
    )
    .bind(users[0])
    .execute(&mut session)
    .await
    .unwrap();
    arrange(&fleet, users[1], Route::WebhookSet, error(503));
    arrange(&fleet, users[2], Route::WebhookSet, error(400));
    fleet.set("RETRY_LIMIT", "1");

    fleet.start_roles().await.unwrap();
    until_true(
        &fleet,
        "all sign-ups have ended",
        "select count(*) = 5 from evolution_instance_creation_queue where status in ('completed', 'failed')",
    )
    .await;

    let addresses = addresses(&mut fleet).await;
    let stored = attempts(&fleet).await;
    // An attempt is counted a moment after it is written.
    let scraped = until(PATIENCE, async || {
        let scraped = scrape_all(addresses.values()).await;
        (counted(&scraped) == stored).then_some(scraped)
    })
    .await;
    let Some(scraped) = scraped else {
        panic!("counted {:?}, stored {stored:?}", counted(&scrape_all(addresses.values()).await))
    };
    let sum = |name: &str, labels: &[(&str, &str)]| scraped.sum(name, labels);
    assert_eq!(sum("sluice_attempts_total", &[("outcome", "failed"), ("class", "rejected")]), Some(1.0), "{stored:?}");
    assert_eq!(sum("sluice_runs_total", &[("outcome", "succeeded")]), Some(4.0));
    assert_eq!(sum("sluice_runs_total", &[("outcome", "dead")]), Some(1.0));
    assert_eq!(sum("sluice_dead_letters", &[("reason", "attempts_exhausted")]), Some(1.0));
    assert_eq!(sum("sluice_step_duration_seconds_count", &[]), sum("sluice_attempts_total", &[]));
    let set = [("url_template", "/webhook/set/{instance}")];
    assert_eq!(sum("http_client_request_duration_seconds_count", &[set[0], ("error_type", "503")]), Some(1.0));
    assert_eq!(sum("http_client_request_duration_seconds_count", &[set[0], ("error_type", "400")]), Some(1.0));

    // From the sign-up's own moment: the one of ten minutes ago, and three that took a moment.
    let served = [("workflow", "provision-instance"), ("outcome", "succeeded")];
    assert_eq!(sum("sluice_run_duration_seconds_count", &served), Some(4.0));
    assert_eq!(sum("sluice_run_duration_seconds_count", &[("outcome", "dead")]), Some(1.0));
    let waited = sum("sluice_run_duration_seconds_sum", &served).unwrap();
    assert!((600.0..900.0).contains(&waited), "{waited}");
    let asked: f64 = sqlx::query_scalar(
        "select sum(extract(epoch from run.ended_at - queue.created_at))::float8
         from sluice.run
         join evolution_instance_creation_queue as queue on queue.user_id::text = run.subject
         where run.state = 'succeeded'",
    )
    .fetch_one(&mut session)
    .await
    .unwrap();
    assert!((waited - asked).abs() < 4.0, "{waited} measured, {asked} in the ledger");

    // Who asks again is not served ten minutes late.
    sqlx::query("update evolution_instance_creation_queue set status = 'pending' where user_id = $1")
        .bind(users[0])
        .execute(&mut session)
        .await
        .unwrap();
    let again = until(PATIENCE, async || {
        let scraped = scrape_all(addresses.values()).await;
        (scraped.sum("sluice_run_duration_seconds_count", &served) == Some(5.0)).then_some(scraped)
    });
    let waited_again = again.await.unwrap().sum("sluice_run_duration_seconds_sum", &served).unwrap() - waited;
    assert!(waited_again < 60.0, "{waited_again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_documented_is_shown_and_nothing_else_and_no_secret() {
    let mut fleet = fleet().await;
    let user = Uuid::new_v4();
    arrange(&fleet, user, Route::WebhookSet, error(503));
    sign_up(&fleet, user).await;
    start_every_role(&mut fleet).await;
    until_true(
        &fleet,
        "the sign-up is completed",
        "select status = 'completed' from evolution_instance_creation_queue",
    )
    .await;

    let addresses = addresses(&mut fleet).await;
    let scraped = scrape_all(addresses.values()).await;

    assert_eq!(scraped.names(), known().iter().map(String::as_str).collect());
    for metric in documented() {
        let shown = scraped.0.iter().find(|series| metric.samples().contains(&series.name)).unwrap();
        let labels: BTreeSet<String> = shown.labels.keys().filter(|label| *label != "le").cloned().collect();
        assert_eq!(labels, metric.labels, "{}", metric.name);
        let family = metric.name.strip_suffix("_total").unwrap_or(&metric.name);
        let described = format!("# HELP {family} {}.\n# TYPE {family} {}\n", metric.help, metric.kind);
        assert!(scraped.1.contains(&described), "{described}");
    }
    let mut session = fleet.connect().await.unwrap();
    let token: String = sqlx::query_scalar("select secret from sluice.resource").fetch_one(&mut session).await.unwrap();
    for secret in [fleet.api.key(), &token, &user.to_string(), "hunter2", "postgres:"] {
        assert!(!scraped.1.contains(secret), "{secret} is among the metrics");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_counted_once_by_the_relay_that_takes_its_step_back() {
    let mut fleet = fleet_in_a_long_call().await;

    fleet.replace("worker-configure-webhooks-1").await.unwrap();
    until_true(
        &fleet,
        "the sign-up is completed",
        "select status = 'completed' from evolution_instance_creation_queue",
    )
    .await;

    let relay = address(fleet.process("relay-1").unwrap()).await;
    let scraped = scrape(&relay).await;
    assert_eq!(scraped.sum("sluice_rescued_total", &[("kind", "crashed")]), Some(1.0));
    assert_eq!(scraped.sum("sluice_leases_lost_total", &[]), Some(1.0));
    let crashed = [("outcome", "crashed"), ("class", "worker_lost"), ("step", "configure-webhooks")];
    assert_eq!(scraped.sum("sluice_attempts_total", &crashed), Some(1.0));
}
