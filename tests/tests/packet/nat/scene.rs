//! A service that translates, its backend, and both ends of its flows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, IpNumber, PacketHeaders, TransportHeader};
use lb_common::{
    BackendId, BackendRow, Condition, Encapsulation, MacAddress, NatMode, NetU16, Service, ServiceKey, SlotWord,
    Tracking, Verdict, layout,
    nat::{NatSource, NatState, NatTarget, Phase},
};

use crate::{
    case::{Action, Datapath, Outcome},
    fixture::{Balancer, keys},
    frame::{Frame, Tag},
    hexdiff,
    packet::{Header, Packet, flags},
    world::{BACKEND, EGRESS_MAC, Family, INGRESS_IFINDEX, OWN_MAC, ROUTER_MAC, SERVICE, SERVICE_PORT},
};

pub(super) const BACKEND_MAC: MacAddress = [0x02, 0, 0, 0, 3, 0x01];
pub(super) const BACKEND_PORT: u16 = 8443;
pub(super) const FIRST_PORT: u16 = 10_000;

/// How a service translates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) client: Family,
    pub(super) backend: Family,
    pub(super) mode: NatMode,
    /// How many source addresses there are, and how many ports each has.
    pub(super) sources: u16,
    pub(super) ports: u16,
    pub(super) mtu: u16,
    /// The interface that leads to the backend.
    pub(super) egress: u32,
    /// The VLAN of the backend; zero is none.
    pub(super) vlan: u16,
    /// The port of the backend; zero: the service's.
    pub(super) port: u16,
}

impl Setup {
    pub(super) const fn full(client: Family, backend: Family) -> Self {
        let mode = NatMode::BOTH;
        let egress = INGRESS_IFINDEX;
        Self { client, backend, mode, sources: 1, ports: 20_000, mtu: 1500, egress, vlan: 0, port: BACKEND_PORT }
    }

    /// The client's address and port are kept.
    pub(super) const fn destination(family: Family) -> Self {
        Self { mode: NatMode::DESTINATION, sources: 0, ..Self::full(family, family) }
    }

    /// Every way to translate between the families.
    pub(super) fn all() -> [Self; 6] {
        use Family::{V4, V6};
        [
            Self::full(V4, V4),
            Self::full(V6, V6),
            Self::full(V4, V6),
            Self::full(V6, V4),
            Self::destination(V4),
            Self::destination(V6),
        ]
    }

    pub(super) fn backend_address(&self) -> SocketAddr {
        SocketAddr::new(self.backend.backend(), if self.port == 0 { SERVICE_PORT } else { self.port })
    }

    fn row(&self) -> BackendRow {
        let target = NatTarget { port: NetU16::new(self.port), first_source: 3, sources: self.sources };
        BackendRow {
            encapsulation: Encapsulation::TRANSLATED,
            vlan: NetU16::new(self.vlan),
            egress_ifindex: self.egress.try_into().expect("a small number"),
            mtu: self.mtu,
            destination_mac: BACKEND_MAC,
            source_mac: EGRESS_MAC,
            service: SERVICE,
            address: self.backend_address().ip().into(),
            outer: target.to_outer(),
            ..BackendRow::default()
        }
    }
}

/// The source address number `number` of translated flows.
pub(super) fn source_address(family: Family, number: u16) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 9, 0).to_bits() + u32::from(number)).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x9, 0, 0, 0, 0, number).into(),
    }
}

/// The balancer with that service.
pub(super) struct Scene {
    pub(super) balancer: Balancer,
    pub(super) setup: Setup,
    pub(super) service: Service,
}

impl Scene {
    pub(super) fn new(setup: Setup) -> Option<Self> {
        let mut balancer = Balancer::empty()?;
        let owners = vec![SlotWord::stable(BACKEND); layout::MIN_SLOTS as usize];
        let service = Service { nat: setup.mode, ..balancer.put_slots(SERVICE, &owners) };
        let mut scene = Self { balancer, setup, service };
        scene.put_backend();
        scene.put_service(service);
        Some(scene)
    }

    /// Makes the first backend, and the sources of its flows.
    fn put_backend(&mut self) {
        let setup = self.setup;
        let sources: Vec<IpAddr> = (0..setup.sources).map(|number| source_address(setup.backend, number)).collect();
        let entries: Vec<NatSource> = sources
            .iter()
            .map(|address| NatSource { address: (*address).into(), first_port: FIRST_PORT, ports: setup.ports })
            .collect();
        self.balancer.maps().put_nat_sources(3, &entries).expect("the map takes them");
        let replies = if sources.is_empty() { vec![setup.backend.backend()] } else { sources };
        self.balancer.translate(&replies);
        self.balancer.put_row(BACKEND, &setup.row());
    }

