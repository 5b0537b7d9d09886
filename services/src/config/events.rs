//! Where events are published, if anywhere.

use clap::Args;

use super::{Config, Events, Faults, Follow, LedgerOptions, ServingOptions, fault::ENCODE, finish, http, log};
use crate::events::{Address, Settings, feed::Feed};

/// One round after the other, and readiness beside it.
pub(super) const CONNECTIONS: u32 = 2;
/// What a publisher is called in traces.
pub(super) const SERVICE: &str = "sluice-events";

#[derive(Args)]
#[command(next_help_heading = "RabbitMQ")]
pub struct AmqpOptions {
    /// amqp://[user:password@]host:5672/vhost, or amqps:// for TLS (the CA certificates of the
    /// system or of SSL_CERT_FILE); the vhost's own slashes as %2f. Events are published there; not
    /// set, they stay readable in the database until retention ends
    #[arg(long, env = "AMQP_URL", value_name = "URL")]
    amqp_url: Option<String>,

    /// The durable topic exchange that all events go to; declared where it is not there
    #[arg(long, env = "EVENTS_EXCHANGE", value_name = "NAME", default_value = "sluice.events")]
    events_exchange: String,

    /// The durable topic exchange that dead runs go to as well, and the name of the quorum queue
    /// that is bound to it
    #[arg(long, env = "EVENTS_DEAD_LETTER_EXCHANGE", value_name = "NAME", default_value = "sluice.dead-letters")]
    events_dead_letter_exchange: String,
}

/// What the role `events` is told.
#[derive(Args)]
pub struct EventsOptions {
    #[command(flatten)]
    ledger: LedgerOptions,
    #[command(flatten)]
    amqp: AmqpOptions,
    #[command(flatten)]
    serving: ServingOptions,
}

/// What the role `follow` is told, beside its feed.
#[derive(Args)]
pub struct FollowOptions {
    #[command(flatten)]
    ledger: LedgerOptions,
    #[command(flatten)]
    http: http::HttpOptions,
    #[command(flatten)]
    log: log::LogOptions,
}

/// For who looks at the exchange.
#[derive(Args)]
pub struct TailOptions {
    #[command(flatten)]
    amqp: AmqpOptions,
    #[command(flatten)]
    log: log::LogOptions,
}

impl AmqpOptions {
    /// None: no broker was named, or a fault was left.
    pub(super) fn read_if_given(&self, faults: &mut Faults) -> Option<Settings> {
        self.amqp_url.as_ref().and_then(|_| self.read(faults))
    }

    fn read(&self, faults: &mut Faults) -> Option<Settings> {
        let what = "give the address of RabbitMQ, amqp://[user:password@]host:5672/vhost";
        let url = faults.required("AMQP_URL", self.amqp_url.as_deref(), what);
        let address = url.and_then(|url| address("AMQP_URL", url, faults));
        let exchange = name("EVENTS_EXCHANGE", &self.events_exchange, faults);
        let dead_letters = name("EVENTS_DEAD_LETTER_EXCHANGE", &self.events_dead_letter_exchange, faults);
        let (exchange, dead_letters) = (exchange?, dead_letters?);
        if exchange == dead_letters {
            let problem = "is EVENTS_EXCHANGE too: expected another name";
            return faults.refuse("EVENTS_DEAD_LETTER_EXCHANGE", &dead_letters, problem);
        }
        Some(Settings { address: address?, exchange, dead_letters })
    }
}

impl EventsOptions {
    pub fn parse(&self, theirs: Faults) -> Result<Config<Events>, Faults> {
        let mut faults = Faults::default();
        let ledger = self.ledger.read(CONNECTIONS, &Default::default(), &mut faults);
        let settings = self.amqp.read(&mut faults);
        let events = ledger.zip(settings).map(|(ledger, settings)| Events { ledger, settings });
        self.serving.finish(events, (SERVICE.to_owned(), Vec::new()), faults, theirs)
    }
}

impl FollowOptions {
    /// `feed` is what is followed, `theirs` what was wrong with its settings.
    pub fn parse(&self, feed: Option<Feed>, theirs: Faults) -> Result<Config<Follow>, Faults> {
        let mut faults = Faults::default();
        let ledger = self.ledger.read(CONNECTIONS, &Default::default(), &mut faults);
        let http = self.http.read(&mut faults);
        let log = self.log.read(&mut faults);
        let follow = ledger.zip(feed).map(|(ledger, feed)| Follow { ledger, feed });
        finish(log, http, None, follow, faults.and(theirs))
    }
}

impl TailOptions {
    pub fn parse(&self) -> Result<Config<Settings>, Faults> {
        self.log.after(|faults| self.amqp.read(faults))
    }
}

/// No part of an address that cannot be read is shown: it may hold a password.
pub(crate) fn address(setting: &'static str, text: &str, faults: &mut Faults) -> Option<Address> {
    let problem = |error| {
        format!("is no address of RabbitMQ ({error}): expected amqp://[user:password@]host:5672/vhost; {ENCODE}")
    };
    Address::parse(setting, text.trim()).map_err(|error| faults.add_secret(setting, problem(error))).ok()
}

/// What RabbitMQ takes and people can read.
pub(crate) fn name(setting: &str, text: &str, faults: &mut Faults) -> Option<String> {
    let name = text.trim();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    let is_reserved = name.starts_with("amq.");
    if name.is_empty() || name.len() > 100 || !name.chars().all(fits) || is_reserved {
        let problem = "expected 1 to 100 letters, digits, hyphens, underscores, dots or colons, and not amq. first";
        return faults.refuse(setting, text, problem);
    }
    Some(name.to_owned())
}
