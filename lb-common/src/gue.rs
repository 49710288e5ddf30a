//! Generic UDP Encapsulation (GUE, draft-ietf-intarea-gue-09): a packet in UDP, whose source port tells flows apart where a
//! network or a network card looks at ports.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+-------------------------------+
//! |          Source port          |       Destination port        |
//! +-------------------------------+-------------------------------+ UDP
//! |            Length             |           Checksum            |
//! +---+-+---------+---------------+-------------------------------+
//! | 0 |C|  Hlen   |  Proto/ctype  |             Flags             | GUE, variant 0
//! +---+-+---------+---------------+-------------------------------+
//! ```
//!
//! We send variant 0 without extensions: it names what it holds, and every receiver takes it. Variant 1 would save the
//! four bytes, but has no header to grow by, and came to Linux two years later (4.8, variant 0 in 3.18).

use crate::{FlowHash, NetU16, NetU32, checksum::Sum};

/// The UDP port that IANA has assigned to GUE.
pub const PORT: u16 = 6080;
/// Length of the UDP header and the GUE header in bytes.
pub const HEADERS_LEN: u16 = 12;
/// UDP in IP headers.
pub const UDP: u8 = 17;

/// The UDP header and the GUE header, as they stand in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Headers(pub [NetU32; 3]);

/// What a GUE header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A packet of this IP protocol, and nothing else.
    Packet(u8),
    /// Something that this version does not know, or has no use for: extensions, a control message, a packet without a
    /// GUE header (variant 1).
    Other,
    /// Nothing: there is no such variant.
    Invalid,
}

impl Headers {
    /// In front of a packet of `inner_len` bytes of the IP protocol `protocol`, without a checksum (RFC 768). The source
    /// port has the hash of the flow, in the range of dynamic ports (as in RFC 7510, section 3, and RFC 8086, section 3.2.1).
    #[inline(always)]
    pub const fn new(hash: FlowHash, port: NetU16, protocol: u8, inner_len: u32) -> Self {
        /// The first dynamic port. There are 2^14 of them.
        const DYNAMIC_PORTS: u32 = 0xc000;
        // Other bits than those that an outer source address or a flow label has.
        let source_port = DYNAMIC_PORTS | hash.entropy() >> 18;
        Self([
            NetU32::new(source_port << 16 | port.get() as u32),
            NetU32::new((inner_len + HEADERS_LEN as u32) << 16),
            NetU32::new((protocol as u32) << 16),
        ])
    }

    /// The same with the checksum that makes `sum` right, which is the sum of the pseudo-header, these headers without a
    /// checksum, and the packet. Zero would be none (RFC 768).
    #[inline(always)]
    #[must_use]
    pub const fn with_checksum(self, sum: Sum) -> Self {
        let Self([ports, length, gue]) = self;
        let check = match sum.finish().get() {
            0 => 0xffff,
            check => check,
        };
        Self([ports, length.or(NetU32::new(check as u32)), gue])
    }

    /// The UDP port that they are for.
    #[inline(always)]
    pub const fn port(self) -> NetU16 {
        let [_, port] = self.0[0].halves();
        port
    }

    /// Length of these headers and of what is behind them, in bytes.
    #[inline(always)]
    pub const fn udp_len(self) -> NetU16 {
        let [length, _] = self.0[1].halves();
        length
    }

    /// Whether there is a checksum.
    #[inline(always)]
    pub const fn has_checksum(self) -> bool {
        self.0[1].get() & 0xffff != 0
    }

    /// The sum of these headers, and of what UDP's pseudo-header has besides the addresses (RFC 768; RFC 8200, section 8.1).
    #[inline(always)]
    pub fn sum(self) -> Sum {
        let Self([ports, length_and_check, gue]) = self;
        Sum::default()
            .word(NetU16::new(u16::from(UDP)))
            .word(self.udp_len())
            .words(ports)
            .words(length_and_check)
            .words(gue)
    }

