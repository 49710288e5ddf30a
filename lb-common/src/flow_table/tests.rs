extern crate std;

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::{BackendId, FlowHash};

mod accounting;
mod concurrency;
mod insertion;

const SECOND: u64 = 1_000_000_000;
/// One tick of states that last seconds, and one of those that last minutes.
const SHORT_TICK: u64 = 1 << 30;
const LONG_TICK: u64 = 1 << 35;

fn empty_bucket() -> [AtomicU64; WAYS] {
    [const { AtomicU64::new(0) }; WAYS]
}

/// One of which nobody counts the connections.
impl Bucket for [AtomicU64; WAYS] {
    fn load(&self, way: usize) -> FlowEntry {
        FlowEntry::from_bits(self[way].load(SeqCst))
    }

    fn swap(&self, way: usize, old: FlowEntry, new: FlowEntry) -> bool {
        self[way].compare_exchange(old.to_bits(), new.to_bits(), SeqCst, SeqCst).is_ok()
    }

    fn hand_over(&self, _: BackendId, _: BackendId) {}
}

fn backend(number: u32) -> BackendId {
    BackendId::truncate(number)
}

fn any_state() -> impl Strategy<Value = FlowState> {
    prop::sample::select(&FlowState::ALL[..])
}

fn any_size() -> impl Strategy<Value = BucketBits> {
    (MIN_BUCKET_BITS..=MAX_BUCKET_BITS).prop_map(|bits| BucketBits::new(bits).unwrap())
}

/// Times with room before and behind them.
fn any_time() -> impl Strategy<Value = u64> {
    (1 << 50)..(1_u64 << 62)
}

fn tick(state: FlowState) -> u64 {
    match state {
        FlowState::Opening | FlowState::Closing => SHORT_TICK,
        FlowState::Sighted | FlowState::Established => LONG_TICK,
    }
}

