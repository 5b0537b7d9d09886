//! What a sign-up costs Postgres, counted with real processes. Times are the bench's to judge: a
//! test's machine is busy.

use tests::bench::{Given, Roles, Setup, Stage, stream};

/// A hundred sign-ups a second, each a transaction of its own: hardly anything can be batched.
#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_takes_at_most_ten_statements_and_eight_transactions() {
    let mut stage = Stage::open(&Given::default(), |_| {}).await.unwrap();
    let database = stage.new_database().await.unwrap();

    let steady = stream(&mut stage, &Setup::new(Roles::USUAL, &database), 100.0, 7.0).await.unwrap();

    let counted = steady.inside;
    assert!(counted.statements.unwrap() <= 10.0, "{counted:?}");
    assert!(counted.transactions <= 8.0, "{counted:?}");
    assert_eq!(counted.deadlocks, 0, "{counted:?}");
}
