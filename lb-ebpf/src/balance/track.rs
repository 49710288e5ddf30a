//! Which backend a flow belongs to when its slot asks for a look into the flow table (docs/ARCHITECTURE.md, "Just enough
//! tracking").
//!
//! Entries are changed by compare-and-swap only, since packets on other CPUs and the daemon change them, too.

use lb_common::{
    BackendId, Condition, FlowEntry, FlowHash, FlowState, FlowTables, FlowTime, ServiceId, SlotWord, Tracking,
    flow_table::{Bucket as _, BucketBits, FlowTag, Inserted, Signal, insert},
};

use crate::{
    maps::{self, MapBucket},
    schedule,
};

/// How often a flow is looked at again when its entry changes under our hands.
const ATTEMPTS: usize = 2;

/// The backend of a flow in a slot that is arming, moving or tracked.
///
/// A function of its own, so that the way of flows in stable slots stays short.
#[inline(never)]
pub fn backend_of(hash: FlowHash, word: SlotWord, signal: Signal, service: ServiceId) -> BackendId {
    let flow = Flow { hash, word, signal, service, tables: maps::flow_tables(), now: maps::now() };
    for _ in 0..ATTEMPTS {
        let Some(place) = find(hash, flow.tables.current(), flow.now) else { return flow.unknown() };
        if let Some(backend) = flow.follow(place) {
            return backend;
        }
    }
    flow.without_entry()
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
    service: ServiceId,
    tables: FlowTables,
    now: FlowTime,
}

impl Flow {
    /// The backend of a flow that is in the table; `None` if its entry has changed meanwhile.
    #[inline(always)]
    fn follow(&self, Place { bucket, way, entry }: Place) -> Option<BackendId> {
        let (next, event) = self.next(entry);
        if next.backend() == BackendId::NONE {
            return Some(BackendId::NONE);
        }
        // When somebody else has seen the flow at the same time, that will do, unless it was given to another backend.
        let done = next == entry || bucket.replace(way, entry, next) || next.backend() == entry.backend();
        done.then(|| {
            maps::count_tracking(event);
            next.backend()
        })
    }

    /// The entry as it has to be after this packet, and what became of the flow. With nobody as its backend it has to stay as
    /// it is.
    #[inline(always)]
    fn next(&self, entry: FlowEntry) -> (FlowEntry, Tracking) {
        let current = self.word.current();
        if self.signal == Signal::Opens && entry.is_over(self.now, self.tables.idle_ticks()) {
            let backend = schedule::backend_of_new_flow(self.service, self.word);
            (FlowEntry::new(FlowTag::of(self.hash), backend, FlowState::Opening, self.now), Tracking::Reopened)
        } else if entry.backend() != current && self.is_lost_to(entry.backend()) {
            (entry.of_backend(current).after(self.signal, self.now), Tracking::Rescheduled)
        } else {
            (entry.after(self.signal, self.now), Tracking::Hit)
        }
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

    /// The backend of a flow that is not in the table, and is put there if its slot says so.
    #[inline(always)]
    fn unknown(&self) -> BackendId {
        if let Some(Place { entry, .. }) = find(self.hash, self.tables.old(), self.now) {
            let (next, _) = self.next(entry);
            maps::count_tracking(Tracking::Carried);
            return remember(self.hash, next, self.now, next.backend());
        }
        maps::count_tracking(Tracking::Miss);
        let (current, previous) = (self.word.current(), self.word.previous());
        let (backend, state) = if !self.word.remember() {
            (BackendId::NONE, FlowState::Opening)
        } else if self.signal == Signal::Opens {
            (schedule::backend_of_new_flow(self.service, self.word), FlowState::Opening)
        } else if current == previous && self.signal == Signal::Datagram {
            (schedule::backend_of_new_flow(self.service, self.word), FlowState::Sighted)
        } else if current == previous || self.is_lost_to(previous) {
            (BackendId::NONE, FlowState::Opening)
        } else if self.signal == Signal::Closes {
            // The other side may go on sending for as long as it likes.
            (previous, FlowState::Closing)
        } else {
            (previous, FlowState::Sighted)
        };
        let entry = FlowEntry::new(FlowTag::of(self.hash), backend, state, self.now);
        remember(self.hash, entry, self.now, self.without_entry())
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

/// Puts a flow into the table, unless it has no backend. Its backend there; `otherwise` if it is not there.
#[inline(never)]
fn remember(hash: FlowHash, entry: FlowEntry, now: FlowTime, otherwise: BackendId) -> BackendId {
    if entry.backend() == BackendId::NONE {
        return otherwise;
    }
    let tables = maps::flow_tables();
    let Some((table, bits)) = tables.current() else { return otherwise };
    let [first, second] = bits.buckets_of(hash);
    let (Some(first), Some(second)) = (maps::bucket(table, first, now), maps::bucket(table, second, now)) else {
        return otherwise;
    };
    match insert([&first, &second], entry, now, tables.idle_ticks()) {
        Inserted::New { evicted } => {
            maps::count_tracking(Tracking::Remembered);
            if evicted {
                maps::count_tracking(Tracking::Evicted);
            }
            entry.backend()
        }
        Inserted::Existing(twin) => twin.backend(),
        Inserted::Full => {
            maps::count_tracking(Tracking::Full);
            otherwise
        }
    }
}
