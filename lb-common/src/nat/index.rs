//! Claiming and finding words in the two indices.

#[cfg(target_has_atomic = "64")]
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::RecordIndex;
use crate::{FlowHash, flow_table::WAYS};

/// The words of one bucket, in a map or in memory.
pub trait Ways {
    /// The word of a way, below [`WAYS`].
    fn load(&self, way: usize) -> u64;

    /// Compare-and-swap: puts `new` there if `old` still is; whether it was.
    fn replace(&self, way: usize, old: u64, new: u64) -> bool;

    /// `value` itself, as [`crate::flow_table::Bucket::veil`].
    #[inline(always)]
    fn veil(&self, value: usize) -> usize {
        value
    }

    /// The first way but for this one that holds the key of `word`; [`WAYS`] if none does.
    #[inline(always)]
    fn way_of(&self, index: Index, word: u64, except: usize) -> usize {
        let mut found = WAYS;
        for way in (0..WAYS).rev() {
            if index.is_same(self.load(way), word) && way != except {
                found = way;
            }
        }
        self.veil(found)
    }
}

/// Which bits of a word are the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Index {
    key_mask: u64,
}

const RECORD_BITS: u32 = 24;
/// Neither free nor anybody's, until the daemon frees it.
const TOMB: u64 = 2;

impl Index {
    /// By the packets of clients. Of its words all is key.
    pub const FORWARD: Self = Self { key_mask: u64::MAX };
    /// By the packets of backends.
    pub const REVERSE: Self = Self { key_mask: u64::MAX << RECORD_BITS };
    /// A free place.
    pub const FREE: u64 = 0;
    /// The place of a flow that is over.
    pub const OVER: u64 = TOMB;

    #[inline(always)]
    const fn is_same(self, one: u64, other: u64) -> bool {
        (one ^ other) & self.key_mask == 0
    }
}

/// The word of a flow in the forward index.
#[inline(always)]
pub const fn forward_word(hash: FlowHash) -> u64 {
    hash.0 | 1
}

/// The word of a flow in the reverse index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct ReverseWord(u64);

impl ReverseWord {
    /// For a record, and the hash of the backend's packets.
    #[inline(always)]
    pub const fn new(hash: FlowHash, record: RecordIndex) -> Self {
        // The key is odd, so it is neither that of a free place nor that of one whose flow is over.
        Self((hash.0 >> RECORD_BITS | 1) << RECORD_BITS | record.0 as u64)
    }

    /// From the word.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// Where the record stands.
    #[inline(always)]
    pub const fn record(self) -> RecordIndex {
        RecordIndex(self.0 as u32 & ((1 << RECORD_BITS) - 1))
    }
}

/// What came of an attempt to claim a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It stands at this place, counted through both buckets.
    At(usize),
    /// The key is somebody else's, or is being claimed.
    Taken,
    /// There is no room.
    Full,
}

/// The way that a word stands in, if it was free: so most are found at the first look.
#[inline(always)]
pub const fn likely_way(word: u64) -> usize {
    // These bits of the hash are in the words of both indices, and pick no bucket.
    (word >> 61) as usize
}

/// How often another way is tried when somebody else was faster.
const ATTEMPTS: usize = 2;

/// Where in a bucket a word with the key of `word` stands, and that word.
#[inline(always)]
pub fn find<B: Ways>(index: Index, bucket: &B, word: u64) -> Option<(usize, u64)> {
    let likely = likely_way(word);
    let there = bucket.load(likely);
    if index.is_same(there, word) {
        return Some((likely, there));
    }
    let found = bucket.way_of(index, word, WAYS);
    if found >= WAYS {
        return None;
    }
    let there = bucket.load(found);
    // Otherwise it has just gone.
    index.is_same(there, word).then_some((found, there))
}

