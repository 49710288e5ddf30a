//! ICMP echo (RFC 792; RFC 4443, section 4) as flows with ports, so that all that is made for ports does for it, too.
//!
//! Who asks has the message's identifier for a port, and who answers has port zero. The datapath knows such messages by protocol
//! numbers that do not differ by family, and that tell requests from replies: so no reply is taken for the request of a client.

use crate::NetU16;

/// Requests, of both families: the number that ICMP has in headers of IPv4.
pub const REQUEST: u8 = ICMP;
/// Replies, of both families. Packets whose own protocol has this number are none of ours: only TCP, UDP and ICMP are parsed.
pub const REPLY: u8 = REQUEST | IS_REPLY;

/// Not in the number of any protocol that flows have.
const IS_REPLY: u8 = 1 << 7;

/// The number of ICMP in headers of IPv4.
pub const ICMP: u8 = 1;
/// The number of ICMP in headers of IPv6.
pub const ICMPV6: u8 = 58;

/// Bytes of a message without its data: type, code, checksum, identifier, sequence number.
pub const HEADER_LEN: usize = 8;

/// Type and code of messages of the protocol [`REQUEST`] or [`REPLY`], as they stand in the packet.
#[inline(always)]
pub const fn type_and_code(protocol: u8, ipv4: bool) -> NetU16 {
    NetU16::new(match (protocol == REQUEST, ipv4) {
        (true, true) => 8 << 8,
        (false, true) => 0,
        (true, false) => 128 << 8,
        (false, false) => 129 << 8,
    })
}

/// Whether flows of this protocol are ICMP echo.
#[inline(always)]
pub const fn is_echo(protocol: u8) -> bool {
    protocol & !IS_REPLY == REQUEST
}

/// The protocol of the packets that come back.
#[inline(always)]
pub const fn of_replies(protocol: u8) -> u8 {
    if protocol == REQUEST { REPLY } else { protocol }
}

/// The number of a flow's protocol in headers of a family.
#[inline(always)]
pub const fn in_header(protocol: u8, ipv4: bool) -> u8 {
    let number = protocol & !IS_REPLY;
    if number == ICMP && !ipv4 { ICMPV6 } else { number }
}

#[cfg(test)]
mod tests {
    use etherparse::{IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpNumber};

    use super::*;

    #[test]
    fn types_and_numbers_are_those_that_etherparse_knows() {
        let echo = IcmpEchoHeader { id: 0, seq: 0 };
        let v4 = |icmp_type| etherparse::Icmpv4Header::new(icmp_type).to_bytes();
        let v6 = |icmp_type| etherparse::Icmpv6Header::new(icmp_type).to_bytes();
        for (protocol, ipv4, bytes) in [
            (REQUEST, true, v4(Icmpv4Type::EchoRequest(echo)).to_vec()),
            (REPLY, true, v4(Icmpv4Type::EchoReply(echo)).to_vec()),
            (REQUEST, false, v6(Icmpv6Type::EchoRequest(echo)).to_vec()),
            (REPLY, false, v6(Icmpv6Type::EchoReply(echo)).to_vec()),
        ] {
            assert_eq!(type_and_code(protocol, ipv4).to_wire(), bytes[..2]);
            assert_eq!(bytes.len(), HEADER_LEN);
            let number = if ipv4 { IpNumber::ICMP } else { IpNumber::IPV6_ICMP };
            assert_eq!(in_header(protocol, ipv4), number.0);
        }
    }

    #[test]
    fn other_protocols_are_what_they_are_both_ways_and_in_both_families() {
        for protocol in [IpNumber::TCP.0, IpNumber::UDP.0] {
            assert!(!is_echo(protocol));
            assert_eq!([true, false].map(|ipv4| in_header(protocol, ipv4)), [protocol; 2]);
            assert_eq!(of_replies(protocol), protocol);
        }
        assert_eq!(of_replies(REQUEST), REPLY);
    }
}
