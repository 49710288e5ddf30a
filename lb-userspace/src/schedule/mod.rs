//! Which backend owns which slot of a service's table, and how slots get from one owner to the next while connections
//! live on; and the order in which backends take turns at new flows. Pure: no clock, no maps.

mod hot;
mod maglev;
mod mover;
mod pages;
mod rotation;
mod slow_start;

pub use hot::hot_load;
pub use maglev::{Member, table};
pub use mover::{Census, Fate, Group, Pace, Report, SlotMover};
pub use pages::{SLOTS_PER_BACKEND, pages, pages_of_members, pages_of_rotation, slots_for};
pub use rotation::{Turns, plan};
pub use slow_start::{Rising, slow_start};
