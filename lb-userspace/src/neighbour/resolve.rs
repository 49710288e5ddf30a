//! From what the kernel says about a route, the links and the neighbours to a next hop. Pure.

use std::{collections::HashMap, fmt, net::IpAddr};

use thiserror::Error;

use crate::config::Gateway;

/// Fixed gateways, by the name of the routed interface: every target that leaves by it goes there.
pub type Gateways = HashMap<String, Gateway>;

/// The next hop of a target, or why there is none.
pub type Resolution = Result<NextHop, Unresolved>;

/// Where frames for a target go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NextHop {
    /// The address belongs to this host.
    Local,
    Via(Egress),
}

/// How a frame leaves this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// The device to transmit on: for a VLAN sub-interface, its parent.
    pub ifindex: u32,
    /// The routed device, for people to read.
    pub interface: String,
    /// The 802.1Q tag to push, if the routed device is a VLAN sub-interface.
    pub vlan: Option<u16>,
    /// Of the routed device.
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
    /// Of the route where it is smaller than the routed device's, in bytes of IP packet.
    pub mtu: u16,
    /// What the kernel would use as source address: fit to be a tunnel's outer source.
    pub preferred_source: Option<IpAddr>,
}

/// Why a target has no next hop, in words for the operator.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unresolved {
    #[error("no route to {0}: add one, or correct the address")]
    NoRoute(IpAddr),
    /// The kernel has no answer for this target, whatever it has for others.
    #[error("{0}")]
    Lookup(String),
    #[error("the routing table says that {target} is {refusal}")]
    Refused { target: IpAddr, refusal: Refusal },
    #[error("{0} is not the address of one host")]
    NotUnicast(IpAddr),
    #[error("the route to {0} encapsulates packets, which is not supported: route to an Ethernet interface")]
    Encapsulated(IpAddr),
    #[error("the interface number {0} of the route is gone")]
    NoInterface(u32),
    #[error("interface {0} is down or has no carrier")]
    InterfaceDown(String),
    #[error("interface {interface} is not supported: {reason}")]
    Unsupported { interface: String, reason: &'static str },
    #[error("neighbour {neighbour} on {interface} is being resolved")]
    Resolving { neighbour: IpAddr, interface: String },
    #[error("neighbour {neighbour} on {interface} does not answer: is it up, and on that link?")]
    NoAnswer { neighbour: IpAddr, interface: String },
    #[error(
        "the kernel keeps no entry for neighbour {neighbour} on {interface}: \
         is its table full (net.ipv4.neigh.default.gc_thresh3, or ipv6)?"
    )]
    NoEntry { neighbour: IpAddr, interface: String },
}

/// A route that is there to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Unreachable,
    Blackhole,
    Prohibited,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "unreachable",
            Self::Blackhole => "a blackhole",
            Self::Prohibited => "prohibited",
        })
    }
}

/// The kernel's route for one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Local,
    Via {
        ifindex: u32,
        /// The gateway, of either family, or the target itself where it is on the link.
        next_hop: IpAddr,
        mtu: Option<u32>,
        preferred_source: Option<IpAddr>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) name: String,
    /// `None` if it is not an Ethernet device.
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: u32,
    /// Switched on, and with a carrier.
    pub(crate) up: bool,
    /// Whether neighbours are looked up on it (not `IFF_NOARP`).
    pub(crate) resolves: bool,
    pub(crate) vlan: Option<Vlan>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vlan {
    pub(crate) id: u16,
    /// 802.1Q, not 802.1ad.
    pub(crate) customer: bool,
    /// `None` if it is in another network namespace.
    pub(crate) parent: Option<u32>,
}

