//! IP packets of clients.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use etherparse::{
    IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpDscp, IpEcn, IpNumber, Ipv4Header,
    Ipv4Options, Ipv6FlowLabel, Ipv6Header, Ipv6RawExtHeader, TcpHeader, TransportHeader, UdpHeader,
};

/// A TCP segment, UDP datagram or ICMP echo message in an IP packet.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// [`IpNumber::ICMP`] is that of the family.
    pub(crate) protocol: IpNumber,
    /// DSCP and ECN.
    pub(crate) traffic_class: u8,
    /// Options of an IPv4 header: a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    /// Extension headers of an IPv6 packet.
    pub(crate) extensions: Vec<Extension>,
    /// The header of a TCP segment.
    pub(crate) segment: Segment,
    /// What an ICMP echo message is.
    pub(crate) echo: Echo,
    pub(crate) payload: Vec<u8>,
    /// What else is in the IP header.
    pub(crate) header: Header,
}

/// What differs in ICMP echo messages. The identifier is the port of who asks; that of who answers stands nowhere.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Echo {
    /// A request with this sequence number.
    Request(u16),
    /// A reply with this sequence number.
    Reply(u16),
}

/// Fields of an IP header that the datapath has to carry through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Time to live, or hop limit.
    pub(crate) hop_limit: u8,
    /// Of IPv4.
    pub(crate) identification: u16,
    /// Of IPv4.
    pub(crate) dont_fragment: bool,
    /// Of IPv6.
    pub(crate) flow_label: u32,
}

/// As a client sends it: no field has a usual value.
impl Default for Header {
    fn default() -> Self {
        Self { hop_limit: CLIENT_TTL, identification: 0x4321, dont_fragment: false, flow_label: 0x5_4321 }
    }
}

/// What differs in the headers of TCP segments (RFC 9293, section 3.1).
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// The sum of the flags' values.
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    /// A multiple of four bytes.
    pub(crate) options: Vec<u8>,
}

/// The first segment of a connection.
impl Default for Segment {
    fn default() -> Self {
        Self { flags: flags::SYN, sequence: 0x1234_5678, acknowledgment: 0, options: Vec::new() }
    }
}

/// The flags of a TCP header.
pub(crate) mod flags {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 1 << 1;
    pub(crate) const RST: u8 = 1 << 2;
    pub(crate) const PSH: u8 = 1 << 3;
    pub(crate) const ACK: u8 = 1 << 4;
    pub(crate) const URG: u8 = 1 << 5;
    pub(crate) const ECE: u8 = 1 << 6;
    pub(crate) const CWR: u8 = 1 << 7;
}

/// An extension header (RFC 8200, section 4).
#[derive(Clone, Debug)]
pub(crate) struct Extension {
    pub(crate) number: IpNumber,
    /// What is behind its first two bytes: 6 bytes, or 8 more, and so on.
    pub(crate) data: Vec<u8>,
}

pub(crate) const CLIENT_TTL: u8 = 61;

