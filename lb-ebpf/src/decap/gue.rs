//! A packet in GUE. A header that announces something else is left to the kernel, which may know what to do with it.

use aya_ebpf::{Global, programs::XdpContext};
use lb_common::{
    Address, DecapVerdict, NetU16, NetU32,
    checksum::Sum,
    gue::{self, Content, Headers},
};
use lb_ebpf::{packet::read, sum};
use network_types::ip::Ipv6Hdr;

use crate::{inner::Inner, outer::Outer};

/// The UDP port of GUE.
#[unsafe(no_mangle)]
static GUE_PORT: Global<u16> = Global::new(gue::PORT);

/// Whether the datagram at `offset` is for the port of GUE.
#[inline(always)]
pub fn is_gue(ctx: &XdpContext, offset: usize) -> bool {
    let Some([ports]) = read::<[NetU32; 1]>(ctx, offset) else { return false };
    let [_, port] = ports.halves();
    port.get() == GUE_PORT.load()
}

/// What the datagram at `offset` holds.
#[inline(always)]
pub fn open(ctx: &XdpContext, outer: &Outer, offset: usize) -> Result<Inner, DecapVerdict> {
    let headers = read(ctx, offset).map(Headers).ok_or(DecapVerdict::DropMalformed)?;
    let udp_len = usize::from(headers.udp_len().get());
    let headers_len = usize::from(gue::HEADERS_LEN);
    if udp_len < headers_len || udp_len > outer.payload_len {
        return Err(DecapVerdict::DropMalformed);
    }
    let protocol = match headers.content() {
        Content::Packet(protocol) => protocol,
        Content::Other => return Err(DecapVerdict::PassForKernel),
        Content::Invalid => return Err(DecapVerdict::DropMalformed),
    };
    let inner = Inner::announced(protocol, outer.header_len + headers_len, udp_len - headers_len)
        .ok_or(DecapVerdict::PassForKernel)?;
    inner.check(ctx, offset + headers_len)?;
    if headers.has_checksum() {
        let sum = sum::of_packet(ctx, offset + headers_len, inner.len).ok_or(DecapVerdict::DropMalformed)?;
        if headers.sum().add(addresses(outer)).add(sum).finish() != NetU16::new(0) {
            return Err(DecapVerdict::DropMalformed);
        }
    } else if outer.header_len == Ipv6Hdr::LEN {
        // The kernel knows whether it was told to take such packets (RFC 6935).
        return Err(DecapVerdict::PassForKernel);
    }
    Ok(inner)
}

/// The sum of the addresses of the pseudo-header.
#[inline(always)]
fn addresses(outer: &Outer) -> Sum {
    let sum = |address: Address| {
        let words = address.words();
        if outer.header_len == Ipv6Hdr::LEN {
            words.into_iter().fold(Sum::default(), Sum::words)
        } else {
            let [.., ipv4] = words;
            Sum::default().words(ipv4)
        }
    };
    sum(outer.source).add(sum(outer.destination))
}
