//! Where Postgres is, and what stands between it and us.

use std::{fmt, net::Ipv6Addr, path::Path, str::FromStr};

use clap::Args;
use sqlx::postgres::PgConnectOptions;
use url::Url;

use super::{Faults, fault::redacted};
use crate::database::Pooling;

/// The port on which Supabase's poolers, and by habit others, give a connection for one transaction
/// only.
const TRANSACTION_PORT: u16 = 6543;

#[derive(Args)]
#[command(next_help_heading = "Postgres")]
pub struct DatabaseOptions {
    /// The address of Postgres: postgres://user:password@host:5432/database. With TLS and the
    /// server's identity checked: append ?sslmode=verify-full (the CA certificates of the system,
    /// of SSL_CERT_FILE, or &sslrootcert=/path)
    #[arg(long, env = "DATABASE_URL", value_name = "URL")]
    database_url: Option<String>,

    /// The same under the name that Supabase gives it; read where DATABASE_URL is not set
    #[arg(long, env = "SUPABASE_DB_URL", value_name = "URL")]
    supabase_db_url: Option<String>,

    /// What DATABASE_URL leads to: session (Postgres itself, or a pooler in session mode),
    /// transaction (a pooler that gives a connection for one transaction), or auto: transaction on
    /// port 6543, else session
    #[arg(long, env = "DATABASE_POOLING", value_name = "MODE", default_value = "auto")]
    database_pooling: String,
}

#[derive(Args)]
#[command(next_help_heading = "Postgres")]
pub struct ListenOptions {
    /// A direct connection on which LISTEN works, so that a sign-up is seen at once; without a
    /// transaction pooler DATABASE_URL serves, with one and without this the relay polls
    /// (INTAKE_POLL)
    #[arg(long, env = "LISTEN_DATABASE_URL", value_name = "URL")]
    listen_database_url: Option<String>,
}

/// One database, and how it is reached.
#[derive(Clone)]
pub struct Database {
    pub pooling: Pooling,
    connect: PgConnectOptions,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (self.connect.get_host(), self.connect.get_port());
        f.debug_struct("Database").field("host", &host).field("port", &port).field("pooling", &self.pooling).finish()
    }
}

impl Database {
    /// What to connect with. Postgres shows `sluice-{name}` in `pg_stat_activity`.
    pub fn connect(&self, name: &str) -> PgConnectOptions {
        // PgBouncer refuses clients that ask for extra_float_digits; Postgres writes floats in full
        // without it.
        let connect = self.connect.clone().application_name(&format!("sluice-{name}")).extra_float_digits(None);
        match self.pooling {
            Pooling::Session => connect,
            // A named statement would be left behind on a connection that the next transaction does
            // not get.
            Pooling::Transaction => connect.statement_cache_capacity(0),
        }
    }
}

impl DatabaseOptions {
    pub(super) fn read(&self, faults: &mut Faults) -> Option<Database> {
        let (setting, url) = self.given();
        let (session, transaction) = (Some(Pooling::Session), Some(Pooling::Transaction));
        let choices = [("auto", None), ("session", session), ("transaction", transaction)];
        let pooling = faults.choice("DATABASE_POOLING", self.database_pooling.trim(), &choices);
        let what = "give the address of Postgres, postgres://user:password@host:5432/database";
        let (connect, url) = address(setting, faults.required(setting, url, what)?, faults)?;
        let pooling = match pooling? {
            Some(Pooling::Session) if is_supabase(&connect) && connect.get_port() == TRANSACTION_PORT => {
                let problem = "is Supabase's transaction pooler, and DATABASE_POOLING is session: \
                    set it to transaction or auto, or take the address on port 5432";
                faults.add_url(setting, url.as_str(), problem);
                return None;
            }
            Some(pooling) => pooling,
            None if is_transaction_pooler(&connect, &url) => Pooling::Transaction,
            None => Pooling::Session,
        };
        Some(Database { pooling, connect })
    }

    /// For what a transaction pooler cannot do: session locks.
    pub(super) fn read_session(&self, faults: &mut Faults) -> Option<Database> {
        let database = self.read(faults)?;
        if database.pooling == Pooling::Transaction {
            let (setting, url) = self.given();
            let problem = "leads through a transaction pooler, and migrations need a session of their own: take the \
                address on port 5432 (Supabase: the direct connection or the session pooler)";
            faults.add_url(setting, url.unwrap_or_default(), problem);
            return None;
        }
        Some(database)
    }

    fn given(&self) -> (&'static str, Option<&str>) {
        match (&self.database_url, &self.supabase_db_url) {
            (None, Some(url)) => ("SUPABASE_DB_URL", Some(url)),
            (url, _) => ("DATABASE_URL", url.as_deref()),
        }
    }
}

