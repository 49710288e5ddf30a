//! What the network said about congestion along the tunnel goes on to the receiver (RFC 6040, section 4.2).

use aya_ebpf::programs::XdpContext;
use lb_common::{DecapVerdict, NetU16, checksum};
use lb_ebpf::packet::{lend, write};
use network_types::{
    eth::EtherType,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use crate::inner::Inner;

const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The ECN field of the decapsulated packet: figure 4 of RFC 6040.
#[inline(always)]
const fn combine(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (CE, _) | (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

#[inline(always)]
pub fn propagate(ctx: &mut XdpContext, outer: u8, inner: &Inner, inner_offset: usize) -> Result<(), DecapVerdict> {
    match inner.kind {
        EtherType::Ipv4 => ipv4(ctx, outer, inner_offset),
        _ => ipv6(ctx, outer, inner_offset),
    }
}

#[inline(always)]
fn ipv4(ctx: &mut XdpContext, outer: u8, offset: usize) -> Result<(), DecapVerdict> {
    let header: &Ipv4Hdr = lend(ctx, offset).ok_or(DecapVerdict::DropMalformed)?;
    let ecn = combine(header.ecn(), outer).ok_or(DecapVerdict::DropCongested)?;
    if ecn == header.ecn() {
        return Ok(());
    }
    let old = [header.vihl, header.tos];
    let new = [header.vihl, header.tos & !CE | ecn];
    let check = checksum::update(NetU16::from_wire(header.check), NetU16::from_wire(old), NetU16::from_wire(new));
    write(ctx, offset + CHECKSUM_OFFSET, check.to_wire()).ok_or(DecapVerdict::DropMalformed)?;
    write(ctx, offset, new).ok_or(DecapVerdict::DropMalformed)
}

/// Where the checksum stands in an IPv4 header.
const CHECKSUM_OFFSET: usize = 10;

#[inline(always)]
fn ipv6(ctx: &mut XdpContext, outer: u8, offset: usize) -> Result<(), DecapVerdict> {
    let header: &Ipv6Hdr = lend(ctx, offset).ok_or(DecapVerdict::DropMalformed)?;
    let ecn = combine(header.ecn(), outer).ok_or(DecapVerdict::DropCongested)?;
    let [version_and_class, class_and_label, ..] = header.vcf;
    let new = [version_and_class, class_and_label & !(CE << 4) | ecn << 4];
    write(ctx, offset, new).ok_or(DecapVerdict::DropMalformed)
}
