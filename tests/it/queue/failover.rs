//! A Redis that is not the right one any more: its connections stand, and lead to a server that
//! takes no hints.

use tests::servers::Proxy;

use super::{outages::Working, *};

/// How soon work must go on.
const PROMPTLY: Duration = Duration::from_secs(5);

/// Through an address that leads to one server and later to another.
fn queue_through(address: &Proxy, transport: Transport) -> Queue {
    Queue::connect(&config(&format!("redis://127.0.0.1:{}/", address.port()), transport)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_was_demoted_is_left_within_seconds() {
    with_both(Options::default(), async |Setup { redis: old, transport, .. }| {
        let new = redis(Options::default()).await;
        let address = Proxy::to(old.port()).await.unwrap();
        let (worker, relay) = (queue_through(&address, transport), queue_through(&address, transport));
        let mut working = Working::start(&worker).await;
        let mut bell = relay.relay_bell();
        tokio::time::timeout(SOON, bell.rung()).await.unwrap();
        relay.ping().await.unwrap();

        // Its data is the new one's from now on, and clients that are connected hear nothing.
        let _: () = command(&old, &format!("REPLICAOF 127.0.0.1 {}", new.port())).await;
        let refused = until(SOON, async || relay.ping().await.err()).await.expect("a replica takes no hint");
        address.lead_to(new.port());

        let goes_on = tokio::time::timeout(PROMPTLY, async {
            working.still_delivers(&relay).await;
            // The first question of each may still be refused.
            until(SOON, async || relay.ping().await.and(worker.ping().await).ok()).await.expect("both write");
        });
        assert!(goes_on.await.is_ok(), "not within {PROMPTLY:?} after {refused}");
        // A relay listens on the new server.
        let _: () = command(&old, "REPLICAOF NO ONE").await;
        let woken = until(SOON, async || {
            worker.wake_relay();
            tokio::time::timeout(Duration::from_millis(100), bell.rung()).await.ok()
        });
        assert!(woken.await.is_some());
        working.ends_well().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_has_lost_its_replicas_is_left_within_seconds() {
    with_both(Options::default(), async |Setup { redis: old, transport, .. }| {
        let new = redis(Options::default()).await;
        let address = Proxy::to(old.port()).await.unwrap();
        let queue = queue_through(&address, transport);
        let mut working = Working::start(&queue).await;

        let _: () = command(&old, "CONFIG SET min-replicas-to-write 1").await;
        until(SOON, async || queue.ping().await.err()).await.expect("it takes no hint");
        address.lead_to(new.port());

        let goes_on = tokio::time::timeout(PROMPTLY, working.still_delivers(&queue));
        assert!(goes_on.await.is_ok(), "not within {PROMPTLY:?}");
        working.ends_well().await;
    })
    .await;
}

/// Its connections stand, and nothing tells that they lead nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_froze_and_was_replaced_is_left_within_seconds() {
    let setup = Setup::start(Options::default(), Transport::Lists).await;
    let (mut old, new) = (setup.redis, redis(Options::default()).await);
    let address = Proxy::to(old.port()).await.unwrap();
    let queue = queue_through(&address, Transport::Lists);
    let mut working = Working::start(&queue).await;

    old.pause().unwrap();
    address.lead_to(new.port());

    let goes_on = tokio::time::timeout(Duration::from_secs(10), working.still_delivers(&queue)).await;
    old.resume().unwrap();
    assert!(goes_on.is_ok(), "no hint came through");
    working.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_wrong_for_a_while_holds_nothing_up_for_ever() {
    let setup = Setup::start(Options::default().password("right"), Transport::Lists).await;
    let mut working = Working::start(&setup.queue).await;
    let _: () = command(&setup.redis, "CONFIG SET requirepass wrong").await;
    let client = redis::Client::open(setup.redis.url().replace("right", "wrong")).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut kill = redis::cmd("CLIENT");
    let _: () =
        kill.arg("KILL").arg("SKIPME").arg("yes").arg("TYPE").arg("normal").query_async(&mut connection).await.unwrap();
    let refused = async || setup.queue.ping().await.err().filter(|error| error.to_string().contains("uthentication"));
    until(SOON, refused).await.expect("the password is refused");

    let mut mend = redis::cmd("CONFIG");
    let _: () = mend.arg("SET").arg("requirepass").arg("right").query_async(&mut connection).await.unwrap();

    working.still_delivers(&setup.queue).await;
    working.ends_well().await;
}