/// Puts `word` into the bucket with more room, unless its key is there already; into the first one even if that has room for one less,
/// since it is looked at first.
#[inline(always)]
pub fn claim<B: Ways>(index: Index, buckets: [&B; 2], word: u64) -> Claim {
    let [first, second] = buckets;
    if place_of(index, buckets, word, NOWHERE) < NOWHERE {
        return Claim::Taken;
    }
    for _ in 0..ATTEMPTS {
        let (one, other) = (Room::in_bucket(first, word), Room::in_bucket(second, word));
        let into_first = one.ways() > 0 && one.ways() + 1 >= other.ways();
        let (bucket, room) = if into_first { (first, one) } else { (second, other) };
        if room.ways() == 0 {
            return Claim::Full;
        }
        let way = room.way();
        if !bucket.replace(way, Index::FREE, word) {
            continue;
        }
        let place = first.veil(if into_first { way } else { WAYS + way });
        if place_of(index, buckets, word, place) < NOWHERE {
            bucket.replace(way, word, Index::FREE);
            return Claim::Taken;
        }
        return Claim::At(place);
    }
    Claim::Full
}

/// Above all places in two buckets.
const NOWHERE: usize = 2 * WAYS;

/// The lowest place but `except` that holds the key of `word`, counted through both buckets.
#[inline(always)]
fn place_of<B: Ways>(index: Index, [first, second]: [&B; 2], word: u64, except: usize) -> usize {
    let found = first.way_of(index, word, except);
    if found < WAYS { found } else { WAYS + second.way_of(index, word, except.wrapping_sub(WAYS)) }
}

/// What is free in a bucket: how many ways, and one of them. In one number, for the verifier of eBPF programs: as [`Ways::veil`].
#[derive(Clone, Copy)]
struct Room(usize);

impl Room {
    const ONE: usize = 1 << 8;

    /// Of the free ways the likely one of `word`, else the lowest.
    #[inline(always)]
    fn in_bucket<B: Ways>(bucket: &B, word: u64) -> Self {
        let mut room = 0;
        for way in (0..WAYS).rev() {
            if bucket.load(way) == Index::FREE {
                room = (room & !(Self::ONE - 1)) + Self::ONE + way;
            }
            room = bucket.veil(room);
        }
        if bucket.load(likely_way(word)) == Index::FREE {
            room = room & !(Self::ONE - 1) | likely_way(word);
        }
        Self(bucket.veil(room))
    }

    #[inline(always)]
    const fn ways(self) -> usize {
        self.0 / Self::ONE
    }

    #[inline(always)]
    const fn way(self) -> usize {
        self.0 % WAYS
    }
}

/// A bucket in memory, or in a map that is mapped into memory. Sequentially consistent, as two CPUs that claim the same key
/// have to see each other's word.
#[cfg(target_has_atomic = "64")]
impl Ways for [AtomicU64; WAYS] {
    fn load(&self, way: usize) -> u64 {
        self[way].load(SeqCst)
    }

