//! What a command of a person is told: the ledger over few connections, and no more than the
//! command needs, so that a setting which is wrong elsewhere stops nobody who mends something.

use std::sync::Arc;

use clap::Args;

use super::{Config, Database, Faults, Ledger, database, log, redis};
use crate::queue;

/// One command has little to do at once.
const CONNECTIONS: u32 = 2;

#[derive(Args)]
pub struct OperatorOptions {
    #[command(flatten)]
    database: database::DatabaseOptions,
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
    pub fn parse(&self) -> Result<Config<Ledger>, Faults> {
        self.log.after(|faults| self.database.read(faults).map(ledger))
    }

    /// For `migrate`, which needs a session of its own.
    pub fn parse_session(&self) -> Result<Config<Database>, Faults> {
        self.log.after(|faults| self.database.read_session(faults))
    }
}

impl StatsOptions {
    /// No queue where no Redis was named.
    pub fn parse(&self) -> Result<Config<(Ledger, Option<queue::Config>)>, Faults> {
        self.log.after(|faults| {
            let database = self.database.read(faults);
            let queue = self.redis.read_if_given(faults);
            Some((ledger(database?), queue))
        })
    }
}

/// A person's command runs no workflow: which there are, the database knows.
fn ledger(database: Database) -> Ledger {
    Ledger { database, max_connections: CONNECTIONS, registry: Arc::default() }
}