/// Names an entry of the neighbour table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct NeighbourKey {
    pub(super) ifindex: u32,
    pub(super) address: IpAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) state: NeighbourState,
    /// The kernel keeps it fresh (`NTF_EXT_MANAGED`).
    pub(super) managed: bool,
    /// It bears our [`super::PROTOCOL`].
    pub(super) ours: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NeighbourState {
    /// NONE, INCOMPLETE.
    Resolving,
    /// FAILED.
    NoAnswer,
    /// REACHABLE, STALE, DELAY, PROBE.
    Resolved([u8; 6]),
    /// PERMANENT, NOARP: nothing keeps it fresh, and nothing has to.
    Fixed([u8; 6]),
}

/// What is known of the host and its links.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) gateways: Gateways,
    pub(super) links: HashMap<u32, Link>,
    /// `None` where the kernel keeps no entry.
    pub(super) neighbours: HashMap<NeighbourKey, Option<Neighbour>>,
}

/// Whose MAC address a frame gets.
enum Recipient {
    Known([u8; 6]),
    Neighbour(NeighbourKey),
}

impl Snapshot {
    /// The entry of the neighbour table that the resolution of `route` depends on.
    pub(super) fn neighbour_of(&self, route: &Route) -> Option<NeighbourKey> {
        let Route::Via { ifindex, next_hop, .. } = *route else {
            return None;
        };
        match self.recipient(ifindex, next_hop) {
            Ok(Recipient::Neighbour(key)) => Some(key),
            Ok(Recipient::Known(_)) | Err(_) => None,
        }
    }

    pub(super) fn resolve(&self, route: &Route) -> Resolution {
        let Route::Via { ifindex, next_hop, mtu, preferred_source } = *route else {
            return Ok(NextHop::Local);
        };
        let destination_mac = match self.recipient(ifindex, next_hop)? {
            Recipient::Known(mac) => mac,
            Recipient::Neighbour(key) => self.neighbour_mac(key)?,
        };
        let link = self.link(ifindex)?;
        let source_mac = link.mac.ok_or_else(|| unsupported(link, NOT_ETHERNET))?;
        let mtu = mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
        Ok(NextHop::Via(Egress {
            ifindex: self.transmitter(ifindex, link)?,
            interface: link.name.clone(),
            vlan: link.vlan.map(|vlan| vlan.id),
            source_mac,
            destination_mac,
            mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
            preferred_source,
        }))
    }

    fn recipient(&self, ifindex: u32, next_hop: IpAddr) -> Result<Recipient, Unresolved> {
        let link = self.link(ifindex)?;
        if link.mac.is_none() {
            return Err(unsupported(link, NOT_ETHERNET));
        }
        self.transmitter(ifindex, link)?;
        let address = match self.gateways.get(&link.name) {
            Some(Gateway::Mac(mac)) => return Ok(Recipient::Known(*mac)),
            Some(Gateway::Address(address)) => *address,
            None => next_hop,
        };
        if !link.resolves {
            return Err(unsupported(
                link,
                "no neighbours can be looked up on it (set the MAC address of a gateway for it)",
            ));
        }
        Ok(Recipient::Neighbour(NeighbourKey { ifindex, address }))
    }

    /// The device that `link` transmits on.
    fn transmitter(&self, ifindex: u32, link: &Link) -> Result<u32, Unresolved> {
        let Some(vlan) = link.vlan else {
            return Ok(ifindex);
        };
        if !vlan.customer {
            return Err(unsupported(link, "its tag is 802.1ad, not 802.1Q"));
        }
        let parent = vlan.parent.ok_or_else(|| unsupported(link, "its parent is in another network namespace"))?;
        if self.link(parent)?.vlan.is_some() {
            return Err(unsupported(link, "it is a VLAN inside a VLAN"));
        }
        Ok(parent)
    }

    fn link(&self, ifindex: u32) -> Result<&Link, Unresolved> {
        let link = self.links.get(&ifindex).ok_or(Unresolved::NoInterface(ifindex))?;
        if link.up { Ok(link) } else { Err(Unresolved::InterfaceDown(link.name.clone())) }
    }

