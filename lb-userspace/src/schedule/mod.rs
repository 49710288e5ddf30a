//! Which backend owns which slot of a service's table. Pure: no clock, no maps.

mod maglev;

pub use maglev::{Member, table};
