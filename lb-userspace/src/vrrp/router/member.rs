//! One instance with all that this node knows of it.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Change, Discard, Now, Status};
use crate::{
    config::{Authentication, Track, Tracked, Vrrp},
    vrrp::{
        instance::{Instance, Parameters, State},
        links::LinkState,
        packet::{Advertisement, GROUP_V4, GROUP_V6},
        priority::{Reading, Standing},
        seal::{Sealer, Verifier},
    },
};

/// How many changes of state are remembered.
const HISTORY: usize = 32;

#[derive(Debug)]
enum LinkView {
    Unknown,
    Missing,
    Present(LinkState),
}

/// What an instance has counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Advertisements sent, farewells among them.
    pub sent: u64,
    /// Advertisements taken in, farewells among them.
    pub received: u64,
    /// Farewells (priority 0) sent.
    pub farewells_sent: u64,
    /// Farewells taken in.
    pub farewells_received: u64,
    /// How often it became master.
    pub became_master: u64,
    /// Taken in although they name other addresses than this node's: the nodes are configured differently.
    pub other_addresses: u64,
    /// Packets that were discarded, by reason.
    pub discarded: BTreeMap<Discard, u64>,
    /// The source of the last one.
    pub last_discarded: Option<(IpAddr, Discard)>,
    /// When that came, since the Unix epoch.
    pub last_discarded_at: Duration,
}

/// One instance with all that this node knows of it.
#[derive(Debug)]
pub struct Member {
    pub(super) config: Vrrp,
    pub(super) instance: Instance,
    pub(super) standing: Standing,
    pub(super) override_priority: Option<u8>,
    pub(super) counters: Counters,
    pub(super) verifier: Option<Verifier>,
    sealer: Option<Sealer>,
    link: LinkView,
    readings: Vec<Reading>,
    status: Status,
    history: VecDeque<Change>,
    /// When the link is told again, soon after taking over.
    announce_again: Option<Instant>,
    /// When it is told for refreshment.
    refresh: Option<Instant>,
}

impl Member {
    pub(super) fn new(config: Vrrp) -> Self {
        let (sealer, verifier) = seals(&config);
        let unspecified: IpAddr =
            if config.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Self {
            instance: Instance::new(parameters(&config, config.priority, unspecified)),
            standing: Standing::Unclear(format!("interface {} is not known yet", config.interface)),
            override_priority: None,
            counters: Counters::default(),
            verifier,
            sealer,
            link: LinkView::Unknown,
            readings: vec![Reading::Unknown; config.tracks.len()],
            status: Status::Stopped,
            history: VecDeque::with_capacity(HISTORY),
            announce_again: None,
            refresh: None,
            config,
        }
    }

    /// Its configuration.
    pub fn config(&self) -> &Vrrp {
        &self.config
    }

    /// Its state machine.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// What it is, for people.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Whether it can take part, and with which priority.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// The priority that an operator gave it while it runs.
    pub fn override_priority(&self) -> Option<u8> {
        self.override_priority
    }

    /// What it has counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Its last changes of state, the newest last.
    pub fn history(&self) -> impl ExactSizeIterator<Item = &Change> {
        self.history.iter()
    }

    /// Its interface, if that is there.
    pub fn link(&self) -> Option<&LinkState> {
        match &self.link {
            LinkView::Present(link) => Some(link),
            LinkView::Unknown | LinkView::Missing => None,
        }
    }

    /// What it watches, and what is known of that.
    pub fn readings(&self) -> impl Iterator<Item = (&Track, Reading)> {
        let attached = self.link().is_some_and(|link| link.xdp);
        self.config.tracks.iter().zip(&self.readings).map(move |(track, reading)| match track.what {
            Tracked::Datapath if *reading == Reading::Good && !attached => (track, Reading::Bad),
            _ => (track, *reading),
        })
    }

    /// The interface, router id, and whether it is IPv4: what tells its packets from others'.
    pub(super) fn key(&self) -> Option<(u32, u8, bool)> {
        Some((self.link()?.ifindex, self.config.router_id, self.config.is_ipv4()))
    }

    /// Whether it can go on under another configuration: what others know it by is the same.
    pub(super) fn can_become(&self, next: &Vrrp) -> bool {
        let Vrrp { name, interface, router_id, version, virtual_mac, .. } = &self.config;
        *name == next.name
            && *interface == next.interface
            && *router_id == next.router_id
            && *version == next.version
            && *virtual_mac == next.virtual_mac
            && self.config.is_ipv4() == next.is_ipv4()
    }

