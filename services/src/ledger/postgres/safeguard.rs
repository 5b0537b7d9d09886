//! The guards in the statements, each of which a test can take away to see what it is for: only in a build with the
//! feature `mutants`, which no program has. In every other a statement is sent as it is written.

#[cfg(feature = "mutants")]
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use sqlx::{SqlSafeStr, SqlStr};

/// What guards a ledger: all that is written, but for what a test took away.
#[derive(Clone, Default)]
pub(super) struct Guards {
    #[cfg(feature = "mutants")]
    pub removed: Option<Removed>,
}

impl Guards {
    /// The statement as it is sent.
    pub fn statement(&self, sql: &'static str) -> SqlStr {
        #[cfg(feature = "mutants")]
        if let Some(removed) = &self.removed {
            return removed.from(sql);
        }
        sql.into_sql_str()
    }
}

/// A guard that is taken away. Its copies share what was found.
#[cfg(feature = "mutants")]
#[derive(Clone)]
pub struct Removed {
    /// Text that the statement contains, and no other statement does.
    statement: &'static str,
    clause: &'static str,
    instead: &'static str,
    found: Arc<AtomicBool>,
}

#[cfg(feature = "mutants")]
impl Removed {
    pub fn new(statement: &'static str, clause: &'static str, instead: &'static str) -> Self {
        Self { statement, clause, instead, found: Arc::default() }
    }

    /// Whether a statement was sent without it. Where none was, nothing was taken away.
    pub fn was_found(&self) -> bool {
        self.found.load(Ordering::Relaxed)
    }

    fn from(&self, sql: &'static str) -> SqlStr {
        if !sql.contains(self.statement) || !sql.contains(self.clause) {
            return sql.into_sql_str();
        }
        self.found.store(true, Ordering::Relaxed);
        sqlx::AssertSqlSafe(sql.replace(self.clause, self.instead)).into_sql_str()
    }
}

#[cfg(feature = "mutants")]
impl super::Postgres {
    /// The same ledger, guarded by all but one.
    pub fn without(self, removed: Removed) -> Self {
        Self { guards: Guards { removed: Some(removed) }, ..self }
    }
}
