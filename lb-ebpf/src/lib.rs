//! What the XDP programs share: access to the packet, and its sum.

#![no_std]
#![feature(asm_experimental_arch)]

pub mod packet;
pub mod sum;
pub mod tcp;
pub mod verifier;

/// Takes the place of the panic machinery, which eBPF does not have. A program that could reach it would not load.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// What the kernel is told about the licence: helpers that are for GPL-compatible programs only may be used. The project
/// is under Apache-2.0 or MIT, and the MIT licence is such a one.
#[cfg(target_arch = "bpf")]
#[used]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
