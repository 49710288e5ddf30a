//! The addresses that the tests share: a client, the virtual IPs, the balancer and its neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{EtherType, IpNumber};
use lb_common::{BackendId, MacAddress, ServiceId};

use crate::{frame::Frame, packet::Packet};

/// Of the balancer's interface.
pub(crate) const OWN_MAC: MacAddress = [0x02, 0, 0, 0, 0, 0x01];
/// Of the router that the clients' packets come from.
pub(crate) const ROUTER_MAC: MacAddress = [0x02, 0, 0, 0, 0, 0x02];
/// Of the interface that packets to backends leave by.
pub(crate) const EGRESS_MAC: MacAddress = [0x02, 0, 0, 0, 0, 0x03];

/// The interface that test runs come in by: the loopback device of the network namespace, always number 1.
pub(crate) const INGRESS_IFINDEX: u32 = 1;
/// An interface that packets can be redirected to.
pub(crate) const OTHER_IFINDEX: u32 = 7;
/// An interface that the datapath was not told of.
pub(crate) const UNKNOWN_IFINDEX: u32 = 8;

/// The service and the backend of tests that need only one.
pub(crate) const SERVICE: ServiceId = ServiceId::new(1).expect("1 is an id");
pub(crate) const BACKEND: BackendId = BackendId::truncate(1);

pub(crate) const SERVICE_PORT: u16 = 443;
const CLIENT_PORT: u16 = 50_123;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

pub(crate) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
pub(crate) const PROTOCOLS: [IpNumber; 2] = [IpNumber::TCP, IpNumber::UDP];

impl Family {
    pub(crate) const fn client(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 7)),
        }
    }

    pub(crate) const fn virtual_ip(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x5, 0, 0, 0, 0, 0x10)),
        }
    }

    /// Where tunnels to backends start. The low 32 bits of the IPv6 one, and the low 16 of the IPv4 one, are zero.
    pub(crate) const fn tunnel_source(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(10, 96, 0, 0)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x7, 0, 0, 0, 0, 0)),
        }
    }

    /// The backend, as the end of a tunnel.
    pub(crate) const fn backend(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(10, 0, 3, 21)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x3, 0, 0, 0, 0, 0x21)),
        }
    }

    pub(crate) const fn ether_type(self) -> EtherType {
        match self {
            Self::V4 => EtherType::IPV4,
            Self::V6 => EtherType::IPV6,
        }
    }

    /// How an outer header names an inner packet of this family (RFC 2003; RFC 2473, section 5).
    pub(crate) const fn as_payload(self) -> IpNumber {
        match self {
            Self::V4 => IpNumber::IPV4,
            Self::V6 => IpNumber::IPV6,
        }
    }

    /// From the client to the service.
    pub(crate) fn packet(self, protocol: IpNumber) -> Packet {
        let client = SocketAddr::new(self.client(), CLIENT_PORT);
        Packet::new(protocol, client, SocketAddr::new(self.virtual_ip(), SERVICE_PORT))
    }

    /// `packet` as the router sends it to the balancer.
    pub(crate) fn frame(self, packet: Vec<u8>) -> Frame {
        Frame {
            destination: OWN_MAC,
            source: ROUTER_MAC,
            tags: Vec::new(),
            ether_type: self.ether_type(),
            packet,
            padding: Vec::new(),
        }
    }

    /// [`Family::packet`] as the router sends it to the balancer.
    pub(crate) fn client_frame(self, protocol: IpNumber) -> Frame {
        self.frame(self.packet(protocol).to_bytes())
    }
}

/// TCP and UDP over both families: the name and the frame of each.
pub(crate) fn client_frames() -> impl Iterator<Item = (String, Family, Frame)> {
    FAMILIES.into_iter().flat_map(|family| {
        PROTOCOLS.map(|protocol| (format!("{} over {family:?}", name(protocol)), family, family.client_frame(protocol)))
    })
}

pub(crate) fn name(protocol: IpNumber) -> &'static str {
    protocol.keyword_str().unwrap_or("a protocol without a name")
}
