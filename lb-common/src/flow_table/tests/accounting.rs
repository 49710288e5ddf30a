//! Active connections are counted exactly, whoever changes entries at the same time.

use std::{sync::atomic::AtomicU64, thread};

use super::*;
use crate::Tally;

const BACKENDS: u32 = 5;
const IDLE_TICKS: u8 = 9;

#[derive(Default)]
struct Tallies([AtomicU64; BACKENDS as usize + 1]);

impl ConnectionCounter for Tallies {
    fn add(&self, backend: BackendId, change: u64) {
        self.0[backend.get() as usize].fetch_add(change, SeqCst);
    }
}

impl Tallies {
    fn active(&self) -> Vec<u32> {
        self.0.iter().map(|tally| Tally::from_bits(tally.load(SeqCst)).active()).collect()
    }
}

type Ways = [AtomicU64; WAYS];

/// How many entries of each backend are there that are not closing, nobody's first.
fn entries(buckets: &[Ways; 2]) -> Vec<u32> {
    let mut counts = std::vec![0; BACKENDS as usize + 1];
    for way in buckets.iter().flatten() {
        let entry = FlowEntry::from_bits(way.load(SeqCst));
        if !entry.is_free() && entry.state() != FlowState::Closing {
            counts[entry.backend().get() as usize] += 1;
        }
    }
    counts
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Packet(u64, Signal),
    Reschedule(u64, u32),
    Forget(u64),
}

fn any_event() -> impl Strategy<Value = Event> {
    let signal = prop::sample::select(std::vec![Signal::Opens, Signal::Continues, Signal::Closes]);
    prop_oneof![
        6 => (0..24_u64, signal).prop_map(|(flow, signal)| Event::Packet(flow, signal)),
        1 => (0..24_u64, 1..=BACKENDS).prop_map(|(flow, to)| Event::Reschedule(flow, to)),
        1 => (0..24_u64).prop_map(Event::Forget),
    ]
}

/// What the datapath or the daemon does.
fn perform(event: Event, buckets: &[Ways; 2], tallies: &Tallies, now: FlowTime) {
    let [first, second] = buckets.each_ref().map(|ways| MemoryBucket { ways, counter: tallies });
    let (Event::Packet(flow, _) | Event::Reschedule(flow, _) | Event::Forget(flow)) = event;
    let tag = FlowTag(flow);
    let found = first.find(tag).map(|found| (first, found)).or_else(|| second.find(tag).map(|found| (second, found)));
    let owner = backend(1 + (flow as u32 + (now.0 >> 30) as u32) % BACKENDS);
    match (event, found) {
        (Event::Packet(_, Signal::Opens), Some((bucket, (way, entry)))) if entry.is_over(now, IDLE_TICKS) => {
            bucket.replace(way, entry, FlowEntry::new(tag, owner, FlowState::Opening, now));
        }
        (Event::Packet(_, signal), Some((bucket, (way, entry)))) => {
            bucket.replace(way, entry, entry.after(signal, now));
        }
        (Event::Packet(_, signal), None) => {
            let state = if signal == Signal::Closes { FlowState::Closing } else { FlowState::Opening };
            insert([&first, &second], FlowEntry::new(tag, owner, state, now), now, IDLE_TICKS);
        }
        (Event::Reschedule(_, to), Some((bucket, (way, entry)))) => {
            bucket.replace(way, entry, entry.of_backend(backend(to)));
        }
        (Event::Forget(_), Some((bucket, (way, entry)))) => {
            bucket.replace(way, entry, FlowEntry::FREE);
        }
        (_, None) => {}
    }
}

fn empty() -> [Ways; 2] {
    [empty_bucket(), empty_bucket()]
}

proptest! {
    #[test]
    fn after_any_history_the_tallies_are_the_entries_that_are_active(
        events in prop::collection::vec((any_event(), 0..5 * SECOND), 0..300),
    ) {
        let (buckets, tallies) = (empty(), Tallies::default());
        let mut now = 1 << 52;
        for (event, time) in events {
            now += time;
            perform(event, &buckets, &tallies, FlowTime(now));
            prop_assert_eq!(tallies.active(), entries(&buckets), "after {:?}", event);
        }
    }
}

#[test]
fn threads_that_change_the_same_entries_count_exactly() {
    const ROUNDS: u64 = 60_000;
    let (buckets, tallies) = (empty(), Tallies::default());
    thread::scope(|scope| {
        for number in 1..=8_u64 {
            let (buckets, tallies) = (&buckets, &tallies);
            scope.spawn(move || {
                let mut random = number;
                for round in 0..ROUNDS {
                    // xorshift64 (Marsaglia, *Xorshift RNGs*, 2003).
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let flow = random % 24;
                    let event = match random >> 32 & 15 {
                        0..=5 => Event::Packet(flow, Signal::Opens),
                        6..=8 => Event::Packet(flow, Signal::Continues),
                        9..=11 => Event::Packet(flow, Signal::Closes),
                        12..=13 => Event::Reschedule(flow, 1 + (random >> 40) as u32 % BACKENDS),
                        _ => Event::Forget(flow),
                    };
                    perform(event, buckets, tallies, FlowTime((1 << 52) + round * SECOND));
                }
            });
        }
    });
    assert_eq!(tallies.active(), entries(&buckets));
    assert!(tallies.0.iter().map(|tally| tally.load(SeqCst) >> 32).sum::<u64>() > ROUNDS / 2, "much has ended");
    for flow in 0..24 {
        perform(Event::Forget(flow), &buckets, &tallies, FlowTime(1 << 53));
    }
    assert_eq!(tallies.active(), [0; BACKENDS as usize + 1]);
}
