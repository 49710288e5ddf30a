//! A service whose algorithm is changed while it has flows: whatever it was and becomes, each packet goes where the first one of its flow
//! went. The core of the daemon decides, as it does in `lbd`, with a clock that the test moves.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime},
};

use etherparse::IpNumber;
use lb_common::{BackendId, HashInput, HashInputs, Policy};
use lb_userspace::{
    config::{Config, Node},
    dataplane::flow_time,
    health::{Health, Report},
    model::{Change, Core, DesiredService, Effect, Findings, Found, Selector},
    neighbour::{Egress, NextHop, Unresolved},
};

use crate::{
    fixture::Balancer,
    packet::flags,
    world::{EGRESS_MAC, Family, INGRESS_IFINDEX, PROTOCOLS, SERVICE, SERVICE_PORT},
};

/// Each algorithm with what new flows and slots go by when it is there.
const ALGORITHMS: [(&str, Policy, Option<u8>); 7] = [
    ("maglev", Policy::SLOT, None),
    ("source-hash", Policy::SLOT, Some(32)),
    ("round-robin", Policy::NEXT, None),
    ("weighted-round-robin", Policy::NEXT, None),
    ("random", Policy::RANDOM, None),
    ("least-connections", Policy::LEAST, None),
    ("least-response-time", Policy::FASTEST, None),
];

/// The weights of the backends, which have the numbers from 1 on.
const WEIGHTS: [u8; 4] = [5, 3, 2, 1];
/// How much time goes by between two looks at the flows.
const STEP: Duration = Duration::from_millis(500);
/// Flows live for 10 s without a packet, and send one at least in every so many steps.
const QUIET_STEPS: u32 = 15;

fn config(algorithm: &str, protocol: IpNumber, weights: [u8; WEIGHTS.len()]) -> Vec<DesiredService> {
    let protocol = if protocol == IpNumber::TCP { "tcp" } else { "udp" };
    let mut text = format!(
        "[[service]]\nname = \"web\"\naddress = \"{}:{SERVICE_PORT}\"\nprotocol = \"{protocol}\"\n\
         algorithm = \"{algorithm}\"\nforwarding = \"l2-dsr\"\nidle_timeout = \"10s\"\n",
        Family::V4.virtual_ip(),
    );
    if algorithm == "least-response-time" {
        text += "[service.health]\ntype = \"tcp\"\n";
    }
    for (number, weight) in (1..).zip(weights) {
        let backend = format!("[[service.backend]]\naddress = \"10.9.0.{number}\"\nweight = {weight}\n");
        text += &backend;
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
        world.apply(algorithm, WEIGHTS);
        for number in (1..).take(WEIGHTS.len()) {
            let effects = world.core.on_next_hops(vec![([10, 9, 0, number].into(), Ok(next_hop(number)))], now);
            world.carry_out(effects);
        }
        world
    }

    fn apply(&mut self, algorithm: &str, weights: [u8; WEIGHTS.len()]) {
        let effects = self.core.apply(config(algorithm, self.protocol, weights), self.now).expect("there is room");
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let (maps, mut checked) = (self.balancer.maps(), Vec::new());
        for effect in effects {
            match effect {
                Effect::StoreServices(services, _) => {
                    maps.store_services(&services, &[]).expect("the directory takes them");
                }
                Effect::StoreSlots(service, words) => {
                    for (slot, word) in words {
                        maps.store_slot(&service, slot, word);
                    }
                }
                Effect::StoreTurns(first_chunk, turns) => maps.store_turns(first_chunk, &turns),
                Effect::StoreScheduler(service, scheduler) => maps.store_scheduler(service, scheduler),
                Effect::StoreCapacity(backend, weight, limit) => {
                    maps.connections().store_capacity(backend, weight, limit);
                }
                Effect::PutRow(backend, index, row) => {
                    maps.put_row(backend, index, &row).expect("the row map takes it");
                }
                Effect::RemoveRow(backend) => maps.remove_row(backend),
                Effect::NoteLatency(backend, latency) => maps.latencies().probed(backend, latency),
                Effect::StartCheck { id, .. } => checked.push(id),
                _ => {}
            }
        }
        for backend in checked {
            let effects = self.core.on_health(well(backend), self.now);
            self.carry_out(effects);
        }
    }

    /// Lets some time go by, and now and then lets the daemon look after the flow table.
    fn pass(&mut self, step: u32) {
        self.now += STEP;
        self.balancer.set_time(flow_time().0);
        let effects = self.core.on_time(self.now);
        self.carry_out(effects);
        if step.is_multiple_of(8) {
            let mut census = self.core.census(self.now);
            let flows = self.balancer.sweep(&mut census.subjects).flows;
            let effects = self.core.on_census(
                Findings { census, flows, losses: 0, packets: HashMap::new(), replies: HashMap::new() },
                self.now,
            );
            self.carry_out(effects);
        }
    }

    /// The first packet of a new flow.
    fn open(&mut self) {
        let number = u32::try_from(self.owners.len()).expect("few flows");
        let owner = self.reached(number, flags::SYN).expect("a new flow has a backend");
        self.owners.push(owner);
    }

    /// How many of so many new flows, from number `first` on, each backend gets.
    fn shares(&mut self, first: u32, count: u32) -> [u32; WEIGHTS.len()] {
        let mut shares = [0; WEIGHTS.len()];
        for number in first..first + count {
            let owner = self.reached(number, flags::SYN).expect("a new flow has a backend");
            shares[usize::from(owner) - 1] += 1;
        }
        shares
    }

    /// Another packet of a flow goes where the first one went.
    fn go_on(&mut self, number: u32, flags: u8, step: u32) {
        let reached = self.reached(number, flags);
        let owner = self.owners[number as usize];
        assert_eq!(reached, Some(owner), "{}: flow {number}, {flags:#x}, in step {step}", self.what);
    }

    fn reached(&mut self, number: u32, flags: u8) -> Option<u8> {
        let [_, high, middle, low] = number.to_be_bytes();
        let mut packet = Family::V4.packet(self.protocol);
        packet.source = ([10, 77 + high, middle, low], 40_000).into();
        packet.segment.flags = flags;
        self.balancer.reached(&Family::V4.frame(packet.to_bytes()).to_bytes())
    }
}

