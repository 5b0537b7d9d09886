//! The user's side of the database: the queue rows that come in and the public rows that follow the ledger.
//!
//! These tables belong to the user's app. Nothing here waits long for its locks, leaves a transaction open or undoes a
//! change of the ledger; a row that cannot be written is written later.

mod projection;
pub(crate) mod queue_rows;
pub(crate) mod sign_ups;

pub(crate) use projection::PendingRows;
pub use projection::Projection;
