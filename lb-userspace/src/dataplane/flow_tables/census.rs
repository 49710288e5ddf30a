//! Counting flows, and ending those that are over.

use std::collections::HashMap;

use lb_common::{BackendId, FlowEntry, FlowState, FlowTime, RowIndex, Tally, flow_table};

use super::{FlowTable, Lifetimes, flow_time, table::Place};
use crate::{
    dataplane::{Connections, NatSweep, NatTable, NatUsage, Words, maps::wait_for_packets, sweep_nat},
    model::{FlowCounts, Subject},
};

/// What was found in the flow table.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Live entries of each backend that has any, by [`FlowState`].
    pub flows: HashMap<BackendId, FlowCounts>,
    /// How many of those are in the flow table: the others are translated.
    pub entries: u64,
    /// Entries that were over, or of a backend without a row, and are gone.
    pub removed: u64,
    /// Active ones among those, by backend.
    pub(super) ended: HashMap<BackendId, u64>,
    /// The backends whose connections are counted wrong for certain, and how many are missing, or too many where that is negative:
    /// because somebody has died between a change and its count, or a program of an older layout does not count. To be made good by
    /// [`Connections::correct`].
    pub drift: Vec<(BackendId, i64)>,
    /// How the table of translated flows is used, if there is one.
    pub nat: Option<NatUsage>,
}

impl Sweep {
    /// Counts translated flows among the others.
    fn add(&mut self, NatSweep { flows, ended, freed, usage }: NatSweep) {
        self.nat = Some(usage);
        self.removed += freed;
        for (backend, counts) in flows {
            let all = self.flows.entry(backend).or_default();
            all.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
        }
        for (backend, count) in ended {
            *self.ended.entry(backend).or_default() += count;
        }
    }
}

/// Counts all flows, also those that are translated, if any are, tells the subjects of theirs, confirms those that they want confirmed,
/// and removes those that are over.
/// It takes some 10 ms and more: not for the main loop.
pub fn sweep(table: &FlowTable, nat: Option<&NatTable>, words: &Words, subjects: &mut [Subject]) -> Sweep {
    // What they remember, they remember by the slot words that they have read.
    wait_for_packets();
    let before = table.connections().tallies();
    let mut sweep = Sweeper::new(words, subjects, flow_time).run(table);
    if let Some(nat) = nat {
        sweep.add(sweep_nat(nat, words, subjects, flow_time));
    }
    // Whoever has changed an entry that was counted here has counted it, too, by then.
    wait_for_packets();
    sweep.find_drift(&before, table.connections());
    sweep
}

impl Sweep {
    /// Compares the flows with what was counted `before` the sweep. What packets have begun and ended meanwhile may or may not be among
    /// what was found, so there were between so many and so many: exactly what was found where nothing has happened, and where much
    /// happens a difference shrinks from sweep to sweep.
    pub(super) fn find_drift(&mut self, before: &[Tally], connections: &Connections) {
        let active = |backend| {
            let flows = self.flows.get(&backend).copied().unwrap_or_default();
            flows.iter().map(|flows| i64::from(*flows)).sum::<i64>() - i64::from(flows[FlowState::Closing as usize])
        };
        let drift = |(id, before): (u32, &Tally)| {
            let backend = BackendId::truncate(id);
            // As if those that the sweep has ended had ended before.
            let counted = before.after(self.ended.get(&backend).copied().unwrap_or_default());
            let after = connections.tally(backend);
            let ended = i64::from(after.ended().wrapping_sub(counted.ended()));
            let begun = i64::from(after.balance()) - i64::from(counted.balance()) + ended;
            let (found, counted) = (active(backend), i64::from(counted.balance()));
            let more = counted.max(found - begun).min(found + ended) - counted;
            (more != 0).then_some((backend, more))
        };
        self.drift = (0..).zip(before).skip(1).filter_map(drift).collect();
    }
}

/// A sweep while it is made.
pub(super) struct Sweeper<'a, Clock> {
    words: &'a Words,
    subjects: &'a mut [Subject],
    /// By backend, whose it is.
    owners: Box<[u16]>,
    lifetimes: Vec<Lifetimes>,
    clock: Clock,
    now: FlowTime,
    flows: Vec<FlowCounts>,
    removed: u64,
    ended: HashMap<BackendId, u64>,
}

/// No subject has so high a number.
const NOBODY: u16 = u16::MAX;

impl<'a, Clock: Fn() -> FlowTime> Sweeper<'a, Clock> {
    pub(super) fn new(words: &'a Words, subjects: &'a mut [Subject], clock: Clock) -> Self {
        let mut owners = vec![NOBODY; BackendId::COUNT as usize].into_boxed_slice();
        for (number, subject) in (0..NOBODY).zip(&*subjects) {
            for backend in &subject.backends {
                owners[backend.get() as usize] = number;
            }
        }
        let lifetimes = |subject: &Subject| {
            let lifetimes = Lifetimes::new(flow_table::idle_ticks(subject.idle_timeout.as_secs()));
            if subject.is_limited { lifetimes.limited() } else { lifetimes }
        };
        Self {
            words,
            owners,
            lifetimes: subjects.iter().map(lifetimes).collect(),
            subjects,
            now: clock(),
            clock,
            flows: vec![FlowCounts::default(); BackendId::COUNT as usize],
            removed: 0,
            ended: HashMap::new(),
        }
    }

    pub(super) fn run(mut self, table: &FlowTable) -> Sweep {
        table.places().for_each(|place| self.visit(place));
        let entries = self.flows.iter().flatten().map(|flows| u64::from(*flows)).sum();
        let flows = (0..BackendId::COUNT).map(BackendId::truncate).zip(self.flows);
        let flows = flows.filter(|(_, count)| *count != FlowCounts::default()).collect();
        Sweep { flows, entries, ended: self.ended, removed: self.removed, drift: Vec::new(), nat: None }
    }

    fn visit(&mut self, place: Place<'_>) {
        let backend = place.entry.backend();
        let owner =
            Some(usize::from(self.owners[backend.get() as usize])).filter(|owner| *owner != usize::from(NOBODY));
        let is_over = match owner {
            Some(owner) => self.lifetimes[owner].have_ended(place.entry, self.now, &self.clock),
            // One without an owner and with a row is younger than `subjects`.
            None => self.words.row(backend) == RowIndex::NONE,
        };
        // What a packet has changed meanwhile is alive.
        if is_over && place.replace(FlowEntry::FREE) {
            self.removed += 1;
            if place.entry.holder() != BackendId::NONE {
                *self.ended.entry(backend).or_default() += 1;
            }
            return;
        }
        self.flows[backend.get() as usize][place.entry.state() as usize] += 1;
        if let Some(slots) = owner.and_then(|owner| self.subjects[owner].slots.as_mut())
            && slots.meet(place.entry.tag(), backend)
        {
            confirm(place);
        }
    }
}

/// Lets a flow that was seen once last as one that was seen often.
fn confirm(mut place: Place<'_>) {
    let tag = place.entry.tag();
    // A packet may change it meanwhile.
    while place.entry.is(tag) && place.entry.state() == FlowState::Sighted && !place.replace(place.entry.confirmed()) {
        place = place.again();
    }
}
