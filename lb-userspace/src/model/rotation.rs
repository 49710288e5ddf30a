//! How a service's new flows get their backends where a scheduler says so, and not their slots: which turns the backends take,
//! and from when on.

use std::time::Instant;

use lb_common::{BackendId, Policy, Scheduler, ServiceId, layout};

use super::effect::Effect;
use crate::{
    config::{self, Algorithm},
    schedule::Turns,
};

/// A run of chunks in the slot array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first_chunk: u32,
    pub(super) chunks: u32,
}

/// The rotation of one service, as it stands in the datapath.
#[derive(Debug, Clone, Default)]
pub(super) struct Rotation {
    /// Where its turns stand, if the service has a scheduler.
    pub(super) run: Option<Run>,
    /// What stands there, as far as that is known.
    turns: Option<Vec<BackendId>>,
    /// What the datapath is told, as far as that is known.
    stored: Option<Scheduler>,
    /// From when on the scheduler chooses, if it is to choose and does not yet.
    due: Option<Instant>,
}

/// How often each backend has its turn, if there is a scheduler.
pub(super) const fn turns_of(algorithm: Algorithm) -> Option<Turns> {
    match algorithm {
        Algorithm::Maglev => None,
        Algorithm::RoundRobin => Some(Turns::Equal),
        Algorithm::WeightedRoundRobin => Some(Turns::Weighted),
    }
}

const fn policy_of(algorithm: Algorithm) -> Option<Policy> {
    match algorithm {
        Algorithm::Maglev => None,
        Algorithm::RoundRobin | Algorithm::WeightedRoundRobin => Some(Policy::NEXT),
    }
}

/// How many chunks the rotation of a service takes when all its backends are there.
pub(super) fn chunk_count(spec: &config::Service) -> u32 {
    let Some(turns) = turns_of(spec.algorithm) else { return 0 };
    let weights: Vec<u32> = spec.backends.iter().map(|backend| backend.weight.into()).collect();
    let len = turns.rotation(&weights, Scheduler::MAX_TURNS).len();
    u32::try_from(len).unwrap_or(Scheduler::MAX_TURNS).div_ceil(layout::CHUNK_SLOTS).max(1)
}

impl Rotation {
    /// What an earlier daemon has left.
    pub(super) fn take_over(stored: Scheduler) -> Self {
        let chunks = stored.turns().div_ceil(layout::CHUNK_SLOTS);
        let run = (chunks > 0).then_some(Run { first_chunk: stored.first_chunk(), chunks });
        Self { run, turns: None, stored: Some(stored), due: None }
    }

    /// The same in other chunks, or in none.
    #[must_use]
    pub(super) fn moved_to(self, run: Option<Run>) -> Self {
        if self.run == run { self } else { Self { run, turns: None, ..self } }
    }

    /// Whether the scheduler chooses already.
    fn is_on(&self) -> bool {
        self.stored.is_some_and(|stored| stored != Scheduler::NONE)
    }

    /// When [`Rotation::refresh`] has something to do next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Makes these the turns. The scheduler begins to choose at `start`.
    pub(super) fn refresh(
        &mut self,
        service: ServiceId,
        algorithm: Algorithm,
        turns: Vec<BackendId>,
        start: Instant,
        now: Instant,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.due = None;
        let mut scheduler = Scheduler::NONE;
        if let (Some(run), Some(policy)) = (self.run, policy_of(algorithm)) {
            let len = u32::try_from(turns.len()).unwrap_or(Scheduler::MAX_TURNS);
            if self.turns.as_ref() != Some(&turns) {
                effects.push(Effect::StoreTurns(run.first_chunk, turns.clone()));
                self.turns = Some(turns);
            }
            // A service that is new has no flows yet.
            if self.stored.is_none() || self.is_on() || start <= now {
                scheduler = Scheduler::new(policy, run.first_chunk, len);
            } else {
                self.due = Some(start);
            }
        }
        if self.stored != Some(scheduler) {
            effects.push(Effect::StoreScheduler(service, scheduler));
            self.stored = Some(scheduler);
        }
        effects
    }
}

/// Whose turns they are, in at most as many as the chunks of `run` hold.
pub(super) fn backends_in_turn(turns: Turns, run: Run, backends: &[(BackendId, u32)]) -> Vec<BackendId> {
    let weights: Vec<u32> = backends.iter().map(|(_, weight)| *weight).collect();
    let max = run.chunks * layout::CHUNK_SLOTS;
    turns.rotation(&weights, max).into_iter().map(|index| backends[index as usize].0).collect()
}
