//! How many slots may move: as many per minute as the table has, so that a weight that breathes or a backend that comes and
//! goes does not churn the table.

use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_mins(1);
/// Slots that are held back are let go in parts of the table: each takes a second to come together.
const PARTS: u32 = 64;

/// A token bucket that holds a minute's worth.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    /// How long it would have taken to fill, when slots moved the last time.
    missing: Duration,
    moved: Instant,
}

impl Bound {
    /// A full one.
    pub(super) fn new(now: Instant) -> Self {
        Self { missing: Duration::ZERO, moved: now }
    }

    /// How many of the `slots` slots of the table may move now.
    pub(super) fn free(self, slots: u32, now: Instant) -> u32 {
        let free = MINUTE.saturating_sub(self.missing(now)).as_nanos() / time_of(1, slots).as_nanos();
        u32::try_from(free).map_or(slots, |free| free.min(slots))
    }

    /// Takes in that so many have moved.
    pub(super) fn take(&mut self, moved: u32, slots: u32, now: Instant) {
        *self = Self { missing: self.missing(now) + time_of(moved, slots), moved: now };
    }

    /// When some of `waiting` slots may move, if none may now.
    pub(super) fn next(self, waiting: u32, slots: u32) -> Instant {
        let part = waiting.min(slots.div_ceil(PARTS));
        self.moved + (self.missing + time_of(part, slots)).saturating_sub(MINUTE)
    }

    fn missing(self, now: Instant) -> Duration {
        self.missing.saturating_sub(now.saturating_duration_since(self.moved))
    }
}

/// How long it takes until so many slots may move.
fn time_of(moves: u32, slots: u32) -> Duration {
    MINUTE / slots * moves
}
