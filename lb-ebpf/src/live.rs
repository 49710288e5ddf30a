//! Programs for `cargo xtask bench veth`: a generator for `BPF_F_TEST_XDP_LIVE_FRAMES`, a reflector and a relay as the least that a
//! balancer could do, and a counter where the frames arrive.

#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::{Array, PerCpuArray},
    programs::XdpContext,
};
use lb_common::{
    NetU16, NetU32,
    checksum::Sum,
    live::{Arrival, Hop, Stream},
};
use lb_ebpf::packet::{lend, read, write};
use network_types::{
    eth::{EthHdr, EtherType},
    ip::Ipv4Hdr,
};

/// Where things stand in a frame of the generator.
const IP: usize = EthHdr::LEN;
const CHECKSUM: usize = IP + 10;
const SOURCE: usize = IP + 12;
const SOURCE_PORT: usize = IP + Ipv4Hdr::LEN;

#[map]
static STREAM: Array<Stream> = Array::with_max_entries(1, 0);
#[map]
static ARRIVAL: Array<Arrival> = Array::with_max_entries(1, 0);
#[map]
static ARRIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static HOPS: Array<Hop> = Array::with_max_entries(Hop::COUNT, 0);
/// How many frames the generator has made.
#[map]
static MADE: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// The kernel gives the frame as it comes back from its last journey: writes all of it anew, as one of the next flow. The verdict sends
/// it out of the interface that the test run names.
#[xdp]
pub fn generate(mut ctx: XdpContext) -> u32 {
    make(&mut ctx).map_or(xdp_action::XDP_ABORTED, |()| xdp_action::XDP_TX)
}

#[inline(always)]
fn make(ctx: &mut XdpContext) -> Option<()> {
    let stream = STREAM.get(0)?;
    let made = MADE.get_ptr_mut(0)?;
    // SAFETY: the counter belongs to this CPU.
    let number = unsafe {
        *made = (*made).wrapping_add(1);
        *made
    };
    for (place, word) in stream.frame.iter().enumerate() {
        write(ctx, place * size_of::<u64>(), *word)?;
    }
    let flow = flow(number, stream.flows);
    let source = read::<[NetU32; 1]>(ctx, SOURCE)?.map(|base| base.or(NetU32::new(flow & Stream::SOURCE_MASK)));
    write(ctx, SOURCE, source)?;
    let [source] = source;
    let sum = NetU16::from_wire(read(ctx, CHECKSUM)?);
    write(ctx, CHECKSUM, Sum::default().word(sum).words(source).finish().to_wire())?;
    let port = NetU16::from_wire(read(ctx, SOURCE_PORT)?).get() | (flow >> Stream::SOURCE_MASK.count_ones()) as u16;
    write(ctx, SOURCE_PORT, NetU16::new(port).to_wire())
}

/// The flow of a frame: an odd factor (the golden ratio's) comes by all numbers, and evenly by all of `flows` parts of them, in an order
/// that is no row.
#[inline(always)]
fn flow(number: u32, flows: u64) -> u32 {
    let scattered = number.wrapping_mul(0x9e37_79b1);
    if flows == 0 { scattered } else { (u64::from(scattered).wrapping_mul(flows) >> 32) as u32 }
}

#[xdp]
pub fn reflect(mut ctx: XdpContext) -> u32 {
    swap_macs(&mut ctx).map_or(xdp_action::XDP_ABORTED, |()| xdp_action::XDP_TX)
}

#[inline(always)]
fn swap_macs(ctx: &mut XdpContext) -> Option<()> {
    let EthHdr { dst_addr, src_addr, ether_type } = read(ctx, 0)?;
    let header = EthHdr { dst_addr: src_addr, src_addr: dst_addr, ether_type };
    write(ctx, 0, header)
}

/// Sends a packet on by its address and the last but one bit of its source port, and lets the kernel have what has no host.
#[xdp]
pub fn relay(mut ctx: XdpContext) -> u32 {
    send_on(&mut ctx).map_or(xdp_action::XDP_PASS, |()| xdp_action::XDP_TX)
}

#[inline(always)]
fn send_on(ctx: &mut XdpContext) -> Option<()> {
    let EthHdr { dst_addr, ether_type, .. } = read(ctx, 0)?;
    if ether_type != EtherType::Ipv4 as u16 {
        return None;
    }
    let destination = NetU32::from_wire(lend::<Ipv4Hdr>(ctx, IP)?.dst_addr);
    let [_, port]: [u8; 2] = read(ctx, SOURCE_PORT)?;
    // Linux gives connections ports that are all odd, or all even, as long as there are such.
    let hop = hop(u32::from(port >> 1 & 1), destination).or_else(|| hop(Hop::COUNT - 1, destination))?;
    write(ctx, 0, EthHdr { dst_addr: hop.mac, src_addr: dst_addr, ether_type })
}

/// The hop of that number, if it is for the address.
#[inline(always)]
fn hop(number: u32, destination: NetU32) -> Option<&'static Hop> {
    HOPS.get(number).filter(|hop| hop.destination == destination)
}

/// Takes the frames that are waited for in, and lets the kernel have all others: it answers ARP.
#[xdp]
#[expect(clippy::needless_pass_by_value, reason = "a program is called like that")]
pub fn count(ctx: XdpContext) -> u32 {
    if !is_awaited(&ctx).unwrap_or(false) {
        return xdp_action::XDP_PASS;
    }
    if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: the counter belongs to this CPU.
        unsafe { *arrived += 1 };
    }
    xdp_action::XDP_DROP
}

#[inline(always)]
fn is_awaited(ctx: &XdpContext) -> Option<bool> {
    let ethernet: EthHdr = read(ctx, 0)?;
    if ethernet.ether_type != EtherType::Ipv4 as u16 {
        return Some(false);
    }
    let header: &Ipv4Hdr = lend(ctx, IP)?;
    let awaited = ARRIVAL.get(0)?;
    Some(NetU32::from_wire(header.dst_addr) == awaited.destination && u32::from(header.proto) == awaited.protocol)
}
