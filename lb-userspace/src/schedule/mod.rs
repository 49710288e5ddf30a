//! Which backend owns which slot of a service's table, and how slots get from one owner to the next while connections
//! live on. Pure: no clock, no maps.

mod maglev;
mod mover;

pub use maglev::{Member, table};
pub use mover::{Census, Fate, Group, Pace, Report, SlotMover};

/// temporary
pub fn risen(weight: u16, _: std::time::Duration, _: std::time::Duration) -> u16 {
    weight
}
/// temporary
pub fn next_rise(_: std::time::Instant, _: std::time::Instant, _: std::time::Duration) -> Option<std::time::Instant> {
    None
}
