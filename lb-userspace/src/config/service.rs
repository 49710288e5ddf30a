//! `[[service]]`: a virtual IP and port, and how its flows reach the backends.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backend::Backend;
use super::error::Problem;
use super::health::HealthCheck;
use super::interface::{Interface, interface_name};
use super::quic::Quic;
use super::table::{Place, Table, Taken};
use super::word::Word;
use super::{MAX_BACKENDS, MAX_SERVICES, text};

/// A virtual IP and port, and the backends that share its flows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name, unique on the node.
    pub name: String,
    /// The virtual IP: a unicast address that other hosts can reach.
    pub address: IpAddr,
    /// The port, in host byte order; 0 is all ports.
    pub port: u16,
    /// The transport protocol.
    pub protocol: Protocol,
    /// How a new flow gets its backend.
    pub algorithm: Algorithm,
    /// How many leading bits of the client's address [`Algorithm::SourceHash`] takes, 1 to 32 for IPv4 and to 128 for IPv6; all of
    /// them without it.
    #[serde(default)]
    pub source_prefix: Option<u8>,
    /// What becomes of new flows when all backends have as many connections as they may have.
    #[serde(default)]
    pub on_full: OnFull,
    /// How a packet gets to its backend.
    pub forwarding: Forwarding,
    /// The interface on which the daemon puts the virtual IP; without one that is left to the operator.
    pub announce: Option<String>,
    /// The size of the slot table: a power of two from 1,024 to 65,536. Without one it follows from the number of
    /// backends.
    pub slots: Option<u32>,
    /// How the backends are checked; without a check they count as healthy.
    pub health: Option<HealthCheck>,
    /// Which flows are remembered.
    #[serde(default)]
    pub tracking: Tracking,
    /// What becomes of the flows of a backend that dies.
    #[serde(default)]
    pub on_death: OnDeath,
    /// What [`Service::idle_timeout`] is, if the operator says so: 1 s to 2 h.
    #[serde(default)]
    pub idle_timeout: Option<Duration>,
    /// How long a backend that drains or was removed may keep its flows, at most 24 h; without one as long as they live.
    #[serde(default = "default_drain_timeout")]
    pub drain_timeout: Option<Duration>,
    /// In how long the weight of a backend that comes up rises to what it is to be, 1 s to 1 h; without one it has it at
    /// once.
    #[serde(default)]
    pub slow_start: Option<Duration>,
    /// How QUIC connection ids name backends; without it packets that do not open a flow are not asked for theirs.
    #[serde(default)]
    pub quic: Option<Quic>,
    /// The backends; each fits by [`Service::check_backend`].
    pub backends: Vec<Backend>,
}

impl Service {
    /// Checks whether `backend` may join the service: by its own rules, the service's address family and port, and the
    /// backends that are there.
    pub fn check_backend(&self, backend: &Backend) -> Result<(), Problem> {
        backend.check()?;
        if let Some(slots) = self.slots.filter(|slots| self.backends.len() >= *slots as usize) {
            return Err(Problem::new(
                format!("{:?} has {slots} slots, and a backend for each", self.name),
                "write a larger slots in the service",
            ));
        }
        self.check_limit(backend)?;
        self.check_loop(backend)?;
        self.check_backend_address(backend)?;
        self.check_backend_name(backend)?;
        self.check_server_id(backend)
    }

    /// Checks that packets for `backend`, which may be another service's, are not packets for this service: they would come
    /// back to this node for ever.
    pub fn check_loop(&self, backend: &Backend) -> Result<(), Problem> {
        if self.address == backend.address { Err(loop_problem(self.address, &self.name)) } else { Ok(()) }
    }

    fn check_limit(&self, backend: &Backend) -> Result<(), Problem> {
        if backend.max_connections.is_none() || self.tracking != Tracking::Never {
            return Ok(());
        }
        Err(Problem::new(
            "max_connections does not go with tracking = \"never\": connections that are not remembered cannot be counted",
            "remove it, or write another tracking in the service",
        ))
    }

