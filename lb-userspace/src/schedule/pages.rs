//! How many pages of the slot array a service takes, each of [`layout::CHUNK_SLOTS`] slots or turns.

use lb_common::{Scheduler, layout};

use super::{Turns, plan};
use crate::config::Service;

/// What a new slot table has at least, for each backend.
pub const SLOTS_PER_BACKEND: u32 = 100;

/// How many slots there have to be if each backend is to have so many.
pub fn slots_for(spec: &Service, each: u32) -> u32 {
    let backends = u32::try_from(spec.backends.len()).unwrap_or(u32::MAX);
    let slots = backends.saturating_mul(each).min(layout::MAX_SLOTS).next_power_of_two();
    slots.clamp(layout::MIN_SLOTS, layout::MAX_SLOTS)
}

/// What a service takes that is new.
pub fn pages(spec: &Service) -> u32 {
    let slots = spec.slots.unwrap_or_else(|| slots_for(spec, SLOTS_PER_BACKEND));
    slots / layout::CHUNK_SLOTS + pages_of_rotation(spec)
}

/// What its rotation takes when all its backends are there.
pub fn pages_of_rotation(spec: &Service) -> u32 {
    let weights: Vec<u32> = spec.backends.iter().map(|backend| backend.weight.into()).collect();
    let turns = plan(spec.algorithm, weights.len()).map_or(0, |(_, turns)| {
        turns.rotation_len(&weights, Scheduler::MAX_TURNS).div_ceil(layout::CHUNK_SLOTS).max(1)
    });
    turns + pages_of_members(spec)
}

/// How many of those are for its members: backends that have room are looked for where each stands once.
pub fn pages_of_members(spec: &Service) -> u32 {
    let backends = spec.backends.len();
    let turns = plan(spec.algorithm, backends).map(|(_, turns)| turns);
    if !spec.has_limits() || turns == Some(Turns::Equal) {
        return 0;
    }
    u32::try_from(backends).unwrap_or(u32::MAX).div_ceil(layout::CHUNK_SLOTS)
}
