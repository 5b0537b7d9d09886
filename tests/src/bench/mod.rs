//! `make bench`: what Sluice gives and what it costs, measured with real servers and separate
//! processes as a user runs them. Each `Part` answers one question; a `Report` holds the figures
//! with the machine, the date and the commit, and says which goals were reached. Nothing here reads
//! the ledger but the history that it writes (`history.sql`).

mod api;
mod app;
mod bare;
mod burst;
mod cpu;
mod crowd;
mod doorbell;
mod flame;
mod goal;
mod idle;
mod machine;
mod part;
mod plot;
mod profile;
mod publish;
mod recovery;
mod report;
mod scaling;
mod sections;
mod site;
mod stage;
mod stats;
mod steady;
mod table;
mod tally;
mod traced;

pub use crowd::{Fill, filled};
pub use part::{Options, Part, Scale, run};
pub use plot::plots;
pub use publish::publish;
pub use report::Report;
pub use site::Given;
pub use stage::{Roles, Setup, Stage};
pub use steady::{Steady, stream};
pub use table::text;

/// Told what happens meanwhile.
pub type Say = fn(&str);
