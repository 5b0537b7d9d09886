//! Events: what is announced, in which form, and how it gets to a real RabbitMQ.

mod broker;
mod cli;
mod outages;
mod publishing;
mod reports;
mod schemas;

use std::sync::Mutex;

use sluice::events::{Answer, Broker, Message};
use tests::servers::{
    Authority, Certificates, RabbitMq,
    rabbitmq::{Account, Options},
};
use tokio::sync::OnceCell;

/// A RabbitMQ that no test stops: each has an exchange of its own.
struct Shared {
    server: RabbitMq,
    /// Who signed its certificate.
    authority: Certificates,
}

async fn rabbitmq() -> &'static Shared {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    let start = async || {
        let authority = Authority::new().unwrap();
        let narrow = Account { name: "narrow", password: "n", configure: "^$", write: "^allowed", read: "^$" };
        let outside = Account { name: "outside", password: "o", configure: "", write: "", read: "" };
        let options = Options::default().account(narrow).account(outside).tls(authority.identity("localhost").unwrap());
        Shared { server: RabbitMq::start(options).await.unwrap(), authority: authority.file().unwrap() }
    };
    SHARED.get_or_init(start).await
}

/// A name of this test's own.
fn unique(name: &str) -> String {
    format!("{name}-{:016x}", rand::random::<u64>())
}

/// A broker that keeps what it is sent, and answers each message so.
pub struct Recorder {
    messages: Mutex<Vec<Message>>,
    answer: fn(&Message) -> Answer,
}

impl Recorder {
    pub fn new(answer: fn(&Message) -> Answer) -> Self {
        Self { messages: Mutex::default(), answer }
    }

    pub fn taken(&self) -> Vec<Message> {
        std::mem::take(&mut *self.messages.lock().unwrap())
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new(|_| Answer::Confirmed)
    }
}

impl Broker for Recorder {
    async fn publish(&self, messages: &[Message]) -> Vec<Answer> {
        self.messages.lock().unwrap().extend_from_slice(messages);
        messages.iter().map(self.answer).collect()
    }
}
