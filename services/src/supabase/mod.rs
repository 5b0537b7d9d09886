//! The user's side of the database. How queue rows become runs and how the public rows follow the
//! ledger is SQL that the ledger calls (`migrations/…10_provision_instance.sql`); here is what
//! looks for sign-ups that got lost and for the user behind an e-mail address, and what stood in
//! the tables before Sluice.
//!
//! These tables belong to the user's app. Nothing here waits long for its locks or leaves a
//! transaction open.

pub mod adoption;
mod finder;
pub(crate) mod instances;

pub use finder::{Finder, find_once};
use uuid::Uuid;
use workflows::whatsapp::names::UserId;

use crate::ledger::{Result, postgres::Postgres};

/// The user whose profile has this address. An error where the app's profiles have no addresses.
pub async fn user_by_email(ledger: &Postgres, email: &str) -> Result<Option<UserId>> {
    let email = email.to_owned();
    let ask = ledger.database().ask_one("select sluice.user_of_email($1)", |ask| ask.bind(email));
    let (user,): (Option<Uuid>,) = ledger.within(async { Ok(ask.await?) }).await?;
    Ok(user.map(UserId::new))
}
