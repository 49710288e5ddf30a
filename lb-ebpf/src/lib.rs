//! What the XDP programs share: access to the packet.

#![no_std]

pub mod packet;

/// Takes the place of the panic machinery, which eBPF does not have. A program that could reach it would not load.
#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
