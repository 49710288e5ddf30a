//! The daemon's side of the flow table, without a datapath.

use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};

use lb_common::{
    BackendId, FlowEntry, FlowHash, FlowState, FlowTime, RowIndex, Service, ServiceId, SlotWord,
    flow_table::{BucketBits, FlowTag, Inserted, MIN_BUCKET_BITS},
};

use super::{FlowTable, ListedFlow, Sweep, census::Sweeper, flow_time, flows};
use crate::{
    config::Tracking,
    dataplane::Words,
    model::Subject,
    schedule::{self, Fate, Pace, SlotMover},
};

const IDLE_TICKS: u8 = 10;

fn bits(bits: u32) -> BucketBits {
    BucketBits::new(bits).unwrap()
}

fn table() -> FlowTable {
    FlowTable::in_memory(bits(MIN_BUCKET_BITS)).unwrap()
}

fn backend(number: u32) -> BackendId {
    BackendId::truncate(number)
}

fn before(now: FlowTime, seconds: u64) -> FlowTime {
    FlowTime(now.0.wrapping_sub(seconds * 1_000_000_000))
}

/// A flow that is in `slot` of a table of 1024.
fn hash(slot: u32, random: &mut fastrand::Rng) -> FlowHash {
    FlowHash(random.u64(..) & !1023 | u64::from(slot))
}

/// One service of 1024 slots, all of which are backend 1's, and backends 1 and 2. Slot 64 has just been moved there from
/// backend 2, and is about to be settled.
struct World {
    table: FlowTable,
    words: Words,
    subjects: Vec<Subject>,
    random: fastrand::Rng,
}

const MOVING: u32 = 64;
const PACE: Pace =
    Pace { handshake: Duration::from_secs(3), idle: Duration::from_mins(5), tracking: Tracking::WhenNeeded };

/// A census in which the slot [`MOVING`] is the only one that is to be settled.
fn slots() -> schedule::Census {
    let now = Instant::now();
    let [first, second] = [1, 2].map(backend);
    let words = (0..1024).map(|slot| match slot {
        MOVING => SlotWord::new(first, second, true, true),
        _ => SlotWord::stable(first),
    });
    SlotMover::take_over(words.collect(), now).census(&PACE, now + PACE.idle)
}

impl World {
    fn new() -> io::Result<Self> {
        let service = Service { id: ServiceId::new(5).unwrap(), first_chunk: 3, slot_mask: 1023, ..Service::default() };
        let words = Words::in_memory()?;
        for number in [1, 2] {
            words.store_row(backend(number), RowIndex(number));
        }
        let subject = Subject {
            service,
            idle_timeout: Duration::from_mins(5),
            is_limited: false,
            backends: vec![backend(1), backend(2)],
            nat: None,
            slots: Some(slots()),
        };
        Ok(Self { table: table(), words, subjects: vec![subject], random: fastrand::Rng::with_seed(7) })
    }

    fn flow(&mut self, slot: u32, owner: u32, state: FlowState, age: u64) -> FlowHash {
        let hash = hash(slot, &mut self.random);
        let seen = before(flow_time(), age);
        let inserted = self.table.insert(hash, backend(owner), state, seen, IDLE_TICKS);
        assert_eq!(inserted, Inserted::New { evicted: false });
        hash
    }

    fn sweep(&mut self) -> Sweep {
        self.subjects[0].slots = Some(slots());
        Sweeper::new(&self.words, &mut self.subjects, flow_time).run(&self.table)
    }
}

#[test]
fn a_sweep_counts_the_flows_of_each_backend_by_state() -> io::Result<()> {
    let mut world = World::new()?;
    for (state, count) in FlowState::ALL.into_iter().zip(1..) {
        for slot in 0..count {
            world.flow(slot, 1, state, 0);
        }
    }
    world.flow(9, 2, FlowState::Established, 0);
    let census = world.sweep();
    assert_eq!(census.flows, HashMap::from([(backend(1), [1, 2, 3, 4]), (backend(2), [0, 0, 1, 0])]));
    assert_eq!(census.removed, 0);
    Ok(())
}

#[test]
fn a_slot_is_settled_when_a_sweep_has_found_no_flow_of_others_there() -> io::Result<()> {
    let mut world = World::new()?;
    world.flow(3, 2, FlowState::Established, 0);
    world.flow(8, 1, FlowState::Established, 0);
    let tracked = (0..1024).map(|_| SlotWord::new(backend(1), backend(1), true, false));
    let then = Instant::now();
    let mut mover = SlotMover::take_over(tracked.collect(), then);
    world.subjects[0].slots = Some(mover.census(&PACE, then + Duration::from_secs(1)));
    Sweeper::new(&world.words, &mut world.subjects, flow_time).run(&world.table);
    let census = world.subjects[0].slots.as_ref().expect("it was asked for");
    let stores = mover.on_census(census, &PACE, |_| Fate::Serving, then + Duration::from_secs(1));
    let settled: Vec<u32> = stores.iter().map(|(slot, _)| *slot).collect();
    let expected: Vec<u32> = (0..1024).filter(|slot| *slot != 3).collect();
    assert_eq!(settled, expected);
    assert!(stores.iter().all(|(_, word)| *word == SlotWord::stable(backend(1))));
    Ok(())
}

