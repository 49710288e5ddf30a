//! How long backends take to answer, where that decides who gets new flows.

use lb_common::nat::{Event, NatState, RecordIndex, Side, Turn};

use crate::maps::{self, MapRecord};

/// Whether a flow that begins waits for its backend. What the place of its record held before was another flow's.
#[inline(always)]
pub fn begin(record: MapRecord, waits: bool) {
    if let Some(wait) = maps::nat_wait(record.index()) {
        wait.set(if waits { maps::exact_time() } else { 0 });
    }
}

/// Takes note of a packet in a flow that is timed, and is in this state.
#[inline(always)]
pub fn note(record: MapRecord, state: NatState, side: Side, event: Event) {
    nat_turn(record.index().0, state.to_bits(), side as u32, event as u32);
}

/// A function of its own, so that the verifier follows it once. Of packets of a flow that are on several CPUs at the same moment one may not
/// be heard: see [`lb_common::Latency`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_turn(record: u32, state: u64, side: u32, event: u32) -> u32 {
    let state = NatState::from_bits(state);
    let side = if side == Side::Client as u32 { Side::Client } else { Side::Backend };
    let answer = match Turn::of(side, Event::from_number(event), state.phase()) {
        Turn::None => return 0,
        Turn::Asked => None,
        Turn::Answered(answer) => Some(answer),
    };
    let Some(wait) = maps::nat_wait(RecordIndex(record)) else { return 0 };
    let since = wait.since();
    match answer {
        None => wait.set(maps::exact_time()),
        Some(answer) if since != 0 => {
            wait.set(0);
            maps::measured(state.backend(), answer, maps::exact_time().saturating_sub(since));
        }
        Some(_) => {}
    }
    0
}