impl ListenOptions {
    /// None: there is no connection on which LISTEN works, or a fault was left.
    pub(super) fn read(&self, database: Option<&Database>, faults: &mut Faults) -> Option<Database> {
        const SETTING: &str = "LISTEN_DATABASE_URL";
        let Some(url) = self.listen_database_url.as_deref() else {
            return database.filter(|database| database.pooling == Pooling::Session).cloned();
        };
        let (connect, url) = address(SETTING, url, faults)?;
        if is_transaction_pooler(&connect, &url) {
            let problem = "is a transaction pooler, through which LISTEN hears nothing: take the address on port 5432";
            faults.add_url(SETTING, url.as_str(), problem);
            return None;
        }
        Some(Database { pooling: Pooling::Session, connect })
    }
}

fn address(setting: &str, text: &str, faults: &mut Faults) -> Option<(PgConnectOptions, Url)> {
    let text = text.trim();
    readable(text).map_err(|problem| faults.add_url(setting, text, problem)).ok()
}

/// Or what is wrong with it, without any part of it that may be secret.
fn readable(text: &str) -> Result<(PgConnectOptions, Url), String> {
    if text.starts_with(['"', '\'', '`']) {
        return Err("stands in quotes: give it without them".to_owned());
    }
    if text.contains("[YOUR-PASSWORD]") {
        return Err("still has [YOUR-PASSWORD] in it: put the database's password there".to_owned());
    }
    if names_several_hosts(text) {
        return Err("names several hosts: give one, a name or a proxy that leads to the primary".to_owned());
    }
    let expected = "expected postgres://user:password@host:5432/database";
    let url = Url::parse(text).map_err(|error| format!("is no URL ({error}): {expected}, {ENCODE}"))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(format!("is no address of Postgres: {expected}"));
    }
    for (name, value) in url.query_pairs() {
        readable_parameter(&name, &value, text)?;
    }
    if url.host_str().is_some_and(|host| host.contains('%') && !host.to_ascii_uppercase().starts_with("%2F")) {
        let mend = "only within user and password is anything encoded, not the : and the @ between them";
        return Err(format!("has a % in its host: {mend}"));
    }
    let connect = PgConnectOptions::from_str(text).map_err(|_| format!("is not usable: {ENCODE}"))?;
    // sqlx takes the brackets for a part of a name.
    let bare = url.host_str().and_then(|host| host.trim_matches(['[', ']']).parse::<Ipv6Addr>().ok());
    let connect = match bare {
        Some(address) => connect.host(&address.to_string()),
        None => connect,
    };
    Ok((connect, url))
}

const ENCODE: &str =
    "with %40 for an @ in the password, %2F for a /, %3A for a :, %3F for a ?, %23 for a #, %25 for a %";

/// As libpq takes them, with commas between.
fn names_several_hosts(text: &str) -> bool {
    let behind = text.split_once("://").map_or("", |(_, behind)| behind);
    let behind = behind.split(['?', '#']).next().unwrap_or_default();
    let hosts = behind.rsplit_once('@').map_or(behind, |(_, hosts)| hosts);
    hosts.split('/').next().is_some_and(|hosts| hosts.contains(','))
}

/// One that sqlx would refuse, or take for another.
fn readable_parameter(name: &str, value: &str, text: &str) -> Result<(), String> {
    let is_refused = || {
        let alone = Url::parse_with_params("postgres://host/", [(name, value)]);
        alone.is_ok_and(|alone| PgConnectOptions::from_str(alone.as_str()).is_err())
    };
    match name {
        "sslmode" | "ssl-mode" if is_refused() => {
            Err(format!("has an unknown {name}: expected disable, allow, prefer, require, verify-ca or verify-full"))
        }
        "hostaddr" | "port" | "statement-cache-capacity" if is_refused() => {
            Err(format!("has a {name} that cannot be read"))
        }
        // A file's name is shown, unless it may be the rest of a password.
        "sslrootcert" | "sslcert" | "sslkey" if !Path::new(value).is_file() => match redacted(text).as_str() {
            "***" => Err(format!("has a {name} that names no file which is here")),
            _ => Err(format!("its {name} names {value:?}, which is no file here")),
        },
        _ => Ok(()),
    }
}

fn is_supabase(connect: &PgConnectOptions) -> bool {
    let host = connect.get_host();
    [".supabase.com", ".supabase.co"].iter().any(|domain| host.ends_with(domain))
}

/// As far as an address tells: by the port, or by the mark that other clients want in it.
fn is_transaction_pooler(connect: &PgConnectOptions, url: &Url) -> bool {
    connect.get_port() == TRANSACTION_PORT || url.query_pairs().any(|pair| pair == ("pgbouncer".into(), "true".into()))
}