    fn neighbour_mac(&self, key: NeighbourKey) -> Result<[u8; 6], Unresolved> {
        let neighbour = key.address;
        let interface = self.link(key.ifindex)?.name.clone();
        match self.neighbours.get(&key).copied().flatten().map(|entry| entry.state) {
            Some(NeighbourState::Resolved(mac) | NeighbourState::Fixed(mac)) => Ok(mac),
            Some(NeighbourState::Resolving) => Err(Unresolved::Resolving { neighbour, interface }),
            Some(NeighbourState::NoAnswer) => Err(Unresolved::NoAnswer { neighbour, interface }),
            None => Err(Unresolved::NoEntry { neighbour, interface }),
        }
    }
}

const NOT_ETHERNET: &str = "it is not an Ethernet device";

fn unsupported(link: &Link, reason: &'static str) -> Unresolved {
    Unresolved::Unsupported { interface: link.name.clone(), reason }
}

/// Whether `after` has to be reported when `before` was.
///
/// While the kernel asks for a neighbour the last answer stands. It asks when an entry was flushed, and
/// each few seconds for one that is dead: in both cases word follows as soon as it answers, or does not.
pub(super) fn is_news(before: Option<&Resolution>, after: &Resolution) -> bool {
    match (before, after) {
        (None, _) => true,
        (Some(_), Err(Unresolved::Resolving { .. })) => false,
        (Some(before), after) => before != after,
    }
}

/// A block of addresses, as in a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) address: IpAddr,
    /// In bits.
    pub(super) length: u8,
}

impl Prefix {
    pub(super) fn contains(self, address: IpAddr) -> bool {
        let different = match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return false,
        };
        different >= u32::from(self.length)
    }
}

