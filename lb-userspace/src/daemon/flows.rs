//! What the API shows of flows and slots.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use aya::maps::MapError;
use lb_common::{
    Address, BackendId, Condition, Flow, FlowEntry, FlowHash, FlowState, HashInput, HashKey, NetU16, NetU32, Policy,
    ServiceId, SlotWord, Tracking,
    nat::{NatRecord, NatTarget, Phase},
};

use super::{
    Daemon,
    translated::{self, Translation, phase_name},
};
use crate::{
    api::{EntryView, FlowCount, FlowFilter, FlowView, FlowsView, MoveView, Refusal, Reply, SlotsView, TranslatedView},
    config::{self, Endpoint, Forwarding, Protocol, Service},
    dataplane::{FlowTables, ListedFlow, Maps, flow_time, flows},
    model::{BackendState, BackendView, ServiceView},
    schedule::Group,
};

/// How many flows are listed, unless the request says otherwise.
pub(super) const LIST: usize = 1000;

/// How many flows the flow table has evicted or refused.
pub(super) fn losses(maps: &Maps, tables: &FlowTables) -> Result<u64, MapError> {
    let is_loss = |event| matches!(event, Tracking::Evicted | Tracking::Full);
    let tracking = maps.tracking()?;
    let by_packets: u64 = tracking.iter().filter(|(event, _)| is_loss(*event)).map(|(_, count)| count).sum();
    Ok(by_packets + tables.refused())
}

