//! The core on a simulated clock, against a datapath made of plain maps that checks every effect as it comes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant, SystemTime},
};

use lb_common::{
    Affinity, BackendId, BackendRow, Condition, Encapsulation, QuicServer, RowIndex, Scheduler, ServerOf, Service,
    ServiceId, ServiceKey, SlotWord, layout,
};

use lb_common::flow_table::FlowTag;

use super::*;
use crate::{
    config::{self, Config},
    health::{Health, Report},
    neighbour::{Egress, NextHop, Resolution, Unresolved},
};

mod affinity;
mod changes;
mod leaving;
mod nat;
mod quic;
mod recovery;
mod rehash;
mod rotation;
mod slow_start;
mod translation;

const CONFIG: &str = r#"
[[interface]]
name = "eth0"

[[service]]
name = "web"
address = "192.0.2.1:80"
protocol = "tcp"
forwarding = "l2-dsr"
[[service.backend]]
address = "10.0.0.1"
weight = 1
[[service.backend]]
address = "10.0.0.2"
weight = 3

[[service]]
name = "checked"
address = "192.0.2.2:80"
protocol = "tcp"
forwarding = "ipip"
[service.health]
type = "tcp"
[[service.backend]]
address = "10.0.0.1"
[[service.backend]]
address = "10.0.0.3"
"#;

fn desired(text: &str) -> Vec<DesiredService> {
    let config = Config::parse("test.toml", text).expect("the configuration is valid");
    config.services.into_iter().map(DesiredService::as_declared).collect()
}

/// A datapath that refuses effects in a wrong order.
#[derive(Default)]
struct Datapath {
    services: HashMap<ServiceKey, Service>,
    /// The addresses that replies of translated flows come to or from.
    translated: Vec<IpAddr>,
    slots: HashMap<u32, SlotWord>,
    turns: HashMap<u32, BackendId>,
    schedulers: HashMap<ServiceId, Scheduler>,
    capacities: HashMap<BackendId, (u32, u32)>,
    affinities: HashMap<ServiceId, Affinity>,
    servers: HashMap<ServerOf, BackendId>,
    row_of: HashMap<BackendId, RowIndex>,
    rows: HashMap<RowIndex, BackendRow>,
    quic_servers: HashMap<QuicServer, BackendId>,
    checks: BTreeMap<BackendId, Health>,
    watched: Vec<IpAddr>,
    announced: Vec<(String, IpAddr)>,
    persisted: usize,
    /// The services whose translated flows were ended.
    ended: Vec<ServiceId>,
    /// The backends that the last census has found in the flow table.
    named: BTreeSet<BackendId>,
    /// Flows that the flow table has lost.
    losses: u64,
}

