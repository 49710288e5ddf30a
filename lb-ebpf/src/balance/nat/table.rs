//! The two indices of translated flows.
//!
//! In the interface of C and with numbers only: so these are *global functions*, which the verifier checks once, by themselves,
//! and not for each way that leads to them (<https://docs.kernel.org/bpf/btf.html>, `BTF_FUNC_GLOBAL`). They do not call each
//! other: all that is on the stack at a time has to fit 512 bytes.

use lb_common::{
    BackendId, FlowHash, FlowTime, Verdict,
    flow_table::WAYS,
    nat::{
        Claim, Holder as _, Index, NatState, RecordIndex, ReverseWord, Ways as _, adopt as adopt_in, claim as claim_in,
        find as find_in, forward_word, likely_way,
    },
};

use crate::maps::{self, MapRecord, NatBucket};

/// The index by the packets of clients.
pub const FORWARD: u32 = 0;
/// The index by the packets of backends.
pub const REVERSE: u32 = 1;

/// How often an end is tried when packets change the flow at the same time.
const ATTEMPTS: usize = 4;

/// No record. Not an `Option`: what that does not hold the compiler may copy all the same, and the verifier refuses that.
pub const NOWHERE: RecordIndex = RecordIndex(NONE);
/// No record, or no place.
const NONE: u32 = u32::MAX;
const TAKEN: u32 = u32::MAX - 1;

/// The live record of a flow whose packets have this hash, and where it stands.
#[inline(always)]
pub fn find(index: u32, hash: FlowHash) -> Option<(RecordIndex, MapRecord)> {
    if index == FORWARD
        && let Some(found) = find_where_likely(hash)
    {
        return Some(found);
    }
    let found = RecordIndex(nat_find(index, hash.0));
    if found.0 == NONE { None } else { maps::nat_record(found).map(|record| (found, record)) }
}

/// The live record of a flow, if it stands in its likely way of the first bucket: most do. As keys are unique, a record that is alive and
/// has the hash is the one, so the index need not be read; its cache line costs as much as all the rest.
#[inline(always)]
fn find_where_likely(hash: FlowHash) -> Option<(RecordIndex, MapRecord)> {
    let [first, _] = maps::nat_bits()?.buckets_of(hash);
    let at = RecordIndex::at(first, likely_way(forward_word(hash)));
    let record = maps::nat_record(at)?;
    (record.state().phase().is_alive() && record.hash() == hash.0).then_some((at, record))
}

/// What came of the wish for a place.
pub enum Claimed {
    At(RecordIndex),
    /// Somebody else has the key.
    Taken,
    /// There is no room.
    Full,
}

/// Claims a place for `word`.
#[inline(always)]
pub fn claim(index: u32, hash: FlowHash, word: u64) -> Claimed {
    match nat_claim(index, hash.0, word) {
        NONE => Claimed::Full,
        TAKEN => Claimed::Taken,
        place => Claimed::At(RecordIndex(place)),
    }
}

/// Takes a port over that is held: for this record, or for another if `is_second_hand` will do. [`Claimed::Taken`] if a flow has it.
#[inline(always)]
pub fn adopt(hash: FlowHash, word: u64, is_second_hand: bool) -> Claimed {
    match nat_adopt(hash.0, word, is_second_hand.into()) {
        TAKEN => Claimed::Taken,
        place => Claimed::At(RecordIndex(place)),
    }
}

/// Where the record of a new flow is made.
pub struct Place {
    pub record: MapRecord,
    pub hash: FlowHash,
    was_alive: bool,
}

impl Place {
    /// The place for a flow whose packets have this hash: that of its `closed` connection, or a free one if that is [`NOWHERE`].
    ///
    /// Of the closed connection nothing is left then but its word in the reverse index, which holds its port: its backend remembers it
    /// for a while.
    #[inline(always)]
    pub fn claim(hash: FlowHash, closed: RecordIndex) -> Result<Self, Verdict> {
        if let Some(record) = maps::nat_record(closed) {
            let state = record.state();
            if state.phase().gives_way() && record.replace_state(state, NatState::FREE) {
                return Ok(Self { record, hash, was_alive: true });
            }
            // Somebody else has ended it, or makes the next one there.
        }
        match claim(FORWARD, hash, forward_word(hash)) {
            Claimed::At(index) => {
                let record = maps::nat_record(index).ok_or(Verdict::DropInternal)?;
                Ok(Self { record, hash, was_alive: false })
            }
            Claimed::Taken => Err(Verdict::DropNatRace),
            Claimed::Full => Err(Verdict::DropNatFull),
        }
    }

    /// Gives it back: no flow has come of it. The daemon frees it if packets may have the connection before in their hands.
    #[inline(always)]
    pub fn give_back(&self) {
        let at = self.record.index();
        if self.was_alive {
            self.record.replace_state(NatState::FREE, NatState::FREE.over());
            bury(FORWARD, at, at);
        } else if let Some(bucket) = bucket_at(FORWARD, at, self.hash.0) {
            bucket.replace(at.way(), forward_word(self.hash), Index::FREE);
        }
    }
}