    fn check_backend_address(&self, backend: &Backend) -> Result<(), Problem> {
        let Self { name, forwarding, port, .. } = self;
        if let Some(backend_port) = backend.port
            && backend_port != *port
        {
            return Err(if *port == 0 {
                Problem::new(
                    format!("port {backend_port} is one port, and the service has all ports"),
                    "write the address without a port: each flow keeps its own",
                )
            } else {
                Problem::new(
                    format!("port {backend_port} is not the service's, and {forwarding} does not translate ports"),
                    format!("write port {port}, or the address alone"),
                )
            });
        }
        if *forwarding == Forwarding::L2Dsr && backend.address.is_ipv4() != self.address.is_ipv4() {
            return Err(Problem::new(
                format!(
                    "{} is not of the address family of {}, and l2-dsr leaves packets as they are",
                    backend.address, self.address
                ),
                "write an address of the same family, or forwarding = \"ipip\" in the service",
            ));
        }
        match self.backends.iter().find(|other| other.address == backend.address) {
            None => Ok(()),
            Some(other) => Err(Problem::new(
                format!("{} is the address of backend {:?} already", backend.address, other.name),
                format!("write each backend of {name:?} once, with a greater weight for a greater share"),
            )),
        }
    }

    fn check_backend_name(&self, backend: &Backend) -> Result<(), Problem> {
        match self.backends.iter().find(|other| other.name == backend.name) {
            None => Ok(()),
            Some(other) => Err(Problem::new(
                format!("{:?} is the name of the backend at {} already", other.name, other.address),
                "write another name",
            )),
        }
    }

    fn check_server_id(&self, backend: &Backend) -> Result<(), Problem> {
        let (quic, id) = match (self.quic, &backend.server_id) {
            (None, None) => return Ok(()),
            (None, Some(_)) => {
                return Err(Problem::new(
                    "server_id applies only in a service with [service.quic]",
                    "remove it, or add the section",
                ));
            }
            (Some(quic), None) => {
                let example = "0a".repeat(quic.server_id_length());
                return Err(Problem::new(
                    "server_id is missing, and the service has [service.quic]",
                    format!("add the one that the backend has, for example server_id = {example:?}"),
                ));
            }
            (Some(quic), Some(id)) => (quic, id),
        };
        if id.bytes().len() != quic.server_id_length() {
            return Err(Problem::new(
                format!("server_id \"{id}\" is not {} bytes long", quic.server_id_length()),
                "write two hexadecimal digits for each byte, or another server_id_length in [service.quic]",
            ));
        }
        match self.backends.iter().find(|other| other.server_id.as_ref() == Some(id)) {
            None => Ok(()),
            Some(other) => Err(Problem::new(
                format!("server_id \"{id}\" is that of backend {:?} already", other.name),
                "write the one that the backend has: each has its own",
            )),
        }
    }

    /// Which flows are remembered, after all: who counts connections has to know all.
    pub fn effective_tracking(&self) -> Tracking {
        if self.algorithm.is_scheduler() || self.has_limits() { Tracking::Always } else { self.tracking }
    }

    /// Whether there is a backend with a limit of connections.
    pub fn has_limits(&self) -> bool {
        self.backends.iter().any(|backend| backend.max_connections.is_some())
    }

    /// How long a flow may be silent before it is over.
    pub fn idle_timeout(&self) -> Duration {
        self.idle_timeout.unwrap_or(match self.protocol {
            Protocol::Tcp => Duration::from_mins(15),
            Protocol::Udp => Duration::from_mins(1),
        })
    }

