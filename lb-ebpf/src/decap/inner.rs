//! What a tunnel packet holds.

use aya_ebpf::programs::XdpContext;
use lb_common::DecapVerdict;
use lb_ebpf::packet::lend;
use network_types::{
    eth::EtherType,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::outer::{IPV4, IPV6};

/// A packet in a tunnel packet.
pub struct Inner {
    /// IPv4 or IPv6.
    pub kind: EtherType,
    /// Length of all that is before it in the outer packet, in bytes.
    pub headers_len: usize,
    /// How many bytes there are for it.
    pub len: usize,
}

impl Inner {
    /// What a header announces as `protocol`.
    #[inline(always)]
    pub const fn announced(protocol: u8, headers_len: usize, len: usize) -> Option<Self> {
        let kind = match protocol {
            IPV4 => EtherType::Ipv4,
            IPV6 => EtherType::Ipv6,
            _ => return None,
        };
        Some(Self { kind, headers_len, len })
    }

    /// Checks that the packet at `offset` is of the kind that was announced, and ends where the outer one does or before. Its own
    /// checks are left to the kernel, which gets it next.
    #[inline(always)]
    pub fn check(&self, ctx: &XdpContext, offset: usize) -> Result<(), DecapVerdict> {
        if self.fits(ctx, offset) == Some(true) { Ok(()) } else { Err(DecapVerdict::DropMalformed) }
    }

    #[inline(always)]
    fn fits(&self, ctx: &XdpContext, offset: usize) -> Option<bool> {
        let fits = if self.kind == EtherType::Ipv4 {
            let header: &Ipv4Hdr = lend(ctx, offset)?;
            let len = usize::from(header.tot_len());
            header.version() == 4 && len >= Ipv4Hdr::LEN && len <= self.len
        } else {
            let header: &Ipv6Hdr = lend(ctx, offset)?;
            header.version() == 6 && Ipv6Hdr::LEN + usize::from(header.payload_len()) <= self.len
        };
        Some(fits)
    }
}
