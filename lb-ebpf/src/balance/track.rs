//! Which backend a flow belongs to when its slot asks for a look into the flow table (docs/ARCHITECTURE.md, "Just enough
//! tracking").
//!
//! Entries are changed by compare-and-swap only, since packets on other CPUs and the daemon change them, too.

use lb_common::{
    BackendId, Condition, FlowEntry, FlowHash, FlowState, FlowTables, FlowTime, Policy, Scheduler, ServiceId, SlotWord,
    Tracking,
    flow_table::{Bucket as _, BucketBits, FlowTag, Inserted, Signal, insert},
};

use crate::maps::{self, MapBucket};

/// How often a flow is looked at again when its entry changes under our hands.
const ATTEMPTS: usize = 2;

/// What became of the look into the flow table.
pub enum Tracked {
    /// The flow belongs to this backend.
    To(BackendId),
    /// The flow is to be remembered so.
    Remember(FlowEntry),
    /// The flow is new: it is for the scheduler to choose.
    New(Vacancy),
}

/// Where a new flow may stand.
#[derive(Clone, Copy)]
pub enum Vacancy {
    /// In any way of its buckets.
    Any,
    /// In that of a flow with the same ports, which is over, or whose backend is no more.
    Predecessor,
}

/// The backend of a flow in a slot that is arming, moving or tracked. `before` is the hash that the flow had before its service
/// changed what is hashed, or the same.
#[inline(always)]
pub fn backend_of(service: ServiceId, hash: FlowHash, word: SlotWord, signal: Signal, before: FlowHash) -> Tracked {
    match track(hash.0, word.to_bits(), signal as u32, before.0, service.get()) {
        NEW => Tracked::New(Vacancy::Any),
        NEW_AFTER_ANOTHER => Tracked::New(Vacancy::Predecessor),
        answer if answer < NEW => Tracked::To(BackendId::truncate(answer as u32)),
        answer => Tracked::Remember(FlowEntry::from_bits(answer)),
    }
}

/// Remembers that a new flow belongs to `backend`. Whose it is then: its slot says so if there is no room.
#[inline(always)]
pub fn admit(hash: FlowHash, word: SlotWord, signal: Signal, backend: BackendId, vacancy: Vacancy) -> BackendId {
    let state = if signal == Signal::Opens { FlowState::Opening } else { FlowState::Sighted };
    let now = maps::now();
    let entry = FlowEntry::new(FlowTag::of(hash), backend, state, now);
    let mut owner = BackendId::NONE;
    if matches!(vacancy, Vacancy::Predecessor) {
        owner = BackendId::truncate(reopen(hash.0, entry.to_bits()));
    }
    if owner == BackendId::NONE {
        owner = BackendId::truncate(put(hash.0, entry.to_bits(), word.to_bits(), now.0));
    }
    owner
}

/// Remembers a flow that was there before. Whose it is then: what `entry` says unless somebody else knows better.
#[inline(always)]
pub fn remember(hash: FlowHash, entry: FlowEntry) -> BackendId {
    BackendId::truncate(put(hash.0, entry.to_bits(), SlotWord::EMPTY.to_bits(), maps::now().0))
}

/// What [`track`] answers of a new flow: above all backends, and below all entries whose tag is not zero.
const NEW: u64 = BackendId::COUNT as u64;
/// What it answers of one whose predecessor is in the table.
const NEW_AFTER_ANOTHER: u64 = NEW + 1;

/// Takes a flow out that was remembered by the hash that it had `before`, once it is by its own.
#[inline(always)]
pub fn forget(before: FlowHash, hash: FlowHash) {
    if before != hash {
        withdraw(before.0, hash.0);
    }
}

/// A backend, [`NEW`] or [`NEW_AFTER_ANOTHER`], or an entry to be remembered.
///
/// In the interface of C and with numbers only, as [`put`] and the scheduler: so they are *global functions*, which the verifier checks
/// once, by themselves, and not for each way that leads to them (<https://docs.kernel.org/bpf/btf.html>, `BTF_FUNC_GLOBAL`). They do
/// not call each other: all that is on the stack at a time has to fit 512 bytes.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn track(hash: u64, word: u32, signal: u32, before: u64, service: u32) -> u64 {
    let flow = Flow::new(hash, word, signal);
    for _ in 0..ATTEMPTS {
        let Some(place) = find(flow.hash, flow.tables.current(), flow.now) else {
            return flow.unknown(FlowHash(before), service);
        };
        if let Some(answer) = flow.follow(place) {
            return answer;
        }
    }
    flow.without_entry().get().into()
}

