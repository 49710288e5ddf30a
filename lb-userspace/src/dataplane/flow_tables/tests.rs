//! The daemon's side of the flow table, without a datapath.

use std::{
    collections::HashMap,
    io,
    time::{Duration, Instant},
};

use lb_common::{
    BackendId, FlowHash, FlowState, FlowTime, QuicIds, RowIndex, Service, ServiceId, SlotWord,
    flow_table::{BucketBits, FlowTag, Inserted, MIN_BUCKET_BITS},
};

use super::{FlowTable, ListedFlow, Subject, confirm, flow_time, flows, sweep};
use crate::dataplane::Words;

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

/// One service of 1024 slots, all of which are backend 1's, and backends 1 and 2.
struct World {
    table: FlowTable,
    words: Words,
    subjects: Vec<Subject>,
    random: fastrand::Rng,
}

impl World {
    fn new() -> io::Result<Self> {
        let service =
            Service { id: ServiceId::new(5).unwrap(), first_chunk: 3, slot_mask: 1023, quic: QuicIds::default() };
        let words = Words::in_memory()?;
        (0..1024).for_each(|slot| words.store_slot(&service, slot, SlotWord::stable(backend(1))));
        for number in [1, 2] {
            words.store_row(backend(number), RowIndex(number));
        }
        let subject = Subject { service, idle_timeout: Duration::from_mins(5), backends: vec![backend(1), backend(2)] };
        Ok(Self { table: table(), words, subjects: vec![subject], random: fastrand::Rng::with_seed(7) })
    }

    fn flow(&mut self, slot: u32, owner: u32, state: FlowState, age: u64) -> FlowHash {
        let hash = hash(slot, &mut self.random);
        let seen = before(flow_time(), age);
        let inserted = self.table.insert(hash, backend(owner), state, seen, IDLE_TICKS);
        assert_eq!(inserted, Inserted::New { evicted: false });
        hash
    }

    fn sweep(&self) -> super::Census {
        sweep(&self.table, &self.words, &self.subjects)
    }

    fn service(&self) -> ServiceId {
        self.subjects[0].service.id
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
    assert_eq!((census.entries, census.removed), (11, 0));
    Ok(())
}

#[test]
fn a_sweep_names_the_slots_with_flows_of_others_than_their_backend_in_order() -> io::Result<()> {
    let mut world = World::new()?;
    for slot in [1000, 3, 1023, 3, 64] {
        world.flow(slot, 2, FlowState::Established, 0);
    }
    world.flow(8, 1, FlowState::Established, 0);
    assert_eq!(world.sweep().differing, HashMap::from([(world.service(), vec![3, 64, 1000, 1023])]));
    world.words.store_slot(&world.subjects[0].service, 64, SlotWord::new(backend(2), backend(2), true, false));
    assert_eq!(world.sweep().differing, HashMap::from([(world.service(), vec![3, 1000, 1023])]));
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
    let census = world.sweep();
    assert_eq!((census.removed, census.entries), (1, 1));
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
    let census = super::census::Sweep::new(&world.words, &world.subjects, clock).run(&world.table);
    assert_eq!((census.removed, census.entries), (0, 1));
    assert!(world.table.find(hash).is_some());
    Ok(())
}

#[test]
fn what_was_seen_once_in_the_slots_that_are_asked_for_becomes_established() -> io::Result<()> {
    let mut world = World::new()?;
    let wanted = [1, 64].map(|slot| world.flow(slot, 2, FlowState::Sighted, 5));
    let other_slot = world.flow(2, 2, FlowState::Sighted, 5);
    let opening = world.flow(1, 2, FlowState::Opening, 0);
    let slots = [(world.service(), vec![1, 64])];
    assert_eq!(confirm(&world.table, &world.subjects, &slots), 2);
    let state = |hash| world.table.find(hash).unwrap().state();
    assert_eq!(wanted.map(state), [FlowState::Established; 2]);
    assert_eq!([other_slot, opening].map(state), [FlowState::Sighted, FlowState::Opening]);
    Ok(())
}

#[test]
fn a_listed_flow_shows_what_is_known_of_it() -> io::Result<()> {
    let mut world = World::new()?;
    let hash = world.flow(77, 2, FlowState::Closing, 9);
    let listed: Vec<ListedFlow> = flows(&world.table, &world.subjects).collect();
    let [ListedFlow { service, slot, tag, backend: owner, state, idle }] = listed[..] else { panic!("{listed:?}") };
    assert_eq!((service, slot, tag), (world.service(), 77, FlowTag::of(hash)));
    assert_eq!((owner, state), (backend(2), FlowState::Closing));
    assert!((Duration::from_secs(7)..=Duration::from_secs(10)).contains(&idle), "{idle:?}");
    Ok(())
}

#[test]
#[ignore = "a measurement, for a release build"]
fn time_of_a_sweep() -> io::Result<()> {
    let mut world = World::new()?;
    world.table = FlowTable::in_memory(bits(17))?;
    let time = |world: &World| {
        let best = (0..10).map(|_| {
            let started = Instant::now();
            world.sweep();
            started.elapsed()
        });
        best.min().unwrap()
    };
    println!("{} entries, empty: {:?}", world.table.bits().entries(), time(&world));
    let now = flow_time();
    let mut inserted = 0;
    while inserted < world.table.bits().entries() * 9 / 10 {
        let hash = FlowHash(world.random.u64(..));
        let owner = backend(world.random.u32(1..=2));
        if world.table.insert(hash, owner, FlowState::Established, now, IDLE_TICKS)
            == (Inserted::New { evicted: false })
        {
            inserted += 1;
        }
    }
    println!("{} entries, {inserted} flows: {:?}", world.table.bits().entries(), time(&world));
    Ok(())
}
