//! Programs for `cargo xtask bench datapath`: a wrapper that gives the program under test a fresh packet each time, and
//! the two floors it is compared with.

#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::{Array, PerCpuArray, ProgramArray},
    programs::XdpContext,
};
use lb_common::bench::Template;
use lb_ebpf::packet::{frame_len, move_head, write};

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
    let delta = frame_len(ctx) as i32 - template.frame_len as i32;
    if delta != 0 {
        move_head(ctx, delta)?;
    }
    let runs = RUNS.get_ptr_mut(0)?;
    // SAFETY: the counter belongs to this CPU.
    let run = unsafe {
        *runs = (*runs).wrapping_add(1);
        *runs
    };
    write(ctx, 0, template.head)?;
    // An odd factor visits every flow once before it comes back to the first, in an order that is no row of addresses.
    let flow = run.wrapping_mul(0x9e37_79b1) & template.flow_mask;
    write(ctx, (template.flow_offset & 0x3f) as usize, flow.to_be_bytes())?;
    Some(template.target)
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