    /// Reads a table, and adds it to the tally of those read before.
    pub(super) fn read<'a>(mut table: Table<'a>, interfaces: &[Interface], tally: &mut Tally<'a>) -> Option<Self> {
        table.require(&[
            ("name", r#""crm-web""#),
            ("address", r#""192.168.1.10:80""#),
            ("protocol", r#""tcp""#),
            ("forwarding", r#""l2-dsr""#),
        ]);
        let name = table.text("name", |text| text::name(text, "_.:-"));
        if let Some(name) = &name {
            table.rename(name);
        }
        let address = table.text("address", service_address);
        let protocol = table.word("protocol");
        let algorithm = table.word("algorithm").unwrap_or_default();
        let source_prefix = read_source_prefix(&mut table, algorithm, address.map(|(address, _)| address));
        let on_full = read_on_full(&mut table, protocol);
        let forwarding = table.word("forwarding");
        let announce = read_announce(&mut table, interfaces);
        let slots = read_slots(&mut table);
        let health = table
            .table("health", "[service.health]", "health check")
            .and_then(|health| HealthCheck::read(health, address.map(|(_, port)| port)));
        let tracking = read_tracking(&mut table, algorithm);
        let on_death = table.word("on_death").unwrap_or_default();
        let idle_timeout = table.text("idle_timeout", text::duration(IDLE_TIMEOUTS));
        let drain_timeout = table
            .text("drain_timeout", DrainTimeout::from_str)
            .map_or_else(default_drain_timeout, |DrainTimeout(timeout)| timeout);
        let slow_start = table.text("slow_start", text::duration(SLOW_STARTS));
        let quic = read_quic(&mut table, protocol);
        check_slow_start(&table, algorithm);
        check_on_death(&table, tracking, on_death);
        let backends = table.tables("backend", "[[service.backend]]", "backend");
        tally.add_service(&table, name.as_ref(), address.zip(protocol));
        if let (Some(_), Some((address, _))) = (&announce, address) {
            tally.announced.entry(address).or_default().push(table.place("announce"));
        }
        // What is wrong with the section is reported already, and not for each backend again.
        let knows_server_ids = table.has("quic") == quic.is_some();
        table.finish();

        let mut service = match (name, address, protocol, forwarding) {
            (Some(name), Some((address, port)), Some(protocol), Some(forwarding)) => Some(Self {
                name,
                address,
                port,
                protocol,
                algorithm,
                source_prefix,
                on_full,
                forwarding,
                announce,
                slots,
                health,
                tracking,
                on_death,
                idle_timeout,
                drain_timeout,
                slow_start,
                quic,
                backends: Vec::with_capacity(backends.len()),
            }),
            _ => None,
        };
        for mut table in backends {
            tally.add_backend(&table);
            let backend = Backend::read(&mut table);
            if let Some(backend) = &backend {
                tally.backend_addresses.push((backend.address, table.place("address")));
            }
            if let (Some(service), Some(backend)) = (&mut service, backend) {
                service.read_backend(&table, backend, knows_server_ids);
            }
            table.finish();
        }
        service
    }

    fn read_backend(&mut self, table: &Table<'_>, backend: Backend, knows_server_ids: bool) {
        let server_id = if knows_server_ids && table.has("server_id") == backend.server_id.is_some() {
            self.check_server_id(&backend)
        } else {
            Ok(())
        };
        if let Err(problem) = self.check_limit(&backend) {
            table.reject("max_connections", problem);
        }
        if let Err(problem) = self.check_backend_address(&backend) {
            table.reject("address", problem);
        } else if let Err(problem) = self.check_backend_name(&backend) {
            table.reject("name", problem);
        } else if let Err(problem) = server_id {
            table.reject("server_id", problem);
        } else {
            self.backends.push(backend);
        }
    }
}

/// What the services read so far have used up.
#[derive(Default)]
pub(super) struct Tally<'a> {
    names: Taken<String>,
    addresses: Taken<(IpAddr, u16, Protocol)>,
    /// The addresses that are announced, and where the file says so.
    announced: HashMap<IpAddr, Vec<Place<'a>>>,
    /// The virtual IPs, with the first service that has each.
    virtual_addresses: HashMap<IpAddr, String>,
    /// The addresses of all backends, and where the file says so.
    backend_addresses: Vec<(IpAddr, Place<'a>)>,
    services: usize,
    backends: usize,
}

impl<'a> Tally<'a> {
    /// The names of all services.
    pub(super) fn names(&self) -> Vec<&str> {
        self.names.texts()
    }

    /// The places that have `address` announced.
    pub(super) fn announcing(&self, address: IpAddr) -> &[Place<'a>] {
        self.announced.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Reports the backends that have a virtual IP of this node, once all services are read.
    pub(super) fn refuse_loops(&self) {
        for (address, place) in &self.backend_addresses {
            if let Some(service) = self.virtual_addresses.get(address) {
                place.reject(loop_problem(*address, service).of("address"));
            }
        }
    }

    fn add_service(&mut self, table: &Table<'_>, name: Option<&String>, key: Option<((IpAddr, u16), Protocol)>) {
        if let Some(name) = name {
            table.unique("name", name.clone(), &mut self.names, "write another name");
        }
        if let Some(((address, port), protocol)) = key {
            let help = "write another address, port or protocol, or put the backends into one service";
            table.unique("address", (address, port, protocol), &mut self.addresses, help);
            self.virtual_addresses.entry(address).or_insert_with(|| name.cloned().unwrap_or_default());
        }
        self.services += 1;
        if self.services == MAX_SERVICES + 1 {
            table.reject_table(Problem::new(
                format!("there are more than {MAX_SERVICES} services"),
                "remove this one and those below, or move them to another node",
            ));
        }
    }

    fn add_backend(&mut self, table: &Table<'_>) {
        self.backends += 1;
        if self.backends == MAX_BACKENDS + 1 {
            table.reject_table(Problem::new(
                format!("there are more than {MAX_BACKENDS} backends in all"),
                "remove this one and those below, or move them to another node",
            ));
        }
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
}

impl Protocol {
    /// Its number in IP headers.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl Word for Protocol {
    const ALL: &'static [Self] = &[Self::Tcp, Self::Udp];
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
}

impl Algorithm {
    /// Whether backends are chosen for new flows by something that is not the same for the packets after: so that each flow has to
    /// be remembered.
    pub const fn is_scheduler(self) -> bool {
        match self {
            Self::Maglev | Self::SourceHash => false,
            Self::RoundRobin | Self::WeightedRoundRobin | Self::Random | Self::LeastConnections => true,
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
    ];
    const LATER: &'static [&'static str] = &["least-response-time"];
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

/// What becomes of a new flow when all backends have as many connections as they may have.
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

/// How a packet gets to its backend. In each mode the backend answers the client directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forwarding {
    /// As it is, with the backend's MAC address: the backend is on the same link, and has the virtual IP on loopback.
    L2Dsr,
    /// In an IP packet to the backend's address (RFC 2003, RFC 2473): the backend unpacks it.
    Ipip,
}

impl fmt::Display for Forwarding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::L2Dsr => "l2-dsr",
            Self::Ipip => "ipip",
        })
    }
}

impl Word for Forwarding {
    const ALL: &'static [Self] = &[Self::L2Dsr, Self::Ipip];
    const LATER: &'static [&'static str] = &["gue", "nat", "full-nat"];
}

