use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    time::Instant,
};

use lb_common::{BackendId, Service, ServiceEntry, ServiceKey, layout};

use super::{
    backend::Checked,
    change::{Applied, Change, ChangeError},
    effect::Effect,
    pool::{Pool, RunPool},
    recover::{Leftovers, LiveService},
    row::{RowContext, refresh_row},
    service::{Admin, DesiredService, ServiceState, chunk_count},
    settle::in_order,
};
use crate::{config, health::Report, neighbour::Resolution};

/// The maps have no room. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no room for more {0} in the maps; remove some first (what was removed last frees its room within a second)"
)]
pub struct Full(pub(super) &'static str);

/// The truth about services and backends.
#[derive(Debug)]
pub struct Core {
    pub(super) node: config::Node,
    /// In the order of the configuration.
    pub(super) services: Vec<ServiceState>,
    pub(super) service_of: HashMap<BackendId, ServiceKey>,
    pub(super) next_hops: HashMap<IpAddr, Resolution>,
    /// What the directory of the datapath holds, by id.
    pub(super) stored: Vec<ServiceEntry>,
    pub(super) announced: BTreeSet<(String, IpAddr)>,
    pub(super) leftovers: Leftovers,
    pub(super) service_ids: Pool,
    pub(super) backend_ids: Pool,
    pub(super) rows: Pool,
    pub(super) chunks: RunPool,
}

impl Core {
    /// Starts from what an earlier daemon left in the datapath. What the first [`Core::apply`] does not want is removed.
    pub fn new(node: config::Node, live: Vec<LiveService>) -> Self {
        let services: BTreeSet<u32> = live.iter().map(|live| live.service.id.get()).collect();
        let backends: BTreeSet<u32> = live.iter().flat_map(|live| &live.backends).map(|(id, ..)| id.get()).collect();
        let rows: BTreeSet<u32> = live.iter().flat_map(|live| &live.backends).map(|(_, row, _)| row.0).collect();
        let mut stored: Vec<ServiceEntry> =
            live.iter().map(|live| ServiceEntry { key: live.key, service: live.service }).collect();
        stored.sort_unstable_by_key(|entry| entry.service.id);
        let mut chunks = RunPool::new(layout::SLOT_CHUNKS);
        for live in &live {
            chunks.occupy(live.service.first_chunk, chunk_count(&live.service));
        }
        Self {
            node,
            services: Vec::new(),
            service_of: HashMap::new(),
            next_hops: HashMap::new(),
            stored,
            announced: BTreeSet::new(),
            leftovers: Leftovers::new(live),
            service_ids: Pool::new(1..layout::MAX_SERVICES, |id| services.contains(&id)),
            backend_ids: Pool::new(1..BackendId::COUNT, |id| backends.contains(&id)),
            rows: Pool::new(1..layout::BACKEND_ROWS, |row| rows.contains(&row)),
            chunks,
        }
    }

    /// The services as they are to be.
    pub fn desired(&self) -> impl Iterator<Item = &DesiredService> {
        self.services.iter().map(|service| &service.desired)
    }

    /// The virtual IPs that are to be announced, and where.
    pub fn announced(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.announced.iter().map(|(interface, address)| (interface.as_str(), *address))
    }

    /// A service by its name: as it is to be, and where it stands in the maps.
    pub fn live(&self, service: &str) -> Option<(&config::Service, Service)> {
        let state = self.services.iter().find(|state| state.desired.spec.name == service)?;
        Some((&state.desired.spec, state.live))
    }

    /// Makes `desired` the services, all of them.
    pub fn apply(&mut self, desired: Vec<DesiredService>, now: Instant) -> Result<Vec<Effect>, Full> {
        let keys: HashSet<ServiceKey> = desired.iter().map(DesiredService::key).collect();
        let (mut effects, mut removals) = self.put(desired, now)?;
        let unwanted: Vec<ServiceKey> =
            self.services.iter().map(|service| service.desired.key()).filter(|key| !keys.contains(key)).collect();
        for key in unwanted {
            self.remove_service(key, now, &mut removals);
        }
        for leftover in self.leftovers.take_rest() {
            self.remove_leftover(leftover, now, &mut removals);
        }
        self.refresh_shared(&mut effects);
        effects.append(&mut removals);
        effects.push(Effect::Persist);
        Ok(effects)
    }

    /// Makes a live change.
    pub fn change(&mut self, change: Change, now: Instant) -> Result<(Vec<Effect>, Vec<Applied>), ChangeError> {
        let (edited, applied) = change.edit(self.desired())?;
        let (mut effects, mut removals) = self.put(edited, now)?;
        self.refresh_shared(&mut effects);
        effects.append(&mut removals);
        effects.push(Effect::Persist);
        Ok((effects, applied))
    }

    /// Takes in what a probe said.
    pub fn on_health(&mut self, report: Report<BackendId>) -> Vec<Effect> {
        let Some(service) = self.service_of.get(&report.id).copied().and_then(|key| self.service_mut(key)) else {
            return Vec::new();
        };
        let Some(backend) = service.backend_mut(report.id) else {
            return Vec::new();
        };
        // A report of a check that has been stopped meanwhile.
        if backend.health == Checked::Unchecked || backend.admin == Admin::Disabled {
            return Vec::new();
        }
        let was_usable = backend.is_usable();
        backend.health = Checked::By(report.health);
        backend.report = Some(report);
        if backend.is_usable() == was_usable {
            return Vec::new();
        }
        service.schedule().into_iter().collect()
    }

    /// Takes in what is new about next hops.
    pub fn on_next_hops(&mut self, updates: Vec<(IpAddr, Resolution)>, now: Instant) -> Vec<Effect> {
        let updated: BTreeSet<IpAddr> = updates.iter().map(|(address, _)| *address).collect();
        self.next_hops.extend(updates);
        let mut effects = Vec::new();
        for service in &mut self.services {
            let context = RowContext { id: service.live.id, service: &service.desired.spec, node: &self.node };
            let affected = service.backends.iter_mut().filter(|backend| updated.contains(&backend.spec.address));
            let changes: Vec<Effect> = affected
                .filter_map(|backend| refresh_row(backend, context, &self.next_hops, &mut self.rows, now))
                .collect();
            if !changes.is_empty() {
                in_order(changes, service.schedule(), &mut effects);
            }
        }
        effects
    }

    /// What a backend is called in logs: `service/backend`.
    pub fn name_of(&self, id: BackendId) -> String {
        self.services
            .iter()
            .find_map(|state| {
                let backend = state.backends.iter().find(|backend| backend.id == id)?;
                Some(format!("{}/{}", state.desired.spec.name, backend.spec.name))
            })
            .unwrap_or_else(|| format!("backend number {}", id.get()))
    }

    pub(super) fn service_mut(&mut self, key: ServiceKey) -> Option<&mut ServiceState> {
        self.services.iter_mut().find(|service| service.desired.key() == key)
    }
}
