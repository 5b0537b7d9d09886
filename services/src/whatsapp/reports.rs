//! The events that the Evolution API publishes to a RabbitMQ: where they are, and what is made of
//! them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use clap::Args;
use futures::{FutureExt, future::BoxFuture};
use uuid::Uuid;
use workflows::whatsapp::evolution::{
    AmqpMode,
    report::{EVENTS, Report},
};

use crate::{
    config::{Faults, events},
    events::feed::{Exchanges, Feed, Reader, Source, Verdict},
    ledger::{Result, postgres::Postgres},
    supabase,
};

const URL: &str = "EVOLUTION_AMQP_URL";

/// The workers of two steps need it too: they tell the API of each instance.
#[derive(Args, Clone)]
#[command(next_help_heading = "The Evolution API's own events")]
pub struct AmqpModeOptions {
    /// How the API publishes its events, the same for workers and followers: global, as its own
    /// settings say (RABBITMQ_GLOBAL_ENABLED), or instance: workers tell it for each instance what
    /// to publish, and followers listen at an exchange for each. Global is lighter: for each
    /// instance the API makes an exchange and seven queues
    #[arg(long, env = "EVOLUTION_AMQP_MODE", value_name = "global|instance", default_value = "global")]
    evolution_amqp_mode: String,
}

impl AmqpModeOptions {
    pub fn read(&self, faults: &mut Faults) -> Option<AmqpMode> {
        let modes = [("global", AmqpMode::Global), ("instance", AmqpMode::Instance)];
        faults.choice("EVOLUTION_AMQP_MODE", &self.evolution_amqp_mode, &modes)
    }
}

#[derive(Args)]
#[command(next_help_heading = "The Evolution API's own events")]
pub struct ReportOptions {
    /// The RabbitMQ that the API publishes to (its RABBITMQ_URI):
    /// amqp://[user:password@]host:5672/vhost, or amqps://. In the global mode its
    /// RABBITMQ_GLOBAL_ENABLED is true, and its RABBITMQ_EVENTS_* for QRCODE_UPDATED,
    /// CONNECTION_UPDATE, LOGOUT_INSTANCE, REMOVE_INSTANCE and the other events of instances are
    #[arg(long, env = "EVOLUTION_AMQP_URL", value_name = "URL")]
    evolution_amqp_url: Option<String>,

    /// The API's RABBITMQ_EXCHANGE_NAME; declared as the API does it where it is not there. Of the
    /// global mode only
    #[arg(long, env = "EVOLUTION_AMQP_EXCHANGE", value_name = "NAME", default_value = "evolution_exchange")]
    evolution_amqp_exchange: String,

    /// Our own queue there, a durable quorum queue; one for each Sluice. What cannot be read goes
    /// to the queue of that name with .unread behind it
    #[arg(long, env = "EVOLUTION_AMQP_QUEUE", value_name = "NAME", default_value = "sluice.evolution")]
    evolution_amqp_queue: String,
}

impl ReportOptions {
    /// None: no broker was named, or a fault was left.
    pub fn read_if_given(&self, mode: Option<AmqpMode>, faults: &mut Faults) -> Option<Feed> {
        self.evolution_amqp_url.as_ref().and_then(|_| self.read(mode, faults))
    }

    /// No mode: its fault was left.
    pub fn read(&self, mode: Option<AmqpMode>, faults: &mut Faults) -> Option<Feed> {
        let what = "give the address of the RabbitMQ that the Evolution API publishes to";
        let url = faults.required(URL, self.evolution_amqp_url.as_deref(), what);
        let address = url.and_then(|url| events::address(URL, url, faults));
        let exchange = events::name("EVOLUTION_AMQP_EXCHANGE", &self.evolution_amqp_exchange, faults);
        let queue = events::name("EVOLUTION_AMQP_QUEUE", &self.evolution_amqp_queue, faults);
        let source = match mode? {
            AmqpMode::Global => Source::Exchange(exchange?),
            AmqpMode::Instance => Source::Each(Arc::new(Reports)),
        };
        Some(Feed { address: address?, source, queue: queue?, keys: &EVENTS, reader: Arc::new(Reports) })
    }
}

/// How many instances share a transaction: their rows are locked until its end.
const TOGETHER: usize = 50;

/// Reads the API's events, and keeps what they say of our instances.
pub struct Reports;

impl Reader for Reports {
    fn read<'a>(&'a self, ledger: &'a Postgres, messages: &'a [&'a [u8]]) -> BoxFuture<'a, Result<Vec<Verdict>>> {
        async move {
            let mut verdicts = vec![Verdict::Taken; messages.len()];
            let (mut reports, mut of) = (Vec::new(), HashMap::new());
            for (number, message) in messages.iter().enumerate() {
                match Report::parse(message) {
                    Ok(Some(report)) => {
                        of.insert(number, report.instance.clone());
                        reports.push(report);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, "a message of the Evolution API cannot be read");
                        verdicts[number] = Verdict::Unreadable;
                    }
                }
            }
            let mut put_off = BTreeSet::new();
            for together in Report::last(reports).chunks(TOGETHER) {
                for (instance, error) in supabase::instances::hear(ledger, together).await? {
                    tracing::info!(instance, error, "what the Evolution API says of an instance is written later");
                    put_off.insert(instance);
                }
            }
            for (number, instance) in of {
                if put_off.contains(instance.as_str()) {
                    verdicts[number] = Verdict::PutOff;
                }
            }
            Ok(verdicts)
        }
        .boxed()
    }
}

/// In the per-instance mode an exchange has the name of its instance.
impl Exchanges for Reports {
    fn all<'a>(&'a self, ledger: &'a Postgres, after: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<String>>> {
        supabase::instances::names(ledger, after, most).boxed()
    }

    fn newest<'a>(&'a self, ledger: &'a Postgres) -> BoxFuture<'a, Result<Uuid>> {
        supabase::instances::last_run(ledger).boxed()
    }

    fn since<'a>(
        &'a self,
        ledger: &'a Postgres,
        after: Uuid,
        most: usize,
    ) -> BoxFuture<'a, Result<Vec<(Uuid, String)>>> {
        supabase::instances::names_since(ledger, after, most).boxed()
    }
}
