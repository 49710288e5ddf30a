//! What the verifier is not to know.

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
