//! A change of what picks the slots of flows: nearly all flows get another slot. As long as flows may be left that nobody has seen
//! since, the datapath knows what picked their slots before: what is not in the flow table goes to the owner of that slot, and is put
//! there. It is the move of a slot ([`crate::schedule::SlotMover`]) for all at once, and lasts as long: until each flow has either
//! sent something or is over.

use std::time::Instant;

use lb_common::{HashInput, HashInputs, Service};

use super::service::ServiceState;
use crate::config::{self, Algorithm};

/// What is to pick the slots of a service's flows.
fn wanted(spec: &config::Service) -> HashInput {
    if spec.algorithm != Algorithm::SourceHash {
        return HashInput::FLOW;
    }
    let longest = if spec.address.is_ipv4() { 32 } else { 128 };
    HashInput::source(spec.source_prefix.unwrap_or(longest)).expect("a length of 1 to 128")
}

/// What picks them from now on. During one change there is no other: it follows.
pub(super) fn inputs(spec: &config::Service, present: Option<Service>) -> HashInputs {
    match present.map(|service| service.hash) {
        None => HashInputs::new(wanted(spec)),
        Some(hash) if hash.before().is_some() || hash.now() == wanted(spec) => hash,
        Some(hash) => HashInputs::changed(wanted(spec), hash.now()),
    }
}

impl ServiceState {
    /// When no flow is left whose slot was picked otherwise.
    pub(super) fn rehash_due(&self) -> Option<Instant> {
        let since = self.rehashed?;
        Some(self.mover.remembers_since().map_or(since, |remembers| remembers.max(since)) + self.pace().idle)
    }

    /// Forgets what picked slots before, and makes the next change if another has been asked for meanwhile.
    pub(super) fn end_rehash(&mut self, now: Instant) {
        let present = Service { hash: HashInputs::new(self.live.hash.now()), ..self.live };
        self.live.hash = inputs(&self.desired.spec, Some(present));
        self.rehashed = self.live.hash.before().map(|_| now);
    }
}
