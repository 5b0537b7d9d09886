//! Users of the app, as a person names them.

use tokio::time::timeout;
use uuid::Uuid;
use workflows::whatsapp::names::UserId;

use crate::{
    database::{Database, PATIENCE},
    ledger::{Error, Result},
};

/// The user whose profile has this address. An error where the app's profiles have no addresses.
pub async fn by_email(database: &Database, email: &str) -> Result<Option<UserId>> {
    let email = email.to_owned();
    let ask = database.ask::<(Uuid,)>(
        "select id from public.profiles where email in ($1, lower($1)) order by created_at limit 1",
        |ask| ask.bind(email),
    );
    let users = timeout(PATIENCE, ask).await.map_err(|_| Error::Late(PATIENCE))??;
    Ok(users.first().map(|(id,)| UserId::new(*id)))
}
