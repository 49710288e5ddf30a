//! `[service.nat]`: how a service translates addresses and ports, with forwarding `nat` and `full-nat`.

use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{error::Problem, service::Protocol, table::Table, text};

/// How addresses and ports are translated.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Nat {
    /// The addresses that backends see as the source of flows, with `full-nat`. Without any it is the address of the egress
    /// interface.
    pub sources: Vec<IpAddr>,
    /// The source ports. Without them it is those from 1,024 on that the kernel does not use for its own connections.
    pub ports: Option<Ports>,
    /// How long flows may be silent.
    pub timeouts: NatTimeouts,
}

/// How long a flow lives without a packet, by what it is doing. One that is established lives for the service's `idle_timeout`, as
/// does one of UDP or ICMP that was replied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatTimeouts {
    /// TCP: before both sides have answered each other.
    pub opening: Duration,
    /// TCP: after one side has closed.
    pub half_closed: Duration,
    /// TCP: after both have.
    pub time_wait: Duration,
    /// TCP: after a reset.
    pub reset: Duration,
    /// UDP: before the first reply.
    pub unreplied: Duration,
    /// ICMP echo: before the first reply.
    pub icmp: Duration,
}

impl Default for NatTimeouts {
    /// As most translators have them; RFC 5382 (TCP), RFC 4787 (UDP) and RFC 5508 (ICMP: this much) give the least for those between
    /// networks.
    fn default() -> Self {
        Self {
            opening: Duration::from_mins(1),
            half_closed: Duration::from_mins(2),
            time_wait: Duration::from_mins(1),
            reset: Duration::from_secs(10),
            unreplied: Duration::from_secs(30),
            icmp: Duration::from_mins(1),
        }
    }
}

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_hours(2);

/// The most sources of a service.
const MAX_SOURCES: usize = 64;

impl Nat {
    /// Reads the section of a service with `protocol`, which is unknown if it could not be read.
    pub(super) fn read(mut table: Table<'_>, protocol: Option<Protocol>) -> Self {
        use Protocol::{Icmp, Tcp, Udp};
        let default = NatTimeouts::default();
        let sources = read_sources(&mut table, "sources");
        let ports = table.text("ports", Ports::from_str);
        let mut timeout = |key, of, default| {
            if let Some(other) = protocol.filter(|other| table.has(key) && *other != of) {
                let (of, other) = (of.title(), other.title());
                table.reject(
                    key,
                    Problem::new(format!("{key} is for {of}, and the service's flows are {other}"), "remove it"),
                );
            }
            table.text(key, text::duration(TIMEOUTS)).unwrap_or(default)
        };
        let timeouts = NatTimeouts {
            opening: timeout("opening_timeout", Tcp, default.opening),
            half_closed: timeout("half_closed_timeout", Tcp, default.half_closed),
            time_wait: timeout("time_wait_timeout", Tcp, default.time_wait),
            reset: timeout("reset_timeout", Tcp, default.reset),
            unreplied: timeout("unreplied_timeout", Udp, default.unreplied),
            icmp: timeout("icmp_timeout", Icmp, default.icmp),
        };
        table.finish();
        Self { sources, ports, timeouts }
    }
}

/// Reads the addresses that flows are given as their source.
pub(super) fn read_sources(table: &mut Table<'_>, key: &'static str) -> Vec<IpAddr> {
    let sources = table.texts(key, source).unwrap_or_default();
    if sources.len() > MAX_SOURCES {
        let count = sources.len();
        table
            .reject(key, Problem::new(format!("{count} sources are too many"), format!("write {MAX_SOURCES} at most")));
    }
    let is_double = |(index, source): &(usize, &IpAddr)| sources[..*index].contains(source);
    if let Some((_, source)) = sources.iter().enumerate().find(is_double) {
        table.reject(key, Problem::new(format!("{key} has {source} twice"), "write each source once"));
    }
    sources
}

/// Reads the address of a source.
fn source(text: &str) -> Result<IpAddr, Problem> {
    let address = text.parse().map_err(|_| {
        Problem::new(
            format!("{text:?} is not an IP address"),
            "write an address of this node, or one that VRRP brings to it, as in \"10.0.0.5\"",
        )
    })?;
    text::global_address(address)
}

/// A range of ports, in host byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ports {
    /// The lowest, from 1 on.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl Ports {
    /// How many they are.
    pub const fn count(self) -> u16 {
        self.last - self.first + 1
    }

    /// The larger part, from 1,024 on, of what the kernel leaves that uses `taken` for its own connections; `None` if it leaves
    /// nothing.
    pub fn beside(taken: Self) -> Option<Self> {
        const FIRST: u16 = 1024;
        let below = taken.first.checked_sub(1).filter(|last| *last >= FIRST).map(|last| Self { first: FIRST, last });
        let above = taken.last.checked_add(1).map(|first| Self { first: first.max(FIRST), last: u16::MAX });
        below.into_iter().chain(above).max_by_key(|ports| ports.count())
    }

    /// Whether `port` is one of them.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether some are among the others, too.
    pub const fn overlap(self, others: Self) -> bool {
        self.first <= others.last && others.first <= self.last
    }
}

impl Default for Ports {
    /// Those that Linux leaves alone, as it comes.
    fn default() -> Self {
        Self { first: 1024, last: 32_767 }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.first, self.last)
    }
}

impl From<Ports> for String {
    fn from(ports: Ports) -> Self {
        ports.to_string()
    }
}

impl TryFrom<String> for Ports {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        text.parse()
    }
}

impl FromStr for Ports {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let port = |digits| text::port(digits).filter(|port| *port != 0);
        let ports =
            text.split_once('-').and_then(|(first, last)| Some(Self { first: port(first)?, last: port(last)? }));
        ports.filter(|ports| ports.first <= ports.last).ok_or_else(|| {
            Problem::new(
                format!("{text:?} is not a range of ports"),
                "write the lowest and the highest, from 1 to 65535, as in \"1024-32767\"",
            )
        })
    }
}
