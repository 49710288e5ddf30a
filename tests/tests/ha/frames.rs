//! Advertisements as frames, made without the code under test: by etherparse, and from the RFCs.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{EtherType, Ethernet2Header, IpNumber, Ipv4Header};

const GROUP: [u8; 4] = [224, 0, 0, 18];
const GROUP_MAC: [u8; 6] = [0x01, 0x00, 0x5e, 0x00, 0x00, 0x12];

/// An advertisement of version 3 over IPv4 (RFC 9568, section 5.1), as a stranger may send it.
#[derive(Clone, Debug)]
pub(crate) struct Forged {
    pub(crate) source: Ipv4Addr,
    pub(crate) ttl: u8,
    pub(crate) router_id: u8,
    pub(crate) priority: u8,
    /// In hundredths of a second.
    pub(crate) interval: u16,
    pub(crate) address: IpAddr,
    /// What follows the message.
    pub(crate) trailer: Vec<u8>,
    /// Added to the checksum.
    pub(crate) error: u16,
}

impl Forged {
    pub(crate) fn frame(&self) -> Vec<u8> {
        let IpAddr::V4(address) = self.address else { unreachable!("these are for IPv4") };
        let mut message = vec![0x31, self.router_id, self.priority, 1];
        message.extend(self.interval.to_be_bytes());
        message.extend([0, 0]);
        message.extend(address.octets());
        let sum = checksum(self.source, &message).wrapping_add(self.error);
        message[6..8].copy_from_slice(&sum.to_be_bytes());
        message.extend(&self.trailer);
        frame(self.source, self.ttl, &message)
    }
}

/// An IP packet of protocol 112 to the group.
pub(crate) fn frame(source: Ipv4Addr, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a short packet");
    let mut header =
        Ipv4Header::new(length, ttl, IpNumber(112), source.octets(), GROUP).expect("a header that fits its payload");
    header.header_checksum = header.calc_header_checksum();
    let [.., host] = source.octets();
    let ethernet =
        Ethernet2Header { source: [2, 0, 10, 77, 0, host], destination: GROUP_MAC, ether_type: EtherType::IPV4 };
    let mut frame = ethernet.to_bytes().to_vec();
    frame.extend(header.to_bytes());
    frame.extend(payload);
    frame
}

/// RFC 1071, over the pseudo-header and the message.
fn checksum(source: Ipv4Addr, message: &[u8]) -> u16 {
    let mut bytes = [source.octets(), GROUP].concat();
    bytes.extend([0, 112]);
    bytes.extend(u16::try_from(message.len()).expect("a short message").to_be_bytes());
    bytes.extend(message);
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded just above")
}