impl Datapath {
    fn run(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            self.run_one(effect);
            self.check();
        }
    }

    fn run_one(&mut self, effect: Effect) {
        match effect {
            Effect::StoreServices(services, translated) => {
                self.translated = translated;
                self.services = services.into_iter().map(|entry| (entry.key, entry.service)).collect();
            }
            Effect::StoreSlots(service, words) => {
                for (slot, word) in words {
                    self.slots.insert(place(&service, slot), word);
                }
            }
            Effect::StoreTurns(first_chunk, turns) => {
                self.turns.extend((first_chunk * layout::CHUNK_SLOTS..).zip(turns));
            }
            Effect::StoreScheduler(service, scheduler) => {
                self.schedulers.insert(service, scheduler);
            }
            Effect::StoreAffinity(service, affinity) => {
                self.affinities.insert(service, affinity);
            }
            Effect::PutServer(server, backend) => {
                self.servers.insert(server, backend);
            }
            Effect::RemoveServer(server) => {
                assert!(self.servers.remove(&server).is_some(), "{server:?} is not there");
            }
            Effect::StoreCapacity(backend, weight, limit) => {
                self.capacities.insert(backend, (weight, limit));
            }
            Effect::PutRow(backend, index, row) => {
                assert!(!self.row_of.values().any(|used| *used == index), "row {index:?} is in use");
                self.rows.insert(index, *row);
                self.row_of.insert(backend, index);
            }
            Effect::RemoveRow(backend) => {
                assert!(self.row_of.remove(&backend).is_some(), "{backend:?} has no row");
            }
            Effect::PutQuicServer(server, backend) => {
                self.quic_servers.insert(server, backend);
            }
            Effect::RemoveQuicServer(server) => {
                assert!(self.quic_servers.remove(&server).is_some(), "{server:?} is not there");
            }
            Effect::EndTranslated(service) => {
                assert!(self.services.values().any(|known| known.id == service), "the datapath knows it as it is now");
                self.ended.push(service);
            }
            Effect::ResetServiceTraffic(_)
            | Effect::ResetBackendTraffic(_)
            | Effect::RetireTraffic(..)
            | Effect::NoteLatency(..)
            | Effect::PersistDeclared => {}
            Effect::StartCheck { id, initial, .. } => {
                self.checks.insert(id, initial);
            }
            Effect::StopCheck(id) => {
                self.checks.remove(&id);
            }
            Effect::WatchNextHops(addresses) => self.watched = addresses,
            Effect::Announce(interface, address) => self.announced.push((interface, address)),
            Effect::Withdraw(interface, address) => {
                self.announced.retain(|announced| *announced != (interface.clone(), address));
            }
            Effect::Persist => self.persisted += 1,
        }
    }

    /// After every single effect, every slot of every service has to name a backend of that service that has a row.
    fn check(&self) {
        for service in self.services.values() {
            for word in self.table(service) {
                if word == SlotWord::EMPTY {
                    continue;
                }
                let row = self.row_of.get(&word.current()).unwrap_or_else(|| panic!("{word:?} names nobody"));
                assert_eq!(self.rows[row].service, service.id, "{word:?} names a backend of another service");
                assert!(self.row_of.contains_key(&word.previous()), "{word:?} has a previous owner without a row");
            }
            for (server, backend) in self.servers.iter().filter(|(server, _)| server.service() == service.id) {
                let row = self.row_of.get(backend).unwrap_or_else(|| panic!("{server:?} is nobody"));
                assert_eq!(self.rows[row].service, service.id, "{server:?} is a backend of another service");
            }
            let scheduler = self.schedulers.get(&service.id).copied().unwrap_or_default();
            let members = if scheduler.is_limited() { self.members(service.id) } else { Vec::new() };
            for backend in self.rotation(service.id).into_iter().chain(members) {
                let row =
                    self.row_of.get(&backend).unwrap_or_else(|| panic!("it is the turn of {backend:?}, who is nobody"));
                assert_eq!(self.rows[row].service, service.id, "it is the turn of a backend of another service");
            }
        }
    }

    /// Whose turns they are, in the service's rotation.
    fn rotation(&self, service: ServiceId) -> Vec<BackendId> {
        let scheduler = self.schedulers.get(&service).copied().unwrap_or_default();
        let first = scheduler.first_chunk() * layout::CHUNK_SLOTS;
        (first..first + scheduler.turns()).map(|turn| self.turns[&turn]).collect()
    }

    /// Each backend that takes new flows, where room for them is looked for.
    fn members(&self, service: ServiceId) -> Vec<BackendId> {
        let ring = self.schedulers.get(&service).copied().unwrap_or_default().members();
        let first = ring.first_chunk * layout::CHUNK_SLOTS;
        (first..first + ring.len).map(|place| self.turns[&place]).collect()
    }

    fn table(&self, service: &Service) -> Vec<SlotWord> {
        (0..=service.slot_mask)
            .map(|slot| *self.slots.get(&place(service, slot)).expect("a service's slots were all written"))
            .collect()
    }

    fn service(&self, address: [u8; 4]) -> Service {
        let (_, service) = self
            .services
            .iter()
            .find(|(key, _)| key.address.to_ip() == IpAddr::from(address))
            .expect("the service is in the datapath");
        *service
    }

    /// How many slots each backend address has.
    fn shares(&self, address: [u8; 4]) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for word in self.table(&self.service(address)) {
            let owner = self.row_of.get(&word.current());
            let name = owner.map_or("nobody".to_owned(), |row| self.rows[row].address.to_ip().to_string());
            *shares.entry(name).or_default() += 1;
        }
        shares
    }

    /// Rows of services that are not there are taken away before a core starts.
    fn remove_orphans(&mut self) {
        let services: Vec<ServiceId> = self.services.values().map(|service| service.id).collect();
        let rows = &self.rows;
        self.row_of.retain(|_, index| services.contains(&rows[index].service));
    }

    fn live_affinity(&self, service: ServiceId) -> LiveAffinity {
        let servers = self.servers.iter().filter(|(server, _)| server.service() == service);
        let servers = servers.map(|(server, backend)| (server.server(), *backend));
        LiveAffinity::found(self.affinities.get(&service).copied().unwrap_or_default(), servers)
    }

    /// What a restarted daemon finds.
    fn live(&self, memories: &HashMap<ServiceKey, Memory>) -> Vec<LiveService> {
        let backends = |service: &Service| {
            let rows = self.row_of.iter().map(|(backend, index)| (*backend, *index, self.rows[index]));
            rows.filter(|(_, _, row)| row.service == service.id).collect()
        };
        self.services
            .iter()
            .map(|(key, service)| LiveService {
                key: *key,
                service: *service,
                table: self.table(service),
                scheduler: self.schedulers.get(&service.id).copied().unwrap_or_default(),
                affinity: self.live_affinity(service.id),
                backends: backends(service),
                memory: memories.get(key).cloned().unwrap_or_default(),
            })
            .collect()
    }
}

