//! A service whose algorithm is changed while it has flows: whatever it was and becomes, each packet goes where the first one of its flow
//! went. The core of the daemon decides, as it does in `lbd`, with a clock that the test moves.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use etherparse::IpNumber;
use lb_common::{HashInput, HashInputs, Policy};
use lb_userspace::{
    config::{Config, Node},
    dataplane::flow_time,
    model::{Core, DesiredService, Effect, Findings, Found},
    neighbour::{Egress, NextHop},
};

use crate::{
    fixture::Balancer,
    packet::flags,
    world::{EGRESS_MAC, Family, INGRESS_IFINDEX, PROTOCOLS, SERVICE, SERVICE_PORT},
};

/// Each algorithm with what new flows and slots go by when it is there.
const ALGORITHMS: [(&str, Policy, Option<u8>); 6] = [
    ("maglev", Policy::SLOT, None),
    ("source-hash", Policy::SLOT, Some(32)),
    ("round-robin", Policy::NEXT, None),
    ("weighted-round-robin", Policy::NEXT, None),
    ("random", Policy::RANDOM, None),
    ("least-connections", Policy::LEAST, None),
];

/// The weights of the backends, which have the numbers from 1 on.
const WEIGHTS: [u8; 4] = [5, 3, 2, 1];
/// How much time goes by between two looks at the flows.
const STEP: Duration = Duration::from_millis(500);
/// Flows live for 10 s without a packet, and send one at least in every so many steps.
const QUIET_STEPS: u32 = 15;

fn config(algorithm: &str, protocol: IpNumber) -> Vec<DesiredService> {
    let protocol = if protocol == IpNumber::TCP { "tcp" } else { "udp" };
    let mut text = format!(
        "[[service]]\nname = \"web\"\naddress = \"{}:{SERVICE_PORT}\"\nprotocol = \"{protocol}\"\n\
         algorithm = \"{algorithm}\"\nforwarding = \"l2-dsr\"\nidle_timeout = \"10s\"\n",
        Family::V4.virtual_ip(),
    );
    for (number, weight) in (1..).zip(WEIGHTS) {
        text += &format!("[[service.backend]]\naddress = \"10.9.0.{number}\"\nweight = {weight}\n");
    }
    let config = Config::parse("test.toml", &text).expect("the configuration is valid");
    config.services.into_iter().map(DesiredService::as_declared).collect()
}

/// The core of a daemon, the loaded program, and clients.
struct World<'a> {
    balancer: &'a mut Balancer,
    core: Core,
    now: Instant,
    protocol: IpNumber,
    /// The backends that the first packets of flows went to.
    owners: Vec<u8>,
    what: String,
}

impl<'a> World<'a> {
    /// With a service that is new.
    fn new(balancer: &'a mut Balancer, algorithm: &str, protocol: IpNumber, what: String) -> Self {
        balancer.forget_flows();
        let now = Instant::now();
        let core = Core::new(Node::default(), Found::default(), now);
        let mut world = Self { balancer, core, now, protocol, owners: Vec::new(), what };
        world.apply(algorithm);
        for number in (1..).take(WEIGHTS.len()) {
            let effects = world.core.on_next_hops(vec![([10, 9, 0, number].into(), Ok(next_hop(number)))], now);
            world.carry_out(effects);
        }
        world
    }

    fn apply(&mut self, algorithm: &str) {
        let effects = self.core.apply(config(algorithm, self.protocol), self.now).expect("there is room");
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let maps = self.balancer.maps();
        for effect in effects {
            match effect {
                Effect::StoreServices(services) => maps.store_services(&services).expect("the directory takes them"),
                Effect::StoreSlots(service, words) => {
                    words.into_iter().for_each(|(slot, word)| maps.store_slot(&service, slot, word));
                }
                Effect::StoreTurns(first_chunk, turns) => maps.store_turns(first_chunk, &turns),
                Effect::StoreScheduler(service, scheduler) => maps.store_scheduler(service, scheduler),
                Effect::StoreCapacity(backend, weight, limit) => {
                    maps.connections().store_capacity(backend, weight, limit);
                }
                Effect::PutRow(backend, index, row) => {
                    maps.put_row(backend, index, &row).expect("the row map takes it")
                }
                Effect::RemoveRow(backend) => maps.remove_row(backend),
                _ => {}
            }
        }
    }

