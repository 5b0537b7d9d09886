//! What a person types, and what a script reads: arguments in, lines or JSON out.

pub mod adopt;
mod by;
pub mod dead_letters;
pub mod events;
pub mod migrate;
mod moment;
mod output;
pub mod queue;
pub mod runs;

use std::{process::ExitCode, time::Duration};

use anyhow::anyhow;
use clap::{Command, Parser, builder::Resettable};

use crate::{
    config::OperatorOptions,
    ledger::{
        self,
        postgres::{Postgres, read},
    },
    process,
};

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  sluice migrate                         bring the schema to the database (as its owner)
  sluice adopt status                    what stood in the database before; start, leave and allow decide on it
  sluice all                             everything in one process
  sluice relay                           one of any number of relays
  sluice worker create-instance          one of any number of workers, for one step or several
  sluice worker configure-webhooks verify
  sluice events                          one of any number of publishers of events; events tail shows them as they pass
  sluice follow                          keeps users' rows true by the Evolution API's own events
  sluice dead-letters list               what needs a person; show, retry and discard deal with it
  sluice runs list --subject ada@example.com
  sluice queue stats                     what waits; pause, resume, rate and concurrency set its gates

What each needs:
  migrate  DATABASE_URL, not through a transaction pooler
  relay    DATABASE_URL, REDIS_URL, EVOLUTION_API_BASE_URL
  worker   DATABASE_URL, REDIS_URL, EVOLUTION_API_BASE_URL, EVOLUTION_API_KEY, and WEBHOOK_URL or SUPABASE_URL
  events   DATABASE_URL, AMQP_URL; events tail AMQP_URL, events list and replay DATABASE_URL
  follow   DATABASE_URL, EVOLUTION_AMQP_URL
  all      what a relay and a worker need; where AMQP_URL is set, it publishes events too, and where
           EVOLUTION_AMQP_URL is set, it follows the API's own
  adopt, dead-letters, runs, queue
           DATABASE_URL; queue stats looks into REDIS_URL too, where it is set

Every setting is a flag and a variable, of which the flag wins; a variable that is set but empty counts as not set.
.env.example has them all. Nothing is read from a file: `set -a; . ./.env; set +a` first, or let compose or Kubernetes do it.
SSL_CERT_FILE names the CA certificates that all clients trust instead of the system's.";

/// The arguments of this process; ends it where they are none.
pub fn parse<C: Parser>() -> C {
    let matches = prepared(C::command()).get_matches();
    C::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Help never shows what a variable holds, and an empty variable counts as not set: that is what
/// compose makes of one that is missing.
pub fn prepared(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let arg = arg.hide_env_values(true);
        let value = arg.get_env().and_then(std::env::var_os);
        match value.is_some_and(|value| value.to_string_lossy().trim().is_empty()) {
            true => arg.env(Resettable::Reset),
            false => arg,
        }
    });
    command.mut_subcommands(prepared)
}

/// Runs a person's command that looks into the ledger and changes nothing there.
fn on_ledger(config: &OperatorOptions, command: impl AsyncFnOnce(Postgres) -> anyhow::Result<ExitCode>) -> ExitCode {
    process::read(config.parse(), async |config| command(process::open(&config).await?).await)
}

/// How many rows a list may have.
fn row_limit(text: &str) -> Result<usize, String> {
    let most = read::MOST - 1;
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("expected a number from 1 to {most}"))
}

/// What a search that came to nothing within its time means to the person who searched.
fn narrower(error: ledger::Error, by: &str) -> anyhow::Error {
    match &error {
        // Cancelled: by the statement's own timeout.
        ledger::Error::Database(sqlx::Error::Database(said)) if said.code().as_deref() == Some("57014") => {
            anyhow!("the search was given up after two seconds: narrow it by {by}")
        }
        _ => error.into(),
    }
}

/// A length of time that people write: `30m`, `24h`, `7d`. Postgres has no moment that is longer
/// ago than some.
fn duration(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);
    let length = humantime::parse_duration(text).ok().filter(|length| *length <= LONGEST);
    length.ok_or_else(|| "expected a number and its unit, e.g. 30m, 24h or 7d, at most 100y".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_one_that_postgres_has() {
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for text in ["7", "yesterday", "", "-1h", "100000y"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
