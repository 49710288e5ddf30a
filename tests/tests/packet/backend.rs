//! A backend: its row in the maps, and the frames that it has to get.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{EtherType, IpNumber, IpSlice, Ipv4Header, Ipv6FlowLabel, Ipv6Header, UdpHeader};
use lb_common::{
    Address, BackendId, BackendRow, Encapsulation, MacAddress, NetU16, NetU32, OuterHeader, Traffic, Verdict,
};

use crate::{
    case::{Action, Outcome},
    fixture::HASH_KEY,
    frame::{Frame, Tag},
    oracle::flow_hash,
    packet::{dscp, ecn},
    world::{BACKEND, EGRESS_MAC, Family, INGRESS_IFINDEX, OTHER_IFINDEX, SERVICE},
};

/// How a backend is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backend {
    pub(crate) forwarding: Forwarding,
    pub(crate) mac: MacAddress,
    /// Priority and id of the VLAN; zero is untagged.
    pub(crate) vlan: u16,
    pub(crate) egress_ifindex: u32,
    pub(crate) mtu: u16,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Forwarding {
    /// The backend is the balancer itself.
    Local,
    L2Dsr,
    Ipip(Tunnel),
    /// To this UDP port.
    Gue(Tunnel, u16),
}

/// The fixed part of an outer header.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tunnel {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) entropy_bits: u8,
}

/// Time to live of outer headers.
const OUTER_TTL: u8 = 64;
/// The UDP port that IANA has assigned to GUE.
pub(crate) const GUE_PORT: u16 = 6080;

impl Backend {
    pub(crate) const L2_DSR: Self = Self {
        forwarding: Forwarding::L2Dsr,
        mac: [0x02, 0, 0, 0, 1, 0x01],
        vlan: 0,
        egress_ifindex: INGRESS_IFINDEX,
        mtu: 1500,
    };

    /// At the end of a tunnel over `family`.
    pub(crate) const fn tunnel(family: Family) -> Self {
        Self::tunnel_with_entropy(family, 0)
    }

    /// At the end of a tunnel over `family` whose source address carries `entropy_bits` of the flow.
    pub(crate) const fn tunnel_with_entropy(family: Family, entropy_bits: u8) -> Self {
        Self { forwarding: Forwarding::Ipip(Tunnel::over(family, entropy_bits)), ..Self::L2_DSR }
    }

    /// Reached by GUE over `family`.
    pub(crate) const fn gue(family: Family) -> Self {
        Self::gue_with_entropy(family, 0)
    }

    /// Reached by GUE over `family`, from a source address that carries `entropy_bits` of the flow.
    pub(crate) const fn gue_with_entropy(family: Family, entropy_bits: u8) -> Self {
        Self { forwarding: Forwarding::Gue(Tunnel::over(family, entropy_bits), GUE_PORT), ..Self::L2_DSR }
    }

    /// Reached by `l2-dsr`, with a MAC address of its own.
    pub(crate) const fn numbered(number: u8) -> Self {
        Self { mac: [0x02, 0, 0, 0, 2, number], ..Self::L2_DSR }
    }

