//! A place before everything else on the processor.

use nix::{
    errno::Errno,
    sys::mman::{MlockAllFlags, mlockall},
};

/// Low among real-time priorities (1 to 99), above all that is not.
const PRIORITY: i32 = 10;

/// Gives this process real-time priority, which the programs that it starts do not inherit, and keeps its memory from being
/// swapped out. Returns the priority; without permission there is none.
pub(super) fn enter() -> Option<i32> {
    let parameters = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: the kernel reads the parameters, which live until the call is over.
    let result =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, &raw const parameters) };
    if let Err(error) = Errno::result(result) {
        log::warn!("no real-time priority: {error}");
        return None;
    }
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT) {
        log::debug!("memory is not locked: {error}");
    }
    Some(PRIORITY)
}
