//! Sockets that send whole frames.

use std::{
    mem,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, LinkAddr, SockFlag, SockType, SockaddrLike as _, bind, socket},
};

/// Sends whole frames, and receives none (packet(7)).
pub(crate) fn open(interface: &str) -> Result<OwnedFd> {
    try_open(interface).with_context(|| format!("open a packet socket on {interface}"))
}

fn try_open(interface: &str) -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: `sockaddr_ll` is plain old data, for which all zeroes is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET)?;
    address.sll_ifindex = if_nametoindex(interface)?.cast_signed();
    let length = libc::socklen_t::try_from(mem::size_of_val(&address))?;
    // SAFETY: the pointer is to an address of the length that is given, and is read before the call returns.
    let Some(address) = (unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) }) else {
        bail!("this is no address of a packet socket");
    };
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}
