//! What a command of a person is told: the ledger over few connections, and no more than the command needs, so that a setting
//! which is wrong elsewhere stops nobody who mends something.

use clap::Args;

use super::{Config, Faults, Ledger, Operator, database, finish, log, redis, workflow};

/// One command has little to do at once.
const CONNECTIONS: u32 = 2;

#[derive(Args)]
pub struct OperatorOptions {
    #[command(flatten)]
    database: database::DatabaseOptions,
    #[command(flatten)]
    log: log::LogOptions,
}

/// For what gives a run a fresh deadline.
#[derive(Args)]
pub struct ReviveOptions {
    #[command(flatten)]
    database: database::DatabaseOptions,
    #[command(flatten)]
    workflow: workflow::WorkflowOptions,
    #[command(flatten)]
    log: log::LogOptions,
}

/// For what looks into Redis too, where there is one to look into.
#[derive(Args)]
pub struct StatsOptions {
    #[command(flatten)]
    database: database::DatabaseOptions,
    #[command(flatten)]
    redis: redis::RedisOptions,
    #[command(flatten)]
    log: log::LogOptions,
}

impl OperatorOptions {
    pub fn parse(&self) -> Result<Config<Operator>, Faults> {
        let mut faults = Faults::default();
        let database = self.database.read(&mut faults);
        let log = self.log.read(&mut faults);
        let ledger = database.map(|database| Ledger {
            database,
            max_connections: CONNECTIONS,
            registry: workflow::with_defaults(),
        });
        finish(log, Some(None), ledger.map(|ledger| Operator { ledger, queue: None }), faults)
    }
}

impl ReviveOptions {
    pub fn parse(&self) -> Result<Config<Operator>, Faults> {
        let mut faults = Faults::default();
        let database = self.database.read(&mut faults);
        let registry = self.workflow.read(&mut faults);
        let log = self.log.read(&mut faults);
        let ledger = database.zip(registry).map(|(database, registry)| Ledger {
            database,
            max_connections: CONNECTIONS,
            registry,
        });
        finish(log, Some(None), ledger.map(|ledger| Operator { ledger, queue: None }), faults)
    }
}

impl StatsOptions {
    pub fn parse(&self) -> Result<Config<Operator>, Faults> {
        let mut faults = Faults::default();
        let database = self.database.read(&mut faults);
        let queue = self.redis.read_if_given(&mut faults);
        let log = self.log.read(&mut faults);
        let operator = database.zip(queue).map(|(database, queue)| Operator {
            ledger: Ledger { database, max_connections: CONNECTIONS, registry: workflow::with_defaults() },
            queue,
        });
        finish(log, Some(None), operator, faults)
    }
}