    /// Lets some time go by, and now and then lets the daemon look after the flow table.
    fn pass(&mut self, step: u32) {
        self.now += STEP;
        self.balancer.set_time(flow_time().0);
        let effects = self.core.on_time(self.now);
        self.carry_out(effects);
        if step % 8 == 0 {
            let mut census = self.core.census(self.now);
            let flows = self.balancer.sweep(&mut census.subjects).flows;
            let effects = self.core.on_census(Findings { census, flows, losses: 0, packets: HashMap::new() }, self.now);
            self.carry_out(effects);
        }
    }

    /// The first packet of a new flow.
    fn open(&mut self) {
        let number = u32::try_from(self.owners.len()).expect("few flows");
        let owner = self.reached(number, flags::SYN).expect("a new flow has a backend");
        self.owners.push(owner);
    }

    /// Another packet of a flow goes where the first one went.
    fn go_on(&mut self, number: u32, flags: u8, step: u32) {
        let reached = self.reached(number, flags);
        let owner = self.owners[number as usize];
        assert_eq!(reached, Some(owner), "{}: flow {number}, {flags:#x}, in step {step}", self.what);
    }

    fn reached(&mut self, number: u32, flags: u8) -> Option<u8> {
        let [.., high, low] = number.to_be_bytes();
        let mut packet = Family::V4.packet(self.protocol);
        packet.source = ([10, 77, high, low], 40_000).into();
        packet.segment.flags = flags;
        self.balancer.reached(&Family::V4.frame(packet.to_bytes()).to_bytes())
    }
}

fn next_hop(number: u8) -> NextHop {
    NextHop::Via(Egress {
        ifindex: INGRESS_IFINDEX,
        interface: "lo".to_owned(),
        vlan: None,
        source_mac: EGRESS_MAC,
        destination_mac: [2, 0, 0, 0, 2, number],
        mtu: 1500,
        preferred_source: None,
    })
}

/// Flows that were there for long, flows whose handshake is under way, and flows that come meanwhile, over a change.
fn change(balancer: &mut Balancer, before: usize, after: usize, protocol: IpNumber) {
    const LONG: u32 = 150;
    const YOUNG: u32 = 50;
    let ([(from, ..), (to, policy, prefix)], is_tcp) =
        ([ALGORITHMS[before], ALGORITHMS[after]], protocol == IpNumber::TCP);
    let what = format!("{from} -> {to} over {}", if is_tcp { "TCP" } else { "UDP" });
    let mut world = World::new(balancer, from, protocol, what);
    (0..4).for_each(|step| world.pass(step));
    for number in 0..LONG {
        world.open();
        world.go_on(number, flags::ACK, 0);
    }
    (1..10).for_each(|step| world.pass(step));
    (0..YOUNG).for_each(|_| world.open());
    world.apply(to);
    for step in 0..80 {
        for number in 0..world.owners.len() as u32 {
            // A SYN that is lost comes again after one second and after three.
            if (LONG..LONG + YOUNG).contains(&number) && [2, 6].contains(&step) {
                world.go_on(number, flags::SYN, step);
            } else if (step + number) % QUIET_STEPS == 0 && (step > 6 || number < LONG || !is_tcp) {
                world.go_on(number, flags::ACK, step);
            }
        }
        (0..3).for_each(|_| world.open());
        world.pass(step);
    }
    let maps = world.balancer.maps();
    let hash = prefix.map_or(HashInput::FLOW, |prefix| HashInput::source(prefix).expect("a length"));
    assert_eq!(maps.services()[0].service.hash, HashInputs::new(hash), "{}: what picks slots", world.what);
    assert_eq!(maps.scheduler(SERVICE).policy(), policy, "{}: what chooses", world.what);
}

#[test]
fn no_flow_is_broken_by_a_change_of_the_algorithm_whatever_it_was_and_becomes() {
    let Some(mut balancer) = Balancer::empty() else { return };
    for protocol in PROTOCOLS {
        for before in 0..ALGORITHMS.len() {
            for after in (0..ALGORITHMS.len()).filter(|after| *after != before) {
                change(&mut balancer, before, after, protocol);
            }
        }
    }
}
