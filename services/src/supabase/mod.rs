//! The user's side of the database. How queue rows become runs and how the public rows follow the ledger is SQL that the
//! ledger calls (`migrations/…10_provision_instance.sql`); here is what looks for sign-ups that got
//! lost, and for the user behind an e-mail address.
//!
//! These tables belong to the user's app. Nothing here waits long for its locks or leaves a transaction open.

pub mod instances;
pub mod sign_ups;
pub mod users;
