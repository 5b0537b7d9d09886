use std::time::Duration;

use redis::{AsyncCommands, RedisResult};
use tests::servers::redis::{Options, Persistence, Redis};
use tests::servers::until;

async fn connect(server: &Redis) -> RedisResult<redis::aio::MultiplexedConnection> {
    redis::Client::open(server.url())?.get_multiplexed_async_connection().await
}

async fn put(server: &Redis, value: i64) {
    let () = connect(server).await.unwrap().set("mark", value).await.unwrap();
}

async fn found(server: &Redis) -> Option<i64> {
    connect(server).await.unwrap().get("mark").await.unwrap()
}

async fn say(server: &Redis, command: &str) {
    let () = redis::cmd(command).query_async(&mut connect(server).await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_killed_redis_forgets_all_and_returns_on_its_port() {
    let mut server = Redis::start(Options::default()).await.unwrap();
    let port = server.port();
    put(&server, 1).await;

    server.kill().await.unwrap();
    assert!(connect(&server).await.is_err());
    server.restart().await.unwrap();

    assert_eq!(server.port(), port);
    assert_eq!(found(&server).await, None);
}

#[tokio::test]
async fn a_redis_that_appends_keeps_every_write_over_a_kill() {
    let mut server = Redis::start(Options::default().persistence(Persistence::EveryWrite)).await.unwrap();
    put(&server, 1).await;

    server.kill().await.unwrap();
    server.restart().await.unwrap();

    assert_eq!(found(&server).await, Some(1));
}

#[tokio::test]
async fn a_redis_with_snapshots_keeps_its_data_over_a_stop() {
    let mut server = Redis::start(Options::default().persistence(Persistence::Snapshots)).await.unwrap();
    put(&server, 1).await;

    server.restart().await.unwrap();

    assert_eq!(found(&server).await, Some(1));
}

#[tokio::test]
async fn a_killed_redis_comes_back_with_its_old_snapshot() {
    let mut server = Redis::start(Options::default()).await.unwrap();
    put(&server, 1).await;
    say(&server, "SAVE").await;
    put(&server, 2).await;

    server.kill().await.unwrap();
    server.restart().await.unwrap();

    assert_eq!(found(&server).await, Some(1));
}

#[tokio::test]
async fn a_paused_redis_answers_nothing_until_it_is_resumed() {
    let mut server = Redis::start(Options::default()).await.unwrap();
    put(&server, 1).await;

    server.pause().unwrap();
    let paused = tokio::time::timeout(Duration::from_millis(300), connect(&server)).await;
    server.resume().unwrap();

    assert!(!matches!(paused, Ok(Ok(_))));
    assert!(until(Duration::from_secs(10), async || connect(&server).await.ok()).await.is_some());
    assert_eq!(found(&server).await, Some(1));
}

#[tokio::test]
async fn nobody_enters_a_redis_with_a_password_without_it() {
    let server = Redis::start(Options::default().password("secret").maxmemory_policy("allkeys-lru")).await.unwrap();
    let bare = redis::Client::open(format!("redis://127.0.0.1:{}/", server.port())).unwrap();

    let refused = async { bare.get_multiplexed_async_connection().await?.get::<_, Option<i64>>("mark").await }.await;

    assert!(refused.unwrap_err().to_string().to_lowercase().contains("auth"));
    let mut allowed = connect(&server).await.unwrap();
    let policy: Vec<String> =
        redis::cmd("CONFIG").arg(&["GET", "maxmemory-policy"]).query_async(&mut allowed).await.unwrap();
    assert_eq!(policy, ["maxmemory-policy", "allkeys-lru"]);
}
