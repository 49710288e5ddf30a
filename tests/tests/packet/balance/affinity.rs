//! Clients that stay with their servers. What is expected comes from a model: a table of clients, and turns that are counted.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use etherparse::IpNumber;
use fastrand::Rng;
use lb_common::{
    Affinity, AffinityScope, AffinityServer, BackendId, BackendRow, NetU16, Policy, Scheduler, ServerOf, ServiceId,
    SlotWord, layout,
};

use crate::{
    backend::Backend,
    fixture::{Balancer, NOW, keys},
    packet::{Packet, flags},
    random_cases,
    sandbox::stay_on,
    world::{Family, SERVICE_PORT},
};

/// The ports of the two services.
const PORTS: [u16; 2] = [SERVICE_PORT, 8443];
/// How many servers each service has, with numbers from 1 on.
const SERVERS: u8 = 4;
/// In seconds.
const TIMEOUT: u64 = 300;
const SECOND: u64 = 1_000_000_000;
/// The flow table has room for more.
const LAST_PORT: u16 = 20_000;

fn service_id(service: usize) -> ServiceId {
    ServiceId::new(u32::try_from(service).expect("two services") + 1).expect("a small number is an id")
}

/// The backend that a server is in a service: 11 to 14 in the first, 21 to 24 in the second.
fn backend(service: usize, server: u8) -> u8 {
    (u8::try_from(service).expect("two services") + 1) * 10 + server
}

/// Two services on the same servers, which take turns in both.
struct Scene {
    balancer: Balancer,
    /// In seconds.
    now: u64,
    /// The port of the last client.
    count: u16,
}

impl Scene {
    /// In one group, or each for itself; `prefix` bits of a client's address count.
    fn new(group: Option<&str>, prefix: u8) -> Option<Self> {
        let mut scene = Self { balancer: Balancer::empty()?, now: 0, count: 0 };
        stay_on(0).expect("there is a first CPU, which begins with the first turn");
        for service in [0, 1] {
            let id = service_id(service);
            let owner = BackendId::truncate(backend(service, 1).into());
            let armed = SlotWord::new(owner, owner, true, true);
            let entry = scene.balancer.put_slots(id, &vec![armed; layout::MIN_SLOTS as usize]);
            scene.balancer.put_services(keys(PORTS[service]), entry);
            let numbers = (1..=SERVERS).map(|server| backend(service, server));
            for (server, number) in (1..).zip(numbers.clone()) {
                let row = Backend::numbered(number).row(Family::V4);
                let row = BackendRow { service: id, address: IpAddr::from([10, 9, 0, server]).into(), ..row };
                scene.balancer.put_row(BackendId::truncate(number.into()), &row);
            }
            let turns: Vec<BackendId> = numbers.map(|number| BackendId::truncate(number.into())).collect();
            let chunk = 100 + id.get();
            let maps = scene.balancer.maps();
            maps.store_turns(chunk, &turns);
            maps.store_scheduler(id, Scheduler::new(Policy::NEXT, chunk, SERVERS.into()));
            let scope = group.map_or(AffinityScope::service(id), AffinityScope::group);
            maps.store_affinity(id, Affinity::new(scope, prefix, u32::try_from(TIMEOUT).expect("a short time")));
            for server in 1..=SERVERS {
                scene.take_flows(service, server, true);
            }
        }
        scene.pass(0);
        Some(scene)
    }

    /// Whether a server takes new flows of a service, by affinity.
    fn take_flows(&mut self, service: usize, server: u8, takes: bool) {
        let maps = self.balancer.maps();
        let scope = maps.affinity(service_id(service)).scope();
        let address = IpAddr::from([10, 9, 0, server]).into();
        let server_of = ServerOf::new(service_id(service), AffinityServer::new(scope, address, NetU16::new(0)));
        if takes {
            maps.put_server(server_of, BackendId::truncate(backend(service, server).into())).expect("there is room");
        } else {
            maps.remove_server(&server_of).expect("the map can be written");
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += seconds;
        self.balancer.set_time(NOW + self.now * SECOND);
    }

    /// A new connection of a client.
    fn open(&mut self, client: IpAddr, service: usize) -> (u8, Packet) {
        if self.count == LAST_PORT {
            self.balancer.forget_flows();
            self.count = 0;
        }
        self.count += 1;
        let mut packet = family(client).packet(IpNumber::TCP);
        packet.source = SocketAddr::new(client, self.count);
        packet.destination.set_port(PORTS[service]);
        packet.segment.flags = flags::SYN;
        (self.reached(&packet), packet)
    }

    /// The server of a new connection of a client.
    fn connect(&mut self, client: IpAddr, service: usize) -> u8 {
        self.open(client, service).0 - backend(service, 0)
    }

    fn go_on(&mut self, packet: &Packet, flags: u8) -> u8 {
        let mut packet = packet.clone();
        packet.segment.flags = flags;
        self.reached(&packet)
    }

    fn reached(&mut self, packet: &Packet) -> u8 {
        let frame = family(packet.source.ip()).frame(packet.to_bytes());
        self.balancer.reached(&frame.to_bytes()).expect("a backend")
    }
}

fn family(client: IpAddr) -> Family {
    if client.is_ipv4() { Family::V4 } else { Family::V6 }
}

const ANNE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const BERT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 8));
const CARL: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 7));