/// Reads an address and a port. No port, `*` and 0 are all ports; an IPv6 address has to be in brackets even then,
/// since its last group may have been meant as a port.
fn service_address(text: &str) -> Result<(IpAddr, u16), Problem> {
    let wrong = |what: &str| {
        let help = "write address and port, as in \"192.168.1.10:80\" or \"[2001:db8::1]:80\", \
                    with * as the port for all ports";
        Problem::new(format!("{text:?} {what}"), help)
    };
    let (address, port) = text::address_and_port(text).ok_or_else(|| wrong("is not an IP address and port"))?;
    if address.is_ipv6() && !text.starts_with('[') {
        return Err(wrong("is an IPv6 address without brackets"));
    }
    let port = match port {
        None | Some("*") => 0,
        Some(digits) => text::port(digits).ok_or_else(|| wrong("has a port that is not a number from 0 to 65535"))?,
    };
    Ok((text::reachable_address(address)?, port))
}

const IDLE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(2);
const DRAIN_TIMEOUTS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_hours(24);
const SLOW_STARTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

#[expect(clippy::unnecessary_wraps, reason = "it is the default of a field that may be empty")]
fn default_drain_timeout() -> Option<Duration> {
    Some(Duration::from_mins(10))
}

/// How long a backend that leaves may keep its flows, as operators write it: a duration up to 24 h, or `none` for as long as
/// they live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DrainTimeout(pub Option<Duration>);

impl FromStr for DrainTimeout {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        if text == "none" {
            return Ok(Self(None));
        }
        let timeout = text::duration(DRAIN_TIMEOUTS)(text).map(|timeout| Self(Some(timeout)));
        timeout.map_err(|problem| Problem { help: format!("{}, or \"none\"", problem.help), ..problem })
    }
}

impl TryFrom<String> for DrainTimeout {
    type Error = Problem;

    fn try_from(text: String) -> Result<Self, Problem> {
        text.parse()
    }
}

impl From<DrainTimeout> for String {
    fn from(timeout: DrainTimeout) -> Self {
        timeout.to_string()
    }
}

impl fmt::Display for DrainTimeout {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(timeout) => formatter.pad(&text::duration_text(timeout)),
            None => formatter.pad("none"),
        }
    }
}

fn loop_problem(address: IpAddr, service: &str) -> Problem {
    Problem::new(
        format!("{address} is the virtual IP of service {service:?}: packets for it would come back to this node"),
        "write the address of the host that serves the flows",
    )
}

/// Reports an `on_death` that would change nothing. Where connection ids name backends, flows have theirs without being
/// tracked.
fn check_on_death(table: &Table<'_>, tracking: Tracking, on_death: OnDeath) {
    let (why, help) = if on_death != OnDeath::Reschedule && tracking == Tracking::Never && !table.has("quic") {
        ("with tracking = \"never\": no flow is remembered", "remove it, or write another tracking")
    } else if on_death == OnDeath::Keep && !table.has("health") {
        ("without [service.health]: nothing says that a backend is dead", "remove it, or add the section")
    } else {
        return;
    };
    table.reject("on_death", Problem::new(format!("on_death = \"{on_death}\" has no effect {why}"), help));
}