    pub(super) fn with_config(mut self, next: Vrrp) -> Self {
        if self.config.authentication != next.authentication {
            (self.sealer, self.verifier) = seals(&next);
        }
        let known: Vec<_> = self.config.tracks.iter().map(|track| &track.what).zip(&self.readings).collect();
        let reading = |track: &Track| known.iter().find(|(what, _)| **what == track.what).map(|(_, reading)| **reading);
        self.readings = next.tracks.iter().map(|track| reading(track).unwrap_or_default()).collect();
        self.config = next;
        self
    }

    /// Whether an interface that matters here is another way than it was.
    pub(super) fn is_news(&self, interface: &str, link: Option<&LinkState>) -> bool {
        let own = self.config.interface == interface
            && match (&self.link, link) {
                (LinkView::Present(known), Some(link)) => known != link,
                (LinkView::Missing, None) => false,
                _ => true,
            };
        let reading = Reading::of_link(link);
        let tracked = self.config.tracks.iter().zip(&self.readings).any(|(track, known)| {
            *known != reading && matches!(&track.what, Tracked::Interface { name } if name == interface)
        });
        own || tracked
    }

    /// Takes in what has become of an interface, be it its own or a tracked one.
    pub(super) fn see_link(&mut self, interface: &str, link: Option<&LinkState>) {
        if self.config.interface == interface {
            self.link = link.map_or(LinkView::Missing, |link| LinkView::Present(link.clone()));
        }
        let reading = Reading::of_link(link);
        for (track, known) in self.config.tracks.iter().zip(&mut self.readings) {
            if matches!(&track.what, Tracked::Interface { name } if name == interface) {
                *known = reading;
            }
        }
    }

    /// What was last known of something tracked.
    pub fn reading(&self, track: usize) -> Reading {
        self.readings.get(track).copied().unwrap_or_default()
    }

    pub(super) fn set_reading(&mut self, track: usize, reading: Reading) {
        if let Some(known) = self.readings.get_mut(track) {
            *known = reading;
        }
    }

    /// The priority before tracking.
    pub(super) fn base_priority(&self) -> u8 {
        self.override_priority.unwrap_or(self.config.priority)
    }

    /// What its interface alone says.
    pub(super) fn standing_by_link(&self) -> Standing {
        let interface = &self.config.interface;
        match &self.link {
            LinkView::Unknown => Standing::Unclear(format!("interface {interface} is not known yet")),
            LinkView::Missing => Standing::Unfit(format!("interface {interface} is missing")),
            LinkView::Present(link) if !link.up => Standing::Unfit(format!("interface {interface} is down")),
            LinkView::Present(_) if self.source().is_none() => {
                Standing::Unfit(format!("interface {interface} has no {}", self.wanted_source()))
            }
            LinkView::Present(_) => Standing::Fit(self.base_priority()),
        }
    }

    /// The source of its advertisements (RFC 9568, sections 5.1.1.1 and 5.1.2.1: the primary address, in IPv6 the link-local
    /// one).
    pub fn source(&self) -> Option<IpAddr> {
        let is_virtual = |address: &IpAddr| self.config.addresses.iter().any(|entry| entry.address == *address);
        let mut own = self.link()?.addresses.iter().copied().filter(|address| !is_virtual(address));
        if let Some(source) = self.config.source {
            return own.find(|address| *address == source);
        }
        let to_link_local = self.config.unicast_peers.iter().all(|peer| is_link_local(*peer));
        own.find(|address| match address {
            IpAddr::V4(_) => self.config.is_ipv4(),
            IpAddr::V6(_) => !self.config.is_ipv4() && is_link_local(*address) == to_link_local,
        })
    }

    fn wanted_source(&self) -> String {
        match (self.config.source, self.config.is_ipv4()) {
            (Some(source), _) => format!("address {source}"),
            (None, true) => "IPv4 address".to_owned(),
            (None, false) if self.config.unicast_peers.iter().all(|peer| is_link_local(*peer)) => {
                "link-local IPv6 address".to_owned()
            }
            (None, false) => "global IPv6 address".to_owned(),
        }
    }

    /// What its state machine goes by now, if it can take part.
    pub(super) fn parameters(&self) -> Option<Parameters> {
        match self.standing {
            Standing::Fit(priority) => Some(parameters(&self.config, priority, self.source()?)),
            Standing::Unfit(_) | Standing::Unclear(_) => None,
        }
    }

