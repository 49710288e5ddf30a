//! What an earlier daemon left in the datapath. It is taken over, not made anew: flows go on to where they went.

use std::collections::HashMap;

use lb_common::{BackendId, BackendRow, RowIndex, Scheduler, Service, ServiceKey, SlotWord};

/// A service found in the maps.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveService {
    /// Its key.
    pub key: ServiceKey,
    /// Its value.
    pub service: Service,
    /// Its slot words.
    pub table: Vec<SlotWord>,
    /// How its new flows get their backends.
    pub scheduler: Scheduler,
    /// The rows of its backends.
    pub backends: Vec<(BackendId, RowIndex, BackendRow)>,
}

/// The services found, and those of their parts that nobody has claimed yet.
#[derive(Debug, Default)]
pub(super) struct Leftovers(HashMap<ServiceKey, LiveService>);

impl Leftovers {
    pub(super) fn new(live: Vec<LiveService>) -> Self {
        Self(live.into_iter().map(|service| (service.key, service)).collect())
    }

    pub(super) fn get(&self, key: &ServiceKey) -> Option<&LiveService> {
        self.0.get(key)
    }

    /// Claims the service with `key`.
    pub(super) fn take(&mut self, key: &ServiceKey) -> Option<LiveService> {
        self.0.remove(key)
    }

    /// Claims all that is left.
    pub(super) fn take_rest(&mut self) -> Vec<LiveService> {
        self.0.drain().map(|(_, service)| service).collect()
    }
}
