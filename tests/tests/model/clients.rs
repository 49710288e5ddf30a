//! Clients, and the packets that they send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{PacketBuilder, PacketBuilderStep, TcpHeader, UdpHeader};
use fastrand::Rng;

use crate::{
    datapath::{HASH_KEY, OWN_MAC, ROUTER_MAC},
    oracle::flow_hash,
};

/// What a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Quic,
}

impl Protocol {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Quic];

    pub(crate) const fn port(self) -> u16 {
        match self {
            Self::Tcp => 443,
            Self::Udp => 53,
            Self::Quic => 8443,
        }
    }
}

/// The first byte of a QUIC server id's connection ids is its config rotation; the server id is one byte, the backend's
/// number.
pub(crate) const ROTATION: u8 = 2;

/// A kind of packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Syn,
    Ack,
    Data,
    Fin,
    Rst,
    Datagram,
    /// A QUIC packet that opens a connection.
    Initial,
    /// A QUIC packet whose connection id names nobody.
    Short,
    /// A QUIC packet whose connection id names this backend.
    Named(u8),
}

/// A client of a service: one flow.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) protocol: Protocol,
    source: SocketAddr,
    pub(crate) hash: u64,
}

impl Client {
    /// A client whose flow has a hash like that.
    pub(crate) fn with_hash(protocol: Protocol, random: &mut Rng, mut is_wanted: impl FnMut(u64) -> bool) -> Self {
        loop {
            let source = random_address(random);
            let mut client = Self { protocol, source, hash: 0 };
            let frame = client.frame(if protocol == Protocol::Tcp { Kind::Ack } else { Kind::Datagram });
            client.hash = flow_hash(HASH_KEY, &frame[14..]);
            if is_wanted(client.hash) {
                return client;
            }
        }
    }

    /// The slot of its flow in a table of 1,024.
    pub(crate) const fn slot(&self) -> u32 {
        (self.hash & 0x3ff) as u32
    }

    /// A packet of this kind, as the router sends it to the balancer.
    pub(crate) fn frame(&self, kind: Kind) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(ROUTER_MAC, OWN_MAC);
        let ip = match self.source.ip() {
            IpAddr::V4(source) => ethernet.ipv4(source.octets(), VIRTUAL_IP.octets(), 64),
            IpAddr::V6(source) => ethernet.ipv6(source.octets(), VIRTUAL_IP_V6.octets(), 64),
        };
        let tcp = TcpHeader::new(self.source.port(), self.protocol.port(), 1000, 0x2000);
        let with_ack = TcpHeader { ack: true, acknowledgment_number: 2000, ..tcp.clone() };
        match kind {
            Kind::Syn => with_tcp(ip, TcpHeader { syn: true, ..tcp }, &[]),
            Kind::Ack => with_tcp(ip, with_ack, &[]),
            Kind::Data => with_tcp(ip, TcpHeader { psh: true, ..with_ack }, b"data"),
            Kind::Fin => with_tcp(ip, TcpHeader { fin: true, ..with_ack }, &[]),
            Kind::Rst => with_tcp(ip, TcpHeader { rst: true, ..tcp }, &[]),
            Kind::Datagram => self.with_udp(ip, b"datagram"),
            // A long header of version 1: an Initial to a connection id of eight bytes.
            Kind::Initial => {
                self.with_udp(ip, &[&[0xc3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0][..], &[0xa5; 30]].concat())
            }
            Kind::Short => self.with_udp(ip, &[&[0x43, 7 << 5][..], &[0xa5; 30]].concat()),
            Kind::Named(server) => self.with_udp(ip, &[&[0x43, ROTATION << 5, server][..], &[0xa5; 30]].concat()),
        }
    }

    fn with_udp(&self, ip: PacketBuilderStep<etherparse::IpHeaders>, payload: &[u8]) -> Vec<u8> {
        let udp: PacketBuilderStep<UdpHeader> = ip.udp(self.source.port(), self.protocol.port());
        let mut frame = Vec::new();
        udp.write(&mut frame, payload).expect("writing to a vector succeeds");
        frame
    }
}

fn with_tcp(ip: PacketBuilderStep<etherparse::IpHeaders>, header: TcpHeader, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip.tcp_header(header).write(&mut frame, payload).expect("writing to a vector succeeds");
    frame
}

/// What the services are reached by.
pub(crate) const VIRTUAL_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub(crate) const VIRTUAL_IP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 0x10);

fn random_address(random: &mut Rng) -> SocketAddr {
    let ip: IpAddr = if random.bool() {
        Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() | random.u32(..1 << 24)).into()
    } else {
        Ipv6Addr::from_bits(0xfd00 << 112 | random.u128(..1 << 64)).into()
    };
    SocketAddr::new(ip, random.u16(1..))
}