    /// The row for packets of `family`, as the documentation of [`BackendRow`] and [`OuterHeader`] wants it.
    pub(crate) fn row(&self, family: Family) -> BackendRow {
        let row = BackendRow {
            vlan: NetU16::new(self.vlan),
            egress_ifindex: self.egress_ifindex.try_into().expect("a small number"),
            mtu: self.mtu,
            destination_mac: self.mac,
            source_mac: EGRESS_MAC,
            service: SERVICE,
            ..BackendRow::default()
        };
        let (tunnel, [over_ipv4, over_ipv6], protocol, gue_port) = match self.forwarding {
            Forwarding::Local => return BackendRow { encapsulation: Encapsulation::LOCAL, ..row },
            Forwarding::L2Dsr => return BackendRow { encapsulation: Encapsulation::NONE, ..row },
            Forwarding::Ipip(tunnel) => (tunnel, [Encapsulation::IPV4, Encapsulation::IPV6], family.as_payload(), 0),
            Forwarding::Gue(tunnel, port) => {
                (tunnel, [Encapsulation::GUE_IPV4, Encapsulation::GUE_IPV6], IpNumber::UDP, port)
            }
        };
        let (encapsulation, header) = match (tunnel.source, tunnel.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = outer_ipv4(protocol, source, destination);
                header.header_checksum = !header.calc_header_checksum();
                (over_ipv4, header.to_bytes().to_vec())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                (over_ipv6, outer_ipv6(protocol, source, destination).to_bytes().to_vec())
            }
            mixed => panic!("{mixed:?} are of two families"),
        };
        BackendRow {
            encapsulation,
            gue_port: NetU16::new(gue_port),
            entropy_bits: tunnel.entropy_bits,
            outer: outer_header(&header),
            address: Address::from(tunnel.destination),
            ..row
        }
    }

    /// What becomes of `frame`, a client's, if the balancer sends it here as [`BACKEND`].
    pub(crate) fn receives(&self, frame: &Frame) -> Outcome<Verdict> {
        self.receives_as(BACKEND, frame)
    }

    /// What becomes of `frame`, a client's, if the balancer sends it here.
    pub(crate) fn receives_as(&self, backend: BackendId, frame: &Frame) -> Outcome<Verdict> {
        let (verdict, action) = match self.egress_ifindex {
            INGRESS_IFINDEX => (Verdict::Transmitted, Action::Transmit),
            OTHER_IFINDEX => (Verdict::Redirected, Action::Redirect),
            unknown => panic!("nothing is sent to interface {unknown}"),
        };
        let traffic = counted(backend, frame);
        Outcome::untracked(action, vec![(verdict, 1)], traffic, self.delivery(frame).to_bytes())
    }

    /// The frame that leaves for the backend when a client's `frame` comes in.
    pub(crate) fn delivery(&self, frame: &Frame) -> Frame {
        let tags = if self.vlan == 0 { Vec::new() } else { vec![Tag::customer(self.vlan)] };
        let (ether_type, packet) = match self.forwarding {
            Forwarding::Local => panic!("a local backend gets no frames"),
            Forwarding::L2Dsr => (frame.ether_type, frame.packet.clone()),
            Forwarding::Ipip(tunnel) => tunnel.encapsulate(&frame.packet, None),
            Forwarding::Gue(tunnel, port) => tunnel.encapsulate(&frame.packet, Some(port)),
        };
        Frame { destination: self.mac, source: EGRESS_MAC, tags, ether_type, packet, padding: frame.padding.clone() }
    }
}

impl Tunnel {
    const fn over(family: Family, entropy_bits: u8) -> Self {
        Self { source: family.tunnel_source(), destination: family.backend(), entropy_bits }
    }

    /// `inner` in an outer header, field by field: RFC 2003 and RFC 2473, with the DSCP of the uniform model of RFC
    /// 2983 and the ECN of the normal mode of RFC 6040, and the flow label of RFC 6438. Between them, where there is a
    /// port, UDP and GUE.
    fn encapsulate(&self, inner: &[u8], gue_port: Option<u16>) -> (EtherType, Vec<u8>) {
        let (family, traffic_class) = match IpSlice::from_slice(inner).expect("etherparse takes the packet") {
            IpSlice::Ipv4(ip) => (Family::V4, ip.header().dcp().value() << 2 | ip.header().ecn().value()),
            IpSlice::Ipv6(ip) => (Family::V6, ip.header().traffic_class()),
        };
        let [_, _, _, _, entropy @ ..] = flow_hash(HASH_KEY, inner).to_le_bytes();
        let entropy = u32::from_le_bytes(entropy);
        let source_entropy = entropy & u32::MAX.checked_shr(32 - u32::from(self.entropy_bits)).unwrap_or(0);
        let gue = gue_port.map(|port| {
            // The 14 bits of a dynamic port (RFC 6335, section 6).
            let source_port = 49_152 + u16::try_from(entropy >> 18).expect("14 bits");
            Gue::new(source_port, port, family, inner)
        });
        let protocol = if gue.is_some() { IpNumber::UDP } else { family.as_payload() };
        let payload_len = inner.len() + if gue.is_some() { Gue::HEADERS_LEN } else { 0 };
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let source = Ipv4Addr::from_bits(source.to_bits() | source_entropy);
                let mut header = outer_ipv4(protocol, source, destination);
                header.dscp = dscp(traffic_class);
                header.ecn = ecn(traffic_class);
                header.set_payload_len(payload_len).expect("a short packet");
                header.header_checksum = header.calc_header_checksum();
                let payload = gue.map_or_else(|| inner.to_vec(), |gue| gue.to_bytes());
                (EtherType::IPV4, [&header.to_bytes()[..], &payload].concat())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let source = Ipv6Addr::from_bits(source.to_bits() | u128::from(source_entropy));
                let mut header = outer_ipv6(protocol, source, destination);
                header.traffic_class = traffic_class;
                header.flow_label = Ipv6FlowLabel::try_new(entropy & 0xf_ffff).expect("twenty bits");
                header.set_payload_length(payload_len).expect("a short packet");
                let payload = gue.map_or_else(|| inner.to_vec(), |gue| gue.summed_up_ipv6(&header).to_bytes());
                (EtherType::IPV6, [&header.to_bytes()[..], &payload].concat())
            }
            mixed => panic!("{mixed:?} are of two families"),
        }
    }
}