impl Daemon {
    /// Lists flows beside the loop, since there may be millions.
    pub(super) fn list_flows(&self, filter: &FlowFilter, reply: Reply<FlowsView>) {
        let checked = self.names(filter).and_then(|names| Self::check_slot(filter, &names).map(|()| names));
        let names = match checked {
            Ok(names) => names,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let state = match filter.state.as_deref().map(state_named).transpose() {
            Ok(state) => state,
            Err(refusal) => return drop(reply.send(Err(refusal))),
        };
        let (table, nat) = (self.flow_tables.table(), self.executor.dataplane.nat.table());
        let (sources, key) = (self.core.sources().clone(), self.hash_key);
        let (limit, wanted_slot) = (filter.limit.unwrap_or(LIST), filter.slot);
        tokio::task::spawn_blocking(move || {
            let mut counts = BTreeMap::<(u32, &str), u64>::new();
            let (mut listed, mut translated) = (Vec::new(), Vec::<TranslatedView>::new());
            for flow in flows(&table, flow_time()) {
                let Some(name) = names.get(&flow.entry.backend()) else { continue };
                let slot = flow.entry.tag().slot(name.slot_mask);
                let entry_state = flow.entry.state().name();
                if state.is_some_and(|state| state != entry_state) || wanted_slot.is_some_and(|wanted| wanted != slot) {
                    continue;
                }
                *counts.entry((flow.entry.backend().get(), entry_state)).or_default() += 1;
                if listed.len() < limit {
                    listed.push(name.entry(&flow));
                }
            }
            for (_, record) in nat.iter().flat_map(|table| table.flows()) {
                let Some(name) = names.get(&record.state.backend()) else { continue };
                let phase = phase_name(record.state.phase());
                let is_elsewhere = || wanted_slot.is_some_and(|wanted| name.slot_of(&record, key) != Some(wanted));
                if state.is_some_and(|state| state != phase) || is_elsewhere() {
                    continue;
                }
                *counts.entry((record.state.backend().get(), phase)).or_default() += 1;
                if listed.len() + translated.len() < limit {
                    translated.extend(translated::view(&record, name, &sources));
                }
            }
            let counts: Vec<FlowCount> = counts
                .into_iter()
                .map(|((backend, state), flows)| {
                    let Name { service, backend, .. } = &names[&BackendId::truncate(backend)];
                    FlowCount { service: service.clone(), backend: backend.clone(), state: state.to_owned(), flows }
                })
                .collect();
            let total = counts.iter().map(|count| count.flows).sum();
            drop(reply.send(Ok(FlowsView { total, counts, flows: listed, translated })));
        });
    }

    /// Refuses a slot that none of the services has.
    fn check_slot(filter: &FlowFilter, names: &HashMap<BackendId, Name>) -> Result<(), Refusal> {
        let largest = names.values().max_by_key(|name| name.slot_mask);
        match (filter.slot, largest) {
            (Some(slot), Some(Name { service, slot_mask, .. })) if slot > *slot_mask => Err(Refusal::Usage(format!(
                "there is no slot {slot}: {} {} slots, 0 to {slot_mask}",
                if filter.service.is_some() {
                    format!("service {service:?} has")
                } else {
                    "no service has more than".into()
                },
                slot_mask + 1,
            ))),
            _ => Ok(()),
        }
    }

    /// The backends that a filter lets through.
    fn names(&self, filter: &FlowFilter) -> Result<HashMap<BackendId, Name>, Refusal> {
        let services = self.core.view(Instant::now());
        let is_service = |view: &ServiceView| filter.service.as_ref().is_none_or(|name| *name == view.name);
        if let Some(name) = &filter.service
            && !services.iter().any(is_service)
        {
            return Err(Refusal::NotFound(format!("there is no service {name:?}; `lbctl service list` shows them")));
        }
        let is_backend = |view: &BackendView| filter.backend.as_ref().is_none_or(|name| view.is_called(name));
        let targets = self.core.nat_targets();
        let mut names = HashMap::new();
        for service in services.iter().filter(|service| is_service(service)) {
            for backend in service.backends.iter().filter(|backend| is_backend(backend)) {
                let id = BackendId::truncate(backend.id);
                names.insert(id, Name::new(service, backend, translation(service, backend, &targets)));
            }
        }
        match &filter.backend {
            Some(name) if names.is_empty() => {
                Err(Refusal::NotFound(format!("there is no backend {name:?}; `lbctl backend list` shows them")))
            }
            _ => Ok(names),
        }
    }

    /// What the slots of `service` do.
    pub(super) fn slots(&self, service: &str) -> Result<SlotsView, Refusal> {
        let now = Instant::now();
        let (Some(view), Some(report)) = (self.core.view_of(service, now), self.core.slots_of(service, now)) else {
            return Err(Refusal::NotFound(format!("there is no service {service:?}; `lbctl service list` shows them")));
        };
        let name = |id: BackendId| {
            let backend = view.backends.iter().find(|backend| backend.id == id.get());
            backend.map_or_else(|| "nobody".to_owned(), |backend| backend.name.clone())
        };
        let moves = |state: &str, groups: Vec<Group>| -> Vec<MoveView> {
            let shown = |group: Group| MoveView {
                state: state.to_owned(),
                from: name(group.previous),
                to: name(group.current),
                slots: group.slots,
                reason: reason(view.backends.iter().find(|backend| backend.id == group.previous.get())),
                since: now.saturating_duration_since(group.since),
                remaining: group.until.saturating_duration_since(now),
            };
            groups.into_iter().map(shown).collect()
        };
        let mut shown = moves("arming", report.arming);
        shown.extend(moves("moving", report.moving));
        Ok(SlotsView {
            service: service.to_owned(),
            slots: view.slots,
            empty: report.empty,
            stable: report.stable,
            tracked: report.tracked,
            moves: shown,
            restarted: report.restarted.map(|restarted| now.saturating_duration_since(restarted)),
            waiting: report.waiting,
        })
    }

    /// Who gets the next packet of a flow that is `known` to be this backend's, or that nobody knows: as the datapath decides it
    /// (lb-ebpf, `track.rs` and `nat/open.rs`) for packets that open no flow.
    fn owner(&self, word: SlotWord, known: Option<BackendId>, translates: bool) -> Result<BackendId, MapError> {
        let owner = match known {
            Some(backend) => backend,
            None if word.remember() && !translates => word.previous(),
            None => word.current(),
        };
        let is_lost = self.executor.dataplane.maps.condition(owner)? == Condition::RESCHEDULE;
        Ok(if is_lost { word.current() } else { owner })
    }

    /// What decides where new flows go in a slot of `owner`, if not the slot alone.
    fn decides_beside_slots(&self, spec: &config::Service, service: ServiceId, owner: BackendId) -> Option<String> {
        let maps = &self.executor.dataplane.maps;
        let scheduler = maps.scheduler(service);
        if scheduler.policy() != Policy::SLOT && scheduler.turns() > 0 {
            return Some(spec.algorithm.to_string());
        }
        let is_full = scheduler.is_limited() && maps.connections().get(owner).is_full();
        is_full.then(|| "max_connections".to_owned())
    }

    /// Follows a flow through the slots and the flow table as the datapath has them now.
    pub(super) fn flow(&self, service: &str, client: SocketAddr, port: Option<u16>) -> Result<FlowView, Refusal> {
        let (spec, live) = self.core.live(service).ok_or_else(|| {
            Refusal::NotFound(format!("there is no service {service:?}; `lbctl service list` shows them"))
        })?;
        let flow = asked_flow(spec, client, port)?;
        let view = self.core.view_of(service, Instant::now());
        let backends = view.as_ref().map_or(&[][..], |view| &view.backends);
        let backend = |id: BackendId| backends.iter().find(|backend| backend.id == id.get());
        let name_of = |id: BackendId| backend(id).map(|backend| backend.name.clone());
        let failed = |error: anyhow::Error| Refusal::Failed(format!("{error:#}"));

        let hash = live.hash.now().hash(&flow, self.hash_key);
        let before = live.hash.before().map_or(hash, |input| input.hash(&flow, self.hash_key));
        let slot = hash.slot(live.slot_mask);
        let word_of = |hash: FlowHash| self.executor.dataplane.maps.load_slot(&live, hash.slot(live.slot_mask));
        let mut word = word_of(hash);
        if before != hash {
            word = word.coming_from(word_of(before));
        }
        let table = self.flow_tables.table();
        let found = if word.look_up() { table.find(hash).or_else(|| table.find(before)) } else { None };
        let records = self.translated(&flow, if spec.one_packet { backends } else { &[] });
        let known = found.map(FlowEntry::backend).or(records.first().map(|record| record.state.backend()));
        let known = known.filter(|_| !spec.one_packet);
        let owner = self.owner(word, known, spec.forwarding.translates()).map_err(|error| failed(error.into()))?;
        let entry = found.and_then(|entry| {
            let name = Name::new(view.as_ref()?, backend(entry.backend())?, None);
            Some(name.entry(&ListedFlow { entry, idle: Duration::from_nanos(entry.idle_ns(flow_time())) }))
        });
        let targets = self.core.nat_targets();
        let translated = records.iter().filter_map(|record| {
            let (view, backend) = (view.as_ref()?, backend(record.state.backend())?);
            let name = Name::new(view, backend, translation(view, backend, &targets));
            translated::view(record, &name, self.core.sources())
        });
        let known_client = view.as_ref().map(|view| self.known_client(view, client.ip())).transpose();
        let (affinity, server) = known_client.map_err(|error| failed(error.into()))?.flatten().unzip();
        let decides = self.decides_beside_slots(spec, live.id, word.current());
        let (new_flow, new_flow_by) = match (server.flatten(), decides) {
            (Some(server), _) => (name_of(server), Some("affinity".to_owned())),
            (None, Some(decides)) => (None, Some(decides)),
            (None, None) => (name_of(word.current()), None),
        };
        // Where each datagram is new, packets of a flow go where a new one does.
        let owner = if spec.one_packet && new_flow.is_none() { BackendId::NONE } else { owner };
        Ok(FlowView {
            service: service.to_owned(),
            client,
            destination: SocketAddr::new(spec.address, flow.destination_port().get()),
            slot,
            slot_state: slot_state(word).to_owned(),
            one_packet: spec.one_packet,
            state: backend(owner).map(|backend| backend.state),
            is_reset: records.is_empty() && spec.forwarding == Forwarding::FullNat && spec.protocol == Protocol::Tcp,
            backend: name_of(owner),
            new_flow,
            new_flow_by,
            affinity,
            entry,
            translated: translated.collect(),
        })
    }
}

/// The flow of a client to a service: to its port, or to this one if it has all ports.
fn asked_flow(service: &Service, client: SocketAddr, port: Option<u16>) -> Result<Flow, Refusal> {
    let name = &service.name;
    let port = match (service.port, port) {
        (_, Some(_)) if service.protocol == Protocol::Icmp => {
            return Err(Refusal::Invalid(format!("{name:?} is of ICMP, which has no ports: leave out --port")));
        }
        (0, None) if service.protocol == Protocol::Icmp => 0,
        (0, None) => return Err(Refusal::Invalid(format!("{name:?} has all ports: say which with --port"))),
        (0, Some(port)) | (port, None) => port,
        (port, Some(asked)) if asked == port => port,
        (port, Some(asked)) => return Err(Refusal::Invalid(format!("{name:?} has port {port}, not {asked}"))),
    };
    if client.is_ipv4() != service.address.is_ipv4() {
        return Err(Refusal::Invalid(format!("{client} is not of the address family of {name:?}")));
    }
    Ok(Flow {
        source: Address::from(client.ip()),
        destination: Address::from(service.address),
        ports: NetU32::from_halves(NetU16::new(client.port()), NetU16::new(port)),
        protocol: service.protocol.number(),
        ipv4: client.is_ipv4(),
    })
}

/// How the packets of a backend's flows are translated, if they are.
fn translation(
    service: &ServiceView,
    backend: &BackendView,
    targets: &HashMap<BackendId, (NatTarget, HashInput)>,
) -> Option<Translation> {
    let (target, hash) = *targets.get(&BackendId::truncate(backend.id))?;
    let endpoint = Endpoint { address: backend.address, port: backend.port };
    Some(Translation { service: service.address, protocol: service.protocol, hash, backend: endpoint, target })
}

/// A backend, for people.
pub(super) struct Name {
    pub(super) service: String,
    pub(super) backend: String,
    slot_mask: u32,
    pub(super) translation: Option<Translation>,
}

impl Name {
    fn new(service: &ServiceView, backend: &BackendView, translation: Option<Translation>) -> Self {
        let (service, slot_mask) = (service.name.clone(), service.slots - 1);
        Self { service, backend: backend.name.clone(), slot_mask, translation }
    }