    /// Makes this the service.
    pub(super) fn put_service(&mut self, service: Service) {
        let is_of_family = |key: &ServiceKey| key.address.is_mapped() == (self.setup.client == Family::V4);
        self.balancer.put_services(keys(SERVICE_PORT).filter(is_of_family), service);
        self.service = service;
    }

    /// Makes a second backend, at the same address with the port after.
    pub(super) fn add_second(&mut self) -> BackendId {
        let second = BackendId::truncate(BACKEND.get() + 1);
        let row = Setup { port: self.setup.port + 1, ..self.setup }.row();
        self.balancer.put_row(second, &row);
        second
    }

    /// Gives the service's slots to a second backend, at the same address with the port after.
    pub(super) fn move_to_another_backend(&mut self) -> BackendId {
        let other = self.add_second();
        self.setup.port += 1;
        self.give_slots_to(other);
        other
    }

    /// Gives the slots back to the first backend.
    pub(super) fn move_back(&mut self) {
        self.setup.port -= 1;
        self.give_slots_to(BACKEND);
    }

    fn give_slots_to(&mut self, owner: BackendId) {
        for slot in 0..layout::MIN_SLOTS {
            self.balancer.maps().store_slot(&self.service, slot, SlotWord::stable(owner));
        }
    }

    /// Lets the service, and its first backend, translate in another way.
    pub(super) fn put_mode(&mut self, mode: NatMode, sources: u16) {
        (self.setup.mode, self.setup.sources) = (mode, sources);
        self.put_backend();
        self.put_service(Service { nat: mode, ..self.service });
    }

    /// Lets the first backend be in this condition.
    pub(super) fn put_condition(&mut self, condition: Condition) {
        self.balancer.put_row(BACKEND, &BackendRow { condition, ..self.setup.row() });
    }

    /// A packet from the client.
    pub(super) fn request(&self, protocol: IpNumber) -> Packet {
        self.setup.client.packet(protocol)
    }

    /// The same from another port of the client.
    pub(super) fn request_from(&self, protocol: IpNumber, port: u16) -> Packet {
        let packet = self.request(protocol);
        Packet { source: SocketAddr::new(packet.source.ip(), port), ..packet }
    }

    /// A packet from the backend to whom it takes for the client.
    pub(super) fn reply(&self, protocol: IpNumber, to: SocketAddr) -> Packet {
        Packet::new(protocol, self.setup.backend_address(), to)
    }

    /// What becomes of a packet from the client's side.
    pub(super) fn send(&mut self, packet: &Packet) -> Outcome<Verdict> {
        let frame = self.setup.client.frame(packet.to_bytes());
        self.balancer.run(&frame.to_bytes())
    }

    /// Whom the backend takes for the client, after this packet, if it was sent on; for when there are many.
    pub(super) fn try_source_of(&mut self, packet: &Packet) -> Option<SocketAddr> {
        let frame = self.setup.client.frame(packet.to_bytes());
        let (action, sent) = self.balancer.run_only(&frame.to_bytes());
        (action == Action::Transmit).then(|| endpoints(&sent).0)
    }

    /// What becomes of a packet from the backend's side.
    pub(super) fn answer(&mut self, packet: &Packet) -> Outcome<Verdict> {
        let frame = Frame { source: BACKEND_MAC, ..self.setup.backend.frame(packet.to_bytes()) };
        self.balancer.run(&frame.to_bytes())
    }

    /// Whom the backend takes for the client, after this packet of the client's, which has to be sent on.
    pub(super) fn source_of(&mut self, packet: &Packet) -> SocketAddr {
        let outcome = self.send(packet);
        assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Transmit, &[(Verdict::Transmitted, 1)][..]));
        endpoints(&outcome.frame).0
    }

    /// A connection through which both sides have sent; whom the backend takes for the client.
    pub(super) fn establish(&mut self, port: u16) -> SocketAddr {
        let source = self.source_of(&self.request_from(IpNumber::TCP, port));
        let answer = self.reply(IpNumber::TCP, source).with_flags(flags::SYN | flags::ACK, 5000, 0x1234_5679);
        assert_eq!(self.answer(&answer).verdicts, [(Verdict::Transmitted, 1)]);
        let third = self.request_from(IpNumber::TCP, port).with_flags(flags::ACK, 0x1234_5679, 5001);
        assert_eq!(self.source_of(&third), source);
        source
    }

    /// What the flows in the table do.
    pub(super) fn phases(&self) -> Vec<Phase> {
        self.balancer.nat_table().flows().map(|(_, record)| record.state.phase()).collect()
    }

    /// The states of the flows in the table, times and all.
    pub(super) fn states(&self) -> Vec<NatState> {
        self.balancer.nat_table().flows().map(|(_, record)| record.state).collect()
    }

    /// What the flows of the client's port do.
    pub(super) fn phases_of(&self, port: u16) -> Vec<Phase> {
        let table = self.balancer.nat_table();
        let flows = table.flows().filter(|(_, record)| record.ports.halves()[0].get() == port);
        flows.map(|(_, record)| record.state.phase()).collect()
    }

    /// `packet` as it has to reach the backend, which is to take `source` for the client.
    pub(super) fn for_backend(&self, packet: &Packet, source: SocketAddr) -> Vec<u8> {
        let (from, to) = (self.setup.client, self.setup.backend);
        let packet = Packet { source, destination: self.setup.backend_address(), ..translated(packet, from, to) };
        let frame = Frame { destination: BACKEND_MAC, source: EGRESS_MAC, ..to.frame(packet.to_bytes()) };
        match self.setup.vlan {
            0 => frame.to_bytes(),
            tci => frame.tagged(&[Tag::customer(tci)]).to_bytes(),
        }
    }

    /// `packet` as it has to reach the client.
    pub(super) fn for_client(&self, packet: &Packet, client: SocketAddr) -> Frame {
        let (from, to) = (self.setup.backend, self.setup.client);
        let source = SocketAddr::new(to.virtual_ip(), SERVICE_PORT);
        let packet = Packet { source, destination: client, ..translated(packet, from, to) };
        Frame { destination: ROUTER_MAC, source: OWN_MAC, ..to.frame(packet.to_bytes()) }
    }
}