fn place(service: &Service, slot: u32) -> u32 {
    let (chunk, index) = service.locate(slot);
    chunk * layout::CHUNK_SLOTS + u32::try_from(index).unwrap()
}

/// A core, its datapath and its clock.
struct World {
    core: Core,
    datapath: Datapath,
    now: Instant,
    /// What a census finds of the replies of backends.
    replies: HashMap<BackendId, Replies>,
}

impl World {
    fn new(text: &str) -> Self {
        let mut world = Self {
            core: Core::new(config::Node::default(), Found::default(), Instant::now()),
            datapath: Datapath::default(),
            now: Instant::now(),
            replies: HashMap::new(),
        };
        world.apply(text);
        world
    }

    /// A world whose backends can all be reached, and are all healthy, and whose slots are at rest.
    fn ready(text: &str) -> Self {
        let mut world = Self::new(text);
        world.resolve_all();
        for id in world.datapath.checks.keys().copied().collect::<Vec<_>>() {
            world.report(id, Health::Up);
        }
        world.settle();
        world
    }

    /// A new daemon on the datapath that this one leaves, and with what it has written down last.
    fn restart(self, services: Vec<DesiredService>) -> Self {
        let declared = self.core.declared().map(|service| (service_key(service), Memory::of_declared(service)));
        let differing = self.core.written_down().map(|(desired, memory)| (desired.key(), memory));
        let memories = declared.chain(differing).collect();
        let live = self.datapath.live(&memories);
        let found = Found {
            services: live,
            quic_servers: self.datapath.quic_servers.clone(),
            named: self.datapath.named.clone(),
            losses: self.datapath.losses,
            ..Found::default()
        };
        let mut core = Core::new(config::Node::default(), found, self.now);
        let mut datapath = Datapath { checks: BTreeMap::new(), ..self.datapath };
        datapath.remove_orphans();
        let effects = core.apply(services, self.now).expect("there is room");
        datapath.run(effects);
        Self { core, datapath, now: self.now, replies: HashMap::new() }
    }

