use std::time::Duration;

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tests::servers::{
    RabbitMq,
    rabbitmq::{Account, Options},
    until,
};

async fn channel(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}

async fn declare(channel: &Channel) {
    channel.queue_declare("marks".into(), QueueDeclareOptions::durable(), FieldTable::default()).await.unwrap();
}

async fn put(channel: &Channel, mark: &str) {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let sent = channel
        .basic_publish("".into(), "marks".into(), BasicPublishOptions::default(), mark.as_bytes(), properties)
        .await;
    assert!(sent.unwrap().await.unwrap().is_ack());
}

async fn found(url: &str) -> Option<Vec<u8>> {
    let (_connection, channel) = channel(url).await.ok()?;
    let got = channel.basic_get("marks".into(), BasicGetOptions::default()).await.ok()??;
    Some(got.delivery.data.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_rabbitmq_keeps_what_it_confirmed_and_returns_on_its_port() {
    let mut server = RabbitMq::start(Options::default()).await.unwrap();
    let (port, pid) = (server.port(), server.pid());
    let (_connection, before) = channel(&server.url()).await.unwrap();
    declare(&before).await;
    put(&before, "kept").await;

    server.kill().await.unwrap();
    assert!(channel(&server.url()).await.is_err());
    server.restart().await.unwrap();

    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), pid);
    let url = server.url();
    let kept = until(Duration::from_secs(20), async || found(&url).await).await;
    assert_eq!(kept.as_deref(), Some(&b"kept"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_enters_a_rabbitmq_without_the_password_or_does_more_than_it_may() {
    let narrow = Account { name: "narrow", password: "n", configure: "^$", write: "^marks$", read: "^$" };
    let server = RabbitMq::start(Options::default().account(narrow)).await.unwrap();

    let (wrong, right) = (server.url_as("narrow", "wrong"), server.url_as("narrow", "n"));

    assert!(channel(&wrong).await.unwrap_err().to_string().contains("ACCESS_REFUSED"));
    let (_connection, channel) = channel(&right).await.unwrap();
    let refused = channel.queue_declare("marks".into(), QueueDeclareOptions::durable(), FieldTable::default()).await;
    assert!(refused.unwrap_err().to_string().contains("ACCESS_REFUSED"));
    assert!(server.ctl(&["list_users"]).await.unwrap().contains("narrow"));
}
