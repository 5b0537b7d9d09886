//! The workflow `welcome`: a contact, a list, a mail. Each step does its effect once however often
//! it is run.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use workflows::{
    calls::{ExclusiveCalls, InFlight, Withheld},
    definition::{Definition, LEASE, Reach, Step},
    ids::StepName,
    outcome::{Class, Failure, Memory, Outcome, StepInput},
    policy::Retry,
    workflow::{Boxed, Workflow},
};

use crate::mailer::{Error, Mailer};

/// What a run is started with.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Customer {
    email: String,
    list: String,
}

pub struct Welcome {
    mailer: Mailer,
}

impl Welcome {
    pub fn new(mailer: Mailer) -> Self {
        Self { mailer }
    }

    async fn create_contact(&self, given: &StepInput, calls: &ExclusiveCalls<'_>) -> Outcome {
        let Ok(customer) = customer(&given.input) else { return not_a_customer() };
        // A create goes through the attempt's exclusive calls: it is sent only with enough lease
        // left.
        let create = self.mailer.create_contact(given.resource.as_str(), &customer.email);
        let end = |result: &Result<(), Error>| result.as_ref().map_or_else(Error::call_end, |()| InFlight::Landed);
        match calls.send(create, end).await {
            Ok(result) => done(result, json!(customer), Memory::default().with("contact", true)),
            Err(Withheld) => {
                let failure = Failure::new(Class::LeaseTooShort, "too little of the lease was left");
                Outcome::Defer { failure, after: None }
            }
        }
    }

    async fn join_list(&self, given: &StepInput) -> Outcome {
        let Ok(customer) = customer(&given.input) else { return not_a_customer() };
        let joined = self.mailer.join_list(given.resource.as_str(), &customer.list).await;
        done(joined, json!(customer), Memory::default().with("list", customer.list))
    }

    async fn send_welcome(&self, given: &StepInput) -> Outcome {
        // Ours, drawn once per resource: the service sends one mail for it.
        let sent = self.mailer.send_mail(given.resource.as_str(), given.secret.expose()).await;
        done(sent, Value::Null, Memory::default().with("welcomed", true))
    }
}

impl Workflow for Welcome {
    fn definitions(&self) -> Vec<Definition> {
        let step = |name: &str, reach| Step {
            name: name.parse().expect("the names of this module are valid"),
            timeout: Duration::from_secs(30),
            lease: LEASE,
            retry: Retry::default(),
            reach,
            host: Some(self.mailer.host_name().to_owned()),
        };
        vec![Definition {
            name: "welcome".parse().expect("the names of this module are valid"),
            version: 1,
            steps: vec![
                step("create-contact", Reach::Exclusive),
                step("join-list", Reach::Shared),
                step("send-welcome", Reach::Shared),
            ],
            deadline: Duration::from_secs(86_400),
            priority: 0,
            projection: Some("shop.show_welcome"),
            source: None,
            gone: None,
        }]
    }

    fn validate(&self, input: &Value) -> Result<(), String> {
        customer(input).map(drop)
    }

    fn run<'a>(
        &'a self,
        step: &'a StepName,
        given: &'a StepInput,
        calls: &'a ExclusiveCalls<'a>,
    ) -> Boxed<'a, Option<Outcome>> {
        Box::pin(async move {
            Some(match step.as_str() {
                "create-contact" => self.create_contact(given, calls).await,
                "join-list" => self.join_list(given).await,
                "send-welcome" => self.send_welcome(given).await,
                _ => return None,
            })
        })
    }
}

fn customer(input: &Value) -> Result<Customer, String> {
    let customer: Customer = serde_json::from_value(input.clone()).map_err(|error| error.to_string())?;
    match customer.email.contains('@') {
        true => Ok(customer),
        false => Err(format!("email {:?} has no @", customer.email)),
    }
}

fn not_a_customer() -> Outcome {
    Outcome::Permanent(Failure::new(Class::Rejected, "the step before left no customer"))
}

fn done(result: Result<(), Error>, output: Value, memory: Memory) -> Outcome {
    match result {
        Ok(()) => Outcome::Success { output, memory, note: None },
        Err(error) => error.outcome(),
    }
}
