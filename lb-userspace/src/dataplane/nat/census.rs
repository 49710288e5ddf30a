//! Counting translated flows, and ending those that are over.

use std::{collections::HashMap, time::Duration};

use lb_common::{
    BackendId, FlowState, FlowTime, RowIndex,
    nat::{NatRecord, NatState, Phase, RecordIndex},
};

use super::{NatTable, NatUsage};
use crate::{
    config::NatTimeouts,
    dataplane::{Words, maps::wait_for_packets},
    model::{FlowCounts, Subject},
};

/// What was found in the table of translated flows.
#[derive(Debug, Default)]
pub struct NatSweep {
    /// Flows of each backend that has any, as if they were in the flow table.
    pub flows: HashMap<BackendId, FlowCounts>,
    /// How many active ones of each backend the sweep has ended.
    pub ended: HashMap<BackendId, u64>,
    /// Flows that were over, and whose places are free now.
    pub freed: u64,
    /// How the table is used.
    pub usage: NatUsage,
}

/// How long a flow of which only one side was heard, or that was reset, may live when the table fills up: a handshake takes no longer.
const OPENING_UNDER_PRESSURE: Duration = Duration::from_secs(3);
/// How long one may that both sides have closed: their last segments may come again.
const CLOSED_UNDER_PRESSURE: Duration = Duration::from_secs(5);

/// How long a connection may be opening where backends have limits.
const OPENING_WITH_LIMITS: Duration = Duration::from_secs(10);

/// Counts all flows, and ends those that are over. Not for the main loop: it waits for packets that are on their way.
pub fn sweep_nat(table: &NatTable, words: &Words, subjects: &[Subject], clock: impl Fn() -> FlowTime) -> NatSweep {
    let mut held = table.sweeping();
    let lifetimes = Lifetimes::new(subjects, is_pressed(table, table.taken()));
    let (mut found, mut over, now) = (NatSweep::default(), Vec::new(), clock());
    let (mut taken, mut ports_in_use) = (0, vec![false; table.places()]);
    for at in table.taken_places() {
        let NatRecord { state, source, reverse, .. } = table.record(at);
        taken += 1;
        ports_in_use[reverse.0 as usize] = true;
        if state.phase() == Phase::FREE {
            // It is being made.
            continue;
        }
        if state.phase() == Phase::OVER {
            over.push(at);
        } else if end(table, at, state, words, &lifetimes, now) {
            over.push(at);
            *found.ended.entry(state.backend()).or_default() += u64::from(state.phase().is_active());
        } else {
            found.usage.count(state, source, now);
            found.flows.entry(state.backend()).or_default()[counts_as(state.phase()) as usize] += 1;
        }
    }
    found.freed = over.len() as u64;
    if !over.is_empty() {
        wait_for_packets();
        for at in &over {
            table.free(*at);
        }
    }
    let port_lifetime = port_lifetime(subjects, is_pressed(table, table.taken() + held.count()));
    held.sweep(table, &ports_in_use, port_lifetime, now);
    found.usage.held = held.count();
    found.usage.taken = taken - found.freed;
    table.set_taken(found.usage.taken);
    found
}

/// How long a port is held whose connection has given way: as long as a closed connection of any service.
fn port_lifetime(subjects: &[Subject], is_pressed: bool) -> u64 {
    let timeouts = subjects.iter().filter_map(|subject| subject.nat);
    let lifetimes = timeouts.map(|timeouts| of_phase(Phase::TIME_WAIT, Duration::ZERO, &timeouts, is_pressed));
    lifetimes.max().unwrap_or(0)
}

/// Whether an index with so many words is so full that new flows soon find no room.
fn is_pressed(table: &NatTable, words: u64) -> bool {
    words > table.bits().entries() / 4 * 3
}

/// Ends a flow if it is over. A packet may bring it back to life first.
fn end(
    table: &NatTable,
    at: RecordIndex,
    state: NatState,
    words: &Words,
    lifetimes: &Lifetimes,
    now: FlowTime,
) -> bool {
    let is_over = match lifetimes.of(state) {
        Some(lifetime) => state.idle_ns(now) >= lifetime,
        // One without an owner and with a row is younger than the subjects.
        None => words.row(state.backend()) == RowIndex::NONE,
    };
    let has_ended = is_over && table.replace_state(at, state, state.over());
    if has_ended {
        table.bury(at);
    }
    has_ended
}

/// The state of the flow table that is nearest.
const fn counts_as(phase: Phase) -> FlowState {
    match phase {
        Phase::OPENING | Phase::ANSWERED | Phase::SIGHTED | Phase::UNREPLIED => FlowState::Opening,
        // Its other half goes on.
        Phase::ESTABLISHED | Phase::CLIENT_CLOSED | Phase::BACKEND_CLOSED | Phase::REPLIED => FlowState::Established,
        _ => FlowState::Closing,
    }
}

/// How long flows live without a packet, by backend and phase, in nanoseconds. Those of a service that does not translate, by now, are
/// over: no packet finds them.
struct Lifetimes {
    owners: HashMap<BackendId, usize>,
    by_owner: Vec<Vec<u64>>,
}

impl Lifetimes {
    fn new(subjects: &[Subject], is_pressed: bool) -> Self {
        let numbered = subjects.iter().enumerate();
        let owners = numbered.flat_map(|(number, subject)| subject.backends.iter().map(move |id| (*id, number)));
        let lifetimes = |subject: &Subject| {
            let timeouts = subject.nat.map(|timeouts| match timeouts.opening {
                // They use up what connections may be had.
                opening if subject.is_limited => NatTimeouts { opening: opening.min(OPENING_WITH_LIMITS), ..timeouts },
                _ => timeouts,
            });
            let lifetime =
                |phase| timeouts.map_or(0, |timeouts| of_phase(phase, subject.idle_timeout, &timeouts, is_pressed));
            (0..Phase::OVER.0).map(Phase).map(lifetime).collect()
        };
        Self { owners: owners.collect(), by_owner: subjects.iter().map(lifetimes).collect() }
    }

    fn of(&self, state: NatState) -> Option<u64> {
        let owner = self.owners.get(&state.backend())?;
        self.by_owner[*owner].get(usize::from(state.phase().0)).copied()
    }
}

fn of_phase(phase: Phase, established: Duration, timeouts: &NatTimeouts, is_pressed: bool) -> u64 {
    let at_most = |limit, lifetime: Duration| if is_pressed { lifetime.min(limit) } else { lifetime };
    let lifetime = match phase {
        Phase::OPENING | Phase::ANSWERED | Phase::SIGHTED => at_most(OPENING_UNDER_PRESSURE, timeouts.opening),
        Phase::RESET => at_most(OPENING_UNDER_PRESSURE, timeouts.reset),
        Phase::UNREPLIED => at_most(OPENING_UNDER_PRESSURE, timeouts.unreplied),
        Phase::TIME_WAIT => at_most(CLOSED_UNDER_PRESSURE, timeouts.time_wait),
        Phase::CLIENT_CLOSED | Phase::BACKEND_CLOSED => timeouts.half_closed,
        _ => established,
    };
    u64::try_from(lifetime.as_nanos()).unwrap_or(u64::MAX)
}
