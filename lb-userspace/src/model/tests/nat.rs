//! Services that translate addresses.

use std::collections::BTreeSet;

use lb_common::{layout, nat::NatSource};

use super::*;
use crate::config::Ports;

/// A service with these keys and backends; a node whose kernel leaves these ports.
fn world(keys: &str, backends: &[&str], free_ports: Option<Ports>) -> World {
    let mut world = World {
        core: Core::new(config::Node::default(), Found { free_ports, ..Found::default() }, Instant::now()),
        datapath: Datapath::default(),
        now: Instant::now(),
        replies: HashMap::new(),
    };
    world.apply(&file(keys, backends));
    world.resolve_all();
    for id in world.datapath.checks.keys().copied().collect::<Vec<_>>() {
        world.report(id, Health::Up);
    }
    world.settle();
    world
}

fn file(keys: &str, backends: &[&str]) -> String {
    let backend = |address: &&str| format!("[[service.backend]]\naddress = {address:?}\n");
    let backends: String = backends.iter().map(backend).collect();
    format!("[[service]]\nname = \"web\"\naddress = \"192.0.2.1:80\"\nprotocol = \"tcp\"\n{keys}\n{backends}")
}

const FULL_NAT: &str = "forwarding = \"full-nat\"";
const CHECKED_NAT: &str = "forwarding = \"nat\"\n[service.health]\ntype = \"tcp\"";

/// A flow of before has a port that a datagram would need, and would have it until it is over.
#[test]
fn one_packet_switched_on_or_off_ends_flows_that_keep_the_ports_of_clients() {
    for (forwarding, ended) in [("nat", 2), ("full-nat", 0), ("l2-dsr", 0)] {
        let file = |one_packet: bool| {
            let keys = format!("forwarding = {forwarding:?}\none_packet = {one_packet}");
            file(&keys, &["10.0.0.1", "10.0.0.2"]).replace("\"tcp\"", "\"udp\"")
        };
        let mut world = world(FULL_NAT, &[], Some(Ports::default()));
        for one_packet in [false, false, true, true, false] {
            world.apply(&file(one_packet));
        }
        assert_eq!(world.datapath.ended.len(), ended, "{forwarding}");
    }
}

#[test]
fn a_typed_port_means_the_backend_that_has_it_be_it_written_or_the_services() {
    let mut world = world(FULL_NAT, &["10.0.0.1:8080", "10.0.0.1"], Some(Ports::default()));
    let mut named = |typed: &str| -> Vec<(String, u16)> {
        let applied = world.change(Change::Admin(selector(typed), Admin::Disabled)).unwrap();
        world.change(Change::Admin(selector(typed), Admin::Enabled)).unwrap();
        applied.into_iter().map(|applied| (applied.backend, applied.port)).collect()
    };
    assert_eq!(named("10.0.0.1:8080"), [("10.0.0.1:8080".to_owned(), 8080)]);
    assert_eq!(named("10.0.0.1:80"), [("10.0.0.1".to_owned(), 80)]);
    assert_eq!(named("10.0.0.1").len(), 2, "the address alone means both");
}

#[test]
fn a_backend_that_was_removed_is_named_by_its_port_too() {
    let mut world = world(FULL_NAT, &["10.0.0.1:8080", "10.0.0.1:8081", "10.0.0.2"], Some(Ports::default()));
    for port in ["10.0.0.1:8080", "10.0.0.1:8081"] {
        world.change(Change::Remove(selector(port), None)).unwrap();
    }
    let applied = world.change(Change::Remove(selector("10.0.0.1:8081"), Some(Duration::ZERO))).unwrap();
    assert_eq!(applied.len(), 1);
    assert_eq!(applied[0].port, 8081);
}

#[test]
fn without_a_port_that_the_kernel_leaves_a_backend_says_so_unless_ports_are_written() {
    let reason = |keys: &str| world(keys, &["10.0.0.1"], None).view("web", "10.0.0.1").reason;
    assert!(reason(FULL_NAT).unwrap().contains("the kernel may use all ports"));
    assert_eq!(reason(&format!("{FULL_NAT}\n[service.nat]\nports = \"1024-2000\"")), None);
}

/// What a census finds: connections that wait for an answer, those that have just been opened, those that were answered.
fn find(world: &mut World, waiting: u32, young: u32, answered: u32) {
    let id = world.id("web", "10.0.0.1");
    world.replies = HashMap::from([(id, Replies { opening: waiting + young, waiting, answered })]);
    world.census(&HashMap::new());
    world.pass(Duration::from_secs(2));
}

fn told(world: &World) -> Vec<String> {
    world.core.unanswered(world.now).into_iter().collect()
}

#[test]
fn a_backend_whose_replies_go_another_way_is_told_of() {
    let mut world = world(CHECKED_NAT, &["10.0.0.1"], None);
    find(&mut world, 3, 0, 0);
    assert_eq!(told(&world), [""; 0], "not at once");
    find(&mut world, 0, 1, 0);
    find(&mut world, 3, 0, 0);
    let reason =
        "no connection is answered, though its check succeeds: its replies do not pass here; is this node its gateway?";
    assert_eq!(told(&world), [format!("service web: backend 10.0.0.1: {reason}")]);
    assert_eq!(world.view("web", "10.0.0.1").reason.as_deref(), Some(reason));
    assert_eq!(world.view("web", "10.0.0.1").state, BackendState::Up);
    find(&mut world, 3, 0, 1);
    assert_eq!(told(&world), [""; 0], "one was answered");
}

