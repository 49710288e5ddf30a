//! The daemon's side of the table, without a datapath.

use std::{net::Ipv4Addr, sync::atomic::Ordering, time::Duration};

use lb_common::{
    BackendId, FlowHash, FlowState, FlowTime, RowIndex, Service, ServiceId,
    flow_table::{BucketBits, MIN_BUCKET_BITS},
    nat::{Claim, Index, NatRecord, NatState, Phase, RecordIndex, ReverseWord, claim, forward_word},
};

use super::{NatSweep, NatTable, sweep_nat};
use crate::{
    config::NatTimeouts,
    dataplane::{FlowTable, Words, flow_time, sweep},
    model::{Replies, Subject},
};

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_000_000 * SECOND;
const IDLE: u64 = 300;

fn backend(number: u32) -> BackendId {
    BackendId::truncate(number)
}

fn hash(seed: u64) -> FlowHash {
    FlowHash(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// A table, and two backends with rows, of which the service has the first.
struct World {
    table: NatTable,
    words: Words,
    subjects: Vec<Subject>,
}

impl World {
    fn new() -> Self {
        let words = Words::in_memory().unwrap();
        words.store_row(backend(1), RowIndex(1));
        words.store_row(backend(2), RowIndex(2));
        let subject = Subject {
            service: Service::default(),
            idle_timeout: Duration::from_secs(IDLE),
            is_limited: false,
            backends: vec![backend(1)],
            nat: Some(NatTimeouts::default()),
            slots: None,
        };
        let table = NatTable::in_memory(BucketBits::new(MIN_BUCKET_BITS).unwrap()).unwrap();
        Self { table, words, subjects: vec![subject] }
    }

    /// Makes a flow as the datapath does.
    fn open(&self, number: u64, owner: u32, phase: Phase, idle: u64) -> RecordIndex {
        let [flow, reply] = [number, !number].map(hash);
        let at = self.claim(Index::FORWARD, flow, forward_word(flow)).unwrap();
        let reverse = self.claim(Index::REVERSE, reply, ReverseWord::new(reply, at).to_bits()).unwrap();
        let state = NatState::new(backend(owner), phase, FlowTime(NOW - idle * SECOND));
        let client = Ipv4Addr::LOCALHOST.into();
        self.table.write(at, NatRecord { state, hash: flow.0, client, reverse, ..NatRecord::default() });
        at
    }

    /// Where the word got a place, if there was room.
    fn claim(&self, index: Index, hash: FlowHash, word: u64) -> Option<RecordIndex> {
        let buckets = self.table.bits().buckets_of(hash);
        match claim(index, self.table.pair(index, buckets), word) {
            Claim::At(place) => {
                let place = u32::try_from(place).unwrap();
                Some(RecordIndex(buckets[place as usize / 8] * 8 + place % 8))
            }
            Claim::Full => None,
            Claim::Taken => panic!("two have the same hash"),
        }
    }

    /// Gives the record of a flow another port, as the datapath does when its client uses its own again. The one that it had.
    fn use_again(&self, at: RecordIndex, number: u64) -> RecordIndex {
        let before = self.table.record(at).reverse;
        assert!(self.try_use_again(at, number), "there is no room");
        before
    }

    /// The same, if there is room.
    fn try_use_again(&self, at: RecordIndex, number: u64) -> bool {
        let (record, reply) = (self.table.record(at), hash(number));
        let claimed = self.claim(Index::REVERSE, reply, ReverseWord::new(reply, at).to_bits());
        if let Some(reverse) = claimed {
            self.table.write(at, NatRecord { reverse, ..record });
        }
        claimed.is_some()
    }

    fn is_taken(&self, port: RecordIndex) -> bool {
        self.table.reverse_places().nth(port.0 as usize).unwrap()
    }

    /// Sweeps after so many seconds, and says whether the port has to be held then.
    fn check_held(&self, port: RecordIndex, expected: &[(u64, bool)]) {
        for (seconds, is_held) in expected {
            self.sweep_after(*seconds);
            assert_eq!(self.is_taken(port), *is_held, "after {seconds} s");
        }
    }

    fn sweep(&self) -> NatSweep {
        self.sweep_after(0)
    }

    fn sweep_after(&self, seconds: u64) -> NatSweep {
        sweep_nat(&self.table, &self.words, &self.subjects, || FlowTime(NOW + seconds * SECOND))
    }
}

#[test]
fn all_flows_of_a_service_can_be_ended_and_their_ports_are_free_at_once() {
    let world = World::new();
    let its = world.open(1, 1, Phase::REPLIED, 0);
    let others = world.open(2, 1, Phase::REPLIED, 0);
    world.table.write(its, NatRecord { service: 7, ..world.table.record(its) });
    assert_eq!(world.table.end_all_of(ServiceId::new(7).unwrap()), 1);
    assert_eq!(world.table.end_all_of(ServiceId::new(7).unwrap()), 0);
    assert_eq!(world.table.flows().map(|(at, _)| at).collect::<Vec<_>>(), [others]);
    let reverse = world.table.record(its).reverse;
    assert_eq!(world.table.reverse_words()[reverse.0 as usize].load(Ordering::Relaxed), Index::OVER);
    assert_eq!(world.sweep().freed, 1);
    // The same flow finds room again.
    world.open(1, 1, Phase::REPLIED, 0);
}

#[test]
fn a_sweep_tells_entries_of_the_flow_table_from_flows_that_are_translated() {
    let mut world = World::new();
    let table = FlowTable::in_memory(BucketBits::new(MIN_BUCKET_BITS).unwrap()).unwrap();
    table.insert(FlowHash(1), backend(1), FlowState::Established, flow_time(), 10);
    for number in 2..4 {
        let at = world.open(number, 1, Phase::REPLIED, 0);
        let record = world.table.record(at);
        world.table.write(at, NatRecord { state: NatState::new(backend(1), Phase::REPLIED, flow_time()), ..record });
    }
    let found = sweep(&table, Some(&world.table), &world.words, &mut world.subjects);
    assert_eq!((found.entries, found.nat.unwrap().taken), (1, 2));
    assert_eq!(found.flows[&backend(1)].iter().sum::<u32>(), 3, "all of them are the backend's");
}

#[test]
fn a_flow_lives_as_long_as_its_phase_says() {
    let timeouts = NatTimeouts::default();
    for (phase, lifetime, counts_as) in [
        (Phase::OPENING, timeouts.opening.as_secs(), FlowState::Opening),
        (Phase::ANSWERED, timeouts.opening.as_secs(), FlowState::Opening),
        (Phase::SIGHTED, timeouts.opening.as_secs(), FlowState::Opening),
        (Phase::ESTABLISHED, IDLE, FlowState::Established),
        (Phase::CLIENT_CLOSED, timeouts.half_closed.as_secs(), FlowState::Established),
        (Phase::BACKEND_CLOSED, timeouts.half_closed.as_secs(), FlowState::Established),
        (Phase::TIME_WAIT, timeouts.time_wait.as_secs(), FlowState::Closing),
        (Phase::RESET, timeouts.reset.as_secs(), FlowState::Closing),
        (Phase::UNREPLIED, timeouts.unreplied.as_secs(), FlowState::Opening),
        (Phase::REPLIED, IDLE, FlowState::Established),
    ] {
        let world = World::new();
        world.open(1, 1, phase, lifetime - 2);
        world.open(2, 1, phase, lifetime + 2);
        let found = world.sweep();
        let mut counts = [0; FlowState::ALL.len()];
        counts[counts_as as usize] = 1;
        assert_eq!((found.freed, found.flows[&backend(1)]), (1, counts), "{phase:?}");
    }
}

#[test]
fn where_backends_have_limits_no_handshake_uses_them_up_for_long() {
    let mut world = World::new();
    let [waits, _] = [9, 12].map(|idle| world.open(idle, 1, Phase::OPENING, idle));
    assert_eq!(world.sweep().freed, 0);
    world.subjects[0].is_limited = true;
    assert_eq!(world.sweep().freed, 1);
    assert_eq!(world.table.taken_places().collect::<Vec<_>>(), [waits]);
}

#[test]
fn of_a_flow_that_is_over_nothing_is_left_in_either_index() {
    let world = World::new();
    let at = world.open(1, 1, Phase::RESET, 1000);
    let stays = world.open(2, 1, Phase::ESTABLISHED, 0);
    assert_eq!(world.table.taken_places().count(), 2);
    world.sweep();
    assert_eq!(world.table.taken_places().collect::<Vec<_>>(), [stays]);
    assert_eq!(world.table.record(at).state, NatState::FREE);
    let reverse: Vec<u64> = world.table.reverse_words().iter().map(|word| word.load(Ordering::Relaxed)).collect();
    assert_eq!(reverse.iter().filter(|word| **word != Index::FREE).count(), 1);
    // The place and the keys can be had again.
    assert_eq!(world.open(1, 1, Phase::OPENING, 0), at);
    assert_eq!(world.table.taken(), 1, "as of the sweep");
}

#[test]
fn the_port_of_a_connection_whose_client_has_opened_another_is_held_until_the_backend_has_forgotten_it() {
    let time_wait = NatTimeouts::default().time_wait.as_secs();
    let world = World::new();
    let at = world.open(1, 1, Phase::ESTABLISHED, 0);
    let port = world.use_again(at, 100);
    for seconds in [0, 1, time_wait - 1] {
        world.sweep_after(seconds);
        assert!(world.is_taken(port), "after {seconds} s");
        let usage = world.sweep_after(seconds).usage;
        assert_eq!((usage.taken, usage.held), (1, 1), "two places, one flow");
    }
    // In the middle of a round.
    let later = world.use_again(at, 101);
    world.sweep_after(time_wait);
    assert!(!world.is_taken(port) && world.is_taken(later));
    world.sweep_after(2 * time_wait - 1);
    assert!(world.is_taken(later));
    world.sweep_after(2 * time_wait);
    assert!(!world.is_taken(later) && world.is_taken(world.table.record(at).reverse), "that is in use");
}

#[test]
fn a_port_that_its_client_has_again_is_not_freed() {
    let world = World::new();
    let at = world.open(1, 1, Phase::ESTABLISHED, 0);
    let port = world.use_again(at, 100);
    assert!((0..2).all(|seconds| world.sweep_after(seconds).freed == 0));
    let other = world.table.record(at).reverse;
    world.table.write(at, NatRecord { reverse: port, ..world.table.record(at) });
    assert!(!world.table.release(port));
    world.sweep_after(60);
    world.sweep_after(120);
    assert!(world.is_taken(port) && !world.is_taken(other));
}

#[test]
fn a_port_that_was_in_use_meanwhile_is_held_anew() {
    let world = World::new();
    let at = world.open(1, 1, Phase::ESTABLISHED, 0);
    let port = world.use_again(at, 100);
    world.sweep_after(0);
    let held = world.table.record(at);
    world.table.write(at, NatRecord { reverse: port, ..held });
    world.sweep_after(10);
    world.table.write(at, held);
    world.check_held(port, &[(20, true), (60, true), (119, true), (120, false)]);
}

#[test]
fn a_port_is_held_though_the_flow_after_is_over_and_its_place_free() {
    let world = World::new();
    let at = world.open(1, 1, Phase::RESET, 1000);
    let port = world.use_again(at, 100);
    world.check_held(port, &[(0, true), (59, true), (60, false)]);
    assert_eq!(world.table.taken_places().count(), 0);
}

#[test]
fn a_port_is_held_for_as_long_as_the_service_that_waits_longest_says() {
    let mut world = World::new();
    let minutes = |minutes| NatTimeouts { time_wait: Duration::from_mins(minutes), ..NatTimeouts::default() };
    let subject =
        |nat| Subject { nat, service: Service::default(), backends: Vec::new(), slots: None, ..world.subjects[0] };
    let others = [None, Some(minutes(2)), Some(minutes(1))].map(subject);
    world.subjects.extend(others);
    let at = world.open(1, 1, Phase::ESTABLISHED, 0);
    let port = world.use_again(at, 100);
    world.check_held(port, &[(0, true), (119, true), (120, false)]);
}

/// A port that is held is not so dear that flows end sooner for it.
#[test]
fn when_the_table_fills_up_with_held_ports_they_are_held_for_a_shorter_time_and_flows_live_on() {
    let world = World::new();
    let at = world.open(1, 1, Phase::ESTABLISHED, 0);
    let closed = world.open(2, 1, Phase::TIME_WAIT, 0);
    let entries = world.table.bits().entries();
    let first = world.use_again(at, 100);
    // Some find no room.
    let many = (101..).map_while(|number| (number < entries * 4 / 5 + 100).then(|| world.try_use_again(at, number)));
    assert!(many.filter(|port| *port).count() as u64 > entries / 4 * 3);
    world.sweep_after(0);
    assert!(world.is_taken(first));
    let found = world.sweep_after(7);
    assert!(!world.is_taken(first) && found.usage.held == 0, "{}", found.usage.held);
    assert!(world.table.taken_places().any(|place| place == closed));
}

#[test]
fn a_flow_of_a_backend_without_a_row_ends_and_of_one_that_is_younger_than_the_census_does_not() {
    let world = World::new();
    world.open(1, 3, Phase::ESTABLISHED, 0);
    world.open(2, 2, Phase::ESTABLISHED, 10_000);
    let found = world.sweep();
    assert_eq!(found.freed, 1);
    assert_eq!(found.flows.keys().collect::<Vec<_>>(), [&backend(2)]);
}

#[test]
fn a_place_that_is_being_made_is_left_alone() {
    let world = World::new();
    let at = world.open(1, 1, Phase::ESTABLISHED, 0);
    world.table.write(at, NatRecord { state: NatState::FREE, ..world.table.record(at) });
    assert_eq!(world.sweep().freed, 0);
    assert_eq!(world.table.taken_places().collect::<Vec<_>>(), [at]);
}

#[test]
fn when_the_table_fills_up_what_is_not_established_goes_first() {
    for (phase, idle) in [
        (Phase::OPENING, 5),
        (Phase::ANSWERED, 5),
        (Phase::SIGHTED, 5),
        (Phase::RESET, 5),
        (Phase::UNREPLIED, 5),
        (Phase::TIME_WAIT, 7),
    ] {
        let world = World::new();
        world.open(1, 1, phase, idle);
        for (number, lasting) in
            (2..).zip([Phase::ESTABLISHED, Phase::CLIENT_CLOSED, Phase::BACKEND_CLOSED, Phase::REPLIED])
        {
            world.open(number, 1, lasting, idle);
        }
        assert_eq!(world.sweep().freed, 0, "{phase:?}");
        world.table.set_taken(world.table.bits().entries() / 4 * 3 + 1);
        let found = world.sweep();
        assert_eq!((found.freed, found.flows[&backend(1)][FlowState::Established as usize]), (1, 4), "{phase:?}");
    }
}

#[test]
fn a_flow_of_a_service_that_translates_no_more_is_over() {
    let mut world = World::new();
    world.open(1, 1, Phase::ESTABLISHED, 0);
    world.open(2, 1, Phase::REPLIED, 0);
    world.subjects[0].nat = None;
    let found = world.sweep();
    assert_eq!((found.freed, found.flows.len(), found.ended[&backend(1)]), (2, 0, 2));
    assert_eq!(world.table.taken_places().count(), 0);
}

#[test]
fn a_backend_that_answers_is_told_from_one_whose_connections_wait() {
    let world = World::new();
    let flows = [
        (1, Phase::OPENING, 0),
        (1, Phase::OPENING, 4),
        (1, Phase::UNREPLIED, 4),
        (1, Phase::RESET, 4),
        (2, Phase::ANSWERED, 4),
        (2, Phase::ESTABLISHED, 4),
        (2, Phase::TIME_WAIT, 4),
        (2, Phase::REPLIED, 4),
    ];
    for (number, (owner, phase, idle)) in (1..).zip(flows) {
        world.open(number, owner, phase, idle);
    }
    let usage = world.sweep().usage;
    assert_eq!(usage.replies[&backend(1)], Replies { opening: 2, waiting: 1, answered: 0 });
    assert_eq!(usage.replies[&backend(2)], Replies { opening: 0, waiting: 0, answered: 4 });
    assert_eq!((usage.taken, usage.ports[&(backend(1), 0)], usage.ports[&(backend(2), 0)]), (8, 4, 4));
}

#[test]
fn a_flow_is_found_by_the_hash_of_its_packets_while_it_lives() {
    let world = World::new();
    let at = world.open(1, 1, Phase::ESTABLISHED, 0);
    let hash = FlowHash(world.table.record(at).hash);
    assert_eq!(world.table.find(hash), Some(world.table.record(at)));
    assert_eq!(world.table.find(FlowHash(hash.0 ^ 2)), None);
    world.table.free(at);
    assert_eq!(world.table.find(hash), None);
}
