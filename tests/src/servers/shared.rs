//! The Postgres and the Redis that the tests of one binary share. Holds addresses and child
//! processes only: each test has a runtime of its own, and a pool or a connection must not outlive
//! it.

use std::collections::HashSet;

use anyhow::{Context, Result};
use tokio::sync::{Mutex, OnceCell};

use super::{Database, Postgres, Redis, postgres, redis};

static SHARED: OnceCell<Servers> = OnceCell::const_new();

/// Both run until the test binary ends. Stopping or wiping one would harm other tests: start your
/// own for that.
pub struct Servers {
    pub postgres: Postgres,
    pub redis: Redis,
    templates: Mutex<HashSet<String>>,
}

/// The shared servers, started by whoever asks first.
///
/// # Panics
/// With the reason and what to do, if they do not start.
pub async fn shared() -> &'static Servers {
    match SHARED.get_or_try_init(start).await {
        Ok(servers) => servers,
        Err(error) => panic!("cannot start the servers that the tests share: {error:#}"),
    }
}

/// An empty database of the shared server, for one test.
///
/// # Panics
/// If it cannot be made.
pub async fn fresh_database() -> Database {
    match shared().await.postgres.create_database().await {
        Ok(database) => database,
        Err(error) => panic!("cannot create a database for this test: {error:#}"),
    }
}

/// A copy of the database `template`, which `prepare` makes ready (given its URL) the first time
/// that a test of this binary asks for it. `prepare` must close its connections: a database in use
/// cannot be copied.
///
/// # Panics
/// If it cannot be made.
pub async fn fresh_database_from(template: &str, prepare: impl AsyncFnOnce(&str) -> Result<()>) -> Database {
    match shared().await.copy_of(template, prepare).await {
        Ok(database) => database,
        Err(error) => panic!("cannot create a database from {template} for this test: {error:#}"),
    }
}

/// What a test puts before its keys and queues in the shared Redis.
pub fn prefix() -> String {
    format!("test-{:016x}:", rand::random::<u64>())
}

impl Servers {
    async fn copy_of(&self, template: &str, prepare: impl AsyncFnOnce(&str) -> Result<()>) -> Result<Database> {
        let mut templates = self.templates.lock().await;
        if !templates.contains(template) {
            let url = self.postgres.create_named_database(template).await?;
            prepare(&url).await.with_context(|| format!("prepare the template {template}"))?;
            templates.insert(template.to_owned());
        }
        drop(templates);
        self.postgres.create_database_from(template).await
    }
}

async fn start() -> Result<Servers> {
    let (postgres, redis) =
        tokio::try_join!(Postgres::start(postgres::Options::default()), Redis::start(redis::Options::default()))?;
    Ok(Servers { postgres, redis, templates: Mutex::default() })
}