/// Ends a flow of `backend`, which it is no more if its record has another one by now. Its keys are nobody's from then on, and the daemon
/// frees its place.
#[inline(always)]
pub fn end(record: RecordIndex, backend: BackendId) {
    nat_end(record.0, backend.get(), ANY_TIME);
}

/// The same of one whose port may be another's at this time. Whether it is over.
#[inline(always)]
pub fn end_closed(record: RecordIndex, now: FlowTime) -> bool {
    nat_end(record.0, ANY_BACKEND, now.0) != 0
}

/// No time: whatever the flow does.
const ANY_TIME: u64 = 0;
/// No backend: whichever the flow has.
const ANY_BACKEND: u32 = BackendId::NONE.get();

#[inline(always)]
fn bucket_at(index: u32, at: RecordIndex, unknown: u64) -> Option<NatBucket> {
    maps::nat_bucket(index, at.bucket(), unknown)
}

#[inline(always)]
const fn kind_of(index: u32) -> Index {
    if index == FORWARD { Index::FORWARD } else { Index::REVERSE }
}

/// The number of a place, counted through both buckets.
#[inline(always)]
const fn numbered([first, second]: [u32; 2], place: usize) -> RecordIndex {
    let bucket = if place < WAYS { first } else { second };
    RecordIndex::at(bucket, place % WAYS)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_find(index: u32, hash: u64) -> u32 {
    let flow = FlowHash(hash);
    let Some(bits) = maps::nat_bits() else { return NONE };
    let word = if index == FORWARD { forward_word(flow) } else { ReverseWord::new(flow, RecordIndex(0)).to_bits() };
    let Some((at, found)) = place_of(index, bits.buckets_of(flow), word) else { return NONE };
    let record = if index == FORWARD { at } else { ReverseWord::from_bits(found).record() };
    let Some(known) = maps::nat_record(record) else { return NONE };
    // Between the look at the word and this one, the place may have been given back and claimed anew. In this order: what is alive
    // stays this client's for as long as a packet has it in its hands.
    let is_alive = known.state().phase().is_alive();
    let is_it = if index == FORWARD { known.hash() == hash } else { known.reverse() == at };
    if is_alive && is_it { record.0 } else { NONE }
}

/// Where a word with the key of `word` stands, and that word.
#[inline(always)]
fn place_of(index: u32, [first, second]: [u32; 2], word: u64) -> Option<(RecordIndex, u64)> {
    let mut number = first;
    let mut place = find_in(kind_of(index), &maps::nat_bucket(index, first, word)?, word);
    if place.is_none() {
        number = second;
        place = find_in(kind_of(index), &maps::nat_bucket(index, second, word)?, word);
    }
    let (way, found) = place?;
    Some((RecordIndex::at(number, way), found))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_claim(index: u32, hash: u64, word: u64) -> u32 {
    let Some(bits) = maps::nat_bits() else { return NONE };
    let numbers = bits.buckets_of(FlowHash(hash));
    let [first, second] = numbers;
    let (Some(first), Some(second)) = (maps::nat_bucket(index, first, hash), maps::nat_bucket(index, second, hash))
    else {
        return NONE;
    };
    match claim_in(kind_of(index), [&first, &second], word) {
        Claim::At(place) => numbered(numbers, place).0,
        Claim::Taken => TAKEN,
        Claim::Full => NONE,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_adopt(hash: u64, word: u64, is_second_hand: u32) -> u32 {
    let flow = FlowHash(hash);
    let Some((at, found)) = maps::nat_bits().and_then(|bits| place_of(REVERSE, bits.buckets_of(flow), word)) else {
        return TAKEN;
    };
    let record_of = |word| maps::nat_record(ReverseWord::from_bits(word).record());
    let (Some(bucket), Some(own), Some(holder)) = (bucket_at(REVERSE, at, hash), record_of(word), record_of(found))
    else {
        return TAKEN;
    };
    let say_so = || own.update(|record| record.reverse = at);
    if adopt_in(&bucket, at, [found, word], &holder, is_second_hand != 0, say_so) { at.0 } else { TAKEN }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_end(record: u32, backend: u32, closed_at: u64) -> u32 {
    let index = RecordIndex(record);
    let Some(known) = maps::nat_record(index) else { return 0 };
    for _ in 0..ATTEMPTS {
        let state = known.state();
        let is_it = backend == ANY_BACKEND || backend == state.backend().get();
        let is_to_end = closed_at == ANY_TIME || state.leaves_port(FlowTime(closed_at));
        if !(state.phase().is_alive() && is_it && is_to_end) {
            return 0;
        }
        if known.replace_state(state, state.over()) {
            bury(FORWARD, index, index);
            bury(REVERSE, known.get().reverse, index);
            return 1;
        }
    }
    0
}

/// Makes a flow's word in an index nobody's. Whoever has ended the flow does this, and nobody else.
#[inline(always)]
fn bury(index: u32, at: RecordIndex, record: RecordIndex) {
    let Some(bucket) = bucket_at(index, at, u64::from(record.0)) else { return };
    let word = bucket.load(at.way());
    // Of the reverse index, a record may say what it has not got.
    if index == FORWARD || ReverseWord::from_bits(word).record().0 == record.0 {
        bucket.replace(at.way(), word, Index::OVER);
    }
}
