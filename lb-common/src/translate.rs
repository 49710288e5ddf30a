//! What has to change in a packet's checksums when its addresses and ports are translated (RFC 1624; between the families RFC
//! 7915, section 4.5 and 5.5).

use crate::{Address, NetU16, NetU32, checksum::Sum, echo};

/// The addresses and ports that a packet has between two hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Whose packet it is.
    pub source: Address,
    /// Who is to get it.
    pub destination: Address,
    /// The source's port, then the destination's.
    pub ports: NetU32,
    /// Whether both addresses are IPv4 addresses.
    pub ipv4: bool,
}

impl Endpoints {
    /// Their part in the checksum of the transport header, whose pseudo header holds the addresses. What else is in it, length and
    /// protocol, adds up to the same in both families (RFC 9293, section 3.1; RFC 8200, section 8.1).
    #[inline(always)]
    pub const fn sum(&self) -> Sum {
        let [a, b, c, d] = self.source.words();
        let [e, f, g, h] = self.destination.words();
        let sum = Sum::new().words(self.ports).words(d).words(h);
        if self.ipv4 { sum } else { sum.words(a).words(b).words(c).words(e).words(f).words(g) }
    }

    /// The same for an ICMP echo message, which has its identifier for a port: in IPv4 it has no pseudo-header (RFC 792), in IPv6 it has
    /// one (RFC 4443, section 2.3).
    #[inline(always)]
    pub const fn sum_of_echo(&self) -> Sum {
        if self.ipv4 { Sum::new().words(self.ports) } else { self.sum() }
    }
}

/// The checksum of a segment or datagram whose endpoints were `old` and are now `new`.
#[inline(always)]
pub const fn checksum(check: NetU16, old: &Endpoints, new: &Endpoints) -> NetU16 {
    Sum::of_checksum(check).minus(old.sum()).add(new.sum()).finish()
}

/// The same for UDP, where zero says that there is no checksum (RFC 768). `None` if there has to be one from now on: over IPv6 a
/// datagram without a checksum is not taken (RFC 8200, section 8.1).
#[inline(always)]
pub const fn udp_checksum(check: NetU16, old: &Endpoints, new: &Endpoints) -> Option<NetU16> {
    if check.get() == 0 {
        return if new.ipv4 { Some(check) } else { None };
    }
    let translated = checksum(check, old, new);
    // A sum that comes out as zero is sent as its other form (RFC 768).
    Some(if translated.get() == 0 { NetU16::new(0xffff) } else { translated })
}

/// What the checksum of an ICMP echo message depends on besides its endpoints and its data.
#[derive(Clone, Copy, Debug)]
pub struct EchoMessage {
    /// [`echo::REQUEST`] or [`echo::REPLY`].
    pub protocol: u8,
    /// Its length in bytes.
    pub len: u16,
}

impl EchoMessage {
    /// The checksum of a message that had `check`, after a translation between endpoints with these sums ([`Endpoints::sum_of_echo`]), of
    /// which each says whether it is of IPv4 (RFC 7915, sections 4.2 and 5.2).
    #[inline(always)]
    pub const fn checksum(self, check: NetU16, old: (Sum, bool), new: (Sum, bool)) -> NetU16 {
        let [old, new] = [self.sum(old), self.sum(new)];
        let translated = Sum::of_checksum(check).minus(old).add(new).finish();
        // Of a reply that is all zeros (IPv4, identifier and sequence number zero, no data) only all ones are right, and of others
        // they are no less right than zero.
        if translated.get() == 0 { NetU16::new(0xffff) } else { translated }
    }