    /// The packets of one advertisement: source, destination and payload of each.
    pub(super) fn advertise(&mut self, priority: u8, unix: Duration) -> Vec<(IpAddr, IpAddr, Bytes)> {
        let Some(source) = self.source() else {
            // Nothing can be sent, so the farewell is not missed either: the interface has lost its address.
            return Vec::new();
        };
        let message = Advertisement {
            version: self.config.version,
            router_id: self.config.router_id,
            priority,
            interval: self.config.interval,
            addresses: self.config.addresses.iter().map(|entry| entry.address).collect(),
            password: match self.config.authentication {
                Some(Authentication::Password(password)) => Some(password),
                Some(Authentication::Hmac(_)) | None => None,
            },
        };
        let group: [IpAddr; 1] = [if self.config.is_ipv4() { GROUP_V4.into() } else { GROUP_V6.into() }];
        let destinations = if self.config.unicast_peers.is_empty() { &group[..] } else { &self.config.unicast_peers };
        let mut packets = Vec::with_capacity(destinations.len());
        for &destination in destinations {
            let payload = message.encode(source, destination, self.config.checksum);
            let payload = match &mut self.sealer {
                Some(sealer) => sealer.seal(&payload, source, unix),
                None => payload,
            };
            packets.push((source, destination, payload));
        }
        self.counters.sent += packets.len() as u64;
        if priority == 0 {
            self.counters.farewells_sent += packets.len() as u64;
        }
        packets
    }

    /// Notes that the addresses have come here, for the announcements that follow.
    pub(super) fn acquired(&mut self, now: Instant) {
        self.announce_again = after(now, self.config.announcement.delay);
        self.refresh = after(now, self.config.announcement.refresh);
    }

    /// How many frames per address are due now.
    pub(super) fn announce_again(&mut self, now: Instant) -> Option<u8> {
        if self.instance.state() != State::Master {
            return None;
        }
        if self.announce_again.is_some_and(|due| due <= now) {
            self.announce_again = None;
            return Some(self.config.announcement.repeat);
        }
        if self.refresh.is_some_and(|due| due <= now) {
            self.refresh = after(now, self.config.announcement.refresh);
            return Some(1);
        }
        None
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let announcements = match self.instance.state() {
            State::Master => [self.announce_again, self.refresh],
            State::Initialize | State::Backup => [None, None],
        };
        announcements.into_iter().flatten().chain(self.instance.next_deadline()).min()
    }

    /// Why its state changes by what happens now: a standstill goes before anything else.
    pub(super) fn reason<'a>(&self, reason: &'a str, now: Now) -> &'a str {
        if self.instance.has_stood_still(now.instant) { "this node stood still" } else { reason }
    }

    /// Remembers a change of state, if there is one.
    pub(super) fn record(&mut self, reason: &str, now: Now) -> Option<Change> {
        let to = match (self.instance.state(), &self.standing) {
            (State::Master, _) => Status::Master,
            (State::Backup, _) => Status::Backup,
            (State::Initialize, Standing::Unfit(_)) => Status::Fault,
            (State::Initialize, Standing::Fit(_) | Standing::Unclear(_)) => Status::Stopped,
        };
        if to == self.status {
            return None;
        }
        if to == Status::Master {
            self.counters.became_master += 1;
        }
        let priority = self.instance.parameters().priority;
        let change = Change { at: now.unix, from: self.status, to, reason: reason.to_owned(), priority };
        self.status = to;
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(change.clone());
        Some(change)
    }
}

fn parameters(config: &Vrrp, priority: u8, source: IpAddr) -> Parameters {
    Parameters {
        version: config.version,
        priority,
        interval: config.interval,
        preempt: config.preempt,
        preempt_delay: config.preempt_delay,
        initial_state: config.initial_state,
        source,
    }
}

fn seals(config: &Vrrp) -> (Option<Sealer>, Option<Verifier>) {
    match &config.authentication {
        Some(Authentication::Hmac(key)) => (Some(Sealer::new(key)), Some(Verifier::new(key))),
        Some(Authentication::Password(_)) | None => (None, None),
    }
}

/// A time of zero is none.
fn after(now: Instant, time: Duration) -> Option<Instant> {
    (!time.is_zero()).then(|| now + time)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
