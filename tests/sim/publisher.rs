//! Publishers of events: the real round, over a broker that refuses, loses messages, and loses its
//! answers.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use sluice::events::{Answer, BATCH, Broker, Message, publish_once};
use tokio::time;

use crate::{chance::Chance, connection::Connection, process::Process, stage::Stage};

/// A little slower than the role's, where idle rounds only cost time.
const POLL: Duration = Duration::from_secs(1);

/// A message that reached the broker's queue.
pub struct Arrival {
    pub id: String,
    pub run: String,
    pub sequence: u32,
}

/// Keeps a publisher running, which stands still and is killed now and then.
pub async fn keep(stage: Arc<Stage>, number: usize) {
    let chance = stage.chance(&format!("supervisor of publisher {number}"));
    for life in 0_u32.. {
        let process = Process::start(format!("events-{number}.{life}"), stage.log.clone());
        let task = stage.spawn("publish", publish(stage.clone(), process.clone()));
        while chance.percent(70) {
            time::sleep(chance.millis(2_000, 60_000)).await;
            // Longer than its claim, now and then.
            process.freeze(chance.millis(100, 45_000));
        }
        time::sleep(chance.millis(2_000, 60_000)).await;
        process.kill();
        task.abort();
    }
}

async fn publish(stage: Arc<Stage>, process: Arc<Process>) {
    let ledger = Connection::new(stage.clone(), process.clone(), "ledger");
    let chance = stage.chance(&format!("{} broker", process.name));
    let broker = Exchange { stage, process: process.clone(), chance };
    loop {
        process.pass().await;
        let round = publish_once(&ledger, &broker, &process.name, BATCH).await;
        if round.is_ok_and(|round| round.claimed == 0) {
            time::sleep(POLL).await;
        } else {
            time::sleep(Duration::from_millis(50)).await;
        }
    }
}

struct Exchange {
    stage: Arc<Stage>,
    process: Arc<Process>,
    chance: Chance,
}

impl Broker for Exchange {
    async fn publish(&self, messages: &[Message]) -> Vec<Answer> {
        let mut answers = Vec::with_capacity(messages.len());
        for message in messages {
            time::sleep(self.chance.millis(0, 2)).await;
            self.process.pass().await;
            let (arrives, answer) = match self.chance.between(0, 19) {
                0 => (false, Answer::Unconfirmed),
                1 => (false, Answer::Lost),
                2 => (true, Answer::Lost),
                3 => (true, Answer::Unroutable),
                _ => (true, Answer::Confirmed),
            };
            if arrives {
                self.stage.facts().arrived.push(arrival(message));
            }
            answers.push(answer);
        }
        time::sleep(self.chance.millis(1, 20)).await;
        self.process.pass().await;
        answers
    }
}

fn arrival(message: &Message) -> Arrival {
    let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let sequence = text(&body["sequence"]).parse().unwrap_or_default();
    Arrival { id: text(&body["id"]), run: text(&body["data"]["run"]), sequence }
}