/// Puts `entry` into the table, unless the flow is there already. Its backend there. If there is no room, the one that `word` says, or
/// `entry` if that is empty.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn put(hash: u64, entry: u64, word: u32, now: u64) -> u32 {
    let entry = FlowEntry::from_bits(entry);
    let flow = Flow::at(FlowTime(now), hash, word, Signal::Opens as u32);
    let tables = flow.tables;
    let otherwise = if word == 0 { entry.backend() } else { flow.without_entry() };
    let Some((table, bits)) = tables.current() else { return otherwise.get() };
    let [first, second] = bits.buckets_of(flow.hash);
    let (Some(first), Some(second)) = (maps::bucket(table, first, flow.now), maps::bucket(table, second, flow.now))
    else {
        return otherwise.get();
    };
    match insert([&first, &second], entry, flow.now, tables.idle_ticks()) {
        Inserted::New { evicted } => {
            maps::count_tracking(Tracking::Remembered);
            if evicted {
                maps::count_tracking(Tracking::Evicted);
            }
            entry.backend().get()
        }
        Inserted::Existing(twin) => twin.backend().get(),
        Inserted::Full => {
            maps::count_tracking(Tracking::Full);
            otherwise.get()
        }
    }
}

/// See [`forget`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn withdraw(before: u64, hash: u64) -> u32 {
    let (before, hash) = (FlowHash(before), FlowHash(hash));
    let (tables, now) = (maps::flow_tables(), maps::now());
    // Where there was no room for it, it stays what it was.
    if find(hash, tables.current(), now).is_none() {
        return 0;
    }
    let take = |Place { bucket, way, .. }: Place| bucket.take(way, FlowTag::of(before));
    find(before, tables.current(), now).map(take);
    find(before, tables.old(), now).map(take);
    0
}

/// Puts `entry` where one of an earlier flow stands, or of the same one that has lost its backend. Whose it is then: another CPU may have
/// seen the same packet. Nobody's, if the earlier one has gone meanwhile.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn reopen(hash: u64, entry: u64) -> u32 {
    let entry = FlowEntry::from_bits(entry);
    let flow = Flow::new(hash, SlotWord::EMPTY.to_bits(), Signal::Opens as u32);
    let Some(Place { bucket, way, entry: known }) = find(flow.hash, flow.tables.current(), flow.now) else {
        return BackendId::NONE.get();
    };
    let event = if flow.is_over(known) {
        Tracking::Reopened
    } else if flow.is_lost_to(known.backend()) {
        Tracking::Rescheduled
    } else {
        return known.backend().get();
    };
    let Some(met) = bucket.renew(way, known, entry) else { return BackendId::NONE.get() };
    if met == entry {
        maps::count_tracking(event);
    }
    met.backend().get()
}

#[inline(always)]
fn has_affinity(service: u32) -> bool {
    ServiceId::new(service).is_some_and(|service| maps::affinity(service).is_in_use())
}

/// An entry, and where it stands.
struct Place {
    bucket: MapBucket,
    way: usize,
    entry: FlowEntry,
}

/// Looks for a flow in a table, if there is one.
#[inline(always)]
fn find(hash: FlowHash, table: Option<(u32, BucketBits)>, now: FlowTime) -> Option<Place> {
    let (table, bits) = table?;
    let tag = FlowTag::of(hash);
    let [first, second] = bits.buckets_of(hash);
    let mut bucket = maps::bucket(table, first, now)?;
    let (way, entry) = if let Some(found) = bucket.find(tag) {
        found
    } else {
        bucket = maps::bucket(table, second, now)?;
        bucket.find(tag)?
    };
    Some(Place { bucket, way, entry })
}

struct Flow {
    hash: FlowHash,
    word: SlotWord,
    signal: Signal,
    tables: FlowTables,
    now: FlowTime,
}

impl Flow {
    #[inline(always)]
    fn new(hash: u64, word: u32, signal: u32) -> Self {
        Self::at(maps::now(), hash, word, signal)
    }

    #[inline(always)]
    fn at(now: FlowTime, hash: u64, word: u32, signal: u32) -> Self {
        Self {
            hash: FlowHash(hash),
            word: SlotWord::from_bits(word),
            signal: Signal::of_number(signal),
            tables: maps::flow_tables(),
            now,
        }
    }

