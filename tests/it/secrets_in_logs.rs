//! What no role writes to its log, at whatever level, libraries included.

use std::time::Duration;

use sqlx::ConnectOptions;
use tests::{
    evolution::{Config, server::Server},
    servers::{self, Redis, redis},
};
use uuid::Uuid;

use crate::{app::App, program};

const REDIS_PASSWORD: &str = "planted-password-of-redis";
const HEADERS: &str = r#"{"jwt_key": "planted-jwt-key", "x-app": "Bearer planted-header"}"#;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_role_that_logs_everything_logs_no_secret() {
    let app = App::migrated().await;
    let redis = Redis::start(redis::Options::default().password(REDIS_PASSWORD)).await.unwrap();
    let api = Server::start(Config::default()).await.unwrap();
    let database = app.options().to_url_lossy();
    let mut all = program::start(
        &["all"],
        &[
            ("RUST_LOG", "trace"),
            ("LOG_FORMAT", "json"),
            ("DATABASE_URL", database.as_str()),
            ("REDIS_URL", &redis.url()),
            ("EVOLUTION_API_BASE_URL", api.base_url()),
            ("EVOLUTION_API_KEY", api.key()),
            ("WEBHOOK_URL", "http://127.0.0.1:9/hook/{user_id}?token={token}"),
            ("WEBHOOK_HEADERS", HEADERS),
        ],
    );

    app.sign_up(Uuid::new_v4()).await.unwrap();
    let mut session = app.superuser().await;
    let ready = "select exists (select from sluice.run where state = 'succeeded')";
    let served = servers::until(PATIENCE, async || session.one::<bool>(ready).await.then_some(())).await;
    all.terminate().unwrap();
    let status = all.wait_for_exit(PATIENCE).await.unwrap();

    let log = all.log();
    assert!(served.is_some() && status.success(), "the sign-up was not served:\n{}", all.log_tail());
    for level in ["TRACE", "DEBUG", "INFO"] {
        assert!(log.contains(&format!(r#""level":"{level}""#)), "nothing is logged at {level}");
    }
    let token: String = session.one("select secret from sluice.resource").await;
    let code: String = session.one("select memory ->> 'qr_code' from sluice.resource").await;
    let secrets = [
        ("the API's key", api.key()),
        ("the instance's token", &token),
        ("the QR code", &code),
        ("the webhook's jwt_key", "planted-jwt-key"),
        ("the webhook's header", "planted-header"),
        ("the database's password", database.password().unwrap_or_default()),
        ("Redis' password", REDIS_PASSWORD),
    ];
    for (what, secret) in secrets {
        assert!(secret.len() >= 8, "{what} is {secret:?}: nothing that could be found");
        let told = log.lines().filter(|line| is_told(line, secret)).map(|line| &line[..line.len().min(300)]);
        let told: Vec<_> = told.take(3).collect();
        assert!(told.is_empty(), "{what} is in the log: {told:#?}");
    }
}

/// As it is, or as Rust prints text or bytes of it.
fn is_told(line: &str, secret: &str) -> bool {
    let bytes: Vec<String> = secret.bytes().take(8).map(|byte| byte.to_string()).collect();
    line.contains(secret) || line.contains(&bytes.join(", "))
}

#[test]
fn a_secret_is_seen_in_a_line_as_text_and_as_bytes() {
    assert!(is_told(r#"{"message":"GET /?token=planted-one"}"#, "planted-one"));
    assert!(is_told(&format!("{:?}", "a planted-one".as_bytes()), "planted-one"));
    assert!(!is_told("nothing", "planted-one"));
}
