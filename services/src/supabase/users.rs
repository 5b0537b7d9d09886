//! Users of the app, as a person names them.

use uuid::Uuid;
use workflows::whatsapp::names::UserId;

use crate::ledger::{Result, postgres::Postgres};

/// The user whose profile has this address. An error where the app's profiles have no addresses.
pub async fn by_email(ledger: &Postgres, email: &str) -> Result<Option<UserId>> {
    let email = email.to_owned();
    let ask = ledger.database().ask_one("select sluice.user_of_email($1)", |ask| ask.bind(email));
    let (user,): (Option<Uuid>,) = ledger.within(async { Ok(ask.await?) }).await?;
    Ok(user.map(UserId::new))
}
