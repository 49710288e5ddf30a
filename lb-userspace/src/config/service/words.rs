//! The words that a service's keys take.

use std::{fmt, net::IpAddr};

use lb_common::{Encapsulation, echo};
use serde::{Deserialize, Serialize};

use crate::config::word::Word;

/// A protocol whose packets are balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
    /// Echo of ICMP (RFC 792), where the virtual IP is an IPv6 address by RFC 4443.
    Icmp,
}

impl Protocol {
    /// Its number, as the datapath has it for packets of clients.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp => echo::REQUEST,
        }
    }

    /// Its name in a sentence.
    pub(in crate::config) const fn title(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Icmp => "ICMP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        })
    }
}

impl Word for Protocol {
    const ALL: &'static [Self] = &[Self::Tcp, Self::Udp, Self::Icmp];
}

/// How a new flow gets its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// By the hash of its 5-tuple, from a weighted Maglev permutation (Eisenbud et al., NSDI 2016).
    #[default]
    Maglev,
    /// By the hash of the client's address, or the first bits of it, from the same permutation.
    SourceHash,
    /// The backends take turns, each as often as the others.
    RoundRobin,
    /// The backends take turns, each as often as its weight asks for, spread as nginx does it.
    WeightedRoundRobin,
    /// Any backend, in proportion to the weights.
    Random,
    /// The backend with the fewest active connections for its weight, as far as up to 64 can be compared; of more the better of two
    /// random ones.
    LeastConnections,
    /// The fastest of four random backends, in proportion to the weights, that has not many more connections than the others
    /// (Wydrowski et al., NSDI 2024).
    LeastResponseTime,
}

impl Algorithm {
    /// Whether it goes by how many connections backends have.
    pub const fn counts_connections(self) -> bool {
        matches!(self, Self::LeastConnections | Self::LeastResponseTime)
    }

    /// Whether backends are chosen for new flows by something that is not the same for the packets after: so that each flow has to
    /// be remembered.
    pub const fn is_scheduler(self) -> bool {
        match self {
            Self::Maglev | Self::SourceHash => false,
            Self::RoundRobin
            | Self::WeightedRoundRobin
            | Self::Random
            | Self::LeastConnections
            | Self::LeastResponseTime => true,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Maglev => "maglev",
            Self::SourceHash => "source-hash",
            Self::RoundRobin => "round-robin",
            Self::WeightedRoundRobin => "weighted-round-robin",
            Self::Random => "random",
            Self::LeastConnections => "least-connections",
            Self::LeastResponseTime => "least-response-time",
        })
    }
}

impl Word for Algorithm {
    const ALL: &'static [Self] = &[
        Self::Maglev,
        Self::SourceHash,
        Self::RoundRobin,
        Self::WeightedRoundRobin,
        Self::Random,
        Self::LeastConnections,
        Self::LeastResponseTime,
    ];

    /// The names that ipvsadm, `HAProxy` and nginx have.
    const ELSEWHERE: &'static [(&'static str, Self)] = &[
        ("mh", Self::Maglev),
        ("sh", Self::SourceHash),
        ("source", Self::SourceHash),
        ("ip_hash", Self::SourceHash),
        ("rr", Self::RoundRobin),
        ("wrr", Self::WeightedRoundRobin),
        ("roundrobin", Self::WeightedRoundRobin),
        ("static-rr", Self::WeightedRoundRobin),
        ("lc", Self::LeastConnections),
        ("wlc", Self::LeastConnections),
        ("leastconn", Self::LeastConnections),
        ("least_conn", Self::LeastConnections),
        ("least_time", Self::LeastResponseTime),
    ];
}

/// Which flows are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tracking {
    /// Those whose slot moves, or has moved while they lived.
    #[default]
    WhenNeeded,
    /// Each from its first packet on.
    Always,
    /// None: a flow goes where its slot goes.
    Never,
}

impl fmt::Display for Tracking {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::WhenNeeded => "when-needed",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

impl Word for Tracking {
    const ALL: &'static [Self] = &[Self::WhenNeeded, Self::Always, Self::Never];
}

/// What becomes of the flows of a backend that dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDeath {
    /// They are given to others.
    #[default]
    Reschedule,
    /// TCP connections are reset, so that clients make new ones; other packets are dropped.
    Reset,
    /// They are its own for when it comes back, and their packets go to it meanwhile.
    Keep,
}

impl fmt::Display for OnDeath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Reschedule => "reschedule",
            Self::Reset => "reset",
            Self::Keep => "keep",
        })
    }
}

impl Word for OnDeath {
    const ALL: &'static [Self] = &[Self::Reschedule, Self::Reset, Self::Keep];
}

/// What becomes of a new flow for which there is no room: all backends have as many connections as they may have, or no place or no
/// source port is left for its translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFull {
    /// Its packets are dropped: the client tries again, later.
    #[default]
    Drop,
    /// TCP connections are reset, so that the client knows at once.
    Reset,
}

impl fmt::Display for OnFull {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Drop => "drop",
            Self::Reset => "reset",
        })
    }
}

impl Word for OnFull {
    const ALL: &'static [Self] = &[Self::Drop, Self::Reset];
}

/// How a packet gets to its backend. In the first three modes the backend answers the client directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forwarding {
    /// As it is, with the backend's MAC address: the backend is on the same link, and has the virtual IP on loopback.
    L2Dsr,
    /// In an IP packet to the backend's address (RFC 2003, RFC 2473): the backend unpacks it.
    Ipip,
    /// In a UDP datagram to the backend's address (Generic UDP Encapsulation): the backend unpacks it.
    Gue,
    /// With the backend's address and port as its destination: the backend has its default route through the balancer.
    Nat,
    /// With an address of the balancer as its source, too: the backend answers to that.
    FullNat,
}

impl Forwarding {
    /// Whether addresses and ports are translated, and replies come back through the balancer.
    pub const fn translates(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }

    /// What stands around packets on their way to a backend at `address`.
    pub(crate) const fn encapsulation(self, address: IpAddr) -> Encapsulation {
        match (self, address) {
            (Self::L2Dsr, _) => Encapsulation::NONE,
            (Self::Ipip, IpAddr::V4(_)) => Encapsulation::IPV4,
            (Self::Ipip, IpAddr::V6(_)) => Encapsulation::IPV6,
            (Self::Gue, IpAddr::V4(_)) => Encapsulation::GUE_IPV4,
            (Self::Gue, IpAddr::V6(_)) => Encapsulation::GUE_IPV6,
            (Self::Nat | Self::FullNat, _) => Encapsulation::TRANSLATED,
        }
    }
}

impl fmt::Display for Forwarding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::L2Dsr => "l2-dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::Nat => "nat",
            Self::FullNat => "full-nat",
        })
    }
}

impl Word for Forwarding {
    const ALL: &'static [Self] = &[Self::L2Dsr, Self::Ipip, Self::Gue, Self::Nat, Self::FullNat];
}
