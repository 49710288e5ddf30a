//! Flow tables of all sizes, and one that is replaced by one of another size while packets come.

use std::fs;

use aya::maps::{Array, ArrayOfMaps, Map, MapData};
use fastrand::Rng;
use lb_common::layout::names;

use crate::{
    case::{Datapath as _, check_all},
    fixture::{IDLE_TICKS, NOW},
    flow_table::{Entry, FlowTable, SMALLEST, State, WAYS},
    random_cases,
    sandbox::Sandbox,
    world::FAMILIES,
};

use super::{
    answer::Answer,
    scene::{Case, Gone, Kind, PREVIOUS, Scene, Slot, THIRD, Tracker, frame, hash_of},
};

/// An empty table of 2 to the power of `bits` buckets at one of the two places for tables.
fn create(sandbox: &Sandbox, place: u32, bits: u32) -> FlowTable {
    /// `BPF_F_MMAPABLE` and `BPF_F_INNER_MAP`.
    const FLAGS: u32 = 1 << 10 | 1 << 12;
    let pin = sandbox.pin(&FlowTable::name(place));
    // One that was there before; whoever still has it mapped keeps it.
    let _ = fs::remove_file(&pin);
    let array = Array::<MapData, [u64; WAYS]>::create(1 << bits, FLAGS).expect("the table can be created");
    array.pin(&pin).expect("the table can be pinned");
    let map = MapData::from_pin(&pin).expect("the table is pinned");
    let outer = Map::ArrayOfMaps(sandbox.map(names::FLOW_TABLES));
    let mut outer = ArrayOfMaps::<MapData>::try_from(outer).expect("a map of maps");
    outer.set(place, &map, 0).expect("the table can be put at its place");
    FlowTable::open(sandbox, place, bits)
}

/// The word that tells packets which tables there are: the one at `place`, and perhaps an old one at the other place, by
/// the exponents of their sizes. Flows without a packet for longer than `idle_ticks` of 34.4 s give way to new ones.
fn in_use(place: u32, bits: u32, old: Option<u32>, idle_ticks: u8) -> u64 {
    u64::from(place | bits << 8 | old.unwrap_or(0) << 16 | u32::from(idle_ticks) << 24)
}

impl Tracker {
    /// A table of 2 to the power of `bits` buckets at `place`, and one of `old` that it replaces at the other place.
    fn use_tables(&mut self, place: u32, bits: u32, old: Option<u32>) {
        let balancer = &mut self.balancer;
        balancer.use_tables(0);
        balancer.put_flow_table(create(balancer.sandbox(), place, bits));
        self.old_table = old.map(|bits| create(balancer.sandbox(), place ^ 1, bits));
        balancer.use_tables(in_use(place, bits, old, IDLE_TICKS));
    }
}

#[test]
fn flows_stand_in_their_buckets_and_are_found_there_in_tables_of_all_sizes() {
    let Some(mut tracker) = Tracker::new() else { return };
    let mut random = Rng::with_seed(11);
    for (bits, place) in (SMALLEST..=18).zip([0, 1].into_iter().cycle()) {
        tracker.use_tables(place, bits, None);
        for number in 0..random_cases(60) {
            let family = FAMILIES[random.usize(..2)];
            let kind = [Kind::Data, Kind::Udp][random.usize(..2)];
            let mut packet = kind.packet(family);
            packet.source.set_port(random.u16(..));
            let bytes = frame(&packet).to_bytes();
            tracker.prepare(&Scene::new(Slot::Moving, &packet));
            for state in [State::Sighted, State::Established] {
                tracker.run(&bytes);
                let expected = Entry::new(hash_of(&packet), PREVIOUS, state, NOW);
                let found = tracker.balancer.flow_table().find(hash_of(&packet));
                assert_eq!(found, Some(expected), "flow {number} in a table of 2^{bits} buckets");
            }
        }
    }
}

