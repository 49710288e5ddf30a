//! Threads in the place of CPUs, all at the same few buckets. `LB_LONG=1` lets them run for two minutes.

use std::{
    env, format,
    string::String,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::*;

const THREADS: u64 = 16;
const PAIRS: usize = 2;
/// Flows of each pair of buckets, and how many of them last: fewer than there are ways, so that each finds one.
const FLOWS: u64 = 24;
const LASTING: u64 = 8;
const IDLE_TICKS: u8 = 250;

/// Buckets, flows, and a clock that each operation moves on.
struct Arena {
    pairs: [[[AtomicU64; WAYS]; 2]; PAIRS],
    clock: AtomicU64,
    /// Which of the lasting flows have been inserted.
    inserted: [[AtomicBool; LASTING as usize]; PAIRS],
}

#[derive(Clone, Copy)]
struct Flow {
    pair: usize,
    number: u64,
}

impl Flow {
    fn random(random: &mut Random) -> Self {
        Self { pair: random.below(PAIRS as u64) as usize, number: random.below(FLOWS) }
    }

    fn tag(self) -> FlowTag {
        FlowTag((self.pair as u64) << 20 | self.number)
    }

    /// Follows from the tag, so that a mixture of two entries shows.
    fn backend(self) -> BackendId {
        backend(1 + (self.tag().0.wrapping_mul(0x9e37_79b9) >> 7) as u32 % 30_000)
    }

    fn is_lasting(self) -> bool {
        self.number < LASTING
    }

    fn of(entry: FlowEntry) -> Self {
        Self { pair: (entry.tag().0 >> 20) as usize, number: entry.tag().0 & 0xfffff }
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

impl Arena {
    fn new() -> Self {
        Self {
            pairs: [const { [const { [const { AtomicU64::new(0) }; WAYS] }; 2] }; PAIRS],
            clock: AtomicU64::new(1 << 50),
            inserted: [const { [const { AtomicBool::new(false) }; LASTING as usize] }; PAIRS],
        }
    }

    fn now(&self) -> FlowTime {
        FlowTime(self.clock.fetch_add(SECOND / 50_000, Ordering::Relaxed))
    }

    fn buckets(&self, flow: Flow) -> [&[AtomicU64; WAYS]; 2] {
        self.pairs[flow.pair].each_ref()
    }

    fn find(&self, flow: Flow) -> Option<(&[AtomicU64; WAYS], usize, FlowEntry)> {
        self.buckets(flow).into_iter().find_map(|bucket| {
            let (way, entry) = bucket.find(flow.tag())?;
            Some((bucket, way, entry))
        })
    }

    /// A packet of a flow, as in the datapath.
    fn packet(&self, flow: Flow, signal: Signal) -> Result<(), String> {
        let has_been_inserted =
            flow.is_lasting() && self.inserted[flow.pair][flow.number as usize].load(Ordering::SeqCst);
        let now = self.now();
        // While two entries of a flow become one, it may not be seen for a moment.
        let found = (0..3).find_map(|_| self.find(flow));
        if let Some((bucket, way, entry)) = found {
            check(entry)?;
            bucket.replace(way, entry, entry.after(signal, now));
            return Ok(());
        }
        if has_been_inserted {
            return Err(format!("flow {} of pair {} is missing", flow.number, flow.pair));
        }
        let state = match signal {
            _ if flow.is_lasting() => FlowState::Established,
            Signal::Opens => FlowState::Opening,
            _ => FlowState::Sighted,
        };
        let entry = FlowEntry::new(flow.tag(), flow.backend(), state, now);
        match insert(self.buckets(flow), entry, now, IDLE_TICKS) {
            Inserted::Existing(twin) => check(twin)?,
            Inserted::New { .. } => {}
            Inserted::Full => return Ok(()),
        }
        if flow.is_lasting() {
            self.inserted[flow.pair][flow.number as usize].store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// What the daemon does.
    fn expire(&self, random: &mut Random) -> Result<(), String> {
        for bucket in self.pairs.as_flattened() {
            for way in 0..WAYS {
                let entry = bucket.load(way);
                if !entry.is_free() {
                    check(entry)?;
                    if !Flow::of(entry).is_lasting() && random.below(2) == 0 {
                        bucket.replace(way, entry, FlowEntry::FREE);
                    }
                }
            }
        }
        Ok(())
    }

    /// What one thread does until `end`.
    fn run(&self, number: u64, end: Instant) -> Result<(), String> {
        let mut random = Random(number);
        while Instant::now() < end {
            for _ in 0..1000 {
                let flow = Flow::random(&mut random);
                let signal = match random.below(8) {
                    0 | 1 => Signal::Opens,
                    // One that ends does not last.
                    2 if !flow.is_lasting() => Signal::Closes,
                    _ => Signal::Continues,
                };
                self.packet(flow, signal)?;
                if random.below(64) == 0 {
                    self.expire(&mut random)?;
                }
            }
        }
        Ok(())
    }

    /// The flows of an arena where nothing happens any more.
    fn check_all(&self) -> Result<(), String> {
        for (pair, buckets) in self.pairs.iter().enumerate() {
            for number in 0..FLOWS {
                let flow = Flow { pair, number };
                let entries = buckets.as_flattened().iter().map(|way| FlowEntry::from_bits(way.load(Ordering::SeqCst)));
                let entries: Vec<_> = entries.filter(|entry| entry.is(flow.tag())).collect();
                entries.iter().try_for_each(|entry| check(*entry))?;
                let has_been_inserted =
                    flow.is_lasting() && self.inserted[pair][number as usize].load(Ordering::SeqCst);
                if entries.len() > 1 || has_been_inserted && entries.is_empty() {
                    return Err(format!("flow {number} of pair {pair} is there {} times: {entries:?}", entries.len()));
                }
            }
        }
        Ok(())
    }
}

fn check(entry: FlowEntry) -> Result<(), String> {
    let flow = Flow::of(entry);
    if flow.pair >= PAIRS || flow.number >= FLOWS || entry.backend() != flow.backend() {
        return Err(format!("{entry:?} is a mixture"));
    }
    Ok(())
}

fn how_long() -> Duration {
    Duration::from_secs(if env::var_os("LB_LONG").is_some() { 120 } else { 1 })
}

/// Many short lives rather than a long one, since each begins with all flows being inserted at once.
#[test]
fn no_flow_is_lost_or_doubled_or_mixed_up_with_another_while_all_cpus_change_the_same_buckets() {
    let end = Instant::now() + how_long();
    let life = Duration::from_millis(20);
    while Instant::now() < end {
        let arena = Arena::new();
        let until = Instant::now() + life;
        let results = thread::scope(|scope| {
            let arena = &arena;
            let threads: Vec<_> = (1..=THREADS).map(|number| scope.spawn(move || arena.run(number, until))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        for result in results {
            assert_eq!(result, Ok(()));
        }
        assert_eq!(arena.check_all(), Ok(()));
    }
}

/// Where two threads wait for each other, awake.
struct Meeting(AtomicU64);

impl Meeting {
    fn wait(&self) {
        let arrived = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        let both = arrived.next_multiple_of(2);
        let mut patience = 0..1000;
        while self.0.load(Ordering::SeqCst) < both {
            // The other one may have no CPU to run on.
            if patience.next().is_none() {
                thread::yield_now();
            }
        }
    }
}

#[test]
fn of_a_flow_that_two_cpus_insert_at_once_one_entry_is_left_and_both_know_which() {
    let now = FlowTime(1 << 50);
    let end = Instant::now() + how_long();
    let (meeting, is_over) = (Meeting(AtomicU64::new(0)), AtomicBool::new(false));
    let buckets = [empty_bucket(), empty_bucket()];
    let [first, second] = &buckets;
    // Flows that end, the oldest in another way each time.
    let prepare = |round: u64| {
        for (way, number) in buckets.as_flattened().iter().zip(0..) {
            let seen = FlowTime(now.0 - (number * 5 + round) % 16 * SHORT_TICK);
            let ending = FlowEntry::new(FlowTag(100 + number), backend(9), FlowState::Closing, seen);
            way.store(ending.to_bits(), Ordering::SeqCst);
        }
        is_over.store(Instant::now() > end, Ordering::SeqCst);
    };
    let entries = || buckets.as_flattened().iter().map(|way| FlowEntry::from_bits(way.load(Ordering::SeqCst)));
    let insert_as = |owner: u32| {
        let entry = FlowEntry::new(FlowTag(7), backend(owner), FlowState::Opening, now);
        let mut wrong = 0;
        for round in 0.. {
            if owner == 1 {
                prepare(round);
            }
            meeting.wait();
            if is_over.load(Ordering::SeqCst) {
                break;
            }
            let said = match insert([first, second], entry, now, IDLE_TICKS) {
                Inserted::Existing(twin) => twin,
                Inserted::New { .. } => entry,
                Inserted::Full => panic!("there is room"),
            };
            meeting.wait();
            let left: Vec<_> = entries().filter(|entry| entry.is(FlowTag(7))).collect();
            wrong += u64::from(left != [said]);
            meeting.wait();
        }
        wrong
    };
    let wrong = thread::scope(|scope| {
        let other = scope.spawn(|| insert_as(2));
        [insert_as(1), other.join().unwrap()]
    });
    assert_eq!(wrong, [0, 0]);
}
