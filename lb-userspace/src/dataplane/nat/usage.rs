//! How full the table of translated flows is, and how it is used.

use std::{collections::HashMap, time::Duration};

use lb_common::{
    BackendId, FlowTime,
    nat::{NatState, Phase},
};

use crate::model::Replies;

/// What a sweep has found the table to hold.
#[derive(Debug, Clone, Default)]
pub struct NatUsage {
    /// How many places are taken.
    pub taken: u64,
    /// How many ports are held, of connections whose clients have opened others.
    pub held: u64,
    /// Whether backends answer.
    pub replies: HashMap<BackendId, Replies>,
    /// How many flows of each backend have each source, by its number.
    pub ports: HashMap<(BackendId, u16), u64>,
}

/// No backend that is well takes so long for an answer, nor does a client for sending its SYN again.
const WAITING: Duration = Duration::from_secs(2);

impl NatUsage {
    /// Takes note of a flow.
    pub(super) fn count(&mut self, state: NatState, source: u16, now: FlowTime) {
        *self.ports.entry((state.backend(), source)).or_default() += 1;
        let replies = self.replies.entry(state.backend()).or_default();
        match state.phase() {
            // Either side may have sent the reset.
            Phase::UNREPLIED | Phase::RESET => {}
            phase if phase.0 >= Phase::ESTABLISHED.0 || phase == Phase::ANSWERED => replies.answered += 1,
            _ => {
                replies.opening += 1;
                replies.waiting += u32::from(u128::from(state.idle_ns(now)) >= WAITING.as_nanos());
            }
        }
    }
}
