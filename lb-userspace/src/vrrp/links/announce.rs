//! Tells the link where virtual addresses are.

use std::{io, net::IpAddr};

use crate::neighbour::{
    frame::{self, Claimant},
    packet_socket::PacketSocket,
};

/// A socket for the frames that announce virtual addresses, on any interface.
#[derive(Debug)]
pub struct AnnounceSocket(PacketSocket);

impl AnnounceSocket {
    /// In the network namespace of the calling thread. It needs `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        PacketSocket::open().map(Self)
    }

    /// Sends one frame for each address from the interface `ifindex`: a gratuitous ARP request, or an unsolicited neighbour
    /// advertisement (RFC 9568, section 6.4.2), which say that it is at `mac`. It does not wait: of several frames that cannot be sent
    /// now, the first is in the error; the others are sent.
    pub fn announce(&self, ifindex: u32, mac: [u8; 6], addresses: impl IntoIterator<Item = IpAddr>) -> io::Result<()> {
        let send = |address| self.0.send(ifindex, &frame::announcement(mac, address, Claimant::Router));
        // All are sent before the first error is returned.
        addresses.into_iter().map(send).fold(Ok(()), Result::and)
    }
}
