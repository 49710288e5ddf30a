//! Packets on several CPUs, and a sweeper, on the same few buckets at once: no entry is torn, lost, or there twice, and no flow
//! changes sides.
//!
//! The slots are all moving, and the flows all want one bucket. In each round they are all unknown, and every thread sends
//! packets of every flow, while the sweeper takes out entries of flows that come and go. Then everybody stops, and what is in
//! the table has to be right. A packet is in the datapath for a fraction of a microsecond, so the threads wait for each
//! other before each flow's first packet: in every other round it is the same flow for all of them, which make twins of it; in
//! the others they are different flows, which want the same free way.

use std::{
    fmt::Write as _,
    hint,
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
/// Besides the sweeper.
const THREADS: usize = 2;
/// So often everything is put to the test again before the whole table is looked at.
const ROUNDS_OF_A_LOOK: u64 = 64;

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
    /// It was there before its slot moved, and only one thread sends one packet of it.
    SeenOnce,
}

impl Role {
    const MIXED: [Self; 4] = [Self::Opens, Self::GoesOn, Self::Ambiguous, Self::ComesAndGoes];

    /// What one thread sends.
    fn packets(self, thread: usize, random: &mut Rng) -> Vec<Kind> {
        let opens = match self {
            Self::Opens | Self::ComesAndGoes => true,
            Self::GoesOn | Self::SeenOnce => false,
            Self::Ambiguous => thread.is_multiple_of(2),
        };
        let later: &[Kind] = match self {
            // Once it is forgotten, anything else would make it another flow.
            Self::ComesAndGoes => &[Kind::Syn],
            Self::Opens | Self::Ambiguous => &[Kind::Syn, Kind::Ack, Kind::Data, Kind::Fin, Kind::Rst],
            Self::GoesOn => &[Kind::Ack, Kind::Data, Kind::Fin, Kind::Rst],
            Self::SeenOnce => &[],
        };
        let first = if opens { Kind::Syn } else { Kind::Data };
        let count = if later.is_empty() { 0 } else { random.usize(..5) };
        std::iter::once(first).chain((0..count).map(|_| later[random.usize(..later.len())])).collect()
    }

    /// Who has to get every packet.
    const fn backend(self) -> Option<u16> {
        match self {
            Self::Opens | Self::ComesAndGoes => Some(TO),
            Self::GoesOn | Self::SeenOnce => Some(FROM),
            Self::Ambiguous => None,
        }
    }
}

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Plenty,
    /// One way for each.
    JustEnough,
    /// Three ways for all.
    Little,
}

impl Room {
    /// How many ways of the bucket are for the flows, if no others are.
    const fn ways(self) -> Option<usize> {
        match self {
            Self::Plenty => None,
            Self::JustEnough => Some(WAYS),
            Self::Little => Some(3),
        }
    }
}

struct Flow {
    client: Client,
    role: Role,
    /// Its packets: making them takes longer than sending them.
    frames: [(Kind, Vec<u8>); 5],
}

impl Flow {
    fn new(role: Role, random: &mut Rng) -> Self {
        let wants_bucket = |hash| buckets_of(SMALLEST, hash).contains(&BUCKET);
        let client = Client::with_hash(Protocol::Tcp, random, wants_bucket);
        let kinds = [Kind::Syn, Kind::Ack, Kind::Data, Kind::Fin, Kind::Rst];
        let frames = kinds.map(|kind| (kind, client.frame(kind)));
        Self { client, role, frames }
    }

    fn frame(&self, kind: Kind) -> &[u8] {
        self.frames.iter().find_map(|(it, frame)| (*it == kind).then_some(frame)).expect("it sends no others")
    }
}

