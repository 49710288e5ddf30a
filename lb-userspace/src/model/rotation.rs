//! How a service's new flows get their backends where a scheduler says so, and not their slots: which turns the backends take,
//! and from when on.

use std::time::Instant;

use lb_common::{BackendId, Policy, Scheduler, ServiceId, layout};

use super::effect::Effect;
use crate::{
    config::{self, OnFull},
    schedule::{Turns, plan},
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
    /// What the datapath knows of its backends.
    candidates: Vec<Candidate>,
    /// What the datapath is told, as far as that is known.
    stored: Option<Scheduler>,
    /// From when on the scheduler chooses, if it is to choose and does not yet.
    due: Option<Instant>,
}

/// How many chunks the rotation of a service takes when all its backends are there.
pub(super) fn chunk_count(spec: &config::Service) -> u32 {
    let weights: Vec<u32> = spec.backends.iter().map(|backend| backend.weight.into()).collect();
    let Some((_, turns)) = plan(spec.algorithm, weights.len()) else { return 0 };
    let len = turns.rotation(&weights, Scheduler::MAX_TURNS).len();
    u32::try_from(len).unwrap_or(Scheduler::MAX_TURNS).div_ceil(layout::CHUNK_SLOTS).max(1)
}

/// What a scheduler has to know of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: BackendId,
    /// Zero if it takes no new flows.
    pub(super) weight: u32,
    /// How many connections it may have; zero is any number.
    pub(super) limit: u32,
}

impl Rotation {
    /// What an earlier daemon has left.
    pub(super) fn take_over(stored: Scheduler) -> Self {
        let chunks = stored.turns().div_ceil(layout::CHUNK_SLOTS);
        let run = (chunks > 0).then_some(Run { first_chunk: stored.first_chunk(), chunks });
        Self { run, stored: Some(stored), ..Self::default() }
    }

    /// The same in other chunks, or in none.
    #[must_use]
    pub(super) fn moved_to(self, run: Option<Run>) -> Self {
        if self.run == run { self } else { Self { run, turns: None, ..self } }
    }

    /// Whether the scheduler chooses already.
    fn is_on(&self) -> bool {
        self.stored.is_some_and(|stored| stored.policy() != Policy::SLOT)
    }

    /// The backends that take new flows.
    pub(super) fn members(&self) -> impl Iterator<Item = BackendId> {
        self.candidates.iter().filter(|candidate| candidate.weight > 0).map(|candidate| candidate.id)
    }

    /// When [`Rotation::refresh`] has something to do next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Lets the candidates take turns. The scheduler begins to choose at `start`; limits hold at once.
    pub(super) fn refresh(
        &mut self,
        service: ServiceId,
        spec: &config::Service,
        candidates: &[Candidate],
        start: Instant,
        now: Instant,
    ) -> Vec<Effect> {
        let mut effects = self.refresh_capacities(candidates);
        self.due = None;
        let with_weight: Vec<Candidate> = candidates.iter().copied().filter(|candidate| candidate.weight > 0).collect();
        let mut scheduler = Scheduler::NONE;
        if let (Some(run), Some((policy, turns))) = (self.run, plan(spec.algorithm, with_weight.len())) {
            let turns = backends_in_turn(turns, run, &with_weight);
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
        if spec.has_limits() {
            scheduler = scheduler.limited(spec.on_full == OnFull::Reset);
        }
        if self.stored != Some(scheduler) {
            effects.push(Effect::StoreScheduler(service, scheduler));
            self.stored = Some(scheduler);
        }
        effects
    }

    /// What the datapath knows of backends, where it has changed.
    fn refresh_capacities(&mut self, candidates: &[Candidate]) -> Vec<Effect> {
        let before = std::mem::replace(&mut self.candidates, candidates.to_vec());
        let changed = candidates.iter().filter(|candidate| !before.contains(candidate));
        changed.map(|Candidate { id, weight, limit }| Effect::StoreCapacity(*id, *weight, *limit)).collect()
    }
}

/// Whose turns they are, in at most as many as the chunks of `run` hold.
fn backends_in_turn(turns: Turns, run: Run, candidates: &[Candidate]) -> Vec<BackendId> {
    let weights: Vec<u32> = candidates.iter().map(|candidate| candidate.weight).collect();
    let max = run.chunks * layout::CHUNK_SLOTS;
    turns.rotation(&weights, max).into_iter().map(|index| candidates[index as usize].id).collect()
}
