//! Which way a flow gets, and when there is none for it.

use std::sync::atomic::Ordering;

use super::*;

const IDLE_TICKS: u8 = 10;
const NOW: FlowTime = FlowTime(1 << 60);

fn entry(tag: u64, state: FlowState, ticks: u64) -> FlowEntry {
    FlowEntry::new(FlowTag(tag), backend(1), state, FlowTime(NOW.0 - ticks * tick(state)))
}

fn bucket(entries: [FlowEntry; WAYS]) -> [AtomicU64; WAYS] {
    entries.map(|entry| AtomicU64::new(entry.to_bits()))
}

/// Full of flows that keep their ways, but for one.
fn bucket_with(way: usize, entry: FlowEntry) -> [AtomicU64; WAYS] {
    let full = full_bucket();
    full[way].store(entry.to_bits(), Ordering::Relaxed);
    full
}

fn full_bucket() -> [AtomicU64; WAYS] {
    let mut tags = 1000..;
    bucket([(); WAYS].map(|()| entry(tags.next().unwrap(), FlowState::Established, 0)))
}

fn put(buckets: [&[AtomicU64; WAYS]; 2], tag: u64) -> Inserted {
    insert(buckets, entry(tag, FlowState::Opening, 0), NOW, IDLE_TICKS)
}

#[test]
fn a_flow_goes_into_the_bucket_with_more_room_and_of_two_alike_into_the_first() {
    let buckets = [empty_bucket(), empty_bucket()];
    let [first, second] = &buckets;
    for tag in 1..=16 {
        assert_eq!(put([first, second], tag), Inserted::New { evicted: false });
        let bucket = if tag % 2 == 1 { first } else { second };
        assert!(bucket.find(FlowTag(tag)).is_some(), "{tag}");
    }
    assert_eq!(put([first, second], 17), Inserted::Full);
}

#[test]
fn the_flow_that_is_missed_least_loses_its_way_wherever_it_stands() {
    use FlowState::{Closing, Established, Opening, Sighted};
    for (stays, goes, evicted) in [
        (entry(1, Closing, 10), FlowEntry::FREE, false),
        (entry(1, Closing, 0), entry(2, Closing, 1), false),
        (entry(1, Closing, 10), entry(2, Established, 11), false),
        (entry(1, Opening, 100), entry(2, Closing, 0), false),
        (entry(1, Sighted, 10), entry(2, Sighted, 11), false),
        (entry(1, Opening, 4), entry(2, Opening, 5), true),
        (entry(1, Sighted, 10), entry(2, Opening, 4), true),
        (entry(1, Sighted, 1), entry(2, Sighted, 2), true),
    ] {
        for swapped in [false, true] {
            let [one, other] = if swapped { [goes, stays] } else { [stays, goes] };
            let (first, second) = (bucket_with(3, one), bucket_with(6, other));
            assert_eq!(put([&first, &second], 99), Inserted::New { evicted }, "{stays:?}, {goes:?}");
            let (bucket, way) = if swapped { (&first, 3) } else { (&second, 6) };
            assert!(bucket.load(way).is(FlowTag(99)), "{stays:?}, {goes:?}");
        }
    }
}

#[test]
fn flows_that_open_or_are_established_keep_their_ways() {
    for kept in [entry(1, FlowState::Opening, 3), entry(1, FlowState::Established, IDLE_TICKS.into())] {
        let (first, second) = (bucket_with(3, kept), full_bucket());
        assert_eq!(put([&first, &second], 99), Inserted::Full);
        assert_eq!(first.load(3), kept);
    }
}

#[test]
fn of_a_flow_that_is_inserted_twice_what_was_there_first_is_left_and_once() {
    let twin = entry(7, FlowState::Established, 1).of_backend(backend(2));
    for at in 0..2 * WAYS {
        // The only other way that can be taken.
        for place in (0..2 * WAYS).filter(|place| *place != at) {
            let buckets = [full_bucket(), full_bucket()];
            buckets[at / WAYS][at % WAYS].store(twin.to_bits(), Ordering::Relaxed);
            buckets[place / WAYS][place % WAYS].store(0, Ordering::Relaxed);
            assert_eq!(put([&buckets[0], &buckets[1]], 7), Inserted::Existing(twin), "{at}, {place}");
            let left: Vec<_> = buckets.as_flattened().iter().map(|way| way.load(Ordering::Relaxed)).collect();
            assert_eq!(left.iter().filter(|way| **way == twin.to_bits()).count(), 1, "{at}, {place}");
            assert_eq!(left.iter().filter(|way| **way == 0).count(), 1, "{at}, {place}");
            assert_eq!(left[at.min(place)], twin.to_bits(), "{at}, {place}");
        }
    }
}

/// Puts as many random flows into a table as it has entries. How many were in it when the first found no room, and how many
/// are in the end.
fn fill(size: BucketBits, mut random: u64) -> [u64; 2] {
    let table: Vec<_> = (0..size.buckets()).map(|_| empty_bucket()).collect();
    let (mut inserted, mut at_first_full) = (0, None);
    for _ in 0..size.entries() {
        // SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (random ^ random >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let hash = FlowHash(mixed ^ mixed >> 31);
        let buckets = size.buckets_of(hash).map(|bucket| &table[bucket as usize]);
        let entry = FlowEntry::new(FlowTag::of(hash), backend(1), FlowState::Established, NOW);
        match insert(buckets, entry, NOW, IDLE_TICKS) {
            Inserted::New { .. } => inserted += 1,
            // Two flows with the same tag and buckets.
            Inserted::Existing(_) => {}
            Inserted::Full => {
                at_first_full.get_or_insert(inserted);
            }
        }
    }
    [at_first_full.unwrap_or(inserted), inserted]
}

#[test]
fn a_table_takes_two_thirds_of_its_entries_before_a_flow_finds_no_room_and_nineteen_of_twenty_in_the_end() {
    for bits in [13, 14, 16] {
        let size = BucketBits::new(bits).unwrap();
        for seed in 0..4 {
            let [at_first_full, in_the_end] = fill(size, seed);
            assert!(at_first_full * 3 >= size.entries() * 2, "{bits} bits: {at_first_full}");
            assert!(in_the_end * 20 >= size.entries() * 19, "{bits} bits: {in_the_end}");
        }
    }
}

#[test]
fn an_earlier_entry_of_a_flow_gives_way_unless_its_place_is_another_ones_by_then() {
    let (old, new) = (entry(1, FlowState::Closing, 0), entry(1, FlowState::Opening, 0));
    let (twin, stranger) = (entry(1, FlowState::Established, 0), entry(2, FlowState::Opening, 0));
    for (met, then) in [(old, Some(new)), (twin, Some(twin)), (stranger, None), (FlowEntry::FREE, None)] {
        let bucket = bucket_with(3, met);
        assert_eq!(bucket.renew(3, old, new), then, "{met:?}");
        assert_eq!(bucket.load(3), then.unwrap_or(met));
    }
}
