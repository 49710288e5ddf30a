//! Ports that are held: the client of a closed connection has opened another by the same port, and the record is that one's now, but
//! the backend remembers the closed one for a while. Until it has forgotten it, nobody else is to have its port.
//!
//! Such a port is a word of the reverse index that leads to a record which does not lead back.

use std::mem;

use lb_common::{FlowTime, nat::RecordIndex};

use super::NatTable;

/// Which ports have been held for how long: in rounds, so that it takes a bit for each place.
#[derive(Debug, Default)]
pub(super) struct HeldPorts {
    /// Those that were held when the round began, and are yet.
    since_then: Vec<bool>,
    began: Option<FlowTime>,
}

impl HeldPorts {
    /// Frees ports that are held, of all but those `in_use`, for `lifetime`, in nanoseconds, at least, and at most twice as long. How
    /// many are held.
    pub(super) fn sweep(&mut self, table: &NatTable, in_use: &[bool], lifetime: u64, now: FlowTime) -> u64 {
        let held: Vec<bool> =
            table.reverse_places().zip(in_use).map(|(is_taken, in_use)| is_taken && !in_use).collect();
        let is_new_round = self.began.is_none_or(|began| now.0.saturating_sub(began.0) >= lifetime);
        self.since_then.resize(held.len(), false);
        for (then, now) in self.since_then.iter_mut().zip(&held) {
            *then &= now;
        }
        let mut count = held.iter().filter(|held| **held).count() as u64;
        if is_new_round {
            let old = mem::replace(&mut self.since_then, held);
            self.began = Some(now);
            let places = (0..).map(RecordIndex).zip(old).filter_map(|(place, is_old)| is_old.then_some(place));
            count -= places.filter(|place| table.release(*place)).count() as u64;
        }
        count
    }
}
