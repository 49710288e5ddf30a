//! What has to change in a packet's checksums when its addresses and ports are translated (RFC 1624; between the families RFC
//! 7915, section 4.5 and 5.5).

use crate::{Address, NetU16, NetU32, checksum::Sum};

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

#[cfg(test)]
mod tests {
    extern crate std;

    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use etherparse::{Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};
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
        fn a_datagram_without_a_checksum_stays_so_over_ipv4_only(old in endpoints(), new in endpoints()) {
            let translated = udp_checksum(NetU16::new(0), &of(old), &of(new));
            prop_assert_eq!(translated, new.0.is_ipv4().then_some(NetU16::new(0)));
        }
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
