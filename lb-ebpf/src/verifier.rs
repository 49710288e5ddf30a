//! What the verifier is not to know, and what it is to see.

use core::arch::asm;

/// `value`, by way of something `unknown` to the verifier, so that what it has found out about `value` does not go on:
/// it checks what follows once, and not once for each value.
#[inline(always)]
pub fn veil(value: u64, unknown: u64) -> u64 {
    let mut veiled = value;
    // SAFETY: the value changes twice, back and forth.
    unsafe {
        asm!("{0} ^= {1}", "{0} ^= {1}", inout(reg) veiled, in(reg) unknown, options(pure, nomem, nostack));
    }
    veiled
}

/// `value` below `COUNT`, a power of two: the types may say so already, but the verifier has to see it.
#[inline(always)]
pub fn below<const COUNT: u32>(value: u32) -> usize {
    const { assert!(COUNT.is_power_of_two(), "there is a mask for it") };
    let mut masked = u64::from(value);
    // SAFETY: one bitwise and.
    unsafe {
        asm!("{0} &= {mask}", inout(reg) masked, mask = const COUNT - 1, options(pure, nomem, nostack));
    }
    masked as usize
}
