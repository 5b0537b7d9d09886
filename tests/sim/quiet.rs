//! A quiet app: so few users sign up that no breaker opens, and each failure must still be known
//! for the host's or the run's.

use std::time::Duration;

use tokio::time;
use workflows::{state::RunState, whatsapp::names::UserId};

use crate::{
    log::{Keep, Log},
    mishaps,
    outages::{Away, HOUR, RECOVERED_WITHIN, fail_creates_of, in_virtual_time, plan, run_states},
    plan::Plan,
    simulate::raise,
    stage::Stage,
};

/// Too few to open the breaker: nothing but the question whose failure it is stands between them
/// and a dead letter.
#[test]
fn an_hour_of_an_api_without_its_database_costs_one_or_two_users_nothing() {
    for number in [1, 2] {
        let (failures, recovered) = in_virtual_time(async {
            let stage = Stage::new(Plan { users: Vec::new(), ..plan(0) }, Log::new(Keep::Counts));
            raise(&stage).await;
            Away::WithoutDatabase.begin(&stage);
            let users: Vec<UserId> = (1..=number).map(|number| crate::plan::user(0, number)).collect();
            users.iter().for_each(|user| stage.ledger.sign_up(*user));
            time::sleep(HOUR).await;
            assert_eq!(run_states(&stage, &users), vec![RunState::Active; users.len()]);

            mishaps::end(&stage);
            let ended = stage.log.now();
            while run_states(&stage, &users).contains(&RunState::Active) {
                time::sleep(Duration::from_millis(100)).await;
            }

            assert_eq!(run_states(&stage, &users), vec![RunState::Succeeded; users.len()]);
            let tables = stage.ledger.tables();
            let failures = tables.attempts.iter().filter(|attempt| attempt.ended.outcome == "failed").count();
            (failures, stage.log.now() - ended)
        });

        assert_eq!(failures, 0, "{number} users");
        assert!(recovered < RECOVERED_WITHIN, "{number} users: after {recovered:?}");
    }
}

/// What fails for one run alone is that run's failure, however quiet the app.
#[test]
fn a_lone_run_that_fails_while_the_api_works_dies_of_it() {
    in_virtual_time(async {
        let stage = Stage::new(Plan { users: Vec::new(), ..plan(0) }, Log::new(Keep::Counts));
        raise(&stage).await;
        let user = crate::plan::user(0, 1);
        fail_creates_of(&stage, &[user]);

        stage.ledger.sign_up(user);
        time::sleep(HOUR).await;

        assert_eq!(run_states(&stage, &[user]), [RunState::Dead]);
    });
}
