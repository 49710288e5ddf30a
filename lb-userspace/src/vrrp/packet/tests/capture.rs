//! What keepalived sent.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket};

/// A packet as it was on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Capture {
    /// From the IP header.
    pub(super) source: IpAddr,
    /// From the IP header.
    pub(super) destination: IpAddr,
    /// What follows the IP header.
    pub(super) payload: Vec<u8>,
}

/// The two packets in a file of `fixtures/`: of a master, and of a master that gives up.
pub(super) fn pair(hex: &str) -> [Capture; 2] {
    let packets: Vec<_> = hex.split("\n\n").filter_map(packet).collect();
    packets.try_into().expect("two packets")
}

/// Reads one paragraph; `None` where it has comments only.
fn packet(hex: &str) -> Option<Capture> {
    let digits: Vec<u8> = hex
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::bytes)
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    if digits.is_empty() {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal digits");
    let packet: Vec<u8> = digits.chunks(2).map(byte).collect();

    let sliced = SlicedPacket::from_ip(&packet).expect("etherparse accepts the packet");
    let (source, destination, payload) = match sliced.net.expect("an IP packet") {
        NetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.payload().payload)
        }
        NetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.payload().payload)
        }
        NetSlice::Arp(_) => unreachable!("from an IP header on"),
    };
    Some(Capture { source, destination, payload: payload.to_vec() })
}
