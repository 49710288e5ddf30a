//! How a service's new flows get their backends where a scheduler says so, and not their slots: which turns the backends take,
//! and from when on.

use std::time::Instant;

use lb_common::{BackendId, Policy, Scheduler, ServiceId, layout};

use super::effect::Effect;
use crate::{
    config::{self, OnFull},
    schedule::{Turns, pages_of_members, plan},
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
    /// Where its turns and members stand, if it needs any.
    pub(super) run: Option<Run>,
    /// What stands there, as far as that is known.
    standing: Option<Standing>,
    /// What the datapath knows of its backends.
    candidates: Vec<Candidate>,
    /// What the datapath is told, as far as that is known.
    stored: Option<Scheduler>,
    /// From when on the scheduler chooses, if it is to choose and does not yet.
    begins: Option<Instant>,
    /// When there is something else to do.
    due: Option<Instant>,
}

/// The turns and members of a rotation, and what they follow from.
#[derive(Debug, Clone)]
struct Standing {
    order: Order,
    turns: u32,
    members: u32,
}

/// What turns and members follow from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Order {
    turns: Option<Turns>,
    /// How many turns there may be.
    max: u32,
    has_members: bool,
    /// Who takes new flows, and how many of them.
    weights: Vec<(BackendId, u32)>,
}

/// From when on a service does what it is to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begin {
    /// The scheduler chooses.
    pub(super) choosing: Instant,
    /// Limits hold.
    pub(super) limits: Instant,
    /// Each connection that was there before is known, or over.
    pub(super) all_known: Instant,
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
        let chunks = stored.chunks();
        let run = (chunks > 0).then_some(Run { first_chunk: stored.first_chunk(), chunks });
        Self { run, stored: Some(stored), ..Self::default() }
    }

    /// The same in other chunks, or in none.
    #[must_use]
    pub(super) fn moved_to(self, run: Option<Run>) -> Self {
        if self.run == run { self } else { Self { run, standing: None, ..self } }
    }

    /// Whether the scheduler chooses already.
    fn is_on(&self) -> bool {
        self.stored.is_some_and(|stored| stored.policy() != Policy::SLOT)
    }

    fn is_limited(&self) -> bool {
        self.stored.is_some_and(Scheduler::is_limited)
    }

    /// The backends that take new flows.
    pub(super) fn members(&self) -> impl Iterator<Item = BackendId> {
        self.candidates.iter().filter(|candidate| candidate.weight > 0).map(|candidate| candidate.id)
    }

    /// When [`Rotation::refresh`] has something to do next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// From when on the scheduler chooses, if it does not yet.
    pub(super) fn begins(&self) -> Option<Instant> {
        self.begins
    }

    /// Lets the candidates take turns.
    pub(super) fn refresh(
        &mut self,
        service: ServiceId,
        spec: &config::Service,
        candidates: &[Candidate],
        begin: Begin,
        now: Instant,
    ) -> Vec<Effect> {
        let mut effects = self.refresh_capacities(candidates);
        let with_weight: Vec<Candidate> = candidates.iter().copied().filter(|candidate| candidate.weight > 0).collect();
        let plan = plan(spec.algorithm, with_weight.len());
        // A service that is new has no flows yet.
        let is_new = self.stored.is_none();
        let chooses = is_new || self.is_on() || begin.choosing <= now;
        let is_limited = spec.has_limits() && (is_new || self.is_limited() || begin.limits <= now);
        let policy = plan.map_or(Policy::SLOT, |(policy, _)| policy);
        let counts = spec.has_limits() || spec.algorithm.counts_connections();
        let learns = counts && !is_new && now < begin.all_known;

        let mut scheduler = Scheduler::NONE;
        if let Some(run) = self.run {
            let has_members = spec.has_limits() && plan.is_none_or(|(_, turns)| turns == Turns::Weighted);
            let order = Order {
                turns: plan.map(|(_, turns)| turns),
                max: (run.chunks - pages_of_members(spec)) * layout::CHUNK_SLOTS,
                has_members,
                weights: with_weight.iter().map(|candidate| (candidate.id, candidate.weight)).collect(),
            };
            let (turns, members) = self.stand(order, run, &mut effects);
            scheduler = Scheduler::new(if chooses { policy } else { Policy::SLOT }, run.first_chunk, turns);
            scheduler = scheduler.with_members(members);
        }
        if is_limited {
            scheduler = scheduler.limited(spec.on_full == OnFull::Reset);
        }
        if learns {
            scheduler = scheduler.learning();
        }
        self.begins = (policy != Policy::SLOT && !chooses).then_some(begin.choosing);
        let limits = (spec.has_limits() && !is_limited).then_some(begin.limits);
        self.due = [self.begins, limits, learns.then_some(begin.all_known)].into_iter().flatten().min();
        if self.stored != Some(scheduler) {
            effects.push(Effect::StoreScheduler(service, scheduler));
            self.stored = Some(scheduler);
        }
        effects
    }

    /// Lets turns and members stand in `run` as `order` says. How many they are.
    fn stand(&mut self, order: Order, run: Run, effects: &mut Vec<Effect>) -> (u32, u32) {
        if let Some(standing) = self.standing.as_ref().filter(|standing| standing.order == order) {
            return (standing.turns, standing.members);
        }
        let len = |backends: &[BackendId]| u32::try_from(backends.len()).unwrap_or(Scheduler::MAX_TURNS);
        let turns = order.backends_in_turn();
        let members: Vec<BackendId> = order.weights.iter().map(|(id, _)| *id).filter(|_| order.has_members).collect();
        let standing = Standing { order, turns: len(&turns), members: len(&members) };
        if !members.is_empty() {
            let chunk = run.first_chunk + standing.turns.div_ceil(layout::CHUNK_SLOTS);
            effects.push(Effect::StoreTurns(chunk, members));
        }
        if standing.order.turns.is_some() {
            effects.push(Effect::StoreTurns(run.first_chunk, turns));
        }
        let counts = (standing.turns, standing.members);
        self.standing = Some(standing);
        counts
    }

    /// What the datapath knows of backends, where it has changed.
    fn refresh_capacities(&mut self, candidates: &[Candidate]) -> Vec<Effect> {
        let before = std::mem::replace(&mut self.candidates, candidates.to_vec());
        let changed = candidates.iter().filter(|candidate| !before.contains(candidate));
        changed.map(|Candidate { id, weight, limit }| Effect::StoreCapacity(*id, *weight, *limit)).collect()
    }
}

impl Order {
    /// Whose turns they are.
    fn backends_in_turn(&self) -> Vec<BackendId> {
        let Some(turns) = self.turns else { return Vec::new() };
        let weights: Vec<u32> = self.weights.iter().map(|(_, weight)| *weight).collect();
        turns.rotation(&weights, self.max).into_iter().map(|index| self.weights[index as usize].0).collect()
    }
}
