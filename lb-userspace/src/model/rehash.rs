//! A change of what picks the slots of flows: nearly all flows get another slot. It is the move of a slot
//! ([`crate::schedule::SlotMover`]) for all at once, in the same two steps.
//!
//! First all slots remember, for as long as a handshake may take, and nothing else changes: a first packet that comes again must not
//! change sides. Then flows get their new slots. As long as flows may be left that nobody has seen since, the datapath knows what
//! picked their slots before: what is not in the flow table goes to the owner of that slot, and is put there. That ends when each flow
//! has either sent something or is over. A second change has to wait for that: of what picked the slots before, the datapath knows one.
//!
//! Where addresses are translated all flows have records, which know their backends: nothing has to be remembered, and each step is due
//! at once.

use std::time::Instant;

use lb_common::{HashInput, HashInputs, Service};

use super::service::ServiceState;
use crate::{
    config::{self, Algorithm},
    schedule::Pace,
};

/// What is to pick the slots of a service's flows.
fn wanted(spec: &config::Service) -> HashInput {
    if spec.algorithm != Algorithm::SourceHash {
        return HashInput::FLOW;
    }
    let longest = if spec.address.is_ipv4() { 32 } else { 128 };
    HashInput::source(spec.source_prefix.unwrap_or(longest)).expect("a length of 1 to 128")
}

/// What picks them at first.
pub(super) fn inputs(spec: &config::Service, present: Option<Service>) -> HashInputs {
    present.map_or_else(|| HashInputs::new(wanted(spec)), |service| service.hash)
}

impl ServiceState {
    /// Whether flows have not the slots that they are to have, or some may be left that had others.
    pub(super) fn is_rehashing(&self) -> bool {
        self.live.hash != HashInputs::new(wanted(&self.desired.spec))
    }

    /// When the next step is due.
    pub(super) fn rehash_due(&self) -> Option<Instant> {
        if !self.is_rehashing() {
            return None;
        }
        let Pace { handshake, idle, .. } = self.pace();
        let remembers_since = self.mover.remembers_since().unwrap_or(self.refreshed);
        Some(match self.rehashed {
            None => remembers_since + handshake,
            Some(since) => remembers_since.max(since) + idle,
        })
    }

    /// From when on the slots of new flows are picked as the algorithm says, if they are not yet.
    pub(super) fn rehash_begins(&self) -> Option<Instant> {
        self.rehash_due().filter(|_| self.live.hash.now() != wanted(&self.desired.spec))
    }

    /// Makes the next step. If another change has been asked for meanwhile, it follows.
    pub(super) fn rehash(&mut self, now: Instant) {
        let present = self.live.hash.now();
        (self.live.hash, self.rehashed) = match self.rehashed {
            None => (HashInputs::changed(wanted(&self.desired.spec), present), Some(now)),
            Some(_) => (HashInputs::new(present), None),
        };
    }
}