/// What the threads have in common.
struct Stage<'a> {
    program: &'a Xdp,
    table: &'a FlowTable,
    flows: &'a [Flow],
    room: Room,
    barrier: Barrier,
    /// How often threads have waited for each other in this round.
    beats: AtomicUsize,
    /// How many threads are done with their packets.
    done: AtomicUsize,
    is_over: AtomicBool,
    round: AtomicU64,
    /// What is remembered of each flow after the packets of a round: zero is nothing.
    remembered: Vec<AtomicU16>,
    /// Flows that were not remembered, in all rounds.
    missing: AtomicU64,
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
        // The same for all threads.
        Rng::with_seed(seed ^ round).shuffle(&mut order);
        if round.is_multiple_of(2) || self.room == Room::JustEnough {
            order.rotate_left(thread * self.flows.len() / THREADS);
        }
        let mut random = Rng::with_seed(seed ^ round << 8 ^ thread as u64);
        let packets: Vec<Vec<Kind>> =
            order.iter().map(|number| self.flows[*number].role.packets(thread, &mut random)).collect();
        // With just enough room for all, everybody has flows of his own.
        let own = if self.room == Room::JustEnough { order.len() / THREADS } else { order.len() };
        for (beat, (number, kinds)) in order.iter().zip(&packets).take(own).enumerate() {
            self.wait_for_the_others(beat);
            // A little later than the others, or much later.
            let most = 1 << random.u32(..8);
            for _ in 0..random.u32(..most) {
                hint::spin_loop();
            }
            self.send(*number, kinds[0], round, problems);
        }
        for (number, kinds) in order.iter().zip(&packets) {
            for kind in &kinds[1..] {
                self.send(*number, *kind, round, problems);
            }
        }
    }

    fn send(&self, number: usize, kind: Kind, round: u64, problems: &mut String) {
        let flow = &self.flows[number];
        let reached = send(self.program, flow.frame(kind));
        let is_right = match reached {
            Reached::Backend(backend) if self.room == Room::Plenty => {
                flow.role.backend().is_none_or(|expected| backend == expected)
            }
            // A SYN for which there is no room goes to the backend of before.
            Reached::Backend(FROM) => true,
            Reached::Backend(TO) => !matches!(flow.role, Role::GoesOn | Role::SeenOnce),
            _ => false,
        };
        if !is_right {
            let _ = writeln!(problems, "round {round}: {kind:?} of {:?} flow {number} reached {reached:?}", flow.role);
        }
    }

    /// Comes back when all threads have come here for the time number `beat`.
    fn wait_for_the_others(&self, beat: usize) {
        self.beats.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0;
        while self.beats.load(Ordering::SeqCst) < (beat + 1) * THREADS {
            spins += 1;
            // Somebody may have no CPU at the moment.
            if spins % 1000 == 0 { thread::yield_now() } else { hint::spin_loop() }
        }
    }

    /// When the table is at rest, every packet goes where it says.
    fn send_again(&self, round: u64, problems: &mut String) {
        for (number, flow) in self.flows.iter().enumerate() {
            let remembered = self.remembered[number].load(Ordering::SeqCst);
            if remembered == 0 {
                continue;
            }
            let reached = send(self.program, flow.frame(Kind::Data));
            if reached != Reached::Backend(remembered) {
                let _ = writeln!(
                    problems,
                    "round {round}: {:?} flow {number} is remembered as one of {remembered} and reached {reached:?}",
                    flow.role
                );
            }
        }
    }

    /// Takes out flows that come and go, and confirms others, until all threads are done.
    fn sweep(&self) -> u64 {
        let mut swept = 0;
        while self.done.load(Ordering::SeqCst) < THREADS {
            for Flow { client, role, .. } in self.flows {
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
            // The CPUs are for the others.
            thread::sleep(Duration::from_micros(20));
        }
        swept
    }

    /// What is wrong with the table at rest. Fills in what is remembered.
    fn inspect(&self, strangers: &[(usize, u64)], round: u64) -> String {
        let mut problems = String::new();
        for (place, word) in strangers {
            let found = self.table.words()[*place].load(Ordering::SeqCst);
            if found != *word {
                let _ = writeln!(problems, "an entry that nobody may touch is now {:?}", Entry::of_word(found));
            }
        }
        let mut expected = strangers.len();
        for (number, Flow { client, role, .. }) in self.flows.iter().enumerate() {
            let ways = self.table.ways_of(client.hash).into_iter().flatten();
            let entries: Vec<Entry> = ways
                .filter_map(|way| Entry::of_word(way.load(Ordering::SeqCst)))
                .filter(|entry| entry.tag == tag(client.hash))
                .collect();
            expected += entries.len();
            let known = entries.first().map_or(0, |entry| entry.backend);
            self.remembered[number].store(known, Ordering::SeqCst);
            let allowed: &[u16] = match (role, self.room) {
                (Role::GoesOn | Role::SeenOnce, _) => &[FROM],
                // What goes on after a SYN that was refused is remembered as one of before.
                (Role::Ambiguous, _) | (Role::Opens, Room::JustEnough | Room::Little) => &[TO, FROM],
                (Role::Opens | Role::ComesAndGoes, _) => &[TO],
            };
            let may_be_missing = *role == Role::ComesAndGoes || self.room != Room::Plenty;
            self.missing.fetch_add(u64::from(entries.is_empty()), Ordering::SeqCst);
            let is_right = entries.iter().all(|entry| allowed.contains(&entry.backend))
                && (entries.len() == 1 || entries.is_empty() && may_be_missing);
            if !is_right {
                let _ = writeln!(problems, "{role:?} flow {number} is remembered as {entries:?}");
            }
        }
        if round.is_multiple_of(ROUNDS_OF_A_LOOK) {
            let all = self.table.entries().len();
            if all != expected {
                let _ = writeln!(problems, "there are {all} entries, of which {expected} are somebody's");
            }
        }
        problems
    }
}