proptest! {
    #[test]
    fn an_entry_keeps_its_parts_apart(hash: u64, owner in 1..BackendId::COUNT, state in any_state(), now in any_time()) {
        let tag = FlowTag::of(FlowHash(hash));
        let entry = FlowEntry::new(tag, backend(owner), state, FlowTime(now));
        prop_assert_eq!((entry.tag(), entry.backend(), entry.state()), (tag, backend(owner), state));
        prop_assert_eq!(entry.idle_ns(FlowTime(now)), 0);
        prop_assert_eq!(FlowEntry::from_bits(entry.to_bits()), entry);
        prop_assert!(entry.is(tag) && !entry.is(FlowTag(tag.0 ^ 1)) && !entry.is(FlowTag(tag.0 ^ 1 << 38)) && !entry.is_free());
    }

    #[test]
    fn an_entry_given_to_another_backend_is_the_same_otherwise(
        hash: u64, owners in [1..BackendId::COUNT, 1..BackendId::COUNT], state in any_state(), now in any_time(),
    ) {
        let [before, after] = owners.map(|owner| {
            FlowEntry::new(FlowTag::of(FlowHash(hash)), backend(owner), state, FlowTime(now))
        });
        prop_assert_eq!(before.of_backend(after.backend()), after);
    }

    #[test]
    fn the_buckets_of_an_entry_follow_from_its_tag_and_place_in_a_table_of_any_size(
        hash: u64, sizes in [any_size(), any_size()],
    ) {
        let (hash, tag) = (FlowHash(hash), FlowTag::of(FlowHash(hash)));
        let [from, to] = sizes;
        for bucket in from.buckets_of(hash) {
            prop_assert!(bucket < from.buckets());
            prop_assert_eq!(to.buckets_of_entry(tag, bucket), to.buckets_of(hash));
        }
    }

    #[test]
    fn the_two_buckets_of_a_flow_are_one_even_and_one_odd_and_each_leads_to_the_other(hash: u64, size in any_size()) {
        let hash = FlowHash(hash);
        let [one, other] = size.buckets_of(hash);
        prop_assert_eq!((one ^ other) & 1, 1);
        prop_assert_eq!((one ^ other) >> MIN_BUCKET_BITS, 0);
        let detour = FlowTag::of(hash).detour();
        prop_assert_eq!((one ^ detour, other ^ detour), (other, one));
    }

    #[test]
    fn the_slot_of_a_flow_follows_from_its_tag(hash: u64, slot_bits in 10_u32..=16) {
        let mask = (1 << slot_bits) - 1;
        prop_assert_eq!(FlowTag::of(FlowHash(hash)).slot(mask), FlowHash(hash).slot(mask));
    }

    #[test]
    fn the_idle_time_of_an_entry_is_right_to_two_ticks_and_never_too_long(
        hash: u64, state in any_state(), seen in any_time(), ticks in 0..253_u64, part: u64,
    ) {
        let entry = FlowEntry::new(FlowTag::of(FlowHash(hash)), backend(1), state, FlowTime(seen));
        let elapsed = ticks * tick(state) + part % tick(state);
        let idle = entry.idle_ns(FlowTime(seen + elapsed));
        prop_assert!(idle <= elapsed && elapsed - idle < 2 * tick(state), "{elapsed}: {idle}");
    }

    #[test]
    fn an_entry_that_is_newer_than_the_packets_time_is_new(
        hash: u64, state in any_state(), now in any_time(), ahead in 0..SHORT_TICK, idle_ticks in 0..=253_u8,
    ) {
        let entry = FlowEntry::new(FlowTag::of(FlowHash(hash)), backend(1), state, FlowTime(now + ahead));
        let now = FlowTime(now);
        prop_assert_eq!(entry.idle_ns(now), 0);
        prop_assert_eq!(entry.is_over(now, idle_ticks), state == FlowState::Closing);
        prop_assert_eq!(entry.rank(now, idle_ticks) >= FlowEntry::KEPT, is_kept(state, 0, idle_ticks));
    }

    #[test]
    fn opening_flows_keep_their_way_for_three_seconds_and_established_ones_for_the_idle_time(
        hash: u64, seen in any_time(), waited in 0..3 * SECOND, timeout in 1..7200_u64, idle: u64,
    ) {
        let tag = FlowTag::of(FlowHash(hash));
        let idle_ticks = idle_ticks(timeout);
        let idle = idle % (timeout * SECOND);
        for (state, elapsed) in [(FlowState::Opening, waited), (FlowState::Established, idle)] {
            let entry = FlowEntry::new(tag, backend(1), state, FlowTime(seen));
            prop_assert!(entry.rank(FlowTime(seen + elapsed), idle_ticks) >= FlowEntry::KEPT);
        }
    }

    #[test]
    fn of_two_flows_the_one_that_is_missed_less_is_ranked_lower(
        states in [any_state(), any_state()], ages in [0..250_u64, 0..250], idle_ticks in 1..=253_u8,
        now in any_time(),
    ) {
        let rank = |state, age| {
            let seen = FlowTime(now - age * tick(state));
            FlowEntry::new(FlowTag(1), backend(1), state, seen).rank(FlowTime(now), idle_ticks)
        };
        let expected = |state, age| {
            let class = match state {
                _ if is_kept(state, age, idle_ticks) => return None,
                FlowState::Closing => 1,
                FlowState::Sighted | FlowState::Established if age > u64::from(idle_ticks) => 1,
                FlowState::Opening => 2,
                FlowState::Sighted | FlowState::Established => 3,
            };
            Some((class, u64::MAX - age))
        };
        let [one, other] = [(states[0], ages[0]), (states[1], ages[1])];
        match (expected(one.0, one.1), expected(other.0, other.1)) {
            (Some(first), Some(second)) => {
                prop_assert_eq!(rank(one.0, one.1).cmp(&rank(other.0, other.1)), first.cmp(&second));
            }
            (first, _) => prop_assert_eq!(rank(one.0, one.1) >= FlowEntry::KEPT, first.is_none()),
        }
        prop_assert!(FlowEntry::FREE.rank(FlowTime(now), idle_ticks) < rank(one.0, one.1));
    }

    #[test]
    fn the_word_of_tables_keeps_its_parts_apart(
        place in 0..2_u32, size in any_size(), old in prop::option::of(any_size()), idle_ticks: u8,
    ) {
        let tables = FlowTables::new(place, size, old, idle_ticks);
        prop_assert_eq!(tables.current(), Some((place, size)));
        prop_assert_eq!(tables.old(), old.map(|old| (1 - place, old)));
        prop_assert_eq!(tables.idle_ticks(), idle_ticks);
        prop_assert_eq!(FlowTables::from_bits(tables.to_bits()), tables);
    }
}

