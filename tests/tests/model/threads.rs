//! Packets on several CPUs, and a sweeper, on the same few buckets at once: no entry is torn, lost, or there twice, and no flow
//! changes sides.
//!
//! The slots are all moving, and the flows all want one bucket. In each round they are all unknown, and every thread sends
//! packets of every flow, at the same time as the others, while the sweeper takes out entries of flows that come and go. Then
//! everybody stops, and what is in the table has to be right.

use std::{
    fmt::Write as _,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use aya::programs::Xdp;
use fastrand::Rng;
use lb_common::Tracking;

use crate::{
    clients::{Client, Kind, Protocol},
    datapath::{Datapath, Reached, START, send},
    flow_table::{Entry, FlowTable, SMALLEST, State, WAYS, buckets_of, tag},
    history, is_long,
    rules::Slot,
};

/// The backends of the slots: of new flows, and of those before.
const TO: u16 = 1;
const FROM: u16 = 2;
/// The bucket that all flows want.
const BUCKET: usize = 0x1234;
const THREADS: usize = 3;

/// How a flow is sent, by each thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It begins with a SYN.
    Opens,
    /// It was there before its slot moved.
    GoesOn,
    /// Half of the threads begin with a SYN, and half of them do not.
    Ambiguous,
    /// It begins with a SYN, and the sweeper takes it out at any time.
    ComesAndGoes,
}

impl Role {
    const ALL: [Self; 4] = [Self::Opens, Self::GoesOn, Self::Ambiguous, Self::ComesAndGoes];

    /// What one thread sends.
    fn packets(self, thread: usize, random: &mut Rng) -> Vec<Kind> {
        let opens = match self {
            Self::Opens | Self::ComesAndGoes => true,
            Self::GoesOn => false,
            Self::Ambiguous => thread.is_multiple_of(2),
        };
        let later: &[Kind] = match self {
            // Once it is forgotten, anything else would make it another flow.
            Self::ComesAndGoes => &[Kind::Syn],
            Self::Opens | Self::Ambiguous => &[Kind::Syn, Kind::Ack, Kind::Data, Kind::Fin, Kind::Rst],
            Self::GoesOn => &[Kind::Ack, Kind::Data, Kind::Fin, Kind::Rst],
        };
        let first = if opens { Kind::Syn } else { Kind::Data };
        let count = random.usize(..5);
        std::iter::once(first).chain((0..count).map(|_| later[random.usize(..later.len())])).collect()
    }

    /// Who has to get every packet.
    const fn backend(self) -> Option<u16> {
        match self {
            Self::Opens | Self::ComesAndGoes => Some(TO),
            Self::GoesOn => Some(FROM),
            Self::Ambiguous => None,
        }
    }
}

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Plenty,
    /// Three ways for all.
    Little,
}

struct Flow {
    client: Client,
    role: Role,
}

/// What the threads have in common.
struct Stage<'a> {
    program: &'a Xdp,
    table: &'a FlowTable,
    flows: &'a [Flow],
    room: Room,
    barrier: Barrier,
    /// How many threads are done with their packets.
    done: AtomicUsize,
    is_over: AtomicBool,
    round: AtomicU64,
    /// What is remembered of each flow after the packets of a round: zero is nothing.
    remembered: Vec<AtomicU16>,
}