    /// The slot of a translated flow.
    fn slot_of(&self, record: &NatRecord, key: HashKey) -> Option<u32> {
        Some(self.translation.as_ref()?.hash_of(record, key).slot(self.slot_mask))
    }

    fn entry(&self, ListedFlow { entry, idle }: &ListedFlow) -> EntryView {
        EntryView {
            service: self.service.clone(),
            backend: self.backend.clone(),
            state: entry.state().name().to_owned(),
            slot: entry.tag().slot(self.slot_mask),
            idle: *idle,
            tag: format!("{:010x}", entry.tag().get()),
        }
    }
}

/// The state of that name, of flows in the flow table or of those that are translated.
fn state_named(name: &str) -> Result<&'static str, Refusal> {
    let phases = (0..=u8::MAX).map(Phase).take_while(|phase| *phase != Phase::OVER).filter(|phase| phase.is_alive());
    let mut names: Vec<&str> = FlowState::ALL.map(FlowState::name).into_iter().chain(phases.map(phase_name)).collect();
    names.sort_unstable();
    names.dedup();
    names.iter().copied().find(|state| *state == name).ok_or_else(|| {
        let names = names.join(", ");
        Refusal::Usage(format!("{name:?} is no state of a flow; there are {names}"))
    })
}

const fn slot_state(word: SlotWord) -> &'static str {
    match (word.look_up(), word.remember()) {
        (false, _) if word.current().get() == BackendId::NONE.get() => "empty",
        (false, _) => "stable",
        (true, false) => "tracked",
        (true, true) if word.current().get() == word.previous().get() => "arming",
        (true, true) => "moving",
    }
}

/// Why slots leave their old owner.
fn reason(owner: Option<&BackendView>) -> String {
    let Some(owner) = owner else { return "it is gone".to_owned() };
    match owner.state {
        BackendState::Up if owner.weight == 0 => "its weight is 0",
        BackendState::Up => "others take a larger share",
        BackendState::Draining => "it drains",
        BackendState::Removed => "it was removed",
        BackendState::Disabled => "it is disabled",
        BackendState::Down => "it is down",
        BackendState::Checking | BackendState::Unresolved => "it is not ready",
    }
    .to_owned()
}
