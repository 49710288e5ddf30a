//! The sum of an IP packet for the checksum of a UDP header around it, without a look at most of its bytes.
//!
//! The packet says itself what it adds up to: the header of IPv4 to nothing (RFC 791), and a TCP segment or UDP datagram to
//! the opposite of its pseudo-header (RFC 9293, section 3.1; RFC 768). So the sum follows from the headers. If a checksum of
//! the packet is wrong, the one around it is wrong as well, and the packet is dropped at the end of the tunnel instead of
//! a step later.

use aya_ebpf::programs::XdpContext;
use lb_common::{NetU16, NetU32, checksum::Sum};
use network_types::{
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
    tcp::TcpHdr,
    udp::UdpHdr,
};

use crate::{
    packet::{is_fragment, lend, read, sum_block},
    verifier::veil,
};

const TCP: u8 = IpProto::Tcp as u8;
const UDP: u8 = IpProto::Udp as u8;

/// The sum of the IP packet of `len` bytes at `offset`; `None` if the frame ends before, or it is longer than
/// [`LONGEST`] and has to be read.
#[inline(always)]
pub fn of_packet(ctx: &XdpContext, offset: usize, len: usize) -> Option<Sum> {
    let [first]: [u8; 1] = read(ctx, offset)?;
    let known = if first >> 4 == 4 { of_ipv4(ctx, offset, len) } else { of_ipv6(ctx, offset, len) };
    match known {
        Some(sum) => Some(sum),
        None => of_bytes(ctx, offset, len),
    }
}

#[inline(always)]
fn of_ipv4(ctx: &XdpContext, offset: usize, len: usize) -> Option<Sum> {
    let header: &Ipv4Hdr = lend(ctx, offset)?;
    let header_len = usize::from(header.vihl & 0xf) * 4;
    if is_fragment(header) || header_len < Ipv4Hdr::LEN || usize::from(header.tot_len()) != len {
        return None;
    }
    let (source, destination, protocol) = (header.src_addr, header.dst_addr, header.proto);
    let segment_len = has_checksum(ctx, protocol, offset + header_len, len.checked_sub(header_len)?)?;
    let pseudo_header = Sum::default()
        .words(NetU32::from_wire(source))
        .words(NetU32::from_wire(destination))
        .word(NetU16::new(u16::from(protocol)))
        .word(segment_len);
    Some(Sum::default().without(pseudo_header.fold()))
}

/// The addresses are in the header, and their opposite in the segment: they are not looked at.
#[inline(always)]
fn of_ipv6(ctx: &XdpContext, offset: usize, len: usize) -> Option<Sum> {
    let [first, second]: [NetU32; 2] = read(ctx, offset)?;
    let [payload_len, next_header_and_hops] = second.halves();
    let [next_header, _] = next_header_and_hops.to_wire();
    if usize::from(payload_len.get()) + Ipv6Hdr::LEN != len {
        return None;
    }
    has_checksum(ctx, next_header, offset + Ipv6Hdr::LEN, len - Ipv6Hdr::LEN)?;
    // The length is in the header, and its opposite in the segment.
    Some(Sum::default().words(first).word(next_header_and_hops).without(NetU16::new(u16::from(next_header))))
}

/// The length of the TCP segment or UDP datagram of `len` bytes at `offset`, if it has a checksum, and that is over all of
/// it.
#[inline(always)]
fn has_checksum(ctx: &XdpContext, protocol: u8, offset: usize, len: usize) -> Option<NetU16> {
    let len = u16::try_from(len).ok()?;
    match protocol {
        TCP if usize::from(len) >= TcpHdr::LEN => {}
        UDP => {
            let [_, length_and_checksum]: [NetU32; 2] = read(ctx, offset)?;
            let [length, checksum] = length_and_checksum.halves();
            if usize::from(len) < UdpHdr::LEN || length.get() != len || checksum.get() == 0 {
                return None;
            }
        }
        _ => return None,
    }
    Some(NetU16::new(len))
}

/// The most bytes that are read: no frame without fragments is longer on machines with pages of 4 KiB, nor on others one
/// with an MTU that is in use.
pub const LONGEST: usize = 1 << 14;

/// The sum of what does not say it itself: a datagram without a checksum, an extension header, another protocol. A function of
/// its own, so that the way of other packets stays short.
#[inline(never)]
pub fn of_bytes(ctx: &XdpContext, offset: usize, len: usize) -> Option<Sum> {
    if len > LONGEST {
        return None;
    }
    let mut rest = Rest::new(offset, len);
    for _ in 0..LONGEST / LARGEST_BLOCK {
        if !rest.has(LARGEST_BLOCK) {
            break;
        }
        rest.add::<LARGEST_BLOCK>(ctx)?;
    }
    rest.add_if_there::<256>(ctx)?;
    rest.add_if_there::<128>(ctx)?;
    rest.add_if_there::<64>(ctx)?;
    rest.add_if_there::<32>(ctx)?;
    rest.add_if_there::<16>(ctx)?;
    rest.add_if_there::<8>(ctx)?;
    rest.add_if_there::<4>(ctx)?;
    rest.add_last(ctx)
}

/// The most that the kernel adds up at once.
const LARGEST_BLOCK: usize = 512;

/// What is still to be added.
struct Rest {
    at: usize,
    end: usize,
    sum: Sum,
    /// Something that the verifier does not know.
    unknown: u64,
}

impl Rest {
    #[inline(always)]
    fn new(offset: usize, len: usize) -> Self {
        let unknown = len as u64;
        Self { at: Self::veil(offset, unknown), end: offset + len, sum: Sum::default(), unknown }
    }

    /// A place in the frame, wherever it is for all that the verifier knows. Otherwise it would check all that follows for
    /// each place.
    #[inline(always)]
    fn veil(at: usize, unknown: u64) -> usize {
        veil(at as u64, unknown) as usize & (2 * LONGEST - 1)
    }

    #[inline(always)]
    const fn has(&self, len: usize) -> bool {
        self.at + len <= self.end
    }

    /// Adds so many bytes, a multiple of four.
    #[inline(always)]
    fn add<const LEN: usize>(&mut self, ctx: &XdpContext) -> Option<()> {
        self.sum = self.sum.add(sum_block::<LEN>(ctx, self.at)?);
        self.at = Self::veil(self.at + LEN, self.unknown);
        Some(())
    }

    #[inline(always)]
    fn add_if_there<const LEN: usize>(&mut self, ctx: &XdpContext) -> Option<()> {
        if self.has(LEN) { self.add::<LEN>(ctx) } else { Some(()) }
    }

    /// Adds up to three bytes. Behind an odd last one stands a zero that is not there (RFC 1071, section 1).
    #[inline(always)]
    fn add_last(mut self, ctx: &XdpContext) -> Option<Sum> {
        if self.has(2) {
            self.sum = self.sum.word(NetU16::from_wire(read(ctx, self.at)?));
            self.at = Self::veil(self.at + 2, self.unknown);
        }
        if self.has(1) {
            // With the byte before: a check for one byte alone proves nothing to the verifier.
            let [_, last]: [u8; 2] = read(ctx, Self::veil(self.at - 1, self.unknown))?;
            self.sum = self.sum.word(NetU16::from_wire([last, 0]));
        }
        Some(self.sum)
    }
}
