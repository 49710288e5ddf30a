use std::time::Duration;

use lb_common::{FlowEntry, FlowTime};

use super::FlowTable;

/// An entry of the flow table, for people to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedFlow {
    /// The entry.
    pub entry: FlowEntry,
    /// How long ago its last packet came, at least: to 1 s for flows that open or close, to 34 s for others.
    pub idle: Duration,
}

/// The flows that are in the table.
pub fn flows(table: &FlowTable, now: FlowTime) -> impl Iterator<Item = ListedFlow> {
    table
        .places()
        .map(move |place| ListedFlow { entry: place.entry, idle: Duration::from_nanos(place.entry.idle_ns(now)) })
}