impl Packet {
    /// As a segment with these flags, sequence number and acknowledgment number.
    #[must_use]
    pub(super) fn with_flags(mut self, flags: u8, sequence: u32, acknowledgment: u32) -> Self {
        (self.segment.flags, self.segment.sequence, self.segment.acknowledgment) = (flags, sequence, acknowledgment);
        if flags & flags::PSH == 0 {
            self.payload.clear();
        }
        self
    }
}

/// What one hop, and another family, make of the fields of a header: those that the other family has not are left out (RFC 7915,
/// sections 4.1 and 5.1), and datagrams are atomic (RFC 6864).
fn translated(packet: &Packet, from: Family, to: Family) -> Packet {
    let kept = Header { hop_limit: packet.header.hop_limit - 1, ..packet.header };
    let header = match (from, to) {
        (Family::V4, Family::V6) => Header { flow_label: 0, ..kept },
        (Family::V6, Family::V4) => Header { identification: 0, dont_fragment: true, ..kept },
        (Family::V4, Family::V4) | (Family::V6, Family::V6) => kept,
    };
    let options = if from == to { packet.options.clone() } else { Vec::new() };
    Packet { options, header, ..packet.clone() }
}

/// Source and destination of the packet in a frame.
pub(super) fn endpoints(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let headers = PacketHeaders::from_ethernet_slice(frame).expect("headers that etherparse can read");
    let (source, destination): (IpAddr, IpAddr) = match headers.net.expect("an IP header") {
        etherparse::NetHeaders::Ipv4(header, _) => (header.source.into(), header.destination.into()),
        etherparse::NetHeaders::Ipv6(header, _) => (header.source.into(), header.destination.into()),
        etherparse::NetHeaders::Arp(_) => panic!("ARP has no ports"),
    };
    let ports = match headers.transport.expect("a transport header") {
        TransportHeader::Tcp(header) => (header.source_port, header.destination_port),
        TransportHeader::Udp(header) => (header.source_port, header.destination_port),
        TransportHeader::Icmpv4(Icmpv4Header { icmp_type: Icmpv4Type::EchoRequest(echo), .. })
        | TransportHeader::Icmpv6(Icmpv6Header { icmp_type: Icmpv6Type::EchoRequest(echo), .. }) => (echo.id, 0),
        TransportHeader::Icmpv4(Icmpv4Header { icmp_type: Icmpv4Type::EchoReply(echo), .. })
        | TransportHeader::Icmpv6(Icmpv6Header { icmp_type: Icmpv6Type::EchoReply(echo), .. }) => (0, echo.id),
        other => panic!("{other:?} has no ports"),
    };
    (SocketAddr::new(source, ports.0), SocketAddr::new(destination, ports.1))
}

/// Fails with the bytes that differ.
#[track_caller]
pub(super) fn assert_sent(what: &str, outcome: &Outcome<Verdict>, expected: &[u8]) {
    assert_eq!(outcome.action, Action::Transmit, "{what}: {:?}", outcome.verdicts);
    assert_eq!(outcome.verdicts, [(Verdict::Transmitted, 1)], "{what}");
    assert!(outcome.frame == expected, "{what}\n{}", hexdiff::difference(expected, &outcome.frame));
}

/// How often a flow got a place.
pub(super) fn opened(outcome: &Outcome<Verdict>) -> u64 {
    outcome.tracking.iter().find(|(event, _)| *event == Tracking::Translated).map_or(0, |(_, count)| *count)
}
