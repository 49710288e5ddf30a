//! The flow hash by independent libraries: etherparse finds the 5-tuple, siphasher hashes it.

use std::hash::Hasher as _;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use siphasher::sip::SipHasher13;

/// SipHash-1-3 over source address, destination address, source port, destination port and protocol of an IP packet,
/// whatever lengths its transport header claims.
pub(crate) fn flow_hash(key: [u8; 16], packet: &[u8]) -> u64 {
    let sliced = LaxSlicedPacket::from_ip(packet).expect("etherparse takes the packet");
    let mut message = match sliced.net.expect("an IP packet") {
        LaxNetSlice::Ipv4(ip) => [ip.header().source(), ip.header().destination()].concat(),
        LaxNetSlice::Ipv6(ip) => [ip.header().source(), ip.header().destination()].concat(),
        LaxNetSlice::Arp(_) => panic!("ARP has no flow"),
    };
    let (source_port, destination_port, protocol) = match sliced.transport.expect("a transport header") {
        TransportSlice::Tcp(tcp) => (tcp.source_port(), tcp.destination_port(), 6),
        TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port(), 17),
        // Requests only, of both families with the number of ICMP; who asks has the identifier for a port.
        TransportSlice::Icmpv4(icmp) => (identifier(icmp.bytes5to8()), 0, 1),
        TransportSlice::Icmpv6(icmp) => (identifier(icmp.bytes5to8()), 0, 1),
        TransportSlice::Igmp(_) => panic!("IGMP has no ports"),
    };
    message.extend([source_port.to_be_bytes(), destination_port.to_be_bytes()].concat());
    message.push(protocol);
    let mut hasher = SipHasher13::new_with_key(&key);
    hasher.write(&message);
    hasher.finish()
}

fn identifier([high, low, ..]: [u8; 4]) -> u16 {
    u16::from_be_bytes([high, low])
}
