//! The balancer: sends packets for a virtual IP to the backend that their flow belongs to.
//!
//! ```text
//! parse → service → flow → forward → verdict
//! ```
//!
//! One file per step; the step `flow` has five: `flow.rs` for the slot, `track.rs` for the flow table, `schedule.rs` for new
//! flows that do not go by their slot, `affinity.rs` for clients that stay with their server, `quic.rs` for connection ids. A step
//! that ends a packet's way returns the verdict as its error. Where addresses are translated `nat.rs` goes on instead.
//!
//! The program runs on several CPUs at once and shares its maps with the daemon. What it changes, and how:
//!
//! | what | how |
//! |---|---|
//! | counters, turns, what is handed over to `translate` | per CPU |
//! | since when clients wait | by plain stores of every packet of a timed flow |
//! | entries of the flow table, words of the indices of translated flows, states of their records | by compare-and-swap |
//! | other parts of such a record | by plain stores of whoever has claimed its place; the way back and what was acknowledged by every packet of the flow |
//! | connections of backends | by atomic additions |
//! | latencies of backends | read, reckoned and stored: of two at once one counts |
//! | clients and their servers | by the kernel, in a map of its own; the time of a known client by one store |
//!
//! Everything else is only read here.

#![no_std]
#![no_main]
#![expect(internal_features, reason = "stable Rust has no compare-and-swap for the bpf target")]
#![feature(core_intrinsics)]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use aya_log_ebpf::debug;
use lb_common::Verdict;

mod affinity;
mod flow;
mod forward;
mod hand_over;
mod maps;
mod nat;
mod parse;
mod quic;
mod reset;
mod schedule;
mod service;
mod track;

#[xdp]
pub fn balance(mut ctx: XdpContext) -> u32 {
    let (Ok(verdict) | Err(verdict)) = process(&mut ctx);
    maps::count_verdict(verdict);
    action(verdict)
}

/// Goes on with packets of services that translate, where [`balance`] does not: a program of its own, since the verifier gives each
/// only so much stack and so many instructions.
#[xdp]
pub fn translate(mut ctx: XdpContext) -> u32 {
    let (Ok(verdict) | Err(verdict)) = nat::process(&mut ctx);
    maps::count_verdict(verdict);
    action(verdict)
}

#[inline(always)]
fn process(ctx: &mut XdpContext) -> Result<Verdict, Verdict> {
    let mut packet = parse::parse(ctx)?;
    let service = match service::find(&packet.flow) {
        Ok(service) if !service.nat.is_in_use() => service,
        Err(verdict) if !nat::may_be_reply(&packet) => return Err(verdict),
        found => return Err(hand_over::go_on_in_translate(ctx, &packet, found.ok())),
    };
    let hash = packet.flow.hash(maps::hash_key());
    let backend = flow::backend_of(ctx, &mut packet, service, hash)?;
    let verdict = forward::send(ctx, &mut packet, hash, backend)?;
    maps::count_traffic(backend, packet.ip_len);
    debug!(ctx, "service {} to backend {}: {}", service.id.get(), backend.get(), verdict.name());
    Ok(verdict)
}

/// What the kernel is to do with a packet.
#[inline(always)]
fn action(verdict: Verdict) -> u32 {
    match verdict {
        Verdict::PassNotIp
        | Verdict::PassOtherHost
        | Verdict::PassMalformed
        | Verdict::PassFragment
        | Verdict::PassOtherProtocol
        | Verdict::PassNoService
        | Verdict::Local => xdp_action::XDP_PASS,
        Verdict::Transmitted | Verdict::Reset => xdp_action::XDP_TX,
        Verdict::Redirected => xdp_action::XDP_REDIRECT,
        Verdict::DropNoBackend
        | Verdict::DropBackendGone
        | Verdict::DropTooBig
        | Verdict::DropBackendsFull
        | Verdict::DropNatFull
        | Verdict::DropNoPort
        | Verdict::DropNatRace
        | Verdict::DropHopLimit
        | Verdict::DropUntranslatable
        | Verdict::DropNatUnknown
        | Verdict::DropInternal => xdp_action::XDP_DROP,
    }
}