    /// What differs between endpoints: besides the identifier the type, and what else is in the pseudo-header over IPv6.
    #[inline(always)]
    const fn sum(self, (endpoints, ipv4): (Sum, bool)) -> Sum {
        let sum = endpoints.word(echo::type_and_code(self.protocol, ipv4));
        if ipv4 { sum } else { sum.word(NetU16::new(self.len)).word(NetU16::new(echo::ICMPV6 as u16)) }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use etherparse::{
        IcmpEchoHeader, Icmpv4Header, Icmpv4Type, Icmpv6Header, Icmpv6Type, Ipv4Header, Ipv6Header, TcpHeader,
        UdpHeader,
    };
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
        prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (Ipv4Addr::from(a).into(), Ipv4Addr::from(b).into())),
            any::<([u8; 16], [u8; 16])>()
                .prop_filter("mapped addresses do not stand in packets", |(a, b)| {
                    [a, b].iter().all(|octets| Ipv6Addr::from(**octets).to_ipv4_mapped().is_none())
                })
                .prop_map(|(a, b)| (Ipv6Addr::from(a).into(), Ipv6Addr::from(b).into())),
        ]
    }

    fn endpoints() -> impl Strategy<Value = (IpAddr, IpAddr, u16, u16)> {
        (addresses(), any::<u16>(), any::<u16>())
            .prop_map(|((source, destination), from, to)| (source, destination, from, to))
    }

    fn of((source, destination, from, to): (IpAddr, IpAddr, u16, u16)) -> Endpoints {
        Endpoints {
            source: source.into(),
            destination: destination.into(),
            ports: NetU32::new(u32::from(from) << 16 | u32::from(to)),
            ipv4: source.is_ipv4(),
        }
    }

    fn tcp_checksum(between: (IpAddr, IpAddr, u16, u16), payload: &[u8]) -> u16 {
        let (source, destination, from, to) = between;
        let header = TcpHeader::new(from, to, 0x1234_5678, 0x2000);
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header.calc_checksum_ipv4_raw(source.octets(), destination.octets(), payload)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                header.calc_checksum_ipv6_raw(source.octets(), destination.octets(), payload)
            }
            _ => panic!("two families"),
        }
        .expect("a short payload")
    }

    /// As etherparse has it: never zero.
    fn udp_checksum_of(between: (IpAddr, IpAddr, u16, u16), payload: &[u8]) -> u16 {
        let (source, destination, from, to) = between;
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let ip =
                    Ipv4Header { source: source.octets(), destination: destination.octets(), ..Ipv4Header::default() };
                UdpHeader::with_ipv4_checksum(from, to, &ip, payload)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let ip =
                    Ipv6Header { source: source.octets(), destination: destination.octets(), ..Ipv6Header::default() };
                UdpHeader::with_ipv6_checksum(from, to, &ip, payload)
            }
            _ => panic!("two families"),
        }
        .expect("a short payload")
        .checksum
    }

    /// An echo message whose identifier is the port of who asks.
    fn echo_checksum_of((source, destination, from, to): (IpAddr, IpAddr, u16, u16), seq: u16, payload: &[u8]) -> u16 {
        let is_request = to == 0;
        let echo = IcmpEchoHeader { id: from | to, seq };
        match (source, destination) {
            (IpAddr::V4(_), IpAddr::V4(_)) => {
                let kind = if is_request { Icmpv4Type::EchoRequest(echo) } else { Icmpv4Type::EchoReply(echo) };
                Icmpv4Header::with_checksum(kind, payload).checksum
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let kind = if is_request { Icmpv6Type::EchoRequest(echo) } else { Icmpv6Type::EchoReply(echo) };
                Icmpv6Header::with_checksum(kind, source.octets(), destination.octets(), payload)
                    .expect("a short payload")
                    .checksum
            }
            _ => panic!("two families"),
        }
    }

    /// Zero and all ones are the same sum.
    fn is_same(one: u16, other: u16) -> bool {
        one == other || [one, other].iter().all(|sum| [0, 0xffff].contains(sum))
    }

    proptest! {
        #[test]
        fn a_translated_segment_has_the_checksum_that_etherparse_computes(
            old in endpoints(), new in endpoints(), payload in vec(any::<u8>(), 0..100),
        ) {
            let check = NetU16::new(tcp_checksum(old, &payload));
            let translated = checksum(check, &of(old), &of(new)).get();
            let expected = tcp_checksum(new, &payload);
            prop_assert!(is_same(translated, expected), "{translated:#x}, {expected:#x}");
        }

        #[test]
        fn a_translated_datagram_has_the_checksum_that_etherparse_computes_and_never_none(
            old in endpoints(), new in endpoints(), payload in vec(any::<u8>(), 0..100),
        ) {
            let check = NetU16::new(udp_checksum_of(old, &payload));
            let translated = udp_checksum(check, &of(old), &of(new)).unwrap().get();
            prop_assert_eq!(translated, udp_checksum_of(new, &payload));
        }

        #[test]
        fn a_translated_echo_has_the_checksum_that_etherparse_computes(
            old in endpoints(), new in endpoints(), seq: u16, payload in vec(any::<u8>(), 0..100), is_request: bool,
        ) {
            let ports = |(source, destination, identifier, _): (IpAddr, IpAddr, u16, u16)| {
                let (from, to) = if is_request { (identifier, 0) } else { (0, identifier.max(1)) };
                (source, destination, from, to)
            };
            let (old, new) = (ports(old), ports(new));
            let check = NetU16::new(echo_checksum_of(old, seq, &payload));
            let protocol = if is_request { echo::REQUEST } else { echo::REPLY };
            let len = u16::try_from(echo::HEADER_LEN + payload.len()).expect("a short payload");
            let ends = [old, new].map(of).map(|ends| (ends.sum_of_echo(), ends.ipv4));
            let translated = EchoMessage { protocol, len }.checksum(check, ends[0], ends[1]).get();
            let expected = echo_checksum_of(new, seq, &payload);
            prop_assert!(is_same(translated, expected), "{translated:#x}, {expected:#x}");
        }

        #[test]
        fn a_datagram_without_a_checksum_stays_so_over_ipv4_only(old in endpoints(), new in endpoints()) {
            let translated = udp_checksum(NetU16::new(0), &of(old), &of(new));
            prop_assert_eq!(translated, new.0.is_ipv4().then_some(NetU16::new(0)));
        }
    }

    /// All that is added up is zero, and so is the sum only of all ones.
    #[test]
    fn a_reply_that_is_all_zeros_has_all_ones_for_its_checksum() {
        let ends = |identifier| ([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 0, identifier);
        let (old, new): ((IpAddr, IpAddr, u16, u16), _) = (ends(1024), ends(0));
        let check = NetU16::new(
            Icmpv4Header::with_checksum(Icmpv4Type::EchoReply(IcmpEchoHeader { id: 1024, seq: 0 }), &[]).checksum,
        );
        let ends = [old, new].map(|ends| (of(ends).sum_of_echo(), true));
        let translated = EchoMessage { protocol: echo::REPLY, len: 8 }.checksum(check, ends[0], ends[1]);
        let expected =
            Icmpv4Header::with_checksum(Icmpv4Type::EchoReply(IcmpEchoHeader { id: 0, seq: 0 }), &[]).checksum;
        assert_eq!((translated.get(), expected), (0xffff, 0xffff));
    }

    /// The sum of such a datagram is zero after its translation, which is sent as all ones.
    #[test]
    fn a_datagram_whose_checksum_comes_out_as_zero_has_one_all_the_same() {
        let old: (IpAddr, IpAddr, u16, u16) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 1, 2);
        let hit =
            (0..=u16::MAX).map(|port| (old.0, old.1, port, 2)).find(|new| udp_checksum_of(*new, &[0; 4]) == 0xffff);
        let new = hit.expect("one port makes it so");
        let check = NetU16::new(udp_checksum_of(old, &[0; 4]));
        assert_eq!(udp_checksum(check, &of(old), &of(new)), Some(NetU16::new(0xffff)));
    }
}