#[test]
fn without_a_table_flows_of_a_moving_slot_go_to_the_previous_backend() {
    let Some(mut tracker) = Tracker::new() else { return };
    // No table, one too small, one too large, and a place at which there is none.
    let [small, large] = [SMALLEST - 1, 24].map(|bits| in_use(0, bits, None, IDLE_TICKS));
    for word in [0, small, large, in_use(1, SMALLEST, None, IDLE_TICKS)] {
        tracker.balancer.use_tables(word);
        check_all(&mut tracker, without_a_table());
    }
}

fn without_a_table() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in FAMILIES {
        for kind in Kind::ALL {
            for (slot, cell) in [
                (Slot::Arming, "current as-it-was miss"),
                (Slot::Moving, "previous as-it-was miss"),
                (Slot::Tracked, "current as-it-was miss"),
            ] {
                let packet = kind.packet(family);
                let scene = Scene::new(slot, &packet);
                cases.push(Case {
                    description: format!("{slot:?}: {kind:?} over {family:?} without a table"),
                    frame: frame(&packet).to_bytes(),
                    expected: Answer::parse(cell).outcome(&packet, &scene, None),
                    setup: scene,
                });
            }
        }
    }
    cases
}

/// A known flow that stands only in the table that is being replaced.
#[rustfmt::skip]
const CARRIED: [(State, u64, Option<Gone>, [&str; 6]); 7] = [
    (State::Opening, 1, None, [
        /* SYN  */ "entry   opening     carried+",
        /* ACK  */ "entry   established carried+",
        /* data */ "entry   established carried+",
        /* FIN  */ "entry   closing     carried+",
        /* RST  */ "entry   closing     carried+",
        /* UDP  */ "entry   established carried+",
    ]),
    (State::Sighted, 1, None, [
        /* SYN  */ "entry   established carried+",
        /* ACK  */ "entry   established carried+",
        /* data */ "entry   established carried+",
        /* FIN  */ "entry   closing     carried+",
        /* RST  */ "entry   closing     carried+",
        /* UDP  */ "entry   established carried+",
    ]),
    (State::Established, 0, None, [
        /* SYN  */ "entry   established carried+",
        /* ACK  */ "entry   established carried+",
        /* data */ "entry   established carried+",
        /* FIN  */ "entry   closing     carried+",
        /* RST  */ "entry   closing     carried+",
        /* UDP  */ "entry   established carried+",
    ]),
    (State::Established, IDLE_TICKS as u64 + 1, None, [
        /* SYN  */ "current opening     carried+",
        /* ACK  */ "entry   established carried+",
        /* data */ "entry   established carried+",
        /* FIN  */ "entry   closing     carried+",
        /* RST  */ "entry   closing     carried+",
        /* UDP  */ "entry   established carried+",
    ]),
    (State::Closing, 3, None, [
        /* SYN  */ "current opening     carried+",
        /* ACK  */ "entry   as-it-was   carried+",
        /* data */ "entry   as-it-was   carried+",
        /* FIN  */ "entry   closing     carried+",
        /* RST  */ "entry   closing     carried+",
        /* UDP  */ "entry   established carried+",
    ]),
    (State::Established, 1, Some(Gone::Rescheduling), [
        /* SYN  */ "current established carried+",
        /* ACK  */ "current established carried+",
        /* data */ "current established carried+",
        /* FIN  */ "current closing     carried+",
        /* RST  */ "current closing     carried+",
        /* UDP  */ "current established carried+",
    ]),
    (State::Established, 1, Some(Gone::WithoutRow), [
        /* SYN  */ "current established carried+",
        /* ACK  */ "current established carried+",
        /* data */ "current established carried+",
        /* FIN  */ "current closing     carried+",
        /* RST  */ "current closing     carried+",
        /* UDP  */ "current established carried+",
    ]),
];

