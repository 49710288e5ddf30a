//! A UDP server that says which node it is.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result};
use clap::Args;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt::{Ipv4PacketInfo, Ipv6RecvPacketInfo},
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The name to put in front of each datagram
    #[arg(long)]
    name: String,
    /// Where to listen. Answers leave from the address that was asked, also where this is all addresses
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

pub(crate) fn run(options: Options) -> Result<()> {
    let Options { name, listen } = options;
    let socket = UdpSocket::bind(listen).with_context(|| format!("listen on {listen}"))?;
    if listen.is_ipv4() {
        setsockopt(&socket, Ipv4PacketInfo, &true)
    } else {
        setsockopt(&socket, Ipv6RecvPacketInfo, &true)
    }
    .context("ask for the addresses that are asked")?;
    eprintln!("listening on {listen}");

    let mut answer = format!("{name} ").into_bytes();
    let prefix = answer.len();
    answer.resize(prefix + 0x1_0000, 0);
    let mut control = nix::cmsg_space!(libc::in6_pktinfo);
    loop {
        let mut buffer = [IoSliceMut::new(&mut answer[prefix..])];
        let asked = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer, Some(&mut control), MsgFlags::empty())
            .context("receive")?;
        let source = asked.cmsgs().context("the address that was asked")?.find_map(|message| Source::new(&message));
        let (length, client) = (prefix + asked.bytes, asked.address);
        let source = source.as_ref().map(Source::control_message);
        let sent = sendmsg(
            socket.as_raw_fd(),
            &[IoSlice::new(&answer[..length])],
            source.as_slice(),
            MsgFlags::empty(),
            client.as_ref(),
        );
        if let Err(error) = sent {
            let client = client.map_or_else(|| "nobody".to_owned(), |client| client.to_string());
            eprintln!("answer {client}: {error}");
        }
    }
}

/// The source of an answer: the address that was asked.
enum Source {
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

impl Source {
    fn new(received: &ControlMessageOwned) -> Option<Self> {
        // Without an interface: the way back is for the routing table to find.
        match received {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(Self::V4(libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: info.ipi_addr, ..*info }))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(Self::V6(libc::in6_pktinfo { ipi6_ifindex: 0, ..*info })),
            _ => None,
        }
    }

    fn control_message(&self) -> ControlMessage<'_> {
        match self {
            Self::V4(info) => ControlMessage::Ipv4PacketInfo(info),
            Self::V6(info) => ControlMessage::Ipv6PacketInfo(info),
        }
    }
}