impl Packet {
    pub(crate) fn new(protocol: IpNumber, source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source,
            destination,
            protocol,
            traffic_class: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            segment: Segment::default(),
            echo: Echo::Request(1),
            payload: b"hello".to_vec(),
            header: Header::default(),
        }
    }

    #[must_use]
    pub(crate) fn traffic_class(self, traffic_class: u8) -> Self {
        Self { traffic_class, ..self }
    }

    /// With a payload that makes the whole packet `len` bytes long.
    #[must_use]
    pub(crate) fn sized(self, len: usize) -> Self {
        let headers = self.to_bytes().len() - self.payload.len();
        let payload = (0..=u8::MAX).cycle().take(len - headers).collect();
        Self { payload, ..self }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => self.ipv4(source, destination),
            (IpAddr::V6(source), IpAddr::V6(destination)) => self.ipv6(source.octets(), destination.octets()),
            mixed => panic!("{mixed:?} are of two families"),
        }
    }

    fn ipv4(&self, source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
        let mut transport = self.transport(true);
        let options = Ipv4Options::try_from(&self.options[..]).expect("options fit the header");
        let mut header = Ipv4Header {
            dscp: dscp(self.traffic_class),
            ecn: ecn(self.traffic_class),
            identification: self.header.identification,
            dont_fragment: self.header.dont_fragment,
            time_to_live: self.header.hop_limit,
            protocol: self.protocol,
            source: source.octets(),
            destination: destination.octets(),
            options,
            ..Ipv4Header::default()
        };
        header.set_payload_len(transport.header_len() + self.payload.len()).expect("a short payload");
        header.header_checksum = header.calc_header_checksum();
        transport.update_checksum_ipv4(&header, &self.payload).expect("a short payload");
        [&header.to_bytes()[..], &transport_bytes(&transport), &self.payload].concat()
    }

    fn ipv6(&self, source: [u8; 16], destination: [u8; 16]) -> Vec<u8> {
        let mut transport = self.transport(false);
        let mut next = if self.protocol == IpNumber::ICMP { IpNumber::IPV6_ICMP } else { self.protocol };
        let mut extensions = Vec::new();
        for Extension { number, data } in self.extensions.iter().rev() {
            let header = Ipv6RawExtHeader::new_raw(next, data).expect("a multiple of eight bytes");
            extensions.splice(..0, header.to_bytes());
            next = *number;
        }
        let payload_len = extensions.len() + transport.header_len() + self.payload.len();
        let header = Ipv6Header {
            traffic_class: self.traffic_class,
            flow_label: Ipv6FlowLabel::try_new(self.header.flow_label).expect("twenty bits"),
            payload_length: payload_len.try_into().expect("a short payload"),
            next_header: next,
            hop_limit: self.header.hop_limit,
            source,
            destination,
        };
        transport.update_checksum_ipv6(&header, &self.payload).expect("a short payload");
        [&header.to_bytes()[..], &extensions, &transport_bytes(&transport), &self.payload].concat()
    }

    fn transport(&self, ipv4: bool) -> TransportHeader {
        let (source_port, destination_port) = (self.source.port(), self.destination.port());
        match self.protocol {
            IpNumber::TCP => TransportHeader::Tcp(self.segment.header(source_port, destination_port)),
            IpNumber::UDP => TransportHeader::Udp(UdpHeader {
                source_port,
                destination_port,
                length: (UdpHeader::LEN + self.payload.len()).try_into().expect("a short payload"),
                checksum: 0,
            }),
            IpNumber::ICMP => self.echo_header(ipv4),
            other => panic!("{other:?} has no ports"),
        }
    }

    fn echo_header(&self, ipv4: bool) -> TransportHeader {
        let (source_port, destination_port) = (self.source.port(), self.destination.port());
        let v4 = |kind| TransportHeader::Icmpv4(Icmpv4Header::new(kind));
        let v6 = |kind| TransportHeader::Icmpv6(Icmpv6Header::new(kind));
        match (self.echo, ipv4) {
            (Echo::Request(seq), true) => v4(Icmpv4Type::EchoRequest(IcmpEchoHeader { id: source_port, seq })),
            (Echo::Request(seq), false) => v6(Icmpv6Type::EchoRequest(IcmpEchoHeader { id: source_port, seq })),
            (Echo::Reply(seq), true) => v4(Icmpv4Type::EchoReply(IcmpEchoHeader { id: destination_port, seq })),
            (Echo::Reply(seq), false) => v6(Icmpv6Type::EchoReply(IcmpEchoHeader { id: destination_port, seq })),
        }
    }
}

impl Segment {
    fn header(&self, source_port: u16, destination_port: u16) -> TcpHeader {
        let has = |flag| self.flags & flag != 0;
        let mut header = TcpHeader {
            fin: has(flags::FIN),
            syn: has(flags::SYN),
            rst: has(flags::RST),
            psh: has(flags::PSH),
            ack: has(flags::ACK),
            urg: has(flags::URG),
            ece: has(flags::ECE),
            cwr: has(flags::CWR),
            acknowledgment_number: self.acknowledgment,
            ..TcpHeader::new(source_port, destination_port, self.sequence, 0x2000)
        };
        header.set_options_raw(&self.options).expect("at most ten words");
        header
    }
}

fn transport_bytes(header: &TransportHeader) -> Vec<u8> {
    let mut bytes = Vec::new();
    header.write(&mut bytes).expect("writing to a vector succeeds");
    bytes
}

pub(crate) fn dscp(traffic_class: u8) -> IpDscp {
    IpDscp::try_new(traffic_class >> 2).expect("six bits")
}

pub(crate) fn ecn(traffic_class: u8) -> IpEcn {
    IpEcn::try_new(traffic_class & 3).expect("two bits")
}
