use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use lb_common::{Address, BackendId, NetU16, Service, ServiceEntry, ServiceKey, SlotWord, layout};
use serde::{Deserialize, Serialize};

use super::{
    affinity::LiveAffinity,
    backend::{Backend, Ground},
    effect::Effect,
    recover::Memory,
    rotation::{Begin, Candidate, Rotation},
    row::{RowContext, Shared, refresh_row},
    settle::in_order,
};
use crate::{
    config::{self, Algorithm, Protocol, Tracking},
    schedule::{self, Fate, Pace, SLOTS_PER_BACKEND, SlotMover, slots_for},
};

/// Whether the operator lets a backend have flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// It may have flows.
    #[default]
    Enabled,
    /// It gets no new flows, and keeps those that it has until they end, or for as long as it may.
    Draining,
    /// It gets no packets and is not checked.
    Disabled,
}

/// A service as the operator wants it: from the configuration file, with the live changes.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredService {
    /// As the file has it.
    pub declared: config::Service,
    /// As it is to be.
    pub spec: config::Service,
    /// Backends, by name, that are not [`Admin::Enabled`].
    pub admin: BTreeMap<String, Admin>,
    /// Until when backends that drain may keep their flows, by name; without a time, until they end.
    pub deadlines: BTreeMap<String, Instant>,
}

impl DesiredService {
    /// Exactly as the file has it.
    pub fn as_declared(declared: config::Service) -> Self {
        Self { spec: declared.clone(), declared, admin: BTreeMap::new(), deadlines: BTreeMap::new() }
    }

    /// Whether live changes made it differ from the file.
    pub fn is_changed(&self) -> bool {
        self.spec != self.declared || !self.admin.is_empty()
    }

    pub(super) fn admin_of(&self, backend: &str) -> Admin {
        self.admin.get(backend).copied().unwrap_or_default()
    }

    /// Until when the backend may keep its flows, if it drains.
    pub(super) fn deadline_of(&self, backend: &str) -> Option<Instant> {
        self.deadlines.get(backend).copied().filter(|_| self.admin_of(backend) == Admin::Draining)
    }

    pub(super) fn key(&self) -> ServiceKey {
        service_key(&self.spec)
    }
}

/// What finds the service in the datapath.
pub fn service_key(spec: &config::Service) -> ServiceKey {
    ServiceKey::new(Address::from(spec.address), NetU16::new(spec.port), spec.protocol.number())
}

/// How many chunks the slot table of `service` takes.
pub(super) fn chunk_count(service: &Service) -> u32 {
    (service.slot_mask + 1) / layout::CHUNK_SLOTS
}

/// A service that is in the datapath.
#[derive(Debug)]
pub(super) struct ServiceState {
    pub(super) desired: DesiredService,
    pub(super) live: Service,
    /// The slot words as they stand in the datapath, and what they are on their way to.
    pub(super) mover: SlotMover,
    /// The turns that its backends take, where a scheduler chooses.
    pub(super) rotation: Rotation,
    /// How its clients stay with their servers.
    pub(super) affinity: LiveAffinity,
    /// Since when something else picks the slots of flows, if flows may be left whose slots were picked otherwise.
    pub(super) rehashed: Option<Instant>,
    /// In the order of `desired.spec.backends`.
    pub(super) backends: Vec<Backend>,
    /// Those that the service has no more, and that still have flows.
    pub(super) removed: Vec<Backend>,
    /// When it was decided last who is to own which slot.
    pub(super) refreshed: Instant,
    /// Since when there are weights that rise, and that are not written down.
    pub(super) unsaved: Option<Instant>,
}

/// How long it may take until it is written down that a weight rises: backends often come up together.
const SAVE_DELAY: Duration = Duration::from_secs(1);

/// How long the first packet of a flow may be sent again: a SYN that is lost comes again after one second and after three
/// (RFC 6298, section 2).
const HANDSHAKE: Duration = Duration::from_secs(3);

/// How long the first backend of a service that can take flows waits for the others.
const GATHERING: Duration = Duration::from_millis(500);

/// What becomes of the flows of backends. Those that are not in it are gone.
pub(super) struct Fates(HashMap<BackendId, Fate>);

impl Fates {
    pub(super) fn of(&self, id: BackendId) -> Fate {
        self.0.get(&id).copied().unwrap_or(Fate::Gone)
    }
}

/// A slot table grows when it has fewer slots than this for each backend. Its size decides where every flow goes, so it
/// does not follow each backend that comes or goes.
const MIN_SLOTS_PER_BACKEND: u32 = 25;