#[test]
fn all_connections_of_a_client_go_to_one_server() {
    let Some(mut scene) = Scene::new(None, 128) else { return };
    for _ in 0..5 {
        assert_eq!([ANNE, CARL].map(|client| scene.connect(client, 0)), [1, 2]);
    }
    let Some(mut scene) = Scene::new(None, 32) else { return };
    for _ in 0..5 {
        assert_eq!([ANNE, BERT].map(|client| scene.connect(client, 0)), [1, 2]);
    }
}

#[test]
fn clients_of_one_network_count_as_one_where_a_prefix_says_so() {
    let Some(mut scene) = Scene::new(None, 24) else { return };
    let in_network = |host| IpAddr::from([192, 0, 2, host]);
    assert!((0..=255).all(|host| scene.connect(in_network(host), 0) == 1));
    assert_eq!(scene.connect([192, 0, 3, 0].into(), 0), 2, "another network");
    let in_network = |host| IpAddr::from([0x2001, 0xdb0, 0, 0, 0, 0, 0, host]);
    assert!((0..20).all(|host| scene.connect(in_network(host), 0) == 3), "the first bits of an IPv6 address");
}

#[test]
fn services_of_a_group_send_a_client_to_the_same_server_and_others_do_not() {
    // The first client to come to the second service is the second of the first.
    for (group, there) in [(Some("shop"), [2, 1]), (None, [1, 2])] {
        let Some(mut scene) = Scene::new(group, 32) else { return };
        assert_eq!([ANNE, BERT].map(|client| scene.connect(client, 0)), [1, 2]);
        assert_eq!([BERT, ANNE].map(|client| scene.connect(client, 1)), there, "{group:?}");
    }
}

#[test]
fn the_time_begins_anew_with_each_new_flow_and_with_no_other_packet() {
    let Some(mut scene) = Scene::new(None, 32) else { return };
    let (_, first) = scene.open(ANNE, 0);
    scene.pass(TIMEOUT - 1);
    assert_eq!(scene.connect(ANNE, 0), 1);
    scene.pass(TIMEOUT - 1);
    assert_eq!(scene.go_on(&first, flags::ACK), backend(0, 1), "a flow that was there");
    scene.pass(1);
    assert_eq!(scene.connect(ANNE, 0), 2, "the time is over");
    assert_eq!(scene.go_on(&first, flags::ACK), backend(0, 1), "and the flow stays where it is");
}

#[test]
fn the_end_of_a_connection_changes_nothing() {
    let Some(mut scene) = Scene::new(None, 32) else { return };
    for end in [flags::ACK | flags::FIN, flags::RST] {
        let (reached, packet) = scene.open(ANNE, 0);
        assert_eq!((reached, scene.go_on(&packet, end)), (backend(0, 1), backend(0, 1)));
    }
    assert_eq!(scene.connect(ANNE, 0), 1);
}

#[test]
fn a_client_whose_server_takes_no_new_flows_gets_another_and_stays_there() {
    let Some(mut scene) = Scene::new(Some("shop"), 32) else { return };
    let (_, flow) = scene.open(ANNE, 0);
    scene.take_flows(0, 1, false);
    assert_eq!(scene.connect(ANNE, 0), 2);
    scene.take_flows(0, 1, true);
    assert_eq!([scene.connect(ANNE, 0), scene.connect(ANNE, 1)], [2, 2]);
    assert_eq!(scene.go_on(&flow, flags::ACK), backend(0, 1));
}