/// Fills all ways but some with flows that have just been seen; where they stand.
fn crowd(table: &FlowTable, flows: &[Flow], free: usize) -> Vec<(usize, u64)> {
    let mut places: Vec<usize> = flows
        .iter()
        .flat_map(|flow| buckets_of(SMALLEST, flow.client.hash))
        .flat_map(|bucket| bucket * WAYS..(bucket + 1) * WAYS)
        .filter(|place| !(BUCKET * WAYS..BUCKET * WAYS + free).contains(place))
        .collect();
    places.sort_unstable();
    places.dedup();
    let stranger = |place: usize| Entry::new(0x66_0000_0000 + place as u64, 31, State::Established, START).to_word();
    let words = table.words();
    let put = |place: usize| {
        words[place].store(stranger(place), Ordering::SeqCst);
        (place, stranger(place))
    };
    places.into_iter().map(put).collect()
}

/// Twenty-four flows of all roles, or one for each way.
fn flows(room: Room) -> Vec<Flow> {
    let mut random = Rng::with_seed(3);
    let roles = match room {
        Room::JustEnough => [Role::SeenOnce; WAYS].to_vec(),
        Room::Plenty | Room::Little => Role::MIXED.repeat(6),
    };
    roles.into_iter().map(|role| Flow::new(role, &mut random)).collect()
}

fn check(room: Room) {
    let Some(mut datapath) = Datapath::load() else { return };
    let duration = Duration::from_secs(if is_long() { 120 } else { 2 });
    let seed = history::seed();
    let flows = flows(room);
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
        beats: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        is_over: AtomicBool::new(false),
        round: AtomicU64::new(0),
        remembered: flows.iter().map(|_| AtomicU16::new(0)).collect(),
        missing: AtomicU64::new(0),
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
            for way in flows.iter().flat_map(|flow| table.ways_of(flow.client.hash)).flatten() {
                way.store(0, Ordering::SeqCst);
            }
            let strangers = room.ways().map_or_else(Vec::new, |free| crowd(table, &flows, free));
            let round = stage.round.fetch_add(1, Ordering::SeqCst) + 1;
            stage.beats.store(0, Ordering::SeqCst);
            stage.done.store(0, Ordering::SeqCst);
            stage.barrier.wait();
            swept += stage.sweep();
            stage.barrier.wait();
            problems += &stage.inspect(&strangers, round);
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
    let missing = stage.missing.load(Ordering::SeqCst);
    let counted = datapath.counted();
    let rose = |event| counted.of(event) - before.of(event);
    // Both threads missed the flow, and one of them remembered it.
    let twins = rose(Tracking::Miss) - rose(Tracking::Remembered) - rose(Tracking::Full);
    println!("{rounds} rounds, {twins} twins, {swept} entries swept or confirmed, {missing} not remembered");
    assert!(problems.is_empty(), "after {rounds} rounds:\n{problems}{counted:?}");
    assert!(rose(Tracking::Hit) > 0 && rose(Tracking::Remembered) > 0 && swept > 0, "{counted:?}");
    match room {
        Room::Plenty => assert_eq!(rose(Tracking::Full) + rose(Tracking::Evicted), 0, "there is room: {counted:?}"),
        Room::JustEnough => {
            assert_eq!(rose(Tracking::Evicted), 0, "there is a way for each: {counted:?}");
            assert!(missing <= rose(Tracking::Full), "{missing} flows are lost: {counted:?}");
        }
        Room::Little => assert!(rose(Tracking::Full) > 0 && rose(Tracking::Evicted) > 0, "it is full: {counted:?}"),
    }
}

#[test]
fn on_all_cpus_at_once_no_flow_is_lost_or_remembered_twice_or_changes_sides() {
    check(Room::Plenty);
}

#[test]
fn on_all_cpus_at_once_every_flow_gets_a_way_of_its_own() {
    check(Room::JustEnough);
}

#[test]
fn on_all_cpus_at_once_a_full_table_keeps_what_it_has() {
    check(Room::Little);
}
