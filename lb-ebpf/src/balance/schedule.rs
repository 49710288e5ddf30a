//! Which backend a new flow gets where a scheduler says so, and not its slot (docs/ARCHITECTURE.md, "Schedulers").

use lb_common::{BackendId, Policy, Scheduler, ServiceId, SlotWord};

use crate::maps;

/// The backend for a new flow in a slot with this word.
///
/// A function of its own, so that the verifier follows it once for each call, and not all that comes after for each of its ends.
#[inline(never)]
pub fn backend_of_new_flow(service: ServiceId, word: SlotWord) -> BackendId {
    let scheduled = scheduled(service).unwrap_or(BackendId::NONE);
    if scheduled == BackendId::NONE { word.current() } else { scheduled }
}

/// The backend that the service's scheduler chooses, if it has one.
#[inline(always)]
fn scheduled(service: ServiceId) -> Option<BackendId> {
    let scheduler = maps::scheduler(service);
    if scheduler.policy() == Policy::SLOT || scheduler.turns() == 0 {
        return None;
    }
    turn(scheduler, maps::next_turn(service, scheduler.turns())?)
}

/// Whose turn it is.
#[inline(always)]
fn turn(scheduler: Scheduler, turn: u32) -> Option<BackendId> {
    let (chunk, index) = scheduler.locate(turn);
    maps::slot(chunk, index).map(SlotWord::current)
}