/// How many slots the service should have, given that it has `present` now.
pub(super) fn wanted_slots(spec: &config::Service, present: Option<u32>) -> u32 {
    let with = |each: u32| slots_for(spec, each);
    match (spec.slots, present) {
        // Several slots cannot become one without some of their flows moving.
        (Some(slots), present) => slots.max(present.unwrap_or_default()),
        (None, Some(present)) if present >= with(MIN_SLOTS_PER_BACKEND) => present,
        (None, _) => with(SLOTS_PER_BACKEND),
    }
}

impl ServiceState {
    /// Its place in the directory.
    pub(super) fn entry(&self) -> ServiceEntry {
        ServiceEntry { key: self.desired.key(), service: self.live }
    }

    /// Brings rows and slots in line with the backends that can take flows, in the order that leaves no packet without a
    /// row.
    pub(super) fn refresh(&mut self, shared: &mut Shared<'_>, now: Instant) -> Vec<Effect> {
        let ground = self.ground(now);
        let context = RowContext { id: self.live.id, service: &self.desired.spec, node: shared.node };
        let backends = self.backends.iter_mut().chain(&mut self.removed);
        let rows: Vec<Effect> = backends.filter_map(|backend| refresh_row(backend, context, shared, ground)).collect();
        // Where nobody has a slot yet, there is nobody to spare a backend that comes.
        let is_first = self.mover.words().all(|word| word == SlotWord::EMPTY);
        let beginning = if is_first { self.risen_since(now) } else { now };
        self.note_rises(beginning, now);
        self.want(now);
        let slots = self.advance(now);
        let rotation = self.refresh_rotation(now);
        let mut effects = Vec::new();
        in_order(rows, slots.into_iter().chain(rotation), &mut effects);
        effects
    }

    /// Does what has come due.
    pub(super) fn on_time(&mut self, shared: &mut Shared<'_>, now: Instant) -> Vec<Effect> {
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let is_cut_off = self.cut_offs().any(|until| is_due(Some(until)) && until > self.refreshed);
        let has_gathered = self.gathering_until().is_some_and(|until| until <= now && until > self.refreshed);
        let is_rehashed = is_due(self.rehash_due());
        if is_rehashed {
            self.rehash(now);
        }
        let starts = is_due(self.rotation.due()) || is_due(self.affinity.due());
        if is_cut_off || has_gathered || is_rehashed || starts || is_due(self.next_rise()) {
            return self.refresh(shared, now);
        }
        let mut effects = Vec::new();
        if is_due(self.mover.next_deadline()) {
            effects.extend(self.advance(now));
        }
        if is_due(self.save_due()) {
            self.unsaved = None;
            effects.push(Effect::Persist);
        }
        effects
    }

    fn save_due(&self) -> Option<Instant> {
        self.unsaved.map(|since| since + SAVE_DELAY)
    }

