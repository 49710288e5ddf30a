use std::{
    io,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use lb_common::{
    FlowHash, ServiceId,
    flow_table::{BucketBits, ConnectionCounter as _, WAYS},
    nat::{Index, NatRecord, NatState, RecordIndex, ReverseWord, forward_word, release},
};

use super::held::HeldPorts;
use crate::dataplane::{Connections, mapped::Mapped, maps::wait_for_packets};

/// The table, mapped into memory.
#[derive(Debug)]
pub struct NatTable {
    forward: Mapped,
    reverse: Mapped,
    records: Mapped,
    bits: BucketBits,
    /// How many places were taken at the end of the last sweep.
    taken: AtomicU64,
    sweeping: Mutex<HeldPorts>,
    /// Whoever changes a state counts it here.
    connections: Arc<Connections>,
}

const WORD: usize = size_of::<u64>();

impl NatTable {
    /// The table in these maps: forward index, reverse index, records.
    pub(super) fn of_maps(
        [forward, reverse, records]: [impl AsFd; 3],
        bits: BucketBits,
        connections: Arc<Connections>,
    ) -> io::Result<Self> {
        let [index, table] = lengths(bits);
        Ok(Self {
            forward: Mapped::new(forward, index)?,
            reverse: Mapped::new(reverse, index)?,
            records: Mapped::new(records, table)?,
            bits,
            taken: AtomicU64::new(0),
            sweeping: Mutex::default(),
            connections,
        })
    }

    /// An empty table that no datapath uses, for tests and benchmarks.
    pub fn in_memory(bits: BucketBits) -> io::Result<Self> {
        let connections = Arc::new(Connections::in_memory()?);
        let [index, table] = lengths(bits);
        Ok(Self {
            forward: Mapped::anonymous(index)?,
            reverse: Mapped::anonymous(index)?,
            records: Mapped::anonymous(table)?,
            bits,
            taken: AtomicU64::new(0),
            sweeping: Mutex::default(),
            connections,
        })
    }

    /// Forgets all flows, also those that packets make meanwhile or not: for tests and benchmarks.
    pub fn clear(&self) {
        for words in [&self.forward, &self.reverse, &self.records].map(Mapped::words64) {
            for word in words {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Its size.
    pub const fn bits(&self) -> BucketBits {
        self.bits
    }

    /// How many places each index has.
    pub(super) fn places(&self) -> usize {
        self.reverse.words64().len()
    }

    /// How many of its places were taken when it was swept last.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn set_taken(&self, taken: u64) {
        self.taken.store(taken, Ordering::Relaxed);
    }

    /// Whoever sweeps has this until the end: of two, one would free what the other has freed, and a packet has taken since.
    pub(super) fn sweeping(&self) -> MutexGuard<'_, HeldPorts> {
        self.sweeping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All flows that are alive, while they may change.
    pub fn flows(&self) -> impl Iterator<Item = (RecordIndex, NatRecord)> {
        self.taken_places().map(|at| (at, self.record(at))).filter(|(_, record)| record.state.phase().is_alive())
    }

    /// The flow of packets with this hash, if it is there.
    pub fn find(&self, hash: FlowHash) -> Option<NatRecord> {
        let buckets = self.bits.buckets_of(hash).map(|bucket| bucket as usize * WAYS);
        let places = buckets.into_iter().flat_map(|first| first..first + WAYS);
        let found = |place: &usize| self.forward.words64()[*place].load(Ordering::Acquire) == forward_word(hash);
        let at = places.into_iter().find(found)?;
        let record = self.record(RecordIndex(u32::try_from(at).ok()?));
        record.state.phase().is_alive().then_some(record)
    }

    /// The places whose word in the forward index is not free.
    pub(super) fn taken_places(&self) -> impl Iterator<Item = RecordIndex> {
        let buckets: &[[AtomicU64; WAYS]] = self.forward.words64().as_chunks().0;
        (0..).step_by(WAYS).zip(buckets).flat_map(|(first, bucket)| {
            let words = bucket.each_ref().map(|way| way.load(Ordering::Relaxed));
            let is_empty = words.iter().fold(0, |all, word| all | word) == Index::FREE;
            let ways = if is_empty { 0 } else { WAYS };
            let places = (first..).zip(words).take(ways);
            places.filter(|(_, word)| *word != Index::FREE).map(|(place, _)| RecordIndex(place))
        })
    }

    /// By place in the reverse index, whether a word stands there that leads to a record.
    pub(super) fn reverse_places(&self) -> impl Iterator<Item = bool> {
        self.reverse.words64().iter().map(|word| leads_to_record(word.load(Ordering::Relaxed)))
    }

    /// Frees a place in the reverse index, if its word leads to a record that does not lead back; whether it did.
    pub(super) fn release(&self, place: RecordIndex) -> bool {
        let buckets: &[[AtomicU64; WAYS]] = self.reverse.words64().as_chunks().0;
        let bucket = &buckets[place.bucket() as usize];
        let word = bucket[place.way()].load(Ordering::SeqCst);
        leads_to_record(word)
            && release(bucket, place, word, || self.record(ReverseWord::from_bits(word).record()).reverse)
    }

    /// A record, as it stands at this moment.
    pub fn record(&self, at: RecordIndex) -> NatRecord {
        const WORDS: usize = size_of::<NatRecord>() / WORD;
        let words: [u64; WORDS] =
            std::array::from_fn(|word| self.records.words64()[at.0 as usize * WORDS + word].load(Ordering::Acquire));
        // SAFETY: a record is integers and bytes, of that size.
        unsafe { std::mem::transmute(words) }
    }

    /// The state of a record.
    pub(super) fn state(&self, at: RecordIndex) -> NatState {
        NatState::from_bits(self.state_word(at).load(Ordering::Acquire))
    }

    /// Changes the state of a record, and counts that, unless it is not `old` any more.
    pub(super) fn replace_state(&self, at: RecordIndex, old: NatState, new: NatState) -> bool {
        let changed =
            self.state_word(at).compare_exchange(old.to_bits(), new.to_bits(), Ordering::SeqCst, Ordering::SeqCst);
        if changed.is_ok() && old.holder() != new.holder() {
            self.connections.hand_over(old.holder(), new.holder());
        }
        changed.is_ok()
    }

    /// Makes the words of a flow in both indices nobody's.
    pub(super) fn bury(&self, at: RecordIndex) {
        self.store_words(at, Index::OVER);
    }

    /// Ends all flows of a service that are there now, so that others may have their ports; how many there were. The next sweep frees
    /// their places.
    pub fn end_all_of(&self, service: ServiceId) -> u64 {
        // What packets on their way make by what the service was before, they have made then.
        wait_for_packets();
        let is_its = |at: &RecordIndex| u32::from(self.record(*at).service) == service.get();
        self.taken_places().filter(is_its).map(|at| u64::from(self.end(at))).sum()
    }

    /// Ends a flow, unless it is over.
    fn end(&self, at: RecordIndex) -> bool {
        loop {
            let state = self.state(at);
            if !state.phase().is_alive() {
                return false;
            }
            // A packet may change it meanwhile.
            if self.replace_state(at, state, state.over()) {
                self.bury(at);
                return true;
            }
        }
    }

    /// Frees the place of a flow that is over, and that no packet has in its hands.
    pub(super) fn free(&self, at: RecordIndex) {
        self.state_word(at).store(NatState::FREE.to_bits(), Ordering::SeqCst);
        self.store_words(at, Index::FREE);
    }

    /// The forward word goes last: from then on the place is somebody else's.
    fn store_words(&self, at: RecordIndex, word: u64) {
        let reverse = &self.reverse.words64()[self.record(at).reverse.0 as usize];
        let present = reverse.load(Ordering::SeqCst);
        // The word of the record, or what was made of it. Others find the place taken meanwhile.
        if present == Index::OVER || ReverseWord::from_bits(present).record() == at {
            reverse.store(word, Ordering::SeqCst);
        }
        self.forward.words64()[at.0 as usize].store(word, Ordering::SeqCst);
    }

    #[cfg(test)]
    pub(super) fn pair(&self, index: Index, numbers: [u32; 2]) -> [&[AtomicU64; WAYS]; 2] {
        let words = if index == Index::FORWARD { &self.forward } else { &self.reverse };
        let buckets: &[[AtomicU64; WAYS]] = words.words64().as_chunks().0;
        numbers.map(|number| &buckets[number as usize])
    }

    #[cfg(test)]
    pub(super) fn reverse_words(&self) -> &[AtomicU64] {
        self.reverse.words64()
    }

    #[cfg(test)]
    pub(super) fn write(&self, at: RecordIndex, record: NatRecord) {
        // SAFETY: a record is integers and bytes, of that size.
        let words: [u64; size_of::<NatRecord>() / WORD] = unsafe { std::mem::transmute(record) };
        for (place, word) in self.records.words64()[at.0 as usize * words.len()..].iter().zip(words) {
            place.store(word, Ordering::SeqCst);
        }
    }

    fn state_word(&self, at: RecordIndex) -> &AtomicU64 {
        &self.records.words64()[at.0 as usize * (size_of::<NatRecord>() / WORD)]
    }
}

const fn leads_to_record(reverse: u64) -> bool {
    reverse != Index::FREE && reverse != Index::OVER
}

/// Bytes of an index, and of the records.
const fn lengths(bits: BucketBits) -> [usize; 2] {
    let entries = bits.buckets() as usize * WAYS;
    [entries * WORD, entries * size_of::<NatRecord>()]
}
