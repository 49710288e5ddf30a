//! The truth about services and backends, without I/O and without a clock: events go in, effects come out, and the
//! shell ([`crate::daemon`]) carries them out in order.
//!
//! ```text
//! desired services ─┐                     ┌─> maps
//! live changes ─────┤    events  effects  ├─> health checks
//! health reports ───┼──────────> Core ────┼─> next-hop resolver
//! next hops ────────┘                     ├─> announced addresses
//!                                         └─> state file
//! ```

mod affinity;
mod backend;
mod census;
mod change;
mod core;
mod effect;
mod pool;
mod ports;
mod quic;
mod recover;
mod rehash;
mod reload;
mod rotation;
mod row;
mod service;
mod settle;
mod sources;
mod view;

pub use self::{
    affinity::LiveAffinity,
    backend::FlowCounts,
    census::{Census, Findings, Replies, Subject},
    change::{Applied, Change, ChangeError, ENDLESS, Selector},
    core::{ApplyError, Core, Full},
    effect::Effect,
    ports::{PortUse, SourceView},
    quic::ServerIdInUse,
    recover::{Found, LiveService, Memory},
    service::{Admin, DesiredService, service_key},
    sources::Sources,
    view::{BackendState, BackendView, NextHopView, ProbeView, ServiceView, counted},
};

#[cfg(test)]
mod tests;
