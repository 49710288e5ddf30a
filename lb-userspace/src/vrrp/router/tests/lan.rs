//! Links with routers on them, and one clock for all: a discrete-event simulator.
//!
//! Node 1 is called `a` and has the address 10.0.0.1 on each of its interfaces; interfaces of one name are on one link. As
//! the speaker does, a node takes in all packets that have come before it does what is due.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::*;

/// What becomes of a packet on its way: a delay for each copy that arrives.
pub(super) type Fate = Box<dyn FnMut() -> Vec<Duration>>;

pub(super) struct Lan {
    start: Instant,
    /// Since the start.
    pub(super) now: Duration,
    pub(super) nodes: Vec<Node>,
    flights: BTreeMap<(Duration, usize), Flight>,
    departed: usize,
    fate: Fate,
    /// The directions, from and to, in which nothing gets through.
    cuts: BTreeSet<(usize, usize)>,
    transcript: String,
    overlap: Overlap,
}

pub(super) struct Node {
    config: Vec<Vrrp>,
    /// `None` while it is dead.
    router: Option<Router>,
    /// What has come while it stands still; `None` while it runs.
    waiting: Option<Vec<Flight>>,
    /// The instances whose addresses are here.
    holds: BTreeSet<usize>,
}

#[derive(Clone)]
struct Flight {
    to: usize,
    interface: String,
    source: IpAddr,
    destination: IpAddr,
    payload: Bytes,
}

/// For how long the same two nodes held the addresses of an instance.
#[derive(Default)]
struct Overlap {
    /// By the nodes and the instance.
    since: BTreeMap<(usize, usize, usize), Duration>,
    longest: Duration,
}

impl Lan {
    /// A link on which a packet takes a millisecond. No node runs yet.
    pub(super) fn new(nodes: Vec<Vec<Vrrp>>) -> Self {
        Self::with_fate(nodes, Box::new(|| vec![ms(1)]))
    }

    pub(super) fn with_fate(nodes: Vec<Vec<Vrrp>>, fate: Fate) -> Self {
        let node = |config| Node { config, router: None, waiting: None, holds: BTreeSet::new() };
        Self {
            start: Instant::now(),
            now: Duration::ZERO,
            nodes: nodes.into_iter().map(node).collect(),
            flights: BTreeMap::new(),
            departed: 0,
            fate,
            cuts: BTreeSet::new(),
            transcript: String::new(),
            overlap: Overlap::default(),
        }
    }

    /// One with an instance of these priorities each, where all nodes run.
    pub(super) fn running(nodes: Vec<Vec<Vrrp>>) -> Self {
        let mut lan = Self::new(nodes);
        for node in 0..lan.nodes.len() {
            lan.boot(node);
        }
        lan
    }

    fn clock(&self) -> Now {
        Now { instant: self.start + self.now, unix: EPOCH + self.now }
    }

    /// What was said and done since this was last asked, a line for each step of a node.
    pub(super) fn transcript(&mut self) -> String {
        std::mem::take(&mut self.transcript)
    }

    pub(super) fn note(&mut self, what: &str) {
        let _ = writeln!(self.transcript, "{:>6}   -- {what}", self.now.as_millis());
    }

    pub(super) fn set_fate(&mut self, fate: Fate) {
        self.fate = fate;
    }

    // What befalls nodes.

    pub(super) fn boot(&mut self, node: usize) {
        self.nodes[node].router = Some(Router::new(self.nodes[node].config.clone()));
        let interfaces: BTreeSet<_> = self.nodes[node].config.iter().map(|config| config.interface.clone()).collect();
        for interface in interfaces {
            self.set_link(node, &interface, true);
        }
    }

    pub(super) fn set_link(&mut self, node: usize, interface: &str, up: bool) {
        let state = LinkState { up, ..link(interface, &[address(node)]) };
        self.act(node, |router, now| router.on_link(interface, Some(&state), now));
    }

    /// It dies: it says nothing, and the watcher takes its addresses off.
    pub(super) fn kill(&mut self, node: usize) {
        let Node { router, waiting, holds, .. } = &mut self.nodes[node];
        (*router, *waiting) = (None, None);
        holds.clear();
        self.observe();
    }

    /// It stands still: packets wait for it.
    pub(super) fn freeze(&mut self, node: usize) {
        if self.nodes[node].router.is_some() {
            self.nodes[node].waiting.get_or_insert_default();
        }
    }

    pub(super) fn thaw(&mut self, node: usize) {
        for flight in self.nodes[node].waiting.take().unwrap_or_default() {
            self.arrive(flight);
        }
        self.act(node, Router::on_time);
    }