    /// The backend of a flow that is in the table, or [`NEW`]; `None` if its entry has changed meanwhile.
    #[inline(always)]
    fn follow(&self, Place { bucket, way, entry }: Place) -> Option<u64> {
        let has_lost_handshake = self.signal == Signal::Opens && self.is_to_leave(entry.backend());
        if self.is_over(entry) || has_lost_handshake {
            return Some(NEW_AFTER_ANOTHER);
        }
        let (next, event) = self.next(entry);
        if next.backend() == BackendId::NONE {
            return Some(BackendId::NONE.get().into());
        }
        // When somebody else has seen the flow at the same time, that will do, unless it was given to another backend.
        let done = next == entry || bucket.replace(way, entry, next) || next.backend() == entry.backend();
        done.then(|| {
            maps::count_tracking(event);
            next.backend().get().into()
        })
    }

    /// Whether the packet opens a flow where the one with this entry has ended.
    #[inline(always)]
    fn is_over(&self, entry: FlowEntry) -> bool {
        self.signal == Signal::Opens && entry.is_over(self.now, self.tables.idle_ticks())
    }

    /// The entry as it has to be after this packet, and what became of the flow. With nobody as its backend it has to stay as
    /// it is.
    #[inline(always)]
    fn next(&self, entry: FlowEntry) -> (FlowEntry, Tracking) {
        let current = self.word.current();
        if self.is_to_leave(entry.backend()) {
            (entry.of_backend(current).after(self.signal, self.now), Tracking::Rescheduled)
        } else {
            (entry.after(self.signal, self.now), Tracking::Hit)
        }
    }

    /// Whether the packet goes to another than `backend`, which has its flow.
    #[inline(always)]
    fn is_to_leave(&self, backend: BackendId) -> bool {
        backend != self.word.current() && self.is_lost_to(backend)
    }

    /// Whether the packet does not go to `backend` any more, which has its flow.
    #[inline(always)]
    fn is_lost_to(&self, backend: BackendId) -> bool {
        match maps::condition(backend) {
            Condition::SERVING => false,
            // The reset is for connections. What opens one is welcome elsewhere.
            Condition::RESET => self.signal == Signal::Opens,
            _ => true,
        }
    }

    /// What becomes of a flow that is not in the table.
    #[inline(always)]
    fn unknown(&self, before: FlowHash, service: u32) -> u64 {
        if let Some(entry) = self.elsewhere(before) {
            maps::count_tracking(Tracking::Carried);
            if self.is_over(entry) {
                return NEW;
            }
            let (next, _) = self.next(entry);
            return next.with_tag(FlowTag::of(self.hash)).to_bits();
        }
        maps::count_tracking(Tracking::Miss);
        let (current, previous) = (self.word.current(), self.word.previous());
        if !self.word.remember() {
            return current.get().into();
        }
        // A flow that had another slot is of neither owner of this one, except by chance.
        let is_moving = current != previous || before != self.hash;
        let scheduler = ServiceId::new(service).map_or(Scheduler::NONE, maps::scheduler);
        // Where a scheduler or affinity chooses, each flow that was there before it is known.
        let is_chosen = scheduler.policy() != Policy::SLOT || has_affinity(service);
        let may_be_first = self.signal == Signal::Datagram && (!is_moving || is_chosen);
        if may_be_first || self.signal == Signal::Opens {
            return NEW;
        }
        let is_kept = is_moving && !self.is_lost_to(previous);
        let is_learned = scheduler.is_learning() && self.signal != Signal::Closes;
        if !is_kept && !is_learned {
            return current.get().into();
        }
        let owner = if is_kept { previous } else { current };
        // The other side may go on sending for as long as it likes.
        let state = if self.signal == Signal::Closes { FlowState::Closing } else { FlowState::Sighted };
        FlowEntry::new(FlowTag::of(self.hash), owner, state, self.now).to_bits()
    }

    /// What a flow was remembered as in a table that is being replaced, or by the hash that it had before.
    #[inline(always)]
    fn elsewhere(&self, before: FlowHash) -> Option<FlowEntry> {
        let (current, old) = (self.tables.current(), self.tables.old());
        let mut found = find(self.hash, old, self.now);
        if found.is_none() && before != self.hash {
            found = find(before, current, self.now).or_else(|| find(before, old, self.now));
        }
        if found.is_none() && old.is_some() {
            // The daemon may have carried it over since we looked.
            found = find(self.hash, current, self.now);
        }
        found.map(|place| place.entry)
    }

    /// The backend of a flow about which nothing is known, and nothing is remembered.
    #[inline(always)]
    fn without_entry(&self) -> BackendId {
        let (current, previous) = (self.word.current(), self.word.previous());
        // The first packet of a flow, too, goes to the previous backend: what follows it will not be found in the table
        // either, and has to go the same way.
        let is_moving = self.word.remember() && current != previous;
        if is_moving && !self.is_lost_to(previous) { previous } else { current }
    }
}
