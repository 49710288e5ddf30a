//! `[[service]]`: a virtual IP and port, and how its flows reach the backends.

use std::{net::IpAddr, time::Duration};

use lb_common::gue;
use serde::{Deserialize, Serialize};

use super::{
    affinity::Affinity,
    backend::{Backend, Endpoint},
    error::Problem,
    health::HealthCheck,
    nat::Nat,
    quic::Quic,
};

mod drain_timeout;
mod read;
mod words;

pub(super) use self::read::Tally;
pub use self::{
    drain_timeout::DrainTimeout,
    words::{Algorithm, Forwarding, OnDeath, OnFull, Protocol, Tracking},
};

/// A virtual IP and port, and the backends that share its flows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name, unique on the node.
    pub name: String,
    /// The virtual IP: a unicast address that other hosts can reach.
    pub address: IpAddr,
    /// The port, in host byte order; 0 is all ports, or none with [`Protocol::Icmp`].
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// How a new flow gets its backend.
    pub algorithm: Algorithm,
    /// How many leading bits of the client's address [`Algorithm::SourceHash`] takes, 1 to 32 for IPv4 and to 128 for IPv6; all of
    /// them without it.
    #[serde(default)]
    pub source_prefix: Option<u8>,
    /// How clients stay with the server that they had before, if they do.
    #[serde(default)]
    pub affinity: Option<Affinity>,
    /// Whether each datagram gets a backend of its own.
    #[serde(default)]
    pub one_packet: bool,
    /// What becomes of new flows when all backends have as many connections as they may have.
    #[serde(default)]
    pub on_full: OnFull,
    /// How a packet gets to its backend.
    pub forwarding: Forwarding,
    /// What [`Service::gue_port`] is, if the operator says so: not 0.
    #[serde(default)]
    pub gue_port: Option<u16>,
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
    /// How addresses are translated, where they are.
    #[serde(default)]
    pub nat: Nat,
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
        if backend.max_connections.is_none() {
            return Ok(());
        }
        if self.quic.is_some() {
            return Err(uncounted("max_connections"));
        }
        if self.one_packet {
            return Err(Problem::new(
                "max_connections does not go with one_packet: datagrams are no connections",
                "remove one of them",
            ));
        }
        if self.tracking != Tracking::Never {
            return Ok(());
        }
        Err(Problem::new(
            "max_connections does not go with tracking = \"never\": connections that are not remembered cannot be counted",
            "remove it, or write another tracking in the service",
        ))
    }

    fn check_backend_address(&self, backend: &Backend) -> Result<(), Problem> {
        let Self { name, port, .. } = self;
        if backend.port.is_some_and(|backend_port| backend_port != *port) {
            self.check_backend_port(backend.port.unwrap_or_default())?;
        }
        self.check_family(backend.address)?;
        self.check_source(backend.address)?;
        self.check_server(backend)?;
        let endpoint = self.endpoint(backend);
        match self.backends.iter().find(|other| self.endpoint(other) == endpoint) {
            None => Ok(()),
            Some(other) => Err(Problem::new(
                format!("{endpoint} is the address of backend {:?} already", other.name),
                format!("write each backend of {name:?} once, with a greater weight for a greater share"),
            )),
        }
    }

    /// In a group of affinity, a server is its address.
    fn check_server(&self, backend: &Backend) -> Result<(), Problem> {
        let Some(group) = self.affinity.as_ref().and_then(|affinity| affinity.group.as_deref()) else { return Ok(()) };
        let is_same =
            |other: &&Backend| other.address == backend.address && self.endpoint(other) != self.endpoint(backend);
        match self.backends.iter().find(is_same) {
            None => Ok(()),
            Some(other) => Err(Problem::new(
                format!(
                    "{} is the address of backend {:?} already, and in the affinity group {group:?} a server is its address",
                    backend.address, other.name
                ),
                "write one backend for each address, or remove the group",
            )),
        }
    }

    fn check_backend_port(&self, backend_port: u16) -> Result<(), Problem> {
        let Self { forwarding, port, .. } = self;
        if self.protocol == Protocol::Icmp {
            return Err(Problem::new(
                format!("port {backend_port} does not apply to ICMP, which has no ports"),
                "write the address without a port",
            ));
        }
        if *port == 0 {
            return Err(Problem::new(
                format!("port {backend_port} is one port, and the service has all ports"),
                "write the address without a port: each flow keeps its own",
            ));
        }
        if forwarding.translates() {
            return Ok(());
        }
        Err(Problem::new(
            format!("port {backend_port} is not the service's, and {forwarding} does not translate ports"),
            format!("write port {port}, or the address alone, or forwarding = \"full-nat\" in the service"),
        ))
    }

    fn check_family(&self, backend: IpAddr) -> Result<(), Problem> {
        if backend.is_ipv4() == self.address.is_ipv4() {
            return Ok(());
        }
        let (why, help) = match self.forwarding {
            Forwarding::Ipip | Forwarding::Gue | Forwarding::FullNat => return Ok(()),
            Forwarding::L2Dsr => ("l2-dsr leaves packets as they are", "\"ipip\", \"gue\" or \"full-nat\""),
            Forwarding::Nat => ("nat keeps the client's address", "\"full-nat\""),
        };
        Err(Problem::new(
            format!("{backend} is not of the address family of {}, and {why}", self.address),
            format!("write an address of the same family, or forwarding = {help} in the service"),
        ))
    }

    /// Checks that there is a source of the backend's family, if the service names any.
    fn check_source(&self, backend: IpAddr) -> Result<(), Problem> {
        let sources = &self.nat.sources;
        let is_of_family = |source: &IpAddr| source.is_ipv4() == backend.is_ipv4();
        if self.forwarding != Forwarding::FullNat || sources.is_empty() || sources.iter().any(is_of_family) {
            return Ok(());
        }
        Err(Problem::new(
            format!("{backend} needs a source of its address family, and [service.nat] has none in sources"),
            "add one there, or remove sources: without them it is the address of the interface to the backend",
        ))
    }

    /// What the backend is called if nobody says so.
    pub(crate) fn default_name(&self, backend: &Backend) -> String {
        match backend.port.filter(|_| self.forwarding.translates()) {
            Some(port) => Endpoint { address: backend.address, port }.to_string(),
            None => backend.address.to_string(),
        }
    }

    /// What tells the backend from the others.
    pub fn endpoint(&self, backend: &Backend) -> Endpoint {
        let port = if self.forwarding.translates() { backend.port.unwrap_or(self.port) } else { 0 };
        Endpoint { address: backend.address, port }
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

    /// The UDP port of the backends, in host byte order, if that is where packets are sent ([`Forwarding::Gue`]).
    pub fn gue_port(&self) -> Option<u16> {
        (self.forwarding == Forwarding::Gue).then(|| self.gue_port.unwrap_or(gue::PORT))
    }

    /// Which flows are remembered, after all: who counts connections has to know all.
    pub fn effective_tracking(&self) -> Tracking {
        let tracks_all = self.algorithm.is_scheduler() || self.has_limits() || self.affinity.is_some();
        if tracks_all && !self.keeps_no_flows() { Tracking::Always } else { self.tracking }
    }

    /// Whether each datagram stands for itself, and nothing is remembered of it.
    pub fn keeps_no_flows(&self) -> bool {
        self.one_packet && !self.forwarding.translates()
    }

    /// Whether there is a backend with a limit of connections.
    pub fn has_limits(&self) -> bool {
        self.backends.iter().any(|backend| backend.max_connections.is_some())
    }

    /// How long a flow may be silent before it is over.
    pub fn idle_timeout(&self) -> Duration {
        self.idle_timeout.unwrap_or(match self.protocol {
            Protocol::Tcp => Duration::from_mins(15),
            // As long as a reply may take.
            Protocol::Udp | Protocol::Icmp if self.one_packet => Duration::from_secs(10),
            Protocol::Udp | Protocol::Icmp => Duration::from_mins(1),
        })
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it is the default of a field that may be empty")]
fn default_drain_timeout() -> Option<Duration> {
    Some(Duration::from_mins(10))
}

/// That `what` needs a count of connections which there is not.
fn uncounted(what: &str) -> Problem {
    Problem::new(
        format!(
            "{what} does not go with [service.quic]: connection ids take packets past the flow table, so nobody counts connections"
        ),
        "remove it, or the section",
    )
}

fn loop_problem(address: IpAddr, service: &str) -> Problem {
    Problem::new(
        format!("{address} is the virtual IP of service {service:?}: packets for it would come back to this node"),
        "write the address of the host that serves the flows",
    )
}