/// What a notification of the kernel puts in question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Everything,
    Route(Prefix),
    Neighbour(NeighbourKey),
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const FIXED: [u8; 6] = [2, 0, 0, 0, 0, 3];
    const PARENT: [u8; 6] = [2, 0, 0, 0, 0, 4];

    const TARGET: &str = "10.0.0.9";
    const GATEWAY: &str = "10.0.0.1";

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn ethernet(name: &str) -> Link {
        Link { name: name.to_owned(), mac: Some(OWN), mtu: 1500, up: true, resolves: true, vlan: None }
    }

    fn vlan(id: u16, parent: u32) -> Link {
        Link { vlan: Some(Vlan { id, customer: true, parent: Some(parent) }), ..ethernet(&format!("eth0.{id}")) }
    }

    fn with_vlan(change: impl FnOnce(&mut Vlan)) -> Link {
        let mut link = vlan(7, 1);
        change(link.vlan.as_mut().expect("a VLAN"));
        link
    }

    /// What a case changes in [`snapshot`].
    type Alteration = fn(&mut Snapshot);

    /// `eth0` (1) and its VLAN 7 (2), with a neighbour on each.
    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let eth0 = Link { mac: Some(PARENT), ..ethernet("eth0") };
        snapshot.links.extend([(1, eth0), (2, vlan(7, 1))]);
        for (ifindex, address) in [(1, TARGET), (1, GATEWAY), (2, TARGET)] {
            set_neighbour(&mut snapshot, ifindex, address, Some(NeighbourState::Resolved(PEER)));
        }
        snapshot
    }

    fn set_neighbour(snapshot: &mut Snapshot, ifindex: u32, address: &str, state: Option<NeighbourState>) {
        let key = NeighbourKey { ifindex, address: ip(address) };
        let entry = state.map(|state| Neighbour { state, managed: true, ours: true });
        snapshot.neighbours.insert(key, entry);
    }

    fn route(ifindex: u32, next_hop: &str) -> Route {
        Route::Via { ifindex, next_hop: ip(next_hop), mtu: None, preferred_source: Some(ip("10.0.0.2")) }
    }

    fn egress() -> Egress {
        Egress {
            ifindex: 1,
            interface: "eth0".to_owned(),
            vlan: None,
            source_mac: PARENT,
            destination_mac: PEER,
            mtu: 1500,
            preferred_source: Some(ip("10.0.0.2")),
        }
    }

    fn egress_by_vlan() -> Egress {
        Egress { interface: "eth0.7".to_owned(), vlan: Some(7), source_mac: OWN, ..egress() }
    }

    fn with_mtu(mtu: u32) -> Route {
        let mut route = route(1, TARGET);
        if let Route::Via { mtu: metric, .. } = &mut route {
            *metric = Some(mtu);
        }
        route
    }

    #[test]
    fn resolutions_with_a_next_hop() {
        let cases: [(&str, Route, Alteration, NextHop); 11] = [
            ("our own address", Route::Local, |_| {}, NextHop::Local),
            ("on the link", route(1, TARGET), |_| {}, NextHop::Via(egress())),
            (
                "by a gateway of the other family",
                route(1, "fe80::1"),
                |s| set_neighbour(s, 1, "fe80::1", Some(NeighbourState::Resolved(PEER))),
                NextHop::Via(egress()),
            ),
            (
                "a permanent neighbour",
                route(1, TARGET),
                |s| set_neighbour(s, 1, TARGET, Some(NeighbourState::Fixed(FIXED))),
                NextHop::Via(Egress { destination_mac: FIXED, ..egress() }),
            ),
            (
                "a VLAN transmits on its parent, with its own MAC address",
                route(2, TARGET),
                |_| {},
                NextHop::Via(egress_by_vlan()),
            ),
            ("the route's MTU counts", with_mtu(1400), |_| {}, NextHop::Via(Egress { mtu: 1400, ..egress() })),
            ("but not beyond the device's", with_mtu(9000), |_| {}, NextHop::Via(egress())),
            (
                "an MTU above 16 bits is cut",
                route(1, TARGET),
                |s| s.links.get_mut(&1).expect("eth0").mtu = 100_000,
                NextHop::Via(Egress { mtu: u16::MAX, ..egress() }),
            ),
            (
                "a fixed MAC address needs no neighbour",
                route(1, "10.0.0.77"),
                |s| {
                    s.gateways.insert("eth0".to_owned(), Gateway::Mac(FIXED));
                    s.links.get_mut(&1).expect("eth0").resolves = false;
                },
                NextHop::Via(Egress { destination_mac: FIXED, ..egress() }),
            ),
            (
                "a fixed gateway overrides target and route",
                route(1, "10.0.0.77"),
                |s| {
                    let gateway = Gateway::Address(ip(GATEWAY));
                    s.gateways.insert("eth0".to_owned(), gateway);
                },
                NextHop::Via(egress()),
            ),
            (
                "a fixed gateway is for its own interface only",
                route(2, TARGET),
                |s| {
                    s.gateways.insert("eth0".to_owned(), Gateway::Mac(FIXED));
                },
                NextHop::Via(egress_by_vlan()),
            ),
        ];
        for (case, route, change, expected) in cases {
            let mut snapshot = snapshot();
            change(&mut snapshot);
            assert_eq!(snapshot.resolve(&route), Ok(expected), "{case}");
        }
    }

    #[test]
    fn resolutions_without_a_next_hop_say_why() {
        let cases: [(Alteration, Route, &str); 11] = [
            (|_| {}, route(9, TARGET), "number 9 of the route is gone"),
            (|s| s.links.get_mut(&1).expect("eth0").up = false, route(1, TARGET), "eth0 is down"),
            (|s| s.links.get_mut(&1).expect("eth0").up = false, route(2, TARGET), "eth0 is down"),
            (|s| s.links.get_mut(&1).expect("eth0").mac = None, route(1, TARGET), "not an Ethernet device"),
            (
                |s| s.links.get_mut(&1).expect("eth0").resolves = false,
                route(1, TARGET),
                "no neighbours can be looked up",
            ),
            (|s| drop(s.links.insert(2, with_vlan(|vlan| vlan.customer = false))), route(2, TARGET), "802.1ad"),
            (
                |s| drop(s.links.insert(2, with_vlan(|vlan| vlan.parent = None))),
                route(2, TARGET),
                "another network namespace",
            ),
            (|s| drop(s.links.insert(3, vlan(8, 2))), route(3, TARGET), "VLAN inside a VLAN"),
            (
                |s| set_neighbour(s, 1, TARGET, Some(NeighbourState::Resolving)),
                route(1, TARGET),
                "10.0.0.9 on eth0 is being resolved",
            ),
            (
                |s| set_neighbour(s, 1, TARGET, Some(NeighbourState::NoAnswer)),
                route(1, TARGET),
                "10.0.0.9 on eth0 does not answer",
            ),
            (|s| set_neighbour(s, 1, TARGET, None), route(1, TARGET), "no entry for neighbour 10.0.0.9 on eth0"),
        ];
        for (change, route, expected) in cases {
            let mut snapshot = snapshot();
            change(&mut snapshot);
            let reason = snapshot.resolve(&route).expect_err(&format!("should not resolve: {expected}")).to_string();
            assert!(reason.contains(expected), "{reason:?} lacks {expected:?}");
        }
    }

    #[test]
    fn only_what_needs_a_neighbour_depends_on_one() {
        let key = |ifindex, address| NeighbourKey { ifindex, address: ip(address) };
        let mut snapshot = snapshot();
        assert_eq!(snapshot.neighbour_of(&Route::Local), None);
        assert_eq!(
            snapshot.neighbour_of(&route(2, TARGET)),
            Some(key(2, TARGET)),
            "the entry is on the routed device, not on its parent"
        );
        let gateway = Gateway::Address(ip("fe80::1"));
        snapshot.gateways.insert("eth0".to_owned(), gateway);
        assert_eq!(snapshot.neighbour_of(&route(1, TARGET)), Some(key(1, "fe80::1")));
        let gateway = Gateway::Mac(FIXED);
        snapshot.gateways.insert("eth0".to_owned(), gateway);
        assert_eq!(snapshot.neighbour_of(&route(1, TARGET)), None);
    }

    #[test]
    fn the_last_answer_stands_while_the_kernel_asks() {
        let on_eth0 = || (ip(TARGET), "eth0".to_owned());
        let (neighbour, interface) = on_eth0();
        let resolving = Err(Unresolved::Resolving { neighbour, interface });
        let (neighbour, interface) = on_eth0();
        let no_answer = Err(Unresolved::NoAnswer { neighbour, interface });
        let resolved = Ok(NextHop::Via(egress()));

        assert!(is_news(None, &resolving), "something is said at once");
        assert!(is_news(Some(&resolving), &resolved));
        assert!(!is_news(Some(&resolved), &resolved));
        assert!(!is_news(Some(&resolved), &resolving));
        assert!(is_news(Some(&resolved), &no_answer));
        assert!(!is_news(Some(&no_answer), &resolving));
        assert!(is_news(Some(&no_answer), &resolved));
    }

    #[test]
    fn a_prefix_contains_the_addresses_of_its_family_that_share_its_bits() {
        for (prefix, length, address, contained) in [
            ("10.0.0.0", 24, "10.0.0.255", true),
            ("10.0.0.0", 24, "10.0.1.0", false),
            ("10.0.0.9", 32, "10.0.0.9", true),
            ("10.0.0.9", 32, "10.0.0.8", false),
            ("0.0.0.0", 0, "192.0.2.1", true),
            ("0.0.0.0", 0, "::1", false),
            ("2001:db8::", 33, "2001:db8:7fff::1", true),
            ("2001:db8::", 33, "2001:db8:8000::1", false),
            ("::", 0, "2001:db8::1", true),
        ] {
            let block = Prefix { address: ip(prefix), length };
            assert_eq!(block.contains(ip(address)), contained, "{address} in {prefix}/{length}");
        }
    }
}