    /// From now on nothing gets from one node to the other.
    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.cuts.insert((from, to));
    }

    /// From now on nothing gets from one part to the other.
    pub(super) fn split(&mut self, is_left: impl Fn(usize) -> bool) {
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                if is_left(from) != is_left(to) {
                    self.cut(from, to);
                }
            }
        }
    }

    pub(super) fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Something is asked of a node, or told to it.
    pub(super) fn act(&mut self, node: usize, act: impl FnOnce(&mut Router, Now) -> Vec<Effect>) {
        let now = self.clock();
        let Some(router) = &mut self.nodes[node].router else { return };
        let effects = act(router, now);
        let words = in_words(router, &effects);
        if !words.is_empty() {
            let _ = writeln!(self.transcript, "{:>6} {} {}", self.now.as_millis(), name(node), words.join(", "));
        }
        for effect in effects {
            self.carry_out(node, effect);
        }
        let expected = self.nodes[node].holders().collect();
        assert_eq!(self.nodes[node].holds, expected, "{} holds other addresses than it believes", name(node));
        self.observe();
    }

    // What nodes do.

    fn carry_out(&mut self, from: usize, effect: Effect) {
        match effect {
            Effect::Send { instance, source, destination, payload } => {
                let interface = self.nodes[from].config[instance].interface.clone();
                for to in 0..self.nodes.len() {
                    let is_for = destination == bench::GROUP || destination == address(to);
                    if to != from && is_for && !self.cuts.contains(&(from, to)) {
                        for delay in (self.fate)() {
                            let (interface, payload) = (interface.clone(), payload.clone());
                            let flight = Flight { to, interface, source, destination, payload };
                            self.flights.insert((self.now + delay, self.departed), flight);
                            self.departed += 1;
                        }
                    }
                }
            }
            Effect::Acquire(index) => drop(self.nodes[from].holds.insert(index)),
            Effect::Release(index) => drop(self.nodes[from].holds.remove(&index)),
            Effect::Announce(index, _) => {
                assert!(self.nodes[from].holds.contains(&index), "{} announces what it does not hold", name(from));
            }
            Effect::Changed(..) => {}
        }
    }

    fn arrive(&mut self, flight: Flight) {
        if let Some(waiting) = &mut self.nodes[flight.to].waiting {
            waiting.push(flight);
            return;
        }
        let ifindex = link(&flight.interface, &[]).ifindex;
        let Flight { to, source, destination, payload, .. } = flight;
        let packet = Packet { ifindex, source, destination, ttl: 255, payload: &payload };
        self.act(to, |router, now| router.on_packet(packet, now));
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        let (mut at_once, mut before) = (0, self.now);
        loop {
            let arrival = self.flights.first_key_value().map(|((arrival, _), _)| *arrival);
            let deadline = self.deadlines().min();
            // At the same time, packets come first.
            let is_arrival = arrival.is_some_and(|arrival| deadline.is_none_or(|(deadline, _)| arrival <= deadline));
            let next = if is_arrival { arrival } else { deadline.map(|(deadline, _)| deadline) };
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            at_once = if self.now == before { at_once + 1 } else { 0 };
            before = self.now;
            assert!(at_once < 10_000, "the nodes never rest: {}", self.transcript);
            if is_arrival {
                let (_, flight) = self.flights.pop_first().expect("there is one");
                self.arrive(flight);
            } else if let Some((_, node)) = deadline {
                self.act(node, Router::on_time);
            }
        }
        self.now = end;
        self.observe();
    }

    /// When each node that runs has something to do, since the start.
    fn deadlines(&self) -> impl Iterator<Item = (Duration, usize)> {
        let running = self.nodes.iter().enumerate().filter(|(_, node)| node.waiting.is_none());
        running.filter_map(|(index, node)| {
            let deadline = node.router.as_ref()?.next_deadline()?;
            Some((deadline.saturating_duration_since(self.start), index))
        })
    }

    fn observe(&mut self) {
        let Overlap { since, longest } = &mut self.overlap;
        since.retain(|(one, other, instance), since| {
            *longest = (*longest).max(self.now.saturating_sub(*since));
            self.nodes[*one].holds.contains(instance) && self.nodes[*other].holds.contains(instance)
        });
        for (other, node) in self.nodes.iter().enumerate() {
            for (one, earlier) in self.nodes[..other].iter().enumerate() {
                for instance in node.holds.intersection(&earlier.holds) {
                    since.entry((one, other, *instance)).or_insert(self.now);
                }
            }
        }
    }

    // What is seen from outside.

    /// For how long at most two nodes held the same addresses.
    pub(super) fn longest_overlap(&self) -> Duration {
        self.overlap.longest
    }

    pub(super) fn status(&self, node: usize) -> Option<Status> {
        self.nodes[node].router.as_ref().map(|router| router.members()[0].status())
    }

    pub(super) fn is_alive(&self, node: usize) -> bool {
        self.nodes[node].router.is_some()
    }

    /// The nodes whose first instance is master.
    pub(super) fn masters(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&node| self.status(node) == Some(Status::Master)).collect()
    }

    /// The nodes that hold the addresses of the first instance.
    pub(super) fn holders(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&node| self.nodes[node].holds.contains(&0)).collect()
    }
}

impl Node {
    /// The instances that believe to hold their addresses.
    fn holders(&self) -> impl Iterator<Item = usize> {
        let members = self.router.iter().flat_map(|router| router.members().iter().enumerate());
        members.filter(|(_, member)| member.instance().holds_addresses()).map(|(index, _)| index)
    }
}

pub(super) fn address(index: usize) -> IpAddr {
    node(u8::try_from(index + 1).expect("there are few nodes"))
}

fn name(node: usize) -> &'static str {
    ["a", "b", "c", "d"][node]
}
