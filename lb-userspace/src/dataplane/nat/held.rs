//! Ports that are held: the client of a closed connection has opened another by the same port, and the record is that one's now, but
//! the backend remembers the closed one for a while. Until it has forgotten it, nobody else is to have its port.
//!
//! Such a port is a word of the reverse index that leads to a record which does not lead back.

use std::mem;

use lb_common::{FlowTime, nat::RecordIndex};

use super::NatTable;

/// Which ports have been held for how long, as far as sweeps see: in rounds, so that one flag for each place is enough.
#[derive(Debug, Default)]
pub(super) struct HeldPorts {
    /// Those that were held when the round began, and are yet.
    since_then: Vec<bool>,
    began: Option<FlowTime>,
    /// How many were held after the last sweep.
    count: u64,
}

impl HeldPorts {
    /// How many were held after the last sweep.
    pub(super) const fn count(&self) -> u64 {
        self.count
    }

    /// Frees ports that have been held for `lifetime` (nanoseconds), and for twice that at most. `in_use` says which places are the ports
    /// of flows.
    pub(super) fn sweep(&mut self, table: &NatTable, in_use: &[bool], lifetime: u64, now: FlowTime) {
        let held: Vec<bool> =
            table.reverse_places().zip(in_use).map(|(is_taken, in_use)| is_taken && !in_use).collect();
        self.count = held.iter().filter(|is_held| **is_held).count() as u64;
        self.since_then.resize(held.len(), false);
        for (since_then, is_held) in self.since_then.iter_mut().zip(&held) {
            *since_then &= is_held;
        }
        if self.began.is_none_or(|began| now.0.saturating_sub(began.0) >= lifetime) {
            self.began = Some(now);
            let old = mem::replace(&mut self.since_then, held);
            let places = (0..).map(RecordIndex).zip(old).filter_map(|(place, is_old)| is_old.then_some(place));
            self.count -= places.filter(|place| table.release(*place)).count() as u64;
        }
    }
}
