//! The flow table as the daemon has it: mapped into its memory, so that it sweeps, lists and copies entries without a system
//! call for each. Packets change entries meanwhile; whatever the daemon changes, it changes by compare-and-swap.

mod census;
mod list;
mod open;
mod table;

use std::sync::Arc;

use lb_common::{FlowEntry, FlowState, FlowTime, flow_table};

pub(super) use self::open::{Places, flow_table_pins};
pub use self::{
    census::{Sweep, sweep},
    list::{ListedFlow, flows},
    open::Opened,
    table::FlowTable,
};

/// The flow table in use, and the word by which the datapath finds it.
#[derive(Debug)]
pub struct FlowTables {
    places: Places,
    table: Arc<FlowTable>,
    refused: u64,
}

impl FlowTables {
    /// The table, to be read and changed by whichever thread.
    pub fn table(&self) -> Arc<FlowTable> {
        Arc::clone(&self.table)
    }

    /// How many flows have been lost when the table was replaced.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

/// The time by which entries are stamped.
pub fn flow_time() -> FlowTime {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes to `now` only. It cannot fail: the clock is older than bpf.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    let [seconds, nanoseconds] = [now.tv_sec, now.tv_nsec].map(i64::cast_unsigned);
    FlowTime(seconds * 1_000_000_000 + nanoseconds)
}

/// How long entries live without a packet: nanoseconds by state.
#[derive(Debug, Clone, Copy)]
struct Lifetimes([u64; FlowState::ALL.len()]);

impl Lifetimes {
    const OPENING_NS: u64 = 60_000_000_000;
    /// Where connections that only open use up limits: some times as long as a handshake takes.
    const LIMITED_OPENING_NS: u64 = 10_000_000_000;
    const CLOSING_NS: u64 = 120_000_000_000;

    /// Those where flows live for `idle_ticks` of 34.4 s.
    fn new(idle_ticks: u8) -> Self {
        Self(FlowState::ALL.map(|state| match state {
            FlowState::Opening => Self::OPENING_NS,
            FlowState::Closing => Self::CLOSING_NS,
            FlowState::Sighted | FlowState::Established => flow_table::ticks_ns(idle_ticks),
        }))
    }

    /// The same in a service whose backends have limits.
    fn limited(mut self) -> Self {
        self.0[FlowState::Opening as usize] = Self::LIMITED_OPENING_NS;
        self
    }

    /// Whether `entry` has come to its end. The time `now` may have been read long before the entry: what seems old then may be
    /// from later, so `clock` decides.
    fn have_ended(self, entry: FlowEntry, now: FlowTime, clock: impl Fn() -> FlowTime) -> bool {
        let have_ended = |now| entry.idle_ns(now) >= self.0[entry.state() as usize];
        have_ended(now) && have_ended(clock())
    }
}

#[cfg(test)]
mod tests;