/// What a probe says of a backend that is well.
fn well(id: BackendId) -> Report<BackendId> {
    let now = SystemTime::now();
    let latency = Some(Duration::from_millis(1));
    Report { id, health: Health::Up, transition: true, since: now, checked_at: now, failure: None, latency, streak: 1 }
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

/// Flows that were there for long, flows whose handshake is under way, and flows that come meanwhile, over a change of the algorithm,
/// and perhaps of the weights.
fn change(balancer: &mut Balancer, before: usize, after: usize, weights: [u8; WEIGHTS.len()], protocol: IpNumber) {
    const LONG: u32 = 100;
    const YOUNG: u32 = 30;
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
    world.apply(to, weights);
    for step in 0..80 {
        for number in 0..LONG + YOUNG + 3 * step {
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
                for weights in [WEIGHTS, [1, 2, 3, 5]] {
                    change(&mut balancer, before, after, weights, protocol);
                }
            }
        }
    }
}

#[test]
fn of_a_hundred_thousand_flows_each_backend_gets_what_its_weight_asks_for() {
    const FLOWS: u32 = 100_000;
    let Some(mut balancer) = Balancer::empty() else { return };
    for (algorithm, ..) in ALGORITHMS {
        let mut world = World::new(&mut balancer, algorithm, IpNumber::TCP, algorithm.to_owned());
        (0..4).for_each(|step| world.pass(step));
        let mut shares = [0; WEIGHTS.len()];
        for first in (0..FLOWS).step_by(20_000) {
            // There is room for 65,536.
            world.balancer.forget_flows();
            let more = world.shares(first, 20_000);
            shares.iter_mut().zip(more).for_each(|(share, more)| *share += more);
        }
        let weights = if algorithm == "round-robin" { [1; WEIGHTS.len()] } else { WEIGHTS };
        let total = f64::from(weights.iter().map(|weight| u32::from(*weight)).sum::<u32>());
        for (share, weight) in shares.iter().zip(weights) {
            let expected = f64::from(FLOWS) * f64::from(weight) / total;
            assert!((f64::from(*share) / expected - 1.0).abs() <= 0.05, "{algorithm}: {shares:?} for {weights:?}");
        }
    }
}

#[test]
fn a_scheduler_gives_no_new_flow_to_a_backend_from_the_moment_that_it_drains_or_cannot_be_reached() {
    let Some(mut balancer) = Balancer::empty() else { return };
    for (algorithm, ..) in ALGORITHMS.into_iter().filter(|(_, policy, _)| *policy != Policy::SLOT) {
        let mut world = World::new(&mut balancer, algorithm, IpNumber::TCP, algorithm.to_owned());
        (0..4).for_each(|step| world.pass(step));
        assert!(world.shares(0, 500).iter().all(|share| *share > 0), "{algorithm}");
        let drained = Selector { backend: "10.9.0.1".to_owned(), service: None };
        let (effects, _) = world.core.change(Change::Drain(drained, None), world.now).expect("it is there");
        world.carry_out(effects);
        let lost = Unresolved::NoAnswer { neighbour: [10, 9, 0, 3].into(), interface: "lo".to_owned() };
        let effects = world.core.on_next_hops(vec![([10, 9, 0, 3].into(), Err(lost))], world.now);
        world.carry_out(effects);
        let [drained, one, lost, other] = world.shares(1000, 500);
        assert_eq!((drained, lost), (0, 0), "{algorithm}");
        assert!(one > 0 && other > 0, "{algorithm}");
    }
}