    fn replace(&self, way: usize, old: u64, new: u64) -> bool {
        self[way].compare_exchange(old, new, SeqCst, SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::array::from_fn;
    use std::{sync::Barrier, thread, vec::Vec};

    use super::*;

    type Buckets = [[AtomicU64; WAYS]; 2];

    fn empty() -> Buckets {
        from_fn(|_| from_fn(|_| AtomicU64::new(0)))
    }

    fn refs(buckets: &Buckets) -> [&[AtomicU64; WAYS]; 2] {
        [&buckets[0], &buckets[1]]
    }

    fn reverse(key: u64, record: u32) -> u64 {
        ReverseWord::new(FlowHash(key << 32), RecordIndex(record)).to_bits()
    }

    #[test]
    fn sixteen_keys_find_room_and_no_more_and_each_is_found() {
        let buckets = empty();
        for key in 1..=16 {
            assert!(matches!(claim(Index::REVERSE, refs(&buckets), reverse(key, key as u32)), Claim::At(_)));
        }
        assert_eq!(claim(Index::REVERSE, refs(&buckets), reverse(17, 0)), Claim::Full);
        for key in 1..=16 {
            let found = buckets.iter().find_map(|bucket| find(Index::REVERSE, bucket, reverse(key, 0)));
            assert_eq!(found.map(|(_, word)| ReverseWord::from_bits(word).record()), Some(RecordIndex(key as u32)));
        }
        assert!(buckets.iter().all(|bucket| find(Index::REVERSE, bucket, reverse(17, 0)).is_none()));
    }

    #[test]
    fn a_key_is_claimed_once_whichever_record_it_is_for() {
        let buckets = empty();
        assert_eq!(claim(Index::REVERSE, refs(&buckets), reverse(7, 1)), Claim::At(0));
        assert_eq!(claim(Index::REVERSE, refs(&buckets), reverse(7, 2)), Claim::Taken);
    }

    #[test]
    fn the_place_of_what_is_over_is_nobodys() {
        let buckets = empty();
        for way in &buckets[0] {
            way.store(Index::OVER, SeqCst);
        }
        assert_eq!(claim(Index::FORWARD, refs(&buckets), forward_word(FlowHash(2))), Claim::At(WAYS));
        assert_eq!(find(Index::FORWARD, &buckets[0], forward_word(FlowHash(2))), None);
        assert_eq!(find(Index::FORWARD, &buckets[1], forward_word(FlowHash(2))).unwrap().0, 0);
    }

    #[test]
    fn a_key_gets_its_likely_way_of_the_first_bucket_unless_the_other_has_much_more_room() {
        let word = forward_word(FlowHash(0xa000_0000_0000_0002));
        for (first, second, expected) in [
            (&[][..], &[][..], 5),
            (&[0, 1, 2], &[0, 1], 5),
            (&[0, 5], &[1], 1),
            (&[0, 1], &[], WAYS + 5),
            (&[0, 1, 2], &[5], WAYS),
        ] {
            let buckets = empty();
            for (bucket, taken) in buckets.iter().zip([first, second]) {
                for way in taken {
                    bucket[*way].store(Index::OVER, SeqCst);
                }
            }
            assert_eq!(claim(Index::FORWARD, refs(&buckets), word), Claim::At(expected), "{first:?} {second:?}");
            assert_eq!(find(Index::FORWARD, &buckets[expected / WAYS], word), Some((expected % WAYS, word)));
        }
    }

    /// Two threads want the same keys, in the same buckets, at the same moment.
    #[test]
    fn of_two_who_claim_the_same_key_at_once_at_most_one_gets_it() {
        const ROUNDS: usize = 20_000;
        let rounds: Vec<Buckets> = (0..ROUNDS).map(|_| empty()).collect();
        let barrier = Barrier::new(2);
        let claims: Vec<Vec<Claim>> = thread::scope(|scope| {
            let claimants = [1, 2].map(|record| {
                let (rounds, barrier) = (&rounds, &barrier);
                scope.spawn(move || {
                    let claim_one = |buckets: &Buckets| claim(Index::REVERSE, refs(buckets), reverse(9, record));
                    rounds
                        .chunks(100)
                        .flat_map(|chunk| {
                            barrier.wait();
                            chunk.iter().map(claim_one).collect::<Vec<_>>()
                        })
                        .collect()
                })
            });
            claimants.map(|claimant| claimant.join().unwrap()).into()
        });
        for (round, buckets) in rounds.iter().enumerate() {
            let got = claims.iter().filter(|claims| matches!(claims[round], Claim::At(_))).count();
            let stand = buckets.iter().flatten().filter(|word| word.load(SeqCst) != 0).count();
            assert!(got <= 1 && stand == got, "round {round}: {got} have it, {stand} words stand");
        }
        let shared = claims[0].iter().zip(&claims[1]).filter(|(one, other)| *one == *other).count();
        std::println!("{shared} of {ROUNDS} rounds were withdrawn by both");
    }
}
