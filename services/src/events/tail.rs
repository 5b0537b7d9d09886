//! Events as they pass, for a person: a queue of one's own at the exchange, which goes with the
//! connection.

use futures::StreamExt;
use lapin::{
    Channel, Consumer,
    options::{BasicAckOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::Value;

use super::{
    Settings, Trouble,
    rabbitmq::{Connection, bind, consume},
};

/// One that passed: a CloudEvent, and the key by which it was routed.
#[derive(Debug, Clone)]
pub struct Announcement {
    pub routing_key: String,
    pub event: Value,
}

/// A queue that holds what has passed since it was opened.
pub struct Tail {
    consumer: Consumer,
    _connection: Connection,
}

impl Tail {
    pub async fn open(settings: &Settings) -> Result<Self, Trouble> {
        let Settings { address, exchange, .. } = settings;
        let connection = Connection::open(address, "sluice events tail").await?;
        let listening = async |channel: Channel| {
            let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
            let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?;
            bind(&channel, queue.name().as_str(), exchange, "#").await?;
            consume(&channel, queue.name().as_str()).await
        };
        let consumer = connection.ask(&format!("listen at the exchange {exchange}"), listening).await?;
        Ok(Self { consumer, _connection: connection })
    }

    /// The next one. None: the broker has gone.
    pub async fn next(&mut self) -> Option<Announcement> {
        loop {
            let delivery = self.consumer.next().await?.ok()?;
            delivery.ack(BasicAckOptions::default()).await.ok()?;
            if let Ok(event) = serde_json::from_slice(&delivery.data) {
                return Some(Announcement { routing_key: delivery.routing_key.to_string(), event });
            }
        }
    }
}
