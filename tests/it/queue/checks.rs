//! A Redis that would lose hints is refused before work begins.

use sluice::queue::{Finding, Severity};

use super::*;

async fn findings(options: Options) -> Vec<Finding> {
    Setup::start(options, Transport::Lists).await.queue.check().await
}

fn only(findings: &[Finding], severity: Severity, words: &str) {
    let [finding] = findings else { panic!("expected one finding: {findings:?}") };
    assert_eq!(finding.severity, severity);
    assert!(finding.text.contains(words), "{}", finding.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_redis_passes() {
    assert_eq!(findings(Options::default()).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_evicts_any_key_is_refused() {
    only(
        &findings(Options::default().maxmemory_policy("allkeys-lru")).await,
        Severity::Refuse,
        "maxmemory-policy is allkeys-lru",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_evicts_keys_that_expire_is_warned_about_where_workers_have_some() {
    with_both(Options::default().maxmemory_policy("volatile-lru"), async |Setup { queue, transport, .. }| {
        let findings = queue.check().await;
        match transport {
            Transport::Lists => assert_eq!(findings, []),
            Transport::ApalisRedis => only(&findings, Severity::Warn, "maxmemory-policy is volatile-lru"),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_in_cluster_mode_is_refused() {
    only(&findings(Options::default().set("cluster-enabled", "yes")).await, Severity::Refuse, "cluster mode");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_asked_again() {
    let primary = redis(Options::default()).await;

    let found = findings(Options::default().set("replicaof", format!("127.0.0.1 {}", primary.port()))).await;

    only(&found, Severity::Unknown, "replica");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_config_is_forbidden_info_tells_the_policy() {
    let forbidden = Options::default().set("rename-command", "CONFIG \"\"").maxmemory_policy("allkeys-lfu");

    only(&findings(forbidden).await, Severity::Refuse, "maxmemory-policy is allkeys-lfu");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_config_and_info_are_forbidden_a_warning_says_so() {
    let forbidden =
        Options::default().set("rename-command", "CONFIG \"\"").set("user", "default on nopass ~* &* +@all -info");

    only(&findings(forbidden).await, Severity::Warn, "does not tell its maxmemory-policy");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_info_is_forbidden_a_replica_is_known_by_what_it_answers() {
    let primary = redis(Options::default()).await;
    let hidden = Options::default()
        .set("user", "default on nopass ~* &* +@all -info")
        .set("replicaof", format!("127.0.0.1 {}", primary.port()));

    only(&findings(hidden).await, Severity::Unknown, "replica");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_rights_is_refused_and_told_which_are_needed() {
    let elsewhere = "default on nopass ~other:* &* +@all";
    let silent = "default on nopass ~* resetchannels +@all";
    let unscripted = "default on nopass ~* &* +@all -@scripting";

    for user in [elsewhere, silent, unscripted] {
        let found = findings(Options::default().set("user", user)).await;

        only(&found, Severity::Refuse, "it needs ~test:* &test:* +@all -@dangerous");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_redis_is_unknown_and_says_no_password() {
    let mut setup = Setup::start(Options::default().password("hunter2"), Transport::Lists).await;
    assert_eq!(setup.queue.check().await, []);

    setup.redis.kill().await.unwrap();

    let found = setup.queue.check().await;
    only(&found, Severity::Unknown, "check REDIS_URL");
    assert!(!format!("{found:?}").contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_without_tls_that_is_taken_for_one_with_it_is_named() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let redis = redis(Options::default()).await;

    let url = redis.url().replace("redis://", "rediss://");
    let found = Queue::connect(&config(&url, Transport::Lists)).unwrap().check().await;

    only(&found, Severity::Unknown, "that this port speaks TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_or_database_is_refused() {
    let redis = redis(Options::default().password("hunter2")).await;
    let asked = async |url: String| Queue::connect(&config(&url, Transport::Lists)).unwrap().check().await;

    let password = asked(redis.url().replace("hunter2", "hunter3")).await;
    let database = asked(format!("{}99", redis.url())).await;

    only(&password, Severity::Refuse, "check its user, its password");
    only(&database, Severity::Refuse, "the number of its database");
    assert!(!format!("{password:?}{database:?}").contains("hunter"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_is_none_is_refused_without_showing_it() {
    let config = Config::new(Secret::new("postgres://u:hunter2@host/db"), "sluice".parse().unwrap());

    let error = Queue::connect(&config).err().expect("it is no Redis URL").to_string();

    assert!(error.contains("expected redis://"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}
