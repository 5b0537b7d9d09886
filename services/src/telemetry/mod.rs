//! What Sluice tells about itself. `log` is what it says to people and collectors; no secret may ever pass here, which
//! the types of the secrets see to.

pub mod log;