/// A datagram of Generic UDP Encapsulation.
#[derive(Clone, Debug)]
pub(crate) struct Gue {
    pub(crate) udp: UdpHeader,
    /// The header (variant 0, no extensions) and the packet behind it.
    pub(crate) payload: Vec<u8>,
}

impl Gue {
    /// Length of the headers of UDP and GUE.
    pub(crate) const HEADERS_LEN: usize = 12;

    /// Without a checksum.
    pub(crate) fn new(source_port: u16, destination_port: u16, family: Family, inner: &[u8]) -> Self {
        let payload = [&[0, family.as_payload().0, 0, 0], inner].concat();
        let udp = UdpHeader::without_ipv4_checksum(source_port, destination_port, payload.len());
        Self { udp: udp.expect("a short packet"), payload }
    }

    #[must_use]
    pub(crate) fn summed_up_ipv4(mut self, outer: &Ipv4Header) -> Self {
        self.udp.checksum = self.udp.calc_checksum_ipv4(outer, &self.payload).expect("a short packet");
        self
    }

    #[must_use]
    pub(crate) fn summed_up_ipv6(mut self, outer: &Ipv6Header) -> Self {
        self.udp.checksum = self.udp.calc_checksum_ipv6(outer, &self.payload).expect("a short packet");
        self
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        [&self.udp.to_bytes()[..], &self.payload].concat()
    }
}

/// The traffic counters after one client's frame: its IP packet counts, and nothing around it.
pub(crate) fn counted(backend: BackendId, frame: &Frame) -> Vec<(BackendId, Traffic)> {
    vec![(backend, Traffic { packets: 1, bytes: frame.packet.len() as u64 })]
}

/// What is the same for all packets: not to be fragmented, and so without identification (RFC 6864).
pub(crate) fn outer_ipv4(protocol: IpNumber, source: Ipv4Addr, destination: Ipv4Addr) -> Ipv4Header {
    Ipv4Header {
        total_len: 0,
        identification: 0,
        dont_fragment: true,
        time_to_live: OUTER_TTL,
        protocol,
        source: source.octets(),
        destination: destination.octets(),
        ..Ipv4Header::default()
    }
}

pub(crate) fn outer_ipv6(next_header: IpNumber, source: Ipv6Addr, destination: Ipv6Addr) -> Ipv6Header {
    Ipv6Header {
        next_header,
        hop_limit: OUTER_TTL,
        source: source.octets(),
        destination: destination.octets(),
        ..Ipv6Header::default()
    }
}

fn outer_header(bytes: &[u8]) -> OuterHeader {
    let mut header = OuterHeader::default();
    let (words, _) = bytes.as_chunks();
    for (word, bytes) in header.0.iter_mut().zip(words) {
        *word = NetU32::from_wire(*bytes);
    }
    header
}