    /// What the GUE header announces.
    #[inline(always)]
    pub const fn content(self) -> Content {
        let Self([_, _, gue]) = self;
        let [first, protocol, flags @ ..] = gue.to_wire();
        match (first, flags) {
            (0, [0, 0]) => Content::Packet(protocol),
            (0x80.., _) => Content::Invalid,
            _ => Content::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use etherparse::UdpHeader;
    use proptest::prelude::*;

    use super::*;

    fn bytes(headers: Headers) -> std::vec::Vec<u8> {
        headers.0.iter().flat_map(|word| word.to_wire()).collect()
    }

    proptest! {
        #[test]
        fn etherparse_reads_the_headers_back(hash: u64, port: u16, protocol: u8, inner_len in 0_u16..60_000) {
            let headers = Headers::new(FlowHash(hash), NetU16::new(port), protocol, inner_len.into());
            let bytes = bytes(headers);
            let (udp, gue) = UdpHeader::from_slice(&bytes).unwrap();
            prop_assert!(udp.source_port >= 49_152);
            prop_assert_eq!((udp.destination_port, udp.length, udp.checksum), (port, inner_len + 12, 0));
            prop_assert_eq!(gue, [0, protocol, 0, 0]);
            prop_assert_eq!((headers.port().get(), headers.udp_len().get()), (port, inner_len + 12));
            prop_assert!(!headers.has_checksum());
            prop_assert_eq!(headers.content(), Content::Packet(protocol));
        }

        #[test]
        fn the_checksum_is_the_one_that_etherparse_computes(
            source: [u8; 16], destination: [u8; 16], hash: u64, protocol: u8, inner: std::vec::Vec<u8>,
        ) {
            let headers = Headers::new(FlowHash(hash), NetU16::new(PORT), protocol, u32::try_from(inner.len()).unwrap());
            let sum = headers.sum().add(Sum::default().bytes(&source)).bytes(&destination).bytes(&inner);
            let bytes = bytes(headers.with_checksum(sum));
            let (udp, gue) = UdpHeader::from_slice(&bytes).unwrap();
            let ipv6 = etherparse::Ipv6Header { source, destination, ..etherparse::Ipv6Header::default() };
            let payload = [gue, &inner].concat();
            prop_assert_eq!(udp.checksum, udp.calc_checksum_ipv6(&ipv6, &payload).unwrap());
        }
    }

    #[test]
    fn a_checksum_that_comes_out_as_zero_is_written_as_its_other_form() {
        let headers = Headers::new(FlowHash(0), NetU16::new(PORT), 4, 0);
        let all_ones = Sum::default().word(NetU16::new(0xffff));
        assert_eq!(headers.with_checksum(all_ones).0[1], NetU32::new(12 << 16 | 0xffff));
    }

    #[test]
    fn every_source_port_of_the_range_comes_up() {
        let ports = |bits: u64| Headers::new(FlowHash(bits << 50), NetU16::new(PORT), 4, 0).0[0].halves()[0].get();
        assert_eq!([ports(0), ports(1), ports(0x3fff)], [49_152, 49_153, 65_535]);
    }

    #[test]
    fn only_a_plain_header_of_variant_0_announces_a_packet() {
        let content = |word: u32| Headers([NetU32::new(0), NetU32::new(0), NetU32::new(word)]).content();
        assert_eq!(content(0x0004_0000), Content::Packet(4));
        assert_eq!(content(0x0029_0000), Content::Packet(41));
        for other in [0x0104_0000, 0x1f04_0000, 0x2004_0000, 0x0004_0001, 0x0004_8000, 0x4500_0000, 0x6000_0000] {
            assert_eq!(content(other), Content::Other, "{other:#010x}");
        }
        for invalid in [0x8004_0000, 0xc004_0000, 0xffff_ffff] {
            assert_eq!(content(invalid), Content::Invalid, "{invalid:#010x}");
        }
    }
}