    /// A new daemon with the same configuration and the live changes.
    fn restart_as_it_is(self) -> Self {
        let services = self.core.services.iter().map(|state| state.desired.clone()).collect();
        self.restart(services)
    }

    /// Lets time go by until nothing is on its way any more; no flow is in the flow table.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let Some(due) = self.core.next_deadline().into_iter().chain(self.core.census_due()).min() else { return };
            self.now = self.now.max(due);
            self.pass(Duration::ZERO);
            self.census(&HashMap::new());
        }
        panic!("something is on its way for ever");
    }

    /// Lets some time go by, in which no census is taken.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        let effects = self.core.on_time(self.now);
        self.datapath.run(effects);
    }

    /// A census that finds these flows, each the only one of its slot.
    fn census(&mut self, flows: &HashMap<BackendId, Vec<FlowTag>>) {
        let mut census = self.core.census(self.now);
        for (backend, tags) in flows {
            let subject = census.subjects.iter_mut().find(|subject| subject.backends.contains(backend));
            let Some(slots) = subject.and_then(|subject| subject.slots.as_mut()) else { continue };
            for tag in tags {
                let _ = slots.meet(*tag, *backend);
            }
        }
        let count = |tags: &Vec<FlowTag>| [0, 0, u32::try_from(tags.len()).unwrap(), 0];
        let named = flows.keys().copied().collect();
        let flows = flows.iter().map(|(backend, tags)| (*backend, count(tags))).collect();
        let packets = self.core.hidden().into_iter().map(|id| (id, 0)).collect();
        self.datapath.named = named;
        let effects = self.core.on_census(
            Findings { census, flows, losses: self.datapath.losses, packets, replies: self.replies.clone() },
            self.now,
        );
        self.datapath.run(effects);
    }

    fn apply(&mut self, text: &str) {
        let effects = self.core.apply(desired(text), self.now).expect("there is room");
        self.datapath.run(effects);
    }

    fn change(&mut self, change: Change) -> Result<Vec<Applied>, ChangeError> {
        let (effects, applied) = self.core.change(change, self.now)?;
        self.datapath.run(effects);
        Ok(applied)
    }

    fn resolve_all(&mut self) {
        let addresses = self.datapath.watched.clone();
        for address in addresses {
            self.resolve(address, Ok(via(1)));
        }
    }

    fn resolve(&mut self, address: IpAddr, resolution: Resolution) {
        let effects = self.core.on_next_hops(vec![(address, resolution)], self.now);
        self.datapath.run(effects);
    }

    fn report(&mut self, id: BackendId, health: Health) {
        let report = Report {
            id,
            health,
            transition: true,
            since: SystemTime::UNIX_EPOCH,
            checked_at: SystemTime::UNIX_EPOCH,
            failure: None,
            latency: None,
            streak: 1,
        };
        let effects = self.core.on_health(report, self.now);
        self.datapath.run(effects);
    }

    /// The backend of `service` at `address`.
    fn id(&self, service: &str, address: &str) -> BackendId {
        BackendId::truncate(self.view(service, address).id)
    }

    fn state(&self, service: &str, address: &str) -> BackendState {
        self.view(service, address).state
    }

    fn view(&self, service: &str, address: &str) -> BackendView {
        let backends = self.core.view_of(service, self.now).expect("the service is there").backends;
        backends.into_iter().find(|backend| backend.address.to_string() == address).expect("the backend is there")
    }
}

fn via(last_byte_of_mac: u8) -> NextHop {
    NextHop::Via(Egress {
        ifindex: 3,
        interface: "eth0".to_owned(),
        vlan: None,
        source_mac: [2, 0, 0, 0, 0, 0xff],
        destination_mac: [2, 0, 0, 0, 0, last_byte_of_mac],
        mtu: 1500,
        preferred_source: Some(Ipv4Addr::new(10, 0, 0, 254).into()),
    })
}

fn selector(backend: &str) -> Selector {
    Selector { backend: backend.to_owned(), service: None }
}
