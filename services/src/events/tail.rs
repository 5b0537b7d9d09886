//! Events as they pass, for a person: a queue of one's own at the exchange, which goes with the
//! connection.

use futures::StreamExt;
use lapin::{
    Connection, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::Value;

use super::{
    Settings, Trouble,
    rabbitmq::{answered, connect},
};

/// One that passed: a CloudEvent, and the key by which it was routed.
#[derive(Debug, Clone)]
pub struct Announcement {
    pub routing_key: String,
    pub event: Value,
}

/// How many the broker sends ahead of who reads them.
const AHEAD: u16 = 500;

/// A queue that holds what has passed since it was opened.
pub struct Tail {
    consumer: Consumer,
    _connection: Connection,
}

impl Tail {
    pub async fn open(settings: &Settings) -> Result<Self, Trouble> {
        let Settings { address, exchange, .. } = settings;
        let connection = connect(address, "sluice events tail").await?;
        let listening = async {
            let channel = connection.create_channel().await?;
            let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
            let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?;
            let (name, all) = (queue.name().clone(), QueueBindOptions::default());
            channel.queue_bind(name.clone(), exchange.as_str().into(), "#".into(), all, FieldTable::default()).await?;
            channel.basic_qos(AHEAD, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            channel.basic_consume(name, "".into(), options, FieldTable::default()).await
        };
        let consumer = answered(&format!("listen at the exchange {exchange}"), address, listening).await?;
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
