//! The product: WhatsApp instances on an Evolution API server. The engine's first user, with
//! nothing that another workflow could not have.

pub mod evolution;
pub mod names;
pub mod provision;
