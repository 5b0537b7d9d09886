//! A consumer of events, as an app has one: a durable queue of its own at the exchange, acks by
//! hand, and a new connection wherever one is lost. It keeps all that it was handed, in the order
//! of arrival, also what was handed to it twice.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use futures::StreamExt;
use lapin::{
    Connection, ConnectionProperties, ExchangeKind,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::Value;
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

/// A message as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// Of the message, not of the event in it.
    pub id: String,
    pub r#type: String,
    pub routing_key: String,
    pub content_type: String,
    /// The header.
    pub traceparent: Option<String>,
    /// The CloudEvent.
    pub event: Value,
}

impl Received {
    /// The run that it is about.
    pub fn run(&self) -> &str {
        self.event["data"]["run"].as_str().unwrap_or_default()
    }

    pub fn sequence(&self) -> u32 {
        self.event["sequence"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
    }
}

/// Runs until it is dropped; its queue stays.
pub struct Consumer {
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<()>,
}

impl Consumer {
    /// Returns once its queue is bound: what is published from then on arrives. `exchange` is
    /// declared as the publisher does it, so that either may come first.
    pub async fn start(url: &str, exchange: &str, queue: &str) -> Result<Self> {
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let mut consumer = Some(consume(url, exchange, queue).await.context("listen at the exchange")?);
        let (url, exchange, queue) = (url.to_owned(), exchange.to_owned(), queue.to_owned());
        let kept = received.clone();
        let task = tokio::spawn(async move {
            loop {
                if let Some((connection, mut consumer)) = consumer.take() {
                    while let Some(Ok(delivery)) = consumer.next().await {
                        kept.lock().unwrap_or_else(PoisonError::into_inner).push(read(&delivery));
                        if delivery.ack(BasicAckOptions::default()).await.is_err() {
                            break;
                        }
                    }
                    drop(connection);
                }
                sleep(Duration::from_millis(200)).await;
                let connecting = timeout(Duration::from_secs(5), consume(&url, &exchange, &queue)).await;
                consumer = connecting.ok().and_then(Result::ok);
            }
        });
        Ok(Self { received, task })
    }

    /// All that arrived so far.
    pub fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn count(&self) -> usize {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn consume(url: &str, exchange: &str, queue: &str) -> lapin::Result<(Connection, lapin::Consumer)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(100, BasicQosOptions::default()).await?;
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(exchange.into(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
    let mut kind = FieldTable::default();
    kind.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, kind).await?;
    channel
        .queue_bind(queue.into(), exchange.into(), "#".into(), QueueBindOptions::default(), FieldTable::default())
        .await?;
    let consumer =
        channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
    Ok((connection, consumer))
}

fn read(delivery: &lapin::message::Delivery) -> Received {
    let properties = &delivery.properties;
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string).unwrap_or_default();
    let headers = properties.headers().as_ref().map(FieldTable::inner);
    let traceparent = headers.and_then(|headers| match headers.get("traceparent")? {
        AMQPValue::LongString(text) => Some(text.to_string()),
        _ => None,
    });
    Received {
        id: text(properties.message_id()),
        r#type: text(properties.kind()),
        routing_key: delivery.routing_key.to_string(),
        content_type: text(properties.content_type()),
        traceparent,
        event: serde_json::from_slice(&delivery.data).unwrap_or_default(),
    }
}