impl Stage<'_> {
    /// One CPU. What went wrong, in words.
    fn run(&self, thread: usize, seed: u64) -> String {
        let mut problems = String::new();
        loop {
            self.barrier.wait();
            if self.is_over.load(Ordering::SeqCst) {
                return problems;
            }
            let round = self.round.load(Ordering::SeqCst);
            self.send_all(thread, round, seed, &mut problems);
            self.done.fetch_add(1, Ordering::SeqCst);
            // The sweeper stops, and looks.
            self.barrier.wait();
            self.barrier.wait();
            self.send_again(round, &mut problems);
            self.barrier.wait();
        }
    }

    fn send_all(&self, thread: usize, round: u64, seed: u64, problems: &mut String) {
        let mut order: Vec<usize> = (0..self.flows.len()).collect();
        // Sometimes all threads follow each other closely, sometimes they do not.
        Rng::with_seed(seed ^ round).shuffle(&mut order);
        let mut random = Rng::with_seed(seed ^ round << 8 ^ thread as u64);
        if round.is_multiple_of(2) {
            random.shuffle(&mut order);
        }
        for number in order {
            let Flow { client, role } = &self.flows[number];
            for kind in role.packets(thread, &mut random) {
                let reached = send(self.program, &client.frame(kind));
                let is_right = match reached {
                    Reached::Backend(backend) if self.room == Room::Plenty => {
                        role.backend().is_none_or(|expected| backend == expected)
                    }
                    // A SYN for which there is no room goes to the backend of before.
                    Reached::Backend(FROM) => true,
                    Reached::Backend(TO) => *role != Role::GoesOn,
                    _ => false,
                };
                if !is_right {
                    let _ = writeln!(problems, "round {round}: {kind:?} of {role:?} flow {number} reached {reached:?}");
                }
            }
        }
    }

    /// When the table is at rest, every packet goes where it says.
    fn send_again(&self, round: u64, problems: &mut String) {
        for (number, Flow { client, role }) in self.flows.iter().enumerate() {
            let remembered = self.remembered[number].load(Ordering::SeqCst);
            if remembered == 0 {
                continue;
            }
            let reached = send(self.program, &client.frame(Kind::Data));
            if reached != Reached::Backend(remembered) {
                let _ = writeln!(
                    problems,
                    "round {round}: {role:?} flow {number} is remembered as one of {remembered} and reached {reached:?}"
                );
            }
        }
    }

    /// Takes out flows that come and go, and confirms others, until all threads are done.
    fn sweep(&self) -> u64 {
        let mut swept = 0;
        while self.done.load(Ordering::SeqCst) < THREADS {
            for Flow { client, role } in self.flows {
                for way in self.table.ways_of(client.hash).into_iter().flatten() {
                    let word = way.load(Ordering::SeqCst);
                    let Some(entry) = Entry::of_word(word).filter(|entry| entry.tag == tag(client.hash)) else {
                        continue;
                    };
                    let new = match role {
                        Role::ComesAndGoes => 0,
                        _ if entry.state == State::Sighted => Entry { state: State::Established, ..entry }.to_word(),
                        _ => continue,
                    };
                    swept += u64::from(way.compare_exchange(word, new, Ordering::SeqCst, Ordering::SeqCst).is_ok());
                }
            }
            thread::yield_now();
        }
        swept
    }

    /// What is wrong with the table at rest. Fills in what is remembered.
    fn inspect(&self, strangers: &[(usize, u64)]) -> String {
        let mut problems = String::new();
        for (place, word) in strangers {
            let found = self.table.words()[*place].load(Ordering::SeqCst);
            if found != *word {
                let _ = writeln!(problems, "an entry that nobody may touch is now {:?}", Entry::of_word(found));
            }
        }
        let mut expected = strangers.len();
        for (number, Flow { client, role }) in self.flows.iter().enumerate() {
            let ways = self.table.ways_of(client.hash).into_iter().flatten();
            let entries: Vec<Entry> = ways
                .filter_map(|way| Entry::of_word(way.load(Ordering::SeqCst)))
                .filter(|entry| entry.tag == tag(client.hash))
                .collect();
            expected += entries.len();
            let known = entries.first().map_or(0, |entry| entry.backend);
            self.remembered[number].store(known, Ordering::SeqCst);
            let allowed: &[u16] = match (role, self.room) {
                (Role::GoesOn, _) => &[FROM],
                // What goes on after a SYN that was refused is remembered as one of before.
                (Role::Ambiguous, _) | (Role::Opens, Room::Little) => &[TO, FROM],
                (Role::Opens | Role::ComesAndGoes, _) => &[TO],
            };
            let may_be_missing = *role == Role::ComesAndGoes || self.room == Room::Little;
            let is_right = entries.iter().all(|entry| allowed.contains(&entry.backend))
                && (entries.len() == 1 || entries.is_empty() && may_be_missing);
            if !is_right {
                let _ = writeln!(problems, "{role:?} flow {number} is remembered as {entries:?}");
            }
        }
        let all = self.table.entries().len();
        if all != expected {
            let _ = writeln!(problems, "there are {all} entries, of which {expected} are somebody's");
        }
        problems
    }
}