    /// When [`ServiceState::on_time`] has something to do next.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let cut_offs = self.cut_offs().filter(|until| *until > self.refreshed);
        let gathering = self.gathering_until().filter(|until| *until > self.refreshed);
        let starts = [self.rotation.due(), self.affinity.due()];
        let others = [self.next_rise(), self.mover.next_deadline(), self.save_due(), self.rehash_due()];
        let others = starts.into_iter().chain(others);
        cut_offs.chain(gathering).chain(others.flatten()).min()
    }

    /// When backends may keep their flows no longer.
    fn cut_offs(&self) -> impl Iterator<Item = Instant> {
        self.backends.iter().chain(&self.removed).filter_map(|backend| backend.until)
    }

    /// Since when a backend has taken flows that has its whole weight `now`.
    fn risen_since(&self, now: Instant) -> Instant {
        self.desired.spec.slow_start.and_then(|duration| now.checked_sub(duration)).unwrap_or(now)
    }

    /// Lets the backends that have slots already, and of which it is not known that their weight rises, have all of it.
    pub(super) fn skip_slow_start(&mut self, now: Instant) {
        let (beginning, owners) = (self.risen_since(now), self.shares());
        for backend in self.backends.iter_mut().filter(|backend| owners.contains_key(&backend.id)) {
            backend.rising_since.get_or_insert(beginning);
        }
    }

    /// Takes note of which backends begin to get flows, which counts as their `beginning`, and which do not any more.
    fn note_rises(&mut self, beginning: Instant, now: Instant) {
        let has_first_packets = self.has_first_packets();
        let risen = self.risen_since(now);
        let mover = &self.mover;
        // Packets that may be the first ones of a flow go to this one.
        let taker = |word: SlotWord| if has_first_packets { word.current() } else { word.previous() };
        for backend in self.backends.iter_mut().chain(&mut self.removed) {
            let (id, before) = (backend.id, backend.rising_since);
            // Those that are found well when the service begins do not have to wait for each other, whoever is found first.
            let beginning = if backend.is_one_of_the_first { risen } else { beginning };
            backend.rise(beginning, now, || mover.words().any(|word| taker(word) == id));
            backend.is_one_of_the_first &= backend.is_undecided();
            let begins = before.is_none() && backend.next_rise(self.desired.spec.slow_start, now).is_some();
            if begins {
                self.unsaved.get_or_insert(now);
            }
        }
    }

    /// Whether the first packet of a flow can be told from others.
    fn has_first_packets(&self) -> bool {
        let spec = &self.desired.spec;
        spec.protocol == Protocol::Tcp || spec.quic.is_some()
    }

    /// Whether there is more to know of it after a restart than what the configuration file says.
    pub(super) fn differs_from_declared(&self) -> bool {
        self.desired.is_changed() || !self.removed.is_empty() || self.rising().next().is_some()
    }

    /// The backends whose weight rises.
    fn rising(&self) -> impl Iterator<Item = &Backend> {
        let slow_start = self.desired.spec.slow_start;
        self.backends.iter().filter(move |backend| backend.next_rise(slow_start, self.refreshed).is_some())
    }

    /// What has to be known of it after a restart, besides what is wanted of it.
    pub(super) fn memory(&self) -> Memory {
        let rising = self.rising();
        Memory {
            members: self.desired.spec.backends.clone(),
            removed: self.removed.iter().map(|backend| (backend.spec.clone(), backend.until)).collect(),
            rising: rising.filter_map(|backend| Some((backend.endpoint, backend.rising_since?))).collect(),
        }
    }

    /// From when on new flows get their backends as the algorithm says, if they do not yet.
    pub(super) fn begins(&self) -> Option<Instant> {
        self.rotation.begins().or_else(|| self.rehash_begins())
    }

    /// When the weight of a backend rises next, after the last time that it was looked at.
    fn next_rise(&self) -> Option<Instant> {
        let next = |backend: &Backend| backend.next_rise(self.desired.spec.slow_start, self.refreshed);
        self.backends.iter().filter_map(next).min()
    }

    /// Whether probes say how fast its backends are, since the datapath does not see their replies.
    pub(super) fn goes_by_probes(&self) -> bool {
        let spec = &self.desired.spec;
        spec.algorithm == Algorithm::LeastResponseTime && !spec.forwarding.translates()
    }

    /// Tells the mover who is to own which slot.
    fn want(&mut self, now: Instant) {
        let spec = &self.desired.spec;
        let has_equal_shares = spec.algorithm == Algorithm::RoundRobin;
        let member = |backend: &Backend| {
            let member = backend.member(spec.slow_start, now);
            let weight = if has_equal_shares { member.weight.min(1) } else { member.weight };
            schedule::Member { weight, ..member }
        };
        let members: Vec<schedule::Member> = self.backends.iter().map(member).collect();
        let owners = schedule::table(&members, self.live.slot_mask + 1);
        self.refreshed = now;
        if self.waits_for_others(now) {
            return;
        }
        if owners.is_empty() {
            let wanted = self.last_resorts(now);
            self.mover.set_wanted(wanted);
        } else {
            self.mover.set_wanted(owners.iter().map(|owner| self.backends[*owner as usize].id));
        }
    }

    /// Who is to own the slots while no backend is to have new flows: anything is better than to drop them. Whoever has a slot and
    /// is well keeps it, and the others are shared by those that serve yet, as they drain or lost their weight.
    fn last_resorts(&self, now: Instant) -> Vec<BackendId> {
        let (fates, shares) = (self.fates(now), self.shares());
        let resorts: Vec<&Backend> = self
            .backends
            .iter()
            .chain(&self.removed)
            .filter(|backend| backend.is_last_resort(now))
            .filter(|backend| backend.spec.weight > 0 || shares.contains_key(&backend.id))
            .collect();
        let members: Vec<schedule::Member> = resorts.iter().map(|backend| backend.last_resort()).collect();
        let owners = schedule::table(&members, self.live.slot_mask + 1);
        let is_well = |owner: &BackendId| matches!(fates.of(*owner), Fate::Serving | Fate::Leaving { .. });
        let wanted = |(slot, word): (usize, SlotWord)| {
            let resort = || owners.get(slot).map_or(BackendId::NONE, |owner| resorts[*owner as usize].id);
            [word.current(), word.previous()].into_iter().find(is_well).unwrap_or_else(resort)
        };
        self.mover.words().enumerate().map(wanted).collect()
    }

    /// Lets the backends that can take flows take turns, if a scheduler chooses. Until then each flow has to be in the flow table:
    /// what is not found there is taken for new. So it is with clients that stay with their servers.
    fn refresh_rotation(&mut self, now: Instant) -> Vec<Effect> {
        let spec = &self.desired.spec;
        let candidate = |backend: &Backend| Candidate {
            id: backend.id,
            weight: backend.member(spec.slow_start, now).weight,
            limit: backend.spec.max_connections.unwrap_or(0),
        };
        let candidates: Vec<Candidate> = self.backends.iter().map(candidate).collect();
        let pace = self.pace();
        let since = self.mover.remembers_since();
        let after = |wait: Duration| since.map_or(now, |since| since + wait);
        let all_known = after(pace.idle);
        let choosing = match pace.handshake {
            _ if spec.one_packet => now,
            Duration::ZERO => all_known,
            handshake => after(handshake),
        };
        // What opens a connection can be told from what is of one, so a limit turns away none that is there.
        let tells_new_ones = spec.protocol == Protocol::Tcp || spec.forwarding.translates();
        let begin = Begin { choosing, limits: if tells_new_ones { now } else { all_known }, all_known };
        let mut effects = self.rotation.refresh(self.live.id, spec, &candidates, begin, now);
        let endpoints = self.backends.iter().map(|backend| backend.endpoint);
        let takers = endpoints.zip(&candidates).filter(|(_, candidate)| candidate.weight > 0);
        let takers = takers.map(|(endpoint, candidate)| (endpoint, candidate.id));
        effects.extend(self.affinity.refresh(self.live.id, spec, takers, choosing, now));
        effects
    }

    /// Whether nobody has a slot yet, and it is only a moment until it is known of all backends whether they can: otherwise the
    /// first one would be given all slots, which then would have to move.
    fn waits_for_others(&self, now: Instant) -> bool {
        self.gathering_until().is_some_and(|until| now < until)
    }

    fn gathering_until(&self) -> Option<Instant> {
        let is_empty = self.mover.words().all(|word| word == SlotWord::EMPTY);
        let is_complete = !self.backends.iter().any(Backend::is_undecided);
        let first = self.backends.iter().filter_map(|backend| backend.rising_since).min()?;
        if is_empty && !is_complete { Some(first + GATHERING) } else { None }
    }

    /// The slots that are to change now.
    fn advance(&mut self, now: Instant) -> Option<Effect> {
        let (pace, fates) = (self.pace(), self.fates(now));
        let words = self.mover.advance(&pace, |id| fates.of(id), now);
        self.store_moved(words, now)
    }

    /// Stores what the mover has changed, and takes note of who gets no flows any more.
    pub(super) fn store_moved(&mut self, words: Vec<(u32, SlotWord)>, now: Instant) -> Option<Effect> {
        self.note_rises(now, now);
        self.store(words)
    }

    pub(super) fn store(&self, words: Vec<(u32, SlotWord)>) -> Option<Effect> {
        if words.is_empty() { None } else { Some(Effect::StoreSlots(self.live, words)) }
    }

    pub(super) fn ground(&self, now: Instant) -> Ground {
        Ground { on_death: self.desired.spec.on_death, now }
    }

    pub(super) fn pace(&self) -> Pace {
        let spec = &self.desired.spec;
        let tracking = if self.is_rehashing() { Tracking::Always } else { spec.effective_tracking() };
        if spec.forwarding.translates() {
            // Each flow is known by its record, also by a first packet that comes again: no slot has to wait for any.
            return Pace { handshake: Duration::ZERO, idle: Duration::ZERO, tracking };
        }
        Pace {
            handshake: if self.has_first_packets() { HANDSHAKE } else { Duration::ZERO },
            idle: spec.idle_timeout(),
            tracking,
        }
    }

    /// What becomes of the flows of each backend.
    pub(super) fn fates(&self, now: Instant) -> Fates {
        let ground = self.ground(now);
        Fates(self.backends.iter().chain(&self.removed).map(|backend| (backend.id, backend.fate(ground))).collect())
    }

    pub(super) fn backend_mut(&mut self, id: BackendId) -> Option<&mut Backend> {
        self.backends.iter_mut().chain(&mut self.removed).find(|backend| backend.id == id)
    }

    /// The part of each backend in the slots.
    pub(super) fn shares(&self) -> HashMap<BackendId, Share> {
        let mut shares = HashMap::<_, Share>::new();
        for word in self.mover.words() {
            shares.entry(word.current()).or_default().owned += 1;
            if word.previous() != word.current() {
                shares.entry(word.previous()).or_default().left += 1;
            }
        }
        shares
    }
}

/// How many slots are a backend's.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    /// It owns them.
    pub(super) owned: usize,
    /// It owned them, and still has flows of them that nobody knows.
    pub(super) left: usize,
}