#[test]
fn a_flow_that_stands_in_the_old_table_only_is_carried_over_by_its_next_packet() {
    let Some(mut tracker) = Tracker::new() else { return };
    for (place, old, new) in [(0, 13, 14), (1, 14, 13), (1, 13, 17), (0, 16, 13), (0, 14, 14)] {
        tracker.use_tables(place, new, Some(old));
        let mut cases = Vec::new();
        for slot in [Slot::Arming, Slot::Moving, Slot::Tracked] {
            for (state, age, gone, line) in CARRIED {
                for (kind, cell) in Kind::ALL.into_iter().zip(line) {
                    for family in FAMILIES {
                        let packet = kind.packet(family);
                        let known = Entry::new(hash_of(&packet), THIRD, state, NOW - age * state.tick());
                        let scene =
                            Scene { old: Some(known), gone: gone.map(|how| (THIRD, how)), ..Scene::new(slot, &packet) };
                        cases.push(Case {
                            description: format!(
                                "{slot:?}: {kind:?} over {family:?} of {known:?} ({gone:?}) in a table of 2^{old}, now 2^{new}"
                            ),
                            frame: frame(&packet).to_bytes(),
                            expected: Answer::parse(cell).outcome(&packet, &scene, Some(known)),
                            setup: scene,
                        });
                    }
                }
            }
        }
        check_all(&mut tracker, cases);
    }
}

#[test]
fn of_a_flow_that_stands_in_both_tables_the_new_one_is_right() {
    let Some(mut tracker) = Tracker::new() else { return };
    tracker.use_tables(1, 14, Some(13));
    let mut cases = Vec::new();
    for kind in [Kind::Ack, Kind::Data, Kind::Udp] {
        let packet = kind.packet(FAMILIES[0]);
        let old = Entry::new(hash_of(&packet), PREVIOUS, State::Established, NOW);
        let known = Entry::new(hash_of(&packet), THIRD, State::Sighted, NOW);
        let scene = Scene { old: Some(old), ..Scene::new(Slot::Moving, &packet).knowing(known) };
        cases.push(Case {
            description: format!("{kind:?} of a flow that stands in both tables"),
            frame: frame(&packet).to_bytes(),
            expected: Answer::parse("entry established hit").outcome(&packet, &scene, Some(known)),
            setup: scene,
        });
    }
    check_all(&mut tracker, cases);
}

#[test]
fn a_new_flow_goes_into_the_new_table() {
    let Some(mut tracker) = Tracker::new() else { return };
    tracker.use_tables(1, 14, Some(13));
    let mut cases = Vec::new();
    for (kind, cell) in [(Kind::Syn, "current opening miss+"), (Kind::Data, "previous sighted miss+")] {
        let packet = kind.packet(FAMILIES[1]);
        let other = Entry::new(hash_of(&packet) ^ 1 << 20, THIRD, State::Established, NOW);
        let scene = Scene { old: Some(other), ..Scene::new(Slot::Moving, &packet) };
        cases.push(Case {
            description: format!("{kind:?} of a flow that stands in neither table"),
            frame: frame(&packet).to_bytes(),
            expected: Answer::parse(cell).outcome(&packet, &scene, None),
            setup: scene,
        });
    }
    check_all(&mut tracker, cases);
}

#[test]
fn a_flow_for_which_the_new_table_has_no_room_still_goes_where_the_old_one_says() {
    let Some(mut tracker) = Tracker::new() else { return };
    tracker.use_tables(1, 14, Some(15));
    let mut cases = Vec::new();
    for kind in [Kind::Ack, Kind::Data, Kind::Fin, Kind::Udp] {
        let packet = kind.packet(FAMILIES[0]);
        let known = Entry::new(hash_of(&packet), THIRD, State::Established, NOW);
        let scene = Scene { old: Some(known), ..super::room::full(Slot::Moving, &packet) };
        // Afterwards it stands in the old table as before, and in the new one it does not.
        let mut expected = Answer::parse("entry as-it-was carried!").outcome(&packet, &scene, Some(known));
        expected.flows = scene.entries();
        cases.push(Case {
            description: format!("{kind:?} of a flow in the old table while the new one is full"),
            frame: frame(&packet).to_bytes(),
            expected,
            setup: scene,
        });
    }
    check_all(&mut tracker, cases);
}