/// Fills all ways but three with flows that have just been seen; where they stand.
fn crowd(table: &FlowTable, flows: &[Flow], now: u64) -> Vec<(usize, u64)> {
    let mut places: Vec<usize> = flows
        .iter()
        .flat_map(|flow| buckets_of(SMALLEST, flow.client.hash))
        .flat_map(|bucket| bucket * WAYS..(bucket + 1) * WAYS)
        .filter(|place| !(BUCKET * WAYS..BUCKET * WAYS + 3).contains(place))
        .collect();
    places.sort_unstable();
    places.dedup();
    let stranger = |place: usize| Entry::new(0x66_0000_0000 + place as u64, 31, State::Established, now).to_word();
    let words = table.words();
    let put = |place: usize| {
        words[place].store(stranger(place), Ordering::SeqCst);
        (place, stranger(place))
    };
    places.into_iter().map(put).collect()
}

fn flows() -> Vec<Flow> {
    const OF_EACH_ROLE: usize = 10;
    let mut random = Rng::with_seed(3);
    let wants_bucket = |hash| buckets_of(SMALLEST, hash).contains(&BUCKET);
    let mut flow = |role| Flow { client: Client::with_hash(Protocol::Tcp, &mut random, wants_bucket), role };
    (0..OF_EACH_ROLE).flat_map(|_| Role::ALL).map(&mut flow).collect()
}

fn check(room: Room) {
    let Some(mut datapath) = Datapath::load() else { return };
    let duration = Duration::from_secs(if is_long() { 120 } else { 2 });
    let seed = history::seed();
    let flows = flows();
    for flow in &flows {
        datapath.set_slot(Protocol::Tcp, flow.client.slot(), Slot::Moving { to: TO, from: FROM }.word());
    }
    let before = datapath.counted();
    let (program, table) = datapath.parts();
    let stage = Stage {
        program,
        table,
        flows: &flows,
        room,
        barrier: Barrier::new(THREADS + 1),
        done: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
        round: AtomicU64::new(0),
        remembered: flows.iter().map(|_| AtomicU16::new(0)).collect(),
    };
    let mut problems = String::new();
    let mut swept = 0;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn({
                    let stage = &stage;
                    move || stage.run(thread, seed)
                })
            })
            .collect();
        let start = Instant::now();
        while start.elapsed() < duration && problems.is_empty() {
            table.clear();
            let strangers = if room == Room::Little { crowd(table, &flows, START) } else { Vec::new() };
            stage.round.fetch_add(1, Ordering::SeqCst);
            stage.done.store(0, Ordering::SeqCst);
            stage.barrier.wait();
            swept += stage.sweep();
            stage.barrier.wait();
            problems += &stage.inspect(&strangers);
            stage.barrier.wait();
            stage.barrier.wait();
        }
        stage.is_over.store(true, Ordering::SeqCst);
        stage.barrier.wait();
        for thread in threads {
            problems += &thread.join().expect("no thread panics");
        }
    });
    let rounds = stage.round.load(Ordering::SeqCst);
    println!("{rounds} rounds, {swept} entries swept or confirmed");
    let after = datapath.counted();
    let rose = |event| {
        let count =
            |counted: &[(Tracking, u64)]| counted.iter().find(|(it, _)| *it == event).map_or(0, |(_, count)| *count);
        count(&after.tracking) - count(&before.tracking)
    };
    let lost = rose(Tracking::Full) + rose(Tracking::Evicted);
    assert!(problems.is_empty(), "after {rounds} rounds:\n{problems}{:?}", after.tracking);
    assert!(rose(Tracking::Hit) > 0 && rose(Tracking::Remembered) > 0 && swept > 0, "{:?}", after.tracking);
    assert_eq!(lost > 0, room == Room::Little, "the table is full where it has to be: {:?}", after.tracking);
}

#[test]
fn on_all_cpus_at_once_no_flow_is_lost_or_remembered_twice_or_changes_sides() {
    check(Room::Plenty);
}

#[test]
fn on_all_cpus_at_once_a_full_table_keeps_what_it_has() {
    check(Room::Little);
}
