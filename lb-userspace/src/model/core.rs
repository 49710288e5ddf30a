use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    time::Instant,
};

use lb_common::{BackendId, QuicServer, Service, ServiceEntry, ServiceId, ServiceKey, layout};

use super::{
    affinity::LiveAffinity,
    backend::{Checked, Standing},
    change::{Applied, Change, ChangeError, Edit},
    effect::Effect,
    pool::{Pool, RunPool},
    quic::ServerIdInUse,
    recover::{Found, Leftovers, Memory, sources_of},
    rotation::{Rotation, Run},
    row::shared,
    service::{Admin, DesiredService, ServiceState, chunk_count},
    sources::Sources,
};
use crate::{
    config::{self, Algorithm, Ports},
    health::Report,
    neighbour::Resolution,
};

/// The maps have no room. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no room for more {0} in the maps; remove some first (what was removed last frees its room within a second)"
)]
pub struct Full(pub(super) &'static str);

/// Why services cannot become what they are to be. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The maps are full.
    #[error(transparent)]
    Full(#[from] Full),
    /// Connections of a backend that leaves would break.
    #[error(transparent)]
    ServerId(#[from] ServerIdInUse),
}

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
    /// The server ids of QUIC in the datapath.
    pub(super) quic_servers: HashMap<QuicServer, BackendId>,
    /// Ids of backends that are no more, and since when. Flows in the flow table may name them.
    pub(super) quarantine: HashMap<BackendId, Instant>,
    /// How many flows the flow table has lost, as of the last census.
    pub(super) losses: u64,
    /// The ports that translated flows may have, unless their service says which; `None`: there are none.
    pub(super) free_ports: Option<Ports>,
    pub(super) sources: Sources,
    /// The addresses that replies of translated flows come to or from, as the datapath knows them.
    pub(super) translated: BTreeSet<IpAddr>,
}

impl Core {
    /// Starts from what an earlier daemon left in the datapath. What the first [`Core::apply`] does not want is removed.
    pub fn new(node: config::Node, found: Found, now: Instant) -> Self {
        let Found { services: live, quic_servers, named, losses, nat_sources, sources_in_use, free_ports } = found;
        let services: BTreeSet<u32> = live.iter().map(|live| live.service.id.get()).collect();
        let with_row: BTreeSet<BackendId> = live.iter().flat_map(|live| &live.backends).map(|(id, ..)| *id).collect();
        let without_row: BTreeSet<BackendId> = named.difference(&with_row).copied().collect();
        let sources_in_use = sources_in_use.into_iter().chain(live.iter().flat_map(sources_of)).collect();
        let rows: BTreeSet<u32> = live.iter().flat_map(|live| &live.backends).map(|(_, row, _)| row.0).collect();
        let mut stored: Vec<ServiceEntry> =
            live.iter().map(|live| ServiceEntry { key: live.key, service: live.service }).collect();
        stored.sort_unstable_by_key(|entry| entry.service.id);
        let mut chunks = RunPool::new(layout::SLOT_CHUNKS);
        for live in &live {
            chunks.occupy(live.service.first_chunk, chunk_count(&live.service));
            if let Some(Run { first_chunk, chunks: count }) = Rotation::take_over(live.scheduler).run {
                chunks.occupy(first_chunk, count);
            }
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
            backend_ids: Pool::new(1..BackendId::COUNT, |id| {
                let id = BackendId::truncate(id);
                with_row.contains(&id) || without_row.contains(&id)
            }),
            rows: Pool::new(1..layout::BACKEND_ROWS, |row| rows.contains(&row)),
            chunks,
            quic_servers,
            quarantine: without_row.iter().map(|id| (*id, now)).collect(),
            losses,
            free_ports,
            sources: Sources::new(&nat_sources, &sources_in_use),
            translated: BTreeSet::new(),
        }
    }

    /// The services as the configuration file has them.
    pub fn declared(&self) -> impl Iterator<Item = &config::Service> {
        self.services.iter().map(|service| &service.desired.declared)
    }

    /// The services of which that is not all that has to be known after a restart, as they are to be, and what else it is.
    pub fn written_down(&self) -> impl Iterator<Item = (&DesiredService, Memory)> {
        let differing = self.services.iter().filter(|service| service.differs_from_declared());
        differing.map(|service| (&service.desired, service.memory()))
    }

    /// The node.
    pub fn node(&self) -> &config::Node {
        &self.node
    }

    /// The sources of translated flows.
    pub fn sources(&self) -> &Sources {
        &self.sources
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

    /// How the clients of the service with this name stay with their servers.
    pub fn affinity(&self, service: &str) -> Option<&LiveAffinity> {
        let state = self.services.iter().find(|state| state.desired.spec.name == service)?;
        Some(&state.affinity)
    }

    /// Makes `desired` the services, all of them.
    pub fn apply(&mut self, desired: Vec<DesiredService>, now: Instant) -> Result<Vec<Effect>, ApplyError> {
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
        self.expect_replies(&mut effects);
        self.refresh_shared(&mut effects);
        effects.append(&mut removals);
        effects.push(Effect::PersistDeclared);
        effects.push(Effect::Persist);
        Ok(effects)
    }

    /// Makes a live change.
    pub fn change(&mut self, change: Change, now: Instant) -> Result<(Vec<Effect>, Vec<Applied>), ChangeError> {
        let Edit { services, deadlines, applied } = change.edit(&self.services, now)?;
        let (mut effects, mut removals) = self.put(services, now)?;
        for (id, until) in deadlines {
            effects.extend(self.set_deadline(id, until, now));
        }
        self.expect_replies(&mut effects);
        self.refresh_shared(&mut effects);
        effects.append(&mut removals);
        effects.push(Effect::Persist);
        Ok((effects, applied))
    }

    /// Lets a backend that was removed keep its flows until then.
    fn set_deadline(&mut self, id: BackendId, until: Instant, now: Instant) -> Vec<Effect> {
        let Some(index) = self.service_of.get(&id).and_then(|key| self.index_of(*key)) else {
            return Vec::new();
        };
        if let Some(backend) = self.services[index].backend_mut(id) {
            backend.until = Some(until);
        }
        self.refresh(index, now)
    }

    /// Takes in what a probe said.
    pub fn on_health(&mut self, report: Report<BackendId>, now: Instant) -> Vec<Effect> {
        let Some(index) = self.service_of.get(&report.id).and_then(|key| self.index_of(*key)) else {
            return Vec::new();
        };
        let service = &mut self.services[index];
        let Some(backend) = service.backend_mut(report.id) else {
            return Vec::new();
        };
        // A report of a check that has been stopped meanwhile.
        if backend.health == Checked::Unchecked || backend.standing == Standing::Member(Admin::Disabled) {
            return Vec::new();
        }
        let before = backend.health;
        backend.health = Checked::By(report.health);
        let has_changed = backend.health != before;
        let (id, latency) = (report.id, report.latency.filter(|_| report.failure.is_none()));
        backend.report = Some(report);
        let noted = latency.filter(|_| service.goes_by_probes()).map(|latency| Effect::NoteLatency(id, latency));
        let refreshed = if has_changed { self.refresh(index, now) } else { Vec::new() };
        noted.into_iter().chain(refreshed).collect()
    }

    /// The services whose backends may be hot, with those of their backends that take new flows.
    pub fn warm(&self) -> impl Iterator<Item = (ServiceId, impl Iterator<Item = BackendId>)> {
        let services =
            self.services.iter().filter(|service| service.desired.spec.algorithm == Algorithm::LeastResponseTime);
        services.map(|service| (service.live.id, service.rotation.members()))
    }

    /// Takes in what is new about next hops.
    pub fn on_next_hops(&mut self, updates: Vec<(IpAddr, Resolution)>, now: Instant) -> Vec<Effect> {
        let updated: BTreeSet<IpAddr> = updates.iter().map(|(address, _)| *address).collect();
        self.next_hops.extend(updates);
        let is_affected = |service: &ServiceState| {
            service.backends.iter().chain(&service.removed).any(|backend| updated.contains(&backend.spec.address))
        };
        let affected: Vec<usize> =
            (0..self.services.len()).filter(|index| is_affected(&self.services[*index])).collect();
        let mut effects = affected.into_iter().flat_map(|index| self.refresh(index, now)).collect();
        self.expect_replies(&mut effects);
        effects
    }

    /// Does what has come due.
    pub fn on_time(&mut self, now: Instant) -> Vec<Effect> {
        let mut shared = shared!(self);
        let (mut effects, mut has_changed) = (Vec::new(), false);
        for service in &mut self.services {
            let before = service.live;
            effects.extend(service.on_time(&mut shared, now));
            has_changed |= service.live != before;
        }
        if has_changed {
            self.refresh_shared(&mut effects);
        }
        effects
    }

    /// When [`Core::on_time`] has something to do next, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.services.iter().filter_map(ServiceState::next_deadline).min()
    }

    fn refresh(&mut self, index: usize, now: Instant) -> Vec<Effect> {
        let mut shared = shared!(self);
        self.services[index].refresh(&mut shared, now)
    }

    /// What a backend is called in logs: `service/backend`.
    pub fn name_of(&self, id: BackendId) -> String {
        self.services
            .iter()
            .find_map(|state| {
                let backend = state.backends.iter().chain(&state.removed).find(|backend| backend.id == id)?;
                Some(format!("{}/{}", state.desired.spec.name, backend.shown_name()))
            })
            .unwrap_or_else(|| format!("backend number {}", id.get()))
    }

    fn index_of(&self, key: ServiceKey) -> Option<usize> {
        self.services.iter().position(|service| service.desired.key() == key)
    }
}
