//! A socket for whole Ethernet frames.

use std::io;

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

/// Sends whole frames, and receives none.
#[derive(Debug)]
pub(crate) struct PacketSocket(Socket);

impl PacketSocket {
    /// In the network namespace of the calling thread. It needs `CAP_NET_RAW`.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// Sends a frame from the interface `ifindex`, or fails at once.
    pub(crate) fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        self.0.send_to(frame, &link_layer_address(ifindex)).map(drop)
    }
}

/// `packet(7)`: the frame itself says the rest.
#[expect(clippy::cast_possible_truncation, reason = "the address family is 17, the length 20")]
fn link_layer_address(ifindex: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is one of the socket addresses of Linux, and any bytes make a valid one.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_ifindex = ifindex.cast_signed();
    // SAFETY: the storage holds a `sockaddr_ll`, and the length is that type's.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}