/// Reads `tracking`. A scheduler remembers every flow, whatever is written.
fn read_tracking(table: &mut Table<'_>, algorithm: Algorithm) -> Tracking {
    let tracking = table.word("tracking");
    if !algorithm.is_scheduler() {
        return tracking.unwrap_or_default();
    }
    if let Some(tracking) = tracking.filter(|tracking| *tracking != Tracking::Always) {
        table.reject(
            "tracking",
            Problem::new(
                format!(
                    "tracking = \"{tracking}\" does not go with algorithm = \"{algorithm}\": only the flow table knows whose \
                     a flow is"
                ),
                "remove it, or write \"always\"",
            ),
        );
    }
    Tracking::Always
}

fn read_source_prefix(table: &mut Table<'_>, algorithm: Algorithm, address: Option<IpAddr>) -> Option<u8> {
    let longest = if address.is_some_and(|address| address.is_ipv4()) { 32 } else { 128 };
    let prefix = table.number("source_prefix", 1..=longest)?;
    if algorithm != Algorithm::SourceHash {
        let problem = Problem::new(
            format!("source_prefix has no effect with algorithm = \"{algorithm}\""),
            "remove it, or write algorithm = \"source-hash\"",
        );
        table.reject("source_prefix", problem);
    }
    Some(prefix)
}

fn read_on_full(table: &mut Table<'_>, protocol: Option<Protocol>) -> OnFull {
    let on_full = table.word("on_full").unwrap_or_default();
    if on_full == OnFull::Reset && protocol == Some(Protocol::Udp) {
        let problem = Problem::new("on_full = \"reset\" does not apply to UDP", "remove it, or write \"drop\"");
        table.reject("on_full", problem);
    }
    on_full
}

/// Reports a `slow_start` that would change nothing.
fn check_slow_start(table: &Table<'_>, algorithm: Algorithm) {
    if table.has("slow_start") && algorithm == Algorithm::RoundRobin {
        table.reject(
            "slow_start",
            Problem::new(
                "slow_start has no effect with algorithm = \"round-robin\": each backend has as many turns as the others",
                "remove it, or write algorithm = \"weighted-round-robin\"",
            ),
        );
    }
}

fn read_quic(table: &mut Table<'_>, protocol: Option<Protocol>) -> Option<Quic> {
    let quic = table.table("quic", "[service.quic]", "QUIC").and_then(Quic::read);
    if table.has("quic") && protocol == Some(Protocol::Tcp) {
        table.reject(
            "quic",
            Problem::new("[service.quic] does not apply to TCP", "remove it, or write protocol = \"udp\""),
        );
        return None;
    }
    quic
}

fn read_slots(table: &mut Table<'_>) -> Option<u32> {
    let slots: u32 = table.number("slots", 1024..=65_536)?;
    if !slots.is_power_of_two() {
        table.reject(
            "slots",
            Problem::new(
                format!("slots {slots} is not a power of two"),
                format!("write {} or {}", slots.next_power_of_two() / 2, slots.next_power_of_two()),
            ),
        );
    }
    Some(slots)
}

/// Reads `announce` and `interface`, which together name the interface that gets the virtual IP.
fn read_announce(table: &mut Table<'_>, interfaces: &[Interface]) -> Option<String> {
    let announce = table.flag("announce");
    let interface = table.text("interface", interface_name);
    // A value that could not be read is reported already.
    if table.has("announce") && announce.is_none() || table.has("interface") && interface.is_none() {
        return None;
    }
    let (key, problem) = match (announce.unwrap_or(false), interface, interfaces) {
        (false, None, _) => return None,
        (true, Some(name), _) if interfaces.iter().any(|interface| interface.name == name) => {
            return Some(name);
        }
        (true, None, [only]) => return Some(only.name.clone()),
        (false, Some(_), _) => (
            "interface",
            Problem::new("interface applies only with announce = true", "add announce = true, or remove it"),
        ),
        (true, Some(name), _) => (
            "interface",
            Problem::new(
                format!("interface {name:?} is not configured"),
                format!("add an [[interface]] with name = {name:?}, or write the name of one"),
            ),
        ),
        (true, None, []) => {
            ("announce", Problem::new("announce needs an interface, and none is configured", "add an [[interface]]"))
        }
        (true, None, [first, ..]) => (
            "announce",
            Problem::new(
                "announce does not say on which interface",
                format!("add interface = {:?}, or another [[interface]]", first.name),
            ),
        ),
    };
    table.reject(key, problem);
    None
}
