use std::time::Duration;

use lb_common::{BackendId, FlowState, ServiceId, flow_table::FlowTag};

use super::{FlowTable, Subject, census::Owners, flow_time};

/// An entry of the flow table, for people to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedFlow {
    /// The service.
    pub service: ServiceId,
    /// Its slot in the service's table.
    pub slot: u32,
    /// What tells it from other flows.
    pub tag: FlowTag,
    /// Whose it is.
    pub backend: BackendId,
    /// What is known of it.
    pub state: FlowState,
    /// How long ago its last packet came, at least: to 1 s for flows that open or close, to 34 s for others.
    pub idle: Duration,
}

/// The flows of `subjects` that are in the table.
pub fn flows(table: &FlowTable, subjects: &[Subject]) -> impl Iterator<Item = ListedFlow> {
    let owners = Owners::new(subjects);
    table.places().filter_map(move |place| {
        let entry = place.entry;
        let service = &subjects[owners.of(entry.backend())?].service;
        Some(ListedFlow {
            service: service.id,
            slot: entry.tag().slot(service.slot_mask),
            tag: entry.tag(),
            backend: entry.backend(),
            state: entry.state(),
            idle: Duration::from_nanos(entry.idle_ns(flow_time())),
        })
    })
}
