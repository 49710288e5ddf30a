//! Active health checks: is a backend able to serve?
//!
//! ```text
//!  runner ──── when? ────> state     pure: counts results, says when to probe next
//!    │                       ▲
//!    └──> probe ── result ───┘       one TCP connect, HTTP or HTTPS exchange
//! ```
//!
//! The daemon spawns one check per backend and receives a [`Report`] for each probe that has ended.

mod failure;
mod http;
mod probe;
mod runner;
mod state;
mod tls;

pub use failure::{Failure, Stage};
pub use probe::probe;
pub use runner::{CheckHandle, Report, spawn};
pub use state::{Health, Monitor, Timing, Transition};
