//! A pooler in another mode than the settings say: found before anything is done, and answered with
//! the setting to change.

use tests::servers::pgbouncer::Mode;

use super::*;
use crate::app::RELAY_LISTENS;
use crate::program::{run, said};

const IN_BETWEEN: &str = "cannot start: a transaction pooler answers at 127.0.0.1:";

/// Where the settings leave a pooler to be taken for a session.
async fn behind(pooler: &PgBouncer) -> Fleet {
    let mut fleet = Fleet::behind(pooler, "http://127.0.0.1:9", "a-key").await;
    fleet.set("DATABASE_POOLING", "auto");
    fleet
}

/// Within a deadline: a role that is not refused runs on.
async fn assert_refused(fleet: &Fleet, arguments: &[&str], mend: &str) {
    let mut process = program::start(arguments, &fleet.variables());
    let status = process.wait_for_exit(PATIENCE).await.unwrap();
    let said = process.log();
    assert_eq!(status.code(), Some(2), "{said}");
    assert_eq!(occurrences(&said, IN_BETWEEN), 1, "{said}");
    assert!(said.contains(mend), "{said}");
}

#[tokio::test]
async fn a_transaction_pooler_that_is_taken_for_a_session_is_refused_in_one_line() {
    // One takes its backends in turns, the other always the one that was used last.
    let newest = start(options()).await;
    let mut fleet = behind(&newest).await;

    for pooler in [shared().await, &newest] {
        fleet.set("DATABASE_URL", pooler.url(&database(&fleet.app)));
        for arguments in [["relay"].as_slice(), &["worker", "verify"], &["all"], &["queue", "stats"]] {
            assert_refused(&fleet, arguments, "set DATABASE_POOLING=transaction").await;
        }
        assert_refused(&fleet, &["migrate", "--check"], "migrations need a session of their own").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_session_mode_is_a_session_and_listens() {
    let pooler = start(options().mode(Mode::Session).connections(20)).await;
    let mut fleet = behind(&pooler).await;
    fleet.start(&["relay"]).await;

    fleet.until("it listens", RELAY_LISTENS).await;

    let migrated = run(&["migrate", "--check"], &fleet.variables()).await;
    assert_eq!(migrated.status.code(), Some(3), "{}", said(&migrated));
    let log = fleet.processes[0].log();
    assert!(!log.contains("polling"), "{log}");
}

/// What stands in between is asked by a second connection, and does not matter enough to be without
/// the first.
#[tokio::test]
async fn a_command_works_on_the_last_connection_of_a_pooler() {
    let pooler = start(options().mode(Mode::Session).connections(1)).await;

    let listed = run(&["runs", "list"], &behind(&pooler).await.variables()).await;

    assert!([Some(0), Some(4)].contains(&listed.status.code()), "{}", said(&listed));
}
