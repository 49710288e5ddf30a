//! A full table: who keeps a way, who loses it, and where a flow goes that cannot be remembered.

use crate::{
    case::check_all,
    fixture::{IDLE_TICKS, NOW},
    flow_table::{Entry, State, WAYS},
    packet::Packet,
    world::{FAMILIES, Family},
};

use super::{
    answer::Answer,
    scene::{Case, Kind, Placed, Scene, Slot, THIRD, Tracker, frame},
};

/// A flow of somebody else's, number `number`, last seen `age` ticks of its state ago.
fn stranger(number: u64, state: State, age: u64) -> Entry {
    Entry::new(number << 20 | 0x7_7777, THIRD, state, NOW - age * state.tick())
}

/// Both buckets of the packet's flow full of flows that keep their ways.
pub(super) fn full(slot: Slot, packet: &Packet) -> Scene {
    let place = |number: usize| Placed {
        choice: number / WAYS,
        way: number % WAYS,
        entry: stranger(1 + number as u64, State::Established, 0),
    };
    Scene { flows: (0..2 * WAYS).map(place).collect(), ..Scene::new(slot, packet) }
}

/// The scene with something else, or nothing, in the way that is `number` in both buckets.
fn instead(mut scene: Scene, number: usize, entry: Option<Entry>) -> Scene {
    match entry {
        Some(entry) => scene.flows[number].entry = entry,
        None => scene.flows.retain(|placed| placed.choice * WAYS + placed.way != number),
    }
    scene
}

/// What has to be seen when `lost` gives its way to the packet's flow.
fn case(description: String, packet: &Packet, scene: Scene, lost: Option<Entry>, answer: &str) -> Case {
    let mut expected = Answer::parse(answer).outcome(packet, &scene, None);
    expected.flows.retain(|entry| Some(*entry) != lost);
    Case { description, frame: frame(packet).to_bytes(), expected, setup: scene }
}

#[test]
fn without_room_a_flow_goes_where_its_next_packets_will() {
    const LINES: [(Slot, [&str; 6]); 3] = [
        (
            Slot::Arming,
            [
                "current as-it-was miss!",
                "current as-it-was miss",
                "current as-it-was miss",
                "current as-it-was miss",
                "current as-it-was miss",
                "current as-it-was miss!",
            ],
        ),
        (Slot::Moving, ["previous as-it-was miss!"; 6]),
        (Slot::Tracked, ["current as-it-was miss"; 6]),
    ];
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for (slot, cells) in LINES {
        for (kind, cell) in Kind::ALL.into_iter().zip(cells) {
            for family in FAMILIES {
                let packet = kind.packet(family);
                let description = format!("{slot:?}: {kind:?} over {family:?} of a flow for which there is no room");
                cases.push(case(description, &packet, full(slot, &packet), None, cell));
            }
        }
    }
    check_all(&mut tracker, cases);
}

/// What may stand in a way, those first that give it away more easily; and whether somebody loses something then.
fn classes() -> [(Vec<Option<Entry>>, &'static str); 5] {
    let idle = u64::from(IDLE_TICKS);
    let strangers =
        |state, ages: &[u64]| ages.iter().map(|age| Some(stranger(100 + age, state, *age))).collect::<Vec<_>>();
    let over = [
        strangers(State::Closing, &[200, 3, 1, 0]),
        strangers(State::Sighted, &[200, idle + 2, idle + 1]),
        strangers(State::Established, &[200, idle + 2, idle + 1]),
    ];
    let kept = [strangers(State::Opening, &[3, 1, 0]), strangers(State::Established, &[idle, 5, 0])];
    [
        (vec![None], "current opening miss+"),
        (over.concat(), "current opening miss+"),
        (strangers(State::Opening, &[200, 5, 4]), "current opening miss+-"),
        (strangers(State::Sighted, &[idle, 3, 1, 0]), "current opening miss+-"),
        (kept.concat(), "previous as-it-was miss!"),
    ]
}

#[test]
fn among_full_buckets_each_kind_of_flow_gives_its_way_or_keeps_it() {
    let Some(mut tracker) = Tracker::new() else { return };
    let packet = Kind::Syn.packet(Family::V4);
    let mut cases = Vec::new();
    for (entries, answer) in classes() {
        for entry in entries {
            for number in 0..2 * WAYS {
                let scene = instead(full(Slot::Moving, &packet), number, entry);
                let lost = if answer.ends_with('!') { None } else { entry };
                cases.push(case(format!("{entry:?} in way {number}"), &packet, scene, lost, answer));
            }
        }
    }
    check_all(&mut tracker, cases);
}

#[test]
fn of_two_flows_the_one_that_is_over_goes_then_the_one_that_never_opened_then_the_older_one() {
    let Some(mut tracker) = Tracker::new() else { return };
    let packet = Kind::Syn.packet(Family::V6);
    let classes = classes();
    let mut cases = Vec::new();
    let mut contest = |weak: Option<Entry>, strong: Option<Entry>, answer: &str| {
        for (one, other) in [(0, 1), (1, 0), (2, 13), (13, 2), (7, 8), (8, 7), (14, 15), (15, 14)] {
            // From behind, as taking a way out moves those after it.
            let mut ways = [(one, weak), (other, strong)];
            ways.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
            let scene = ways
                .into_iter()
                .fold(full(Slot::Moving, &packet), |scene, (number, entry)| instead(scene, number, entry));
            let description = format!("{weak:?} in way {one} goes before {strong:?} in way {other}");
            cases.push(case(description, &packet, scene, weak, answer));
        }
    };
    for (class, (entries, answer)) in classes.iter().enumerate().take(4) {
        for entry in entries {
            for (stronger, _) in &classes[class + 1..] {
                for strong in stronger {
                    contest(*entry, *strong, answer);
                }
            }
        }
        // In the order of their ages within a state.
        for pair in entries.windows(2) {
            if let [Some(weak), Some(strong)] = pair
                && weak.state == strong.state
            {
                contest(Some(*weak), Some(*strong), answer);
            }
        }
    }
    check_all(&mut tracker, cases);
}

#[test]
fn a_flow_that_is_known_stays_known_in_a_full_table() {
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for kind in [Kind::Ack, Kind::Data, Kind::Udp] {
        for number in 0..2 * WAYS {
            let packet = kind.packet(Family::V4);
            let scene = full(Slot::Moving, &packet);
            let known = Entry::new(scene.hash, THIRD, State::Sighted, NOW);
            let scene = instead(scene, number, Some(known));
            let expected = Answer::parse("entry established hit").outcome(&packet, &scene, Some(known));
            let description = format!("{kind:?} of a flow that stands in way {number}");
            cases.push(Case { description, frame: frame(&packet).to_bytes(), expected, setup: scene });
        }
    }
    check_all(&mut tracker, cases);
}
