//! The frames that are measured.

use etherparse::PacketBuilder;
use lb_common::bench::Template;

use crate::services::{INTERFACE_MAC, service_v4, service_v6};

/// What a frame is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The first packet of a TCP connection.
    Syn,
    /// A packet in mid-connection.
    Established,
    /// A datagram.
    Udp,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Established => "established",
            Self::Udp => "udp",
        }
    }
}

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const CLIENT_PORT: u16 = 40_000;
const PAYLOAD: [u8; 32] = [0; 32];
/// Where the last four bytes of the addresses stand in an untagged frame.
const V4_ADDRESSES: (u32, u32) = (14 + 12, 14 + 16);
const V6_ADDRESSES: (u32, u32) = (14 + 8 + 12, 14 + 24 + 12);
/// Where the flags of TCP over IPv4 stand in an untagged frame.
const V4_TCP_FLAGS: u32 = 14 + 20 + 13;

/// A frame to a service, or to an address that has none, and how the wrapper varies it.
pub(crate) fn frame(kind: Kind, ipv4: bool, ours: bool) -> (Vec<u8>, Template) {
    let link = PacketBuilder::ethernet2(CLIENT_MAC, INTERFACE_MAC);
    let ip = if ipv4 {
        let destination = if ours { service_v4(0).octets() } else { [203, 0, 113, 1] };
        link.ipv4([10, 0, 0, 0], destination, 64)
    } else {
        let destination = if ours { service_v6(0).octets() } else { [0x3f; 16] };
        let mut source = [0; 16];
        source[..2].copy_from_slice(&[0xfd, 1]);
        link.ipv6(source, destination, 64)
    };
    let mut frame = Vec::new();
    let written = match kind {
        Kind::Syn => ip.tcp(CLIENT_PORT, 80, 1, 64_000).syn().write(&mut frame, &[]),
        Kind::Established => ip.tcp(CLIENT_PORT, 80, 1, 64_000).ack(1).write(&mut frame, &PAYLOAD),
        Kind::Udp => ip.udp(CLIENT_PORT, 80).write(&mut frame, &PAYLOAD),
    };
    written.expect("a vector takes every frame");
    // The wrapper restores this many bytes.
    frame.resize(frame.len().max(Template::HEAD_LEN), 0);
    let (words, _) = frame.as_chunks();
    let mut head = [0; Template::HEAD_LEN / 8];
    for (place, word) in head.iter_mut().zip(words) {
        *place = u64::from_ne_bytes(*word);
    }
    let (source_offset, destination_offset) = if ipv4 { V4_ADDRESSES } else { V6_ADDRESSES };
    let template = Template {
        head,
        frame_len: u32::try_from(frame.len()).expect("frames are short"),
        source_offset,
        source_mask: 0,
        destination_offset,
        destination_mask: 0,
        flood_every: 0,
        flags_offset: V4_TCP_FLAGS,
        target: 0,
    };
    (frame, template)
}
