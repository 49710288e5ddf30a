//! `[[service.backend]]`: a host that serves flows.

use std::fmt;
use std::net::{AddrParseError, IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::Problem;
use super::quic::ServerId;
use super::table::Table;
use super::text;

/// A host that serves the flows of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Its name, unique in the service; the text of `address` where the operator gave none.
    pub name: String,
    /// Where the flows are sent; unique in the service, together with the port where ports are translated.
    pub address: IpAddr,
    /// The port that the operator wrote, if any. Where ports are not translated, it is the service's.
    pub port: Option<u16>,
    /// Its share of new flows, relative to the other backends' weights; 0 takes no new flows.
    pub weight: u16,
    /// How many connections it may have before new ones go elsewhere; any number without one.
    #[serde(default)]
    pub max_connections: Option<u32>,
    /// What names it in QUIC connection ids: where the service has [`Quic`](super::Quic), and only there. Unique in the
    /// service, and as long as it says.
    #[serde(default)]
    pub server_id: Option<ServerId>,
}

/// As many flows as the largest flow table holds.
const MAX_CONNECTIONS: u32 = 1 << 26;
/// What tells a backend from the others of its service: its address, and its port, in host byte order, where ports are translated.
/// Otherwise that is 0, as it is where each flow keeps its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port, or 0.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            0 => self.address.fmt(formatter),
            port => SocketAddr::new(self.address, port).fmt(formatter),
        }
    }
}

impl FromStr for Endpoint {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        let with_port = |address: SocketAddr| Self { address: address.ip(), port: address.port() };
        text.parse().map(with_port).or_else(|_| Ok(Self { address: text.parse()?, port: 0 }))
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl TryFrom<String> for Endpoint {
    type Error = AddrParseError;

    fn try_from(text: String) -> Result<Self, AddrParseError> {
        text.parse()
    }
}

impl Backend {
    /// The weight of a backend for which none is given.
    pub const DEFAULT_WEIGHT: u16 = 1;

    /// Reads a backend as an operator writes it: `10.0.0.1`, `10.0.0.1:80`, `[2001:db8::1]:80`.
    ///
    /// It has no server id; who needs one sets it. Whether it fits a service is for [`Service::check_backend`](super::Service::check_backend) to say.
    pub fn parse(name: Option<&str>, address: &str, weight: u16) -> Result<Self, Problem> {
        let name = name.map(backend_name).transpose()?;
        let (address, port) = backend_address(address)?;
        let backend = Self::new(name, address, port, weight);
        backend.check_name()?;
        Ok(backend)
    }

    pub(super) fn read(table: &mut Table<'_>) -> Option<Self> {
        table.require(&[("address", r#""10.0.0.1""#)]);
        let name = table.text("name", backend_name);
        if let Some(name) = &name {
            table.rename(name);
        }
        let address = table.text("address", backend_address);
        if let (None, Some((address, _))) = (&name, address) {
            table.rename(&address.to_string());
        }
        let weight = table.number("weight", 0..=u16::MAX).unwrap_or(Self::DEFAULT_WEIGHT);
        let max_connections = table.number("max_connections", 1..=MAX_CONNECTIONS);
        let server_id = table.text("server_id", ServerId::from_str);
        let (address, port) = address?;
        let backend = Self { max_connections, server_id, ..Self::new(name, address, port, weight) };
        if let Err(problem) = backend.check_name() {
            table.reject("name", problem.of("name"));
            return None;
        }
        Some(backend)
    }

    /// Checks the rules that hold in every service, for a backend that was not read by [`Backend::parse`].
    pub(super) fn check(&self) -> Result<(), Problem> {
        backend_name(&self.name)?;
        text::global_address(self.address)?;
        if let Some(limit) = self.max_connections
            && !(1..=MAX_CONNECTIONS).contains(&limit)
        {
            return Err(Problem::new(
                format!("max_connections {limit} is out of range"),
                format!("write a whole number from 1 to {MAX_CONNECTIONS}, or none for any number"),
            ));
        }
        self.check_name()
    }

    /// Checks that the name is no other backend's address: operators may name a backend by either.
    fn check_name(&self) -> Result<(), Problem> {
        let own = Endpoint { address: self.address, port: self.port.unwrap_or(0) };
        let is_another_port = |port| port != 0 && own.port != 0 && port != own.port;
        match self.name.parse::<Endpoint>() {
            Ok(other) if other.address != own.address || is_another_port(other.port) => Err(Problem::new(
                format!("{:?} is an address, and not the one of this backend, {own}", self.name),
                "write another name, or none: lbctl finds backends by name and by address",
            )),
            _ => Ok(()),
        }
    }

    /// Whether this is the backend with that endpoint, in a service with that port.
    pub(crate) fn is_at(&self, endpoint: Endpoint, service_port: u16) -> bool {
        let port = self.port.unwrap_or(service_port);
        self.address == endpoint.address && (endpoint.port == 0 || endpoint.port == port)
    }

    fn new(name: Option<String>, address: IpAddr, port: Option<u16>, weight: u16) -> Self {
        Self {
            name: name.unwrap_or_else(|| address.to_string()),
            address,
            port,
            weight,
            max_connections: None,
            server_id: None,
        }
    }
}

fn backend_name(text: &str) -> Result<String, Problem> {
    text::name(text, "_.:-[]")
}

fn backend_address(text: &str) -> Result<(IpAddr, Option<u16>), Problem> {
    let wrong = |what: &str| {
        let help = "write the address, as in \"10.0.0.1\" or \"2001:db8::1\", \
                    or with the service's port, as in \"10.0.0.1:80\" or \"[2001:db8::1]:80\"";
        Problem::new(format!("{text:?} {what}"), help)
    };
    let (address, port) = text::address_and_port(text).ok_or_else(|| wrong("is not an IP address"))?;
    let address = text::global_address(address)?;
    let port = match port {
        None => None,
        Some(digits) => {
            let port = text::port(digits).filter(|&port| port != 0);
            Some(port.ok_or_else(|| wrong("has a port that is not a number from 1 to 65535"))?)
        }
    };
    Ok((address, port))
}
