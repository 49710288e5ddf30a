//! What an earlier daemon left in the datapath. It is taken over, not made anew: flows go on to where they went.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use lb_common::{
    BackendId, BackendRow, Encapsulation, QuicServer, RowIndex, Scheduler, Service, ServiceKey, SlotWord,
    nat::{NatSource, NatTarget},
};

use super::{
    affinity::LiveAffinity,
    backend::{Backend, Standing},
};
use crate::config::{self, Endpoint, Ports};

/// What is found in the maps at a start.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// The services.
    pub services: Vec<LiveService>,
    /// The server ids of QUIC.
    pub quic_servers: HashMap<QuicServer, BackendId>,
    /// The backends that flows in the flow table are of. Such an id is not given to another backend, even if the one that had it
    /// is no more.
    pub named: BTreeSet<BackendId>,
    /// How many flows the flow table has lost so far.
    pub losses: u64,
    /// The sources of translated flows, in the order of their numbers.
    pub nat_sources: Vec<NatSource>,
    /// Which of them translated flows have, by number.
    pub sources_in_use: BTreeSet<u16>,
    /// The ports that translated flows may have, since the kernel does not use them; `None`: it uses all.
    pub free_ports: Option<Ports>,
}

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
    /// How its clients stay with their servers.
    pub affinity: LiveAffinity,
    /// The rows of its backends.
    pub backends: Vec<(BackendId, RowIndex, BackendRow)>,
    /// What the earlier daemon wrote down of it.
    pub memory: Memory,
}

/// What has to be known of a service after a restart, besides what is wanted of it, and cannot be read from the maps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// Its backends. Those that are not wanted any more leave.
    pub members: Vec<config::Backend>,
    /// The backends that it had no more, and that had flows yet; until when they may keep those, if there is a limit.
    pub removed: Vec<(config::Backend, Option<Instant>)>,
    /// The backends whose weight was rising, and since when.
    pub rising: BTreeMap<Endpoint, Instant>,
}

impl Memory {
    /// What is known of a service that is as the configuration file has it.
    pub fn of_declared(declared: &config::Service) -> Self {
        Self { members: declared.backends.clone(), ..Self::default() }
    }

    /// What is known of the backend at `endpoint`, which has a row, in a service with that port.
    pub(super) fn backend(&self, endpoint: Endpoint, service_port: u16, id: BackendId) -> Backend {
        let rising_since = self.rising.get(&endpoint).copied();
        let is_it = |spec: &config::Backend| spec.is_at(endpoint, service_port);
        if let Some((spec, until)) = self.removed.iter().find(|(spec, _)| is_it(spec)) {
            let removed = Backend::new(spec.clone(), endpoint, id);
            return Backend { standing: Standing::Removed, until: *until, rising_since, ..removed };
        }
        let member = self.members.iter().find(|spec| is_it(spec)).cloned();
        let unknown = || {
            let Endpoint { address, port } = endpoint;
            let port = Some(port).filter(|port| *port != 0);
            let name = endpoint.to_string();
            config::Backend { name, address, port, weight: 0, max_connections: None, server_id: None }
        };
        Backend { rising_since, ..Backend::new(member.unwrap_or_else(unknown), endpoint, id) }
    }
}

/// The endpoint of a backend that has this row.
pub(super) fn endpoint_of(row: &BackendRow) -> Endpoint {
    let port = match row.encapsulation {
        Encapsulation::TRANSLATED => NatTarget::of(&row.outer).port.get(),
        _ => 0,
    };
    Endpoint { address: row.address.to_ip(), port }
}

/// The sources that the rows of a service name, by number.
pub(super) fn sources_of(live: &LiveService) -> impl Iterator<Item = u16> {
    let rows = live.backends.iter().map(|(.., row)| row);
    rows.filter(|row| row.encapsulation == Encapsulation::TRANSLATED).flat_map(|row| {
        let NatTarget { first_source, sources, .. } = NatTarget::of(&row.outer);
        first_source..first_source.saturating_add(sources)
    })
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