#[test]
fn a_client_whose_server_is_full_gets_another_and_stays_there() {
    let Some(mut scene) = Scene::new(None, 32) else { return };
    let limit = |scene: &mut Scene, limit| {
        scene.balancer.maps().connections().store_capacity(BackendId::truncate(backend(0, 1).into()), 1, limit);
    };
    limit(&mut scene, 2);
    let scheduler = scene.balancer.maps().scheduler(service_id(0)).limited(false);
    scene.balancer.maps().store_scheduler(service_id(0), scheduler);
    let connected: Vec<u8> = (0..4).map(|_| scene.connect(ANNE, 0)).collect();
    assert_eq!(connected, [1, 1, 2, 2]);
    limit(&mut scene, 0);
    assert_eq!(scene.connect(ANNE, 0), 2);
}

#[test]
fn a_datagram_of_an_unknown_flow_goes_to_the_server_of_its_client() {
    let Some(mut scene) = Scene::new(None, 32) else { return };
    let mut packet = Family::V4.packet(IpNumber::UDP);
    let mut reached = |client, port| {
        packet.source = SocketAddr::new(client, port);
        scene.reached(&packet)
    };
    for port in 1000..1005 {
        assert_eq!([ANNE, BERT].map(|client| reached(client, port)), [11, 12]);
    }
}

/// By its slot the flow could be one that the previous owner has: but a client's server is known, and so are all flows of before.
#[test]
fn while_a_slot_moves_too_a_new_flow_goes_to_the_server_of_its_client() {
    let Some(mut scene) = Scene::new(None, 32) else { return };
    let server = scene.connect(ANNE, 0);
    let (id, [owner, heir]) = (service_id(0), [3, 4].map(|server| BackendId::truncate(backend(0, server).into())));
    let moving = SlotWord::new(heir, owner, true, true);
    let service = scene.balancer.put_slots(id, &vec![moving; layout::MIN_SLOTS as usize]);
    scene.balancer.put_services(keys(PORTS[0]), service);
    scene.balancer.maps().store_scheduler(id, Scheduler::NONE);
    let mut packet = Family::V4.packet(IpNumber::UDP);
    packet.source = SocketAddr::new(ANNE, 900);
    packet.destination.set_port(PORTS[0]);
    assert_eq!(scene.reached(&packet), backend(0, server));
}

#[test]
fn a_flood_of_clients_takes_no_more_room_than_there_is_and_clients_go_on_to_come() {
    let Some(mut scene) = Scene::new(None, 32) else { return };
    for number in 0..90_000 {
        scene.connect(Ipv4Addr::from_bits(0x0a00_0000 + number).into(), 0);
    }
    let mut known = 0;
    scene.balancer.maps().affinity_clients().for_each(|_, _| known += 1).expect("the map can be read");
    assert!((30_000..=layout::AFFINITY_CLIENTS as usize).contains(&known), "{known} clients are known");
    let first = scene.connect(BERT, 0);
    assert_ne!(scene.connect(ANNE, 0), first);
    assert_eq!(scene.connect(BERT, 0), first);
}

/// What is to be known of clients, by services of a group, and whose turn is next in each.
#[derive(Default)]
struct Model {
    clients: HashMap<IpAddr, (u8, u64)>,
    turns: [u8; 2],
    away: Vec<(usize, u8)>,
}

impl Model {
    fn connect(&mut self, client: IpAddr, service: usize, now: u64) -> u8 {
        let known = self
            .clients
            .get(&client)
            .filter(|(server, seen)| now - seen < TIMEOUT && !self.away.contains(&(service, *server)));
        let server = known.map_or_else(
            || {
                self.turns[service] = self.turns[service] % SERVERS + 1;
                self.turns[service]
            },
            |(server, _)| *server,
        );
        self.clients.insert(client, (server, now));
        server
    }
}

#[test]
fn clients_go_where_a_model_sends_them_whatever_happens() {
    for seed in 0..4 {
        let Some(mut scene) = Scene::new(Some("shop"), 32) else { return };
        let (mut model, mut random) = (Model::default(), Rng::with_seed(seed));
        for step in 0..random_cases(4000) {
            match random.u8(..20) {
                0 => scene.pass(random.u64(..TIMEOUT / 2)),
                1 => {
                    let (service, server) = (random.usize(..2), random.u8(1..=SERVERS));
                    let was_away = model.away.contains(&(service, server));
                    model.away.retain(|away| *away != (service, server));
                    if !was_away {
                        model.away.push((service, server));
                    }
                    scene.take_flows(service, server, was_away);
                }
                _ => {
                    let (client, service) = (IpAddr::from([198, 51, 100, random.u8(..12)]), random.usize(..2));
                    let expected = model.connect(client, service, scene.now);
                    assert_eq!(scene.connect(client, service), expected, "seed {seed}, step {step}, {client}");
                }
            }
        }
    }
}
