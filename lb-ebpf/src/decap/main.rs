//! The backend's side of `ipip` and `gue`: takes the outer headers off packets that a balancer tunnelled, before the kernel
//! sees them. For hosts without a tunnel device, and for full speed.
//!
//! ```text
//! Ethernet │ outer IPv4/IPv6 │ inner IPv4/IPv6 │ …             becomes     Ethernet │ inner IPv4/IPv6 │ …
//! Ethernet │ outer IPv4/IPv6 │ UDP │ GUE │ inner IPv4/IPv6 │ …
//! ```

#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::{HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
    programs::XdpContext,
};
use lb_common::{Address, DecapVerdict, NetU32};
use lb_ebpf::packet::{move_head, read, write};
use network_types::{
    eth::{EthHdr, EtherType},
    vlan::VlanHdr,
};

mod ecn;
mod gue;
mod inner;
mod outer;

use inner::Inner;
use outer::Outer;

#[map]
static TUNNEL_ADDRESSES: HashMap<Address, u8> = HashMap::with_max_entries(256, 0);
#[map]
static TUNNEL_SOURCES: LpmTrie<Address, u8> = LpmTrie::with_max_entries(256, 1 /* BPF_F_NO_PREALLOC */);
#[map]
static DECAP_VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(DecapVerdict::COUNT as u32, 0);

#[xdp]
pub fn decap(mut ctx: XdpContext) -> u32 {
    let (Ok(verdict) | Err(verdict)) = process(&mut ctx);
    if let Some(count) = DECAP_VERDICTS.get_ptr_mut(verdict as u32) {
        // SAFETY: the counter belongs to this CPU, and XDP programs do not interrupt each other on one CPU.
        unsafe { *count += 1 };
    }
    match verdict {
        DecapVerdict::PassNotTunnel
        | DecapVerdict::PassForKernel
        | DecapVerdict::PassStranger
        | DecapVerdict::Decapsulated => xdp_action::XDP_PASS,
        DecapVerdict::DropMalformed | DecapVerdict::DropCongested => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn process(ctx: &mut XdpContext) -> Result<DecapVerdict, DecapVerdict> {
    let link = Link::parse(ctx).ok_or(DecapVerdict::PassNotTunnel)?;
    let outer = outer::parse(ctx, link.ether_type, link.len)?;
    let payload_offset = link.len + outer.header_len;
    if outer.protocol == lb_common::gue::UDP && !gue::is_gue(ctx, payload_offset) {
        return Err(DecapVerdict::PassNotTunnel);
    }
    check_endpoints(&outer)?;
    if !outer::is_sound(ctx, &outer, link.len) {
        return Err(DecapVerdict::DropMalformed);
    }
    let inner = match Inner::announced(outer.protocol, outer.header_len, outer.payload_len) {
        Some(inner) => {
            inner.check(ctx, payload_offset)?;
            inner
        }
        None => gue::open(ctx, &outer, payload_offset)?,
    };
    ecn::propagate(ctx, outer.ecn, &inner, link.len + inner.headers_len)?;
    take_off(ctx, &link, &inner).ok_or(DecapVerdict::DropMalformed)?;
    Ok(DecapVerdict::Decapsulated)
}

/// How the frame starts.
struct Link {
    /// Both MAC addresses.
    addresses: [NetU32; 3],
    /// The 802.1Q tag.
    tag: Option<[u8; 2]>,
    /// What comes behind.
    ether_type: u16,
    /// Length of the Ethernet header and its tag in bytes.
    len: usize,
}

impl Link {
    #[inline(always)]
    fn parse(ctx: &XdpContext) -> Option<Self> {
        let addresses = read(ctx, 0)?;
        let EthHdr { ether_type, .. } = read(ctx, 0)?;
        if ether_type != EtherType::Ieee8021q as u16 {
            return Some(Self { addresses, tag: None, ether_type, len: EthHdr::LEN });
        }
        let VlanHdr { tci, ether_type } = read(ctx, EthHdr::LEN)?;
        Some(Self { addresses, tag: Some(tci), ether_type, len: EthHdr::LEN + VlanHdr::LEN })
    }
}

/// Only what one of the balancers sent to one of the tunnel addresses of this host.
#[inline(always)]
fn check_endpoints(outer: &Outer) -> Result<(), DecapVerdict> {
    if TUNNEL_ADDRESSES.get_ptr(outer.destination).is_none() {
        return Err(DecapVerdict::PassNotTunnel);
    }
    if TUNNEL_SOURCES.get(Key::new(128, outer.source)).is_none() {
        return Err(DecapVerdict::PassStranger);
    }
    Ok(())
}

/// Moves the start of the frame behind the outer headers, and the Ethernet header with it.
#[inline(always)]
fn take_off(ctx: &mut XdpContext, link: &Link, inner: &Inner) -> Option<()> {
    const ETHER_TYPE_OFFSET: usize = EthHdr::LEN - size_of::<u16>();
    move_head(ctx, inner.headers_len as i32)?;
    write(ctx, 0, link.addresses)?;
    let kind = (inner.kind as u16).to_ne_bytes();
    match link.tag {
        None => write(ctx, ETHER_TYPE_OFFSET, kind),
        Some(tag) => {
            write(ctx, ETHER_TYPE_OFFSET, (EtherType::Ieee8021q as u16).to_ne_bytes())?;
            write(ctx, EthHdr::LEN, tag)?;
            write(ctx, EthHdr::LEN + size_of::<u16>(), kind)
        }
    }
}
