//! A real project is taken over without hurting anybody in it: what does not fit is refused whole,
//! what is gone is brought back, what was there before waits for a person's word, and nobody's
//! sign-up waits for us.

mod adapted;
mod choices;
mod linted;
mod locks;
mod matrix;
mod project;
mod refused;
mod report;
mod rights;
mod status;
mod stolen;
mod traces;

use std::process::Output;

use crate::{
    app::{App, Session},
    program::{printed, run, said, url_of},
};

const TRIGGER: &str = "on_profile_created_create_evolution_instance";
const NOBODY: [uuid::Uuid; 0] = [];
const QUEUE: &str = "public.evolution_instance_creation_queue";
const INSTANCES: &str = "public.evolution_instances";

/// The program, as the database's owner.
async fn sluice(app: &App, arguments: &[&str]) -> Output {
    run(arguments, &[("DATABASE_URL", &url_of(app)), ("USER", "ana")]).await
}

/// It printed what it did and ended well.
async fn migrate(app: &App) -> String {
    let output = sluice(app, &["migrate"]).await;
    assert_eq!(output.status.code(), Some(0), "{}{}", printed(&output), said(&output));
    printed(&output)
}

async fn queued(session: &mut Session) -> Vec<uuid::Uuid> {
    session.all(&format!("select user_id from {QUEUE} order by user_id")).await
}