/// Whether no new flow takes the way of one in this state, of this age in ticks.
fn is_kept(state: FlowState, age: u64, idle_ticks: u8) -> bool {
    match state {
        FlowState::Opening => age < 4,
        FlowState::Established => age <= u64::from(idle_ticks),
        FlowState::Sighted | FlowState::Closing => false,
    }
}

#[test]
fn a_flow_becomes_what_its_packets_say() {
    use FlowState::{Closing, Established, Opening, Sighted};
    const SIGNALS: [Signal; 4] = [Signal::Opens, Signal::Continues, Signal::Closes, Signal::Datagram];
    let (seen, now) = (FlowTime(100 * SECOND), FlowTime(500 * SECOND));
    for (state, expected) in [
        (Opening, [Opening, Established, Closing, Established]),
        (Sighted, [Established, Established, Closing, Established]),
        (Established, [Established, Established, Closing, Established]),
        (Closing, [Closing, Established, Closing, Established]),
    ] {
        for (signal, expected) in SIGNALS.into_iter().zip(expected) {
            let [before, after] = [(state, seen), (expected, now)]
                .map(|(state, time)| FlowEntry::new(FlowTag(77), backend(5), state, time));
            assert_eq!(before.after(signal, now), after, "{state:?}, {signal:?}");
        }
    }
}

#[test]
fn a_segment_soon_after_the_end_belongs_to_it_and_a_later_one_to_a_client_that_goes_on() {
    let entry = |state, seen| FlowEntry::new(FlowTag(77), backend(5), state, FlowTime(seen));
    let closed = entry(FlowState::Closing, 100 * SHORT_TICK);
    for ticks in 0..4 {
        assert_eq!(closed.after(Signal::Continues, FlowTime((100 + ticks) * SHORT_TICK)), closed);
    }
    let later = 104 * SHORT_TICK;
    assert_eq!(closed.after(Signal::Continues, FlowTime(later)), entry(FlowState::Established, later));
}

#[test]
fn a_flow_that_was_seen_once_is_established_when_it_is_confirmed_and_others_stay_as_they_are() {
    for state in FlowState::ALL {
        let entry = |state| FlowEntry::new(FlowTag(77), backend(5), state, FlowTime(40 * LONG_TICK));
        let confirmed = if state == FlowState::Sighted { FlowState::Established } else { state };
        assert_eq!(entry(state).confirmed(), entry(confirmed));
    }
}

#[test]
fn what_opens_a_flow_opens_a_new_one_where_one_ends_or_has_been_idle() {
    let now = FlowTime(1000 * LONG_TICK);
    let is_over = |state, ticks| {
        FlowEntry::new(FlowTag(77), backend(5), state, FlowTime(now.0 - ticks * LONG_TICK)).is_over(now, 10)
    };
    for state in [FlowState::Sighted, FlowState::Established] {
        assert_eq!([0, 1, 10, 11, 254].map(|ticks| is_over(state, ticks)), [false, false, false, true, true]);
    }
    assert!(is_over(FlowState::Closing, 0));
    assert!(!is_over(FlowState::Opening, 2));
}

#[test]
fn a_free_way_is_nobodys_flow() {
    assert!(FlowEntry::FREE.is_free());
    assert!(!FlowEntry::FREE.is(FlowTag(0)));
    // A flow whose hash is zero.
    let zero = FlowEntry::new(FlowTag(0), backend(1), FlowState::Opening, FlowTime(0));
    assert!(!zero.is_free() && zero.is(FlowTag(0)) && !zero.is(FlowTag(1)));
}

#[test]
fn idle_ticks_are_rounded_up_and_end_where_their_count_does() {
    assert_eq!([0, 1, 34, 35, 68, 69, 300].map(idle_ticks), [0, 1, 1, 2, 2, 3, 9]);
    assert_eq!([8692, 8693, 8694, u64::MAX].map(idle_ticks), [253; 4]);
    assert_eq!(ticks_ns(9), 9 * LONG_TICK);
}

#[test]
fn a_word_of_zero_says_that_there_is_no_table() {
    assert_eq!(FlowTables::default().current(), None);
    assert_eq!(FlowTables::default().old(), None);
}
