//! The Internet checksum where the addresses in the IP header are part of it.

use std::net::IpAddr;

use lb_common::{NetU16, NetU32, checksum::Sum};

/// The sum over a message and the pseudo-header of the packet that carries it (IPv4: as in RFC 9293, section 3.1; IPv6:
/// RFC 8200, section 8.1). The two differ in their layout only, not in what is added.
///
/// The message is shorter than 64 KiB, as the payload of a packet is.
pub(crate) fn sum_with_pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, message: &[u8]) -> Sum {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let addresses = [source, destination].into_iter().fold(Sum::default(), |sum, address| match address {
        IpAddr::V4(address) => sum.bytes(&address.octets()),
        IpAddr::V6(address) => sum.bytes(&address.octets()),
    });
    addresses.words(NetU32::new(length)).word(NetU16::new(protocol.into())).bytes(message)
}
