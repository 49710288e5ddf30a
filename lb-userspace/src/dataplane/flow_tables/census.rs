//! Counting flows, and ending those that are over.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use lb_common::{BackendId, FlowEntry, FlowState, FlowTime, RowIndex, Service, ServiceId, flow_table};

use super::{FlowTable, Lifetimes, flow_time, table::Place};
use crate::dataplane::{Words, maps::wait_for_packets};

/// What a census has to know of a service.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The service.
    pub service: Service,
    /// How long its flows live without a packet. Counted in steps of 34 s, up to 2 h 24 min.
    pub idle_timeout: Duration,
    /// All that its slots or flows may belong to.
    pub backends: Vec<BackendId>,
}

/// What was found in the flow table.
#[derive(Debug)]
pub struct Census {
    /// Packets that came later, and they alone, may not have been seen.
    pub started: Instant,
    /// Live entries of each backend that has any, by [`FlowState`].
    pub flows: HashMap<BackendId, [u32; FlowState::ALL.len()]>,
    /// The slots with live entries of another backend than the slot's current one, in ascending order.
    pub differing: HashMap<ServiceId, Vec<u32>>,
    /// Entries that were over, or of a backend without a row, and are gone.
    pub removed: u64,
    /// Live entries.
    pub entries: u64,
}

/// Counts all flows, and removes those that are over. It takes some 10 ms and more: not for the main loop.
pub fn census(table: &FlowTable, words: &Words, subjects: &[Subject]) -> Census {
    let started = Instant::now();
    // What they remember, they remember by the slot words that they have read.
    wait_for_packets();
    Census { started, ..sweep(table, words, subjects) }
}

/// A [`census`] that does not wait for the packets that are in the datapath.
pub fn sweep(table: &FlowTable, words: &Words, subjects: &[Subject]) -> Census {
    Sweep::new(words, subjects, flow_time).run(table)
}

/// Makes those of the entries in `slots` that were seen once as lasting as those that were seen often; how many there were.
pub fn confirm(table: &FlowTable, subjects: &[Subject], slots: &[(ServiceId, Vec<u32>)]) -> u64 {
    let owners = Owners::new(subjects);
    let slots: HashMap<_, _> = slots.iter().map(|(service, slots)| (*service, slots)).collect();
    let wanted: Vec<Option<SlotSet>> = subjects
        .iter()
        .map(|subject| slots.get(&subject.service.id).map(|slots| SlotSet::of(&subject.service, slots)))
        .collect();
    let mut confirmed = 0;
    for mut place in table.places() {
        let tag = place.entry.tag();
        let is_wanted = |entry: FlowEntry| {
            let owner = owners.of(entry.backend())?;
            let slots = wanted[owner].as_ref()?;
            slots.contains(tag.slot(subjects[owner].service.slot_mask)).then_some(())
        };
        // A packet may change it meanwhile, to another backend for one.
        while place.entry.is(tag) && place.entry.state() == FlowState::Sighted && is_wanted(place.entry).is_some() {
            if place.replace(place.entry.confirmed()) {
                confirmed += 1;
                break;
            }
            place = place.again();
        }
    }
    confirmed
}

/// To whom of the subjects backends belong.
pub(super) struct Owners(Box<[u16]>);

impl Owners {
    const NOBODY: u16 = u16::MAX;

    pub(super) fn new(subjects: &[Subject]) -> Self {
        let mut owners = vec![Self::NOBODY; BackendId::COUNT as usize].into_boxed_slice();
        for (number, subject) in (0..Self::NOBODY).zip(subjects) {
            for backend in &subject.backends {
                owners[backend.get() as usize] = number;
            }
        }
        Self(owners)
    }

    pub(super) fn of(&self, backend: BackendId) -> Option<usize> {
        let owner = self.0[backend.get() as usize];
        (owner != Self::NOBODY).then_some(usize::from(owner))
    }
}

/// A set of slots of one service.
#[derive(Debug, Clone)]
struct SlotSet(Vec<u64>);

impl SlotSet {
    fn empty(service: &Service) -> Self {
        Self(vec![0; (service.slot_mask as usize + 1).div_ceil(64)])
    }

    fn of(service: &Service, slots: &[u32]) -> Self {
        let mut set = Self::empty(service);
        slots.iter().filter(|slot| **slot <= service.slot_mask).for_each(|slot| set.insert(*slot));
        set
    }

    fn insert(&mut self, slot: u32) {
        self.0[slot as usize / 64] |= 1 << (slot % 64);
    }

    fn contains(&self, slot: u32) -> bool {
        self.0[slot as usize / 64] >> (slot % 64) & 1 == 1
    }

    fn into_sorted(self) -> Vec<u32> {
        let words = self.0.iter().zip((0..).step_by(64));
        words
            .flat_map(|(word, first)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit))
            .collect()
    }
}

/// A census while it is taken.
pub(super) struct Sweep<'a, Clock> {
    words: &'a Words,
    subjects: &'a [Subject],
    owners: Owners,
    lifetimes: Vec<Lifetimes>,
    clock: Clock,
    started: Instant,
    now: FlowTime,
    flows: Vec<[u32; FlowState::ALL.len()]>,
    differing: Vec<Option<SlotSet>>,
    removed: u64,
}

impl<'a, Clock: Fn() -> FlowTime> Sweep<'a, Clock> {
    pub(super) fn new(words: &'a Words, subjects: &'a [Subject], clock: Clock) -> Self {
        let idle_ticks = |subject: &Subject| flow_table::idle_ticks(subject.idle_timeout.as_secs());
        Self {
            words,
            subjects,
            owners: Owners::new(subjects),
            lifetimes: subjects.iter().map(|subject| Lifetimes::new(idle_ticks(subject))).collect(),
            started: Instant::now(),
            now: clock(),
            clock,
            flows: vec![[0; FlowState::ALL.len()]; BackendId::COUNT as usize],
            differing: vec![None; subjects.len()],
            removed: 0,
        }
    }

    pub(super) fn run(mut self, table: &FlowTable) -> Census {
        table.places().for_each(|place| self.visit(&place));
        let flows = (0..BackendId::COUNT).map(BackendId::truncate).zip(self.flows);
        let flows: HashMap<_, _> = flows.filter(|(_, count)| *count != [0; FlowState::ALL.len()]).collect();
        let slots = self.subjects.iter().zip(self.differing);
        Census {
            started: self.started,
            entries: flows.values().flatten().map(|count| u64::from(*count)).sum(),
            flows,
            differing: slots.filter_map(|(subject, slots)| Some((subject.service.id, slots?.into_sorted()))).collect(),
            removed: self.removed,
        }
    }

    fn visit(&mut self, place: &Place<'_>) {
        let entry = place.entry;
        let backend = entry.backend();
        let owner = self.owners.of(backend);
        let is_over = match owner {
            Some(owner) => self.lifetimes[owner].have_ended(entry, self.now, &self.clock),
            // One without an owner and with a row is younger than `subjects`.
            None => self.words.row(backend) == RowIndex::NONE,
        };
        // What a packet has changed meanwhile is alive.
        if is_over && place.replace(FlowEntry::FREE) {
            self.removed += 1;
            return;
        }
        self.flows[backend.get() as usize][entry.state() as usize] += 1;
        if let Some(owner) = owner {
            let service = &self.subjects[owner].service;
            let slot = entry.tag().slot(service.slot_mask);
            if self.words.slot(service, slot).current() != backend {
                self.differing[owner].get_or_insert_with(|| SlotSet::empty(service)).insert(slot);
            }
        }
    }
}