#[test]
fn a_backend_is_not_told_of_that_answers_or_has_no_connections_or_only_young_ones() {
    for (waiting, young, answered) in [(3, 0, 1), (0, 0, 0), (0, 9, 0)] {
        let mut world = world(CHECKED_NAT, &["10.0.0.1"], None);
        for _ in 0..10 {
            find(&mut world, waiting, young, answered);
        }
        assert_eq!(told(&world), [""; 0], "{waiting} {young} {answered}");
    }
}

#[test]
fn a_backend_that_is_down_is_told_of_by_its_check_alone() {
    let mut world = world(CHECKED_NAT, &["10.0.0.1"], None);
    for _ in 0..5 {
        find(&mut world, 3, 0, 0);
    }
    assert_eq!(told(&world).len(), 1);
    let id = world.id("web", "10.0.0.1");
    world.report(id, Health::Down);
    assert_eq!(told(&world), [""; 0]);
}

#[test]
fn a_backend_without_a_check_may_not_run() {
    let mut world = world("forwarding = \"nat\"", &["10.0.0.1"], None);
    for _ in 0..5 {
        find(&mut world, 3, 0, 0);
    }
    let reason = world.view("web", "10.0.0.1").reason.unwrap();
    assert_eq!(
        reason,
        "no connection is answered: it does not run, or its replies do not pass here; is this node its gateway?"
    );
}

#[test]
fn ports_are_counted_by_source_and_backend_and_services_that_share_one_share_them() {
    let other = file(FULL_NAT, &["10.0.0.1:80"]).replace("web", "other").replace("192.0.2.1", "192.0.2.2");
    let mut world = world(FULL_NAT, &["10.0.0.1", "10.0.0.2"], Some(Ports::default()));
    world.apply(&(file(FULL_NAT, &["10.0.0.1", "10.0.0.2"]) + &other));
    world.resolve_all();
    let [one, two, shared] =
        [("web", "10.0.0.1"), ("web", "10.0.0.2"), ("other", "10.0.0.1")].map(|(service, at)| world.id(service, at));
    assert_eq!(world.core.source_views(&HashMap::new())[0].fullest, None);
    let flows = HashMap::from([((one, 0), 5), ((two, 0), 6), ((shared, 0), 4), ((one, u16::MAX), 9)]);
    let [view] = &world.core.source_views(&flows)[..] else { panic!("there is one source") };
    assert_eq!((view.address.to_string(), view.ports, view.flows), ("10.0.0.254".to_owned(), Ports::default(), 15));
    let expected = PortUse { backend: "10.0.0.1:80".parse().unwrap(), protocol: config::Protocol::Tcp, used: 9 };
    assert_eq!(view.fullest, Some(expected));
}

/// The source is known only when the route to the backend is.
#[test]
fn a_service_at_the_address_of_the_egress_interface_is_told_of() {
    let api = |port: &str| {
        let api = file("forwarding = \"l2-dsr\"", &["10.0.0.9"]).replace("web", "api");
        file(FULL_NAT, &["10.0.0.1"]) + &api.replace("192.0.2.1:80", &format!("10.0.0.254:{port}"))
    };
    let mut world = world(FULL_NAT, &["10.0.0.1"], Some(Ports::default()));
    assert_eq!(world.core.source_collisions(), BTreeSet::new());
    world.apply(&api("8080"));
    assert_eq!(
        world.core.source_collisions().first().unwrap(),
        "service web: its source 10.0.0.254 with ports 1024-32767 meets port 8080/tcp of service \"api\", which replies would be \
         taken for; write other sources or ports in [service.nat]"
    );
    world.apply(&api("80"));
    assert_eq!(world.core.source_collisions(), BTreeSet::new());
}

#[test]
fn sources_that_no_row_and_no_flow_has_any_more_make_room_at_a_restart() {
    let source = |last: u32| NatSource { address: Ipv4Addr::from_bits(last).into(), first_port: 1024, ports: 9 };
    let found = Found {
        nat_sources: (1..=layout::NAT_SOURCES).map(source).collect(),
        sources_in_use: BTreeSet::from([0]),
        free_ports: Some(Ports::default()),
        ..Found::default()
    };
    let mut core = Core::new(config::Node::default(), found, Instant::now());
    core.apply(desired(&file(FULL_NAT, &["10.0.0.1"])), Instant::now()).unwrap();
    let address = "10.0.0.1".parse().unwrap();
    core.on_next_hops(vec![(address, Ok(via(1)))], Instant::now());
    assert_eq!(core.view_of("web", Instant::now()).unwrap().backends[0].reason, None);
    assert_eq!(core.sources().run(0, 1), [source(1)], "a flow has it");
    assert_eq!(core.sources().run(1, 1)[0].address.to_ip().to_string(), "10.0.0.254");
}

/// By default as long as RFC 5508 wants it at least (REQ-2), which is longer than UDP has.
#[test]
fn pings_that_nobody_answers_have_a_timeout_of_their_own() {
    let unreplied = |protocol: &str, keys: &str| {
        let port = if protocol == "icmp" { "" } else { ":80" };
        let file = file(&format!("{FULL_NAT}\n{keys}"), &["10.0.0.1"]).replace(":80", port).replace("tcp", protocol);
        let world = World::new(&file);
        world.core.census(world.now).subjects[0].nat.unwrap().unreplied
    };
    let seconds = Duration::from_secs;
    assert_eq!([unreplied("icmp", ""), unreplied("udp", "")], [seconds(60), seconds(30)]);
    let keys = "[service.nat]\nicmp_timeout = \"2m\"";
    assert_eq!(unreplied("icmp", keys), seconds(120));
    assert_eq!(unreplied("icmp", "one_packet = true"), seconds(10), "each is as good as the others");
}
