//! What a person types, and what a script reads: arguments in, lines or JSON out.

pub mod migrate;

use clap::{Command, Parser, builder::Resettable};

/// For `--help`.
pub const EXAMPLES: &str = "\
Examples:
  sluice migrate                         bring the schema to the database (as its owner)
  sluice all                             everything in one process
  sluice relay                           one of any number of relays
  sluice worker create-instance          one of any number of workers, for one step or several
  sluice worker configure-webhooks verify

What each needs:
  migrate  DATABASE_URL, not through a transaction pooler
  relay    DATABASE_URL, REDIS_URL, and EVOLUTION_API_BASE_URL to heed its limits
  worker   DATABASE_URL, REDIS_URL, EVOLUTION_API_BASE_URL, EVOLUTION_API_KEY, and WEBHOOK_URL or SUPABASE_URL
  all      what a relay and a worker need

Every option is a variable too, a flag before a variable; one that is set but empty counts as not set. .env.example has
them all. Nothing is read from a file: `set -a; . ./.env; set +a` first, or let compose or Kubernetes do it.
SSL_CERT_FILE names the CA certificates that all clients trust instead of the system's.";

/// The arguments of this process; ends it where they are none.
pub fn parse<C: Parser>() -> C {
    let matches = prepared(C::command()).get_matches();
    C::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Help never shows what a variable holds, and an empty variable counts as not set: that is what compose makes of one
/// that is missing.
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
