//! Programs for `cargo xtask bench datapath`: a wrapper that gives the program under test a fresh packet each time, and
//! the two floors it is compared with.

#![no_std]
#![no_main]

use core::hint::black_box;

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::{Array, PerCpuArray, ProgramArray},
    programs::XdpContext,
};
use lb_common::{NetU32, bench::Template};
use lb_ebpf::{
    packet::{frame_len, move_head, read, write},
    tcp::SYN,
};

#[map]
static TEMPLATE: Array<Template> = Array::with_max_entries(1, 0);
#[map]
static TARGETS: ProgramArray = ProgramArray::with_max_entries(8, 0);
#[map]
static RUNS: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);

/// The kernel does not restore the packet between the runs of one test: undoes what the last run did, picks the next
/// flow, and goes on to the program under test.
#[xdp]
pub fn wrapper(mut ctx: XdpContext) -> u32 {
    prepare(&mut ctx).map_or(xdp_action::XDP_ABORTED, |target| {
        // SAFETY: the context is the one that the kernel gave to this run of the program.
        unsafe { TARGETS.tail_call(&ctx, target) };
        xdp_action::XDP_ABORTED
    })
}

#[inline(always)]
fn prepare(ctx: &mut XdpContext) -> Option<u32> {
    let template = TEMPLATE.get(0)?;
    // The black box keeps the compiler from taking the difference of two packet pointers in 32 bits, which the verifier
    // refuses.
    let delta = black_box(frame_len(ctx)) as i32 - template.frame_len as i32;
    if delta != 0 {
        move_head(ctx, delta)?;
    }
    let runs = RUNS.get_ptr_mut(0)?;
    // SAFETY: the counter belongs to this CPU.
    let run = unsafe {
        *runs = (*runs).wrapping_add(1);
        *runs
    };
    for (number, word) in template.head.iter().enumerate() {
        write(ctx, number * size_of::<u64>(), *word)?;
    }
    // An odd factor visits every flow once before it comes back to the first, in an order that is no row of addresses.
    let flow = run.wrapping_mul(0x9e37_79b1);
    vary(ctx, template.source_offset, flow & template.source_mask)?;
    vary(ctx, template.destination_offset, flow >> 16 & template.destination_mask)?;
    if template.flood_every != 0 && run % template.flood_every == 0 {
        flood(ctx, template, flow)?;
    }
    Some(template.target)
}

/// Turns the packet into the first one of a flow of its own.
#[inline(always)]
fn flood(ctx: &mut XdpContext, template: &Template, flow: u32) -> Option<()> {
    vary(ctx, template.source_offset, flow)?;
    let offset = (template.flags_offset & 0x3f) as usize;
    let [_, window]: [u8; 2] = read(ctx, offset)?;
    write(ctx, offset, [SYN, window])
}

/// Sets low bits of the address whose last word is at `offset`, where the template has zeros.
#[inline(always)]
fn vary(ctx: &mut XdpContext, offset: u32, bits: u32) -> Option<()> {
    let offset = (offset & 0x3f) as usize;
    let base: [NetU32; 1] = read(ctx, offset)?;
    write(ctx, offset, base.map(|word| word.or(NetU32::new(bits))))
}

#[xdp]
pub fn noop(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[xdp]
pub fn encap(mut ctx: XdpContext) -> u32 {
    match move_head(&mut ctx, -20) {
        Some(()) => xdp_action::XDP_TX,
        None => xdp_action::XDP_ABORTED,
    }
}
