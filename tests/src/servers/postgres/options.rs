//! How a private Postgres is set up.

use crate::servers::Identity;

/// What happens to committed data when the machine itself fails. (A killed server loses nothing
/// either way.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Nothing is flushed: fast, for tests.
    #[default]
    ProcessCrash,
    /// As in production, for measurements and the demo.
    PowerLoss,
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    durability: Durability,
    cron_database: Option<String>,
    settings: Vec<(String, String)>,
    tls: Option<Identity>,
}

impl Options {
    pub fn durable(mut self) -> Self {
        self.durability = Durability::PowerLoss;
        self
    }

    /// Loads pg_cron, whose extension can then be created in `database` (and in no other).
    pub fn cron(mut self, database: impl Into<String>) -> Self {
        self.cron_database = Some(database.into());
        self
    }

    /// Takes connections over TLS too.
    pub fn tls(self, identity: Identity) -> Self {
        // Named from the data directory.
        let files = self.set("ssl", "on").set("ssl_cert_file", "../server.crt").set("ssl_key_file", "../server.key");
        Self { tls: Some(identity), ..files }
    }

    pub(super) fn identity(&self) -> Option<&Identity> {
        self.tls.as_ref()
    }

    pub(super) fn needs_cron(&self) -> bool {
        self.cron_database.is_some()
    }

    /// A setting of postgresql.conf; the last one given counts.
    pub fn set(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// As postgresql.conf has them; later ones win.
    pub(super) fn lines(&self) -> Vec<(String, String)> {
        let mut lines = vec![
            ("max_connections", "200"),
            ("shared_buffers", "64MB"),
            ("max_worker_processes", "24"),
            ("min_wal_size", "32MB"),
            ("max_wal_size", "512MB"),
            ("jit", "off"),
            ("timezone", "UTC"),
            ("log_timezone", "UTC"),
            ("log_line_prefix", "%m [%p] %q%u@%d "),
            // Shared memory lives in the data directory, so that a killed server leaves none
            // behind.
            ("dynamic_shared_memory_type", "mmap"),
        ];
        if self.durability == Durability::ProcessCrash {
            // synchronous_commit stays on: without it a killed server forgets commits that it has
            // confirmed.
            lines.extend([("fsync", "off"), ("full_page_writes", "off")]);
        }
        if let Some(database) = &self.cron_database {
            lines.extend([
                ("shared_preload_libraries", "pg_cron"),
                ("cron.database_name", database),
                // Jobs need no connection, and so no password.
                ("cron.use_background_workers", "on"),
            ]);
        }
        let lines = lines.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        lines.chain(self.settings.iter().cloned()).collect()
    }
}