#[test]
fn a_sweep_removes_what_has_come_to_its_end_and_nothing_else() -> io::Result<()> {
    let mut world = World::new()?;
    for (state, alive, over) in [
        (FlowState::Opening, 58, 63),
        (FlowState::Closing, 118, 123),
        (FlowState::Sighted, 299, 380),
        (FlowState::Established, 299, 380),
    ] {
        let [alive, over] = [alive, over].map(|age| world.flow(1, 1, state, age));
        assert_eq!(world.sweep().removed, 1, "{state:?}");
        assert!(world.table.find(alive).is_some(), "{state:?}");
        assert_eq!(world.table.find(over), None, "{state:?}");
    }
    Ok(())
}

#[test]
fn a_sweep_removes_flows_of_backends_that_are_gone_and_leaves_those_of_new_ones() -> io::Result<()> {
    let mut world = World::new()?;
    world.words.store_row(backend(3), RowIndex(3));
    let [gone, new] = [4, 3].map(|owner| world.flow(1, owner, FlowState::Established, 0));
    assert_eq!(world.sweep().removed, 1);
    assert_eq!(world.table.find(gone), None);
    assert!(world.table.find(new).is_some());
    Ok(())
}

#[test]
fn a_flow_that_is_newer_than_the_time_of_the_sweep_is_not_taken_for_an_old_one() -> io::Result<()> {
    let mut world = World::new()?;
    // As if the sweep had stood still for minutes after its start.
    let started = before(flow_time(), 400);
    let hash = world.flow(1, 1, FlowState::Opening, 0);
    let times = std::cell::Cell::new([started, flow_time()]);
    let clock = || {
        let [now, next] = times.get();
        times.set([next, next]);
        now
    };
    let swept = Sweeper::new(&world.words, &mut world.subjects, clock).run(&world.table);
    assert_eq!(swept.removed, 0);
    assert!(world.table.find(hash).is_some());
    Ok(())
}

#[test]
fn what_was_seen_once_in_a_slot_that_is_about_to_be_settled_becomes_established() -> io::Result<()> {
    let mut world = World::new()?;
    let sighted = world.flow(MOVING, 2, FlowState::Sighted, 5);
    let opening = world.flow(MOVING, 2, FlowState::Opening, 0);
    let other_slot = world.flow(2, 2, FlowState::Sighted, 5);
    world.sweep();
    let state = |hash| world.table.find(hash).unwrap().state();
    assert_eq!(state(sighted), FlowState::Established);
    assert_eq!([other_slot, opening].map(state), [FlowState::Sighted, FlowState::Opening]);
    Ok(())
}

#[test]
fn a_listed_flow_shows_how_long_it_was_idle() -> io::Result<()> {
    let mut world = World::new()?;
    let hash = world.flow(77, 2, FlowState::Closing, 9);
    let listed: Vec<ListedFlow> = flows(&world.table, flow_time()).collect();
    let [ListedFlow { entry, idle }] = listed[..] else { panic!("{listed:?}") };
    assert_eq!((entry.tag(), entry.backend()), (FlowTag::of(hash), backend(2)));
    assert!((Duration::from_secs(7)..=Duration::from_secs(10)).contains(&idle), "{idle:?}");
    Ok(())
}

/// The drift that a sweep finds of backend 1, when `before` it that is what was counted, and packets do something `meanwhile`.
fn drift(world: &mut World, meanwhile: impl Fn(&mut World)) -> Vec<(BackendId, i64)> {
    let before = world.table.connections().tallies();
    meanwhile(world);
    let mut swept = world.sweep();
    meanwhile(world);
    swept.find_drift(&before, world.table.connections());
    swept.drift
}

#[test]
fn connections_that_were_never_counted_are_found_also_while_others_come_and_go() -> io::Result<()> {
    let mut world = World::new()?;
    for slot in 0..500 {
        world.flow(slot, 1, FlowState::Established, 0);
    }
    assert_eq!(drift(&mut world, |_| {}), []);
    // As a program does that does not count.
    world.table.connections().correct(backend(1), -400);
    assert_eq!(drift(&mut world, |_| {}), [(backend(1), 400)]);
    let busy = |world: &mut World| {
        for slot in 0..30 {
            let hash = world.flow(slot, 1, FlowState::Opening, 0);
            if slot < 20 {
                assert!(world.table.place_of(hash).unwrap().replace(FlowEntry::FREE));
            }
        }
    };
    let found = drift(&mut world, busy);
    let [(id, more)] = found[..] else { panic!("{found:?}") };
    assert!(id == backend(1) && (300..=400).contains(&more), "{more}");
    for _ in 0..10 {
        for (id, more) in drift(&mut world, |_| {}) {
            world.table.connections().correct(id, more);
        }
    }
    let active = world.table.connections().tally(backend(1)).active();
    assert_eq!(active as usize, world.table.count());
    // What ends meanwhile is no drift, nor what begins.
    assert_eq!(drift(&mut world, busy), []);
    Ok(())
}

#[test]
fn what_only_opens_a_connection_uses_up_a_limit_for_seconds() -> io::Result<()> {
    let mut world = World::new()?;
    let [young, old] = [3, 20].map(|age| world.flow(1, 1, FlowState::Opening, age));
    world.subjects[0].is_limited = true;
    assert_eq!(world.sweep().removed, 1);
    assert_eq!([young, old].map(|hash| world.table.find(hash).is_some()), [true, false]);
    Ok(())
}
