//! A database of a private server, gone soon after its owner lets go of it.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

/// One test's own database. Holds no connection: pools belong to the runtime of the test that opens
/// them.
pub struct Database {
    name: String,
    url: String,
    released: Arc<Mutex<Vec<String>>>,
}

impl Database {
    pub(super) fn new(name: String, url: String, released: Arc<Mutex<Vec<String>>>) -> Self {
        Self { name, url, released }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// `postgres://…`, as the superuser.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A pool of at most ten connections, as the superuser.
    pub async fn pool(&self) -> Result<PgPool> {
        let pool = PgPoolOptions::new().max_connections(10).connect(&self.url).await;
        pool.with_context(|| format!("connect to the database {}", self.name))
    }
}

impl Drop for Database {
    /// The next database that is created removes this one: dropping one here would need a
    /// connection.
    fn drop(&mut self) {
        let mut released = self.released.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        released.push(std::mem::take(&mut self.name));
    }
}
