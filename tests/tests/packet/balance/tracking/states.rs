//! Each state of a slot, each kind of packet, each entry. For the shorthand of the cells see `answer.rs`.

use crate::{
    case::check_all,
    fixture::{IDLE_TICKS, NOW},
    flow_table::{Entry, State},
    packet::Packet,
    world::{FAMILIES, Family},
};

use super::{
    answer::Answer,
    scene::{CURRENT, Case, Kind, PREVIOUS, Scene, Slot, THIRD, Tracker, frame, hash_of},
};

/// A line of a table: a cell for each of [`Kind::ALL`].
type Line = [&'static str; 6];

/// A flow that is not in the table.
#[rustfmt::skip]
const UNKNOWN: [(Slot, Line); 5] = [
    (Slot::Empty, [
        /* SYN  */ "nobody   as-it-was -",
        /* ACK  */ "nobody   as-it-was -",
        /* data */ "nobody   as-it-was -",
        /* FIN  */ "nobody   as-it-was -",
        /* RST  */ "nobody   as-it-was -",
        /* UDP  */ "nobody   as-it-was -",
    ]),
    (Slot::Stable, [
        /* SYN  */ "current  as-it-was -",
        /* ACK  */ "current  as-it-was -",
        /* data */ "current  as-it-was -",
        /* FIN  */ "current  as-it-was -",
        /* RST  */ "current  as-it-was -",
        /* UDP  */ "current  as-it-was -",
    ]),
    (Slot::Arming, [
        /* SYN  */ "current  opening   miss+",
        /* ACK  */ "current  as-it-was miss",
        /* data */ "current  as-it-was miss",
        /* FIN  */ "current  as-it-was miss",
        /* RST  */ "current  as-it-was miss",
        /* UDP  */ "current  sighted   miss+",
    ]),
    (Slot::Moving, [
        /* SYN  */ "current  opening   miss+",
        /* ACK  */ "previous sighted   miss+",
        /* data */ "previous sighted   miss+",
        /* FIN  */ "previous closing   miss+",
        /* RST  */ "previous closing   miss+",
        /* UDP  */ "previous sighted   miss+",
    ]),
    (Slot::Tracked, [
        /* SYN  */ "current  as-it-was miss",
        /* ACK  */ "current  as-it-was miss",
        /* data */ "current  as-it-was miss",
        /* FIN  */ "current  as-it-was miss",
        /* RST  */ "current  as-it-was miss",
        /* UDP  */ "current  as-it-was miss",
    ]),
];

/// So many ticks of 34.4 s make a flow idle.
const IDLE: u64 = IDLE_TICKS as u64;

/// A flow that is in the table, last seen so many ticks of its state ago; whether the slot is arming, moving or tracked makes no
/// difference.
#[rustfmt::skip]
const KNOWN: [(State, &[u64], Line); 7] = [
    // However old, as long as it is not swept: the client may try again for minutes.
    (State::Opening, &[0, 1, 2, 60, 255], [
        /* SYN  */ "entry    opening     hit",
        /* ACK  */ "entry    established hit",
        /* data */ "entry    established hit",
        /* FIN  */ "entry    closing     hit",
        /* RST  */ "entry    closing     hit",
        /* UDP  */ "entry    established hit",
    ]),
    (State::Sighted, &[0, 1, IDLE], [
        /* SYN  */ "entry    established hit",
        /* ACK  */ "entry    established hit",
        /* data */ "entry    established hit",
        /* FIN  */ "entry    closing     hit",
        /* RST  */ "entry    closing     hit",
        /* UDP  */ "entry    established hit",
    ]),
    (State::Sighted, &[IDLE + 1, 100, 254], [
        /* SYN  */ "current  opening     reopened",
        /* ACK  */ "entry    established hit",
        /* data */ "entry    established hit",
        /* FIN  */ "entry    closing     hit",
        /* RST  */ "entry    closing     hit",
        /* UDP  */ "entry    established hit",
    ]),
    (State::Established, &[0, 1, IDLE], [
        /* SYN  */ "entry    established hit",
        /* ACK  */ "entry    established hit",
        /* data */ "entry    established hit",
        /* FIN  */ "entry    closing     hit",
        /* RST  */ "entry    closing     hit",
        /* UDP  */ "entry    established hit",
    ]),
    (State::Established, &[IDLE + 1, 100, 254], [
        /* SYN  */ "current  opening     reopened",
        /* ACK  */ "entry    established hit",
        /* data */ "entry    established hit",
        /* FIN  */ "entry    closing     hit",
        /* RST  */ "entry    closing     hit",
        /* UDP  */ "entry    established hit",
    ]),
    // The acknowledgement of the other side's FIN, or data that was overtaken or lost.
    (State::Closing, &[0, 1, 2, 3, 255], [
        /* SYN  */ "current  opening     reopened",
        /* ACK  */ "entry    as-it-was   hit",
        /* data */ "entry    as-it-was   hit",
        /* FIN  */ "entry    closing     hit",
        /* RST  */ "entry    closing     hit",
        /* UDP  */ "entry    established hit",
    ]),
    // The client has nothing more to say, and still receives; or it has never said that it ends.
    (State::Closing, &[4, 5, 120, 254], [
        /* SYN  */ "current  opening     reopened",
        /* ACK  */ "entry    established hit",
        /* data */ "entry    established hit",
        /* FIN  */ "entry    closing     hit",
        /* RST  */ "entry    closing     hit",
        /* UDP  */ "entry    established hit",
    ]),
];

/// The packets of a line, and what has to become of each.
fn cells(line: Line) -> impl Iterator<Item = (Kind, Family, Packet, Answer<'static>)> {
    FAMILIES.into_iter().flat_map(move |family| {
        Kind::ALL
            .into_iter()
            .zip(line)
            .map(move |(kind, cell)| (kind, family, kind.packet(family), Answer::parse(cell)))
    })
}

fn case(description: String, packet: &Packet, scene: Scene, known: Option<Entry>, answer: Answer<'_>) -> Case {
    Case { description, frame: frame(packet).to_bytes(), expected: answer.outcome(packet, &scene, known), setup: scene }
}

#[test]
fn a_flow_that_nobody_knows_goes_where_its_slot_says() {
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for (slot, line) in UNKNOWN {
        for (kind, family, packet, answer) in cells(line) {
            let description = format!("{slot:?}: {kind:?} over {family:?} of a flow that nobody knows");
            cases.push(case(description, &packet, Scene::new(slot, &packet), None, answer));
        }
    }
    check_all(&mut tracker, cases);
}

#[test]
fn a_flow_that_is_known_goes_where_its_entry_says() {
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for slot in [Slot::Arming, Slot::Moving, Slot::Tracked] {
        for (state, ages, line) in KNOWN {
            for (kind, family, packet, answer) in cells(line) {
                for backend in [CURRENT, PREVIOUS, THIRD] {
                    for age in ages {
                        let known = Entry::new(hash_of(&packet), backend, state, NOW - age * state.tick());
                        let description = format!("{slot:?}: {kind:?} over {family:?} of a flow known as {known:?}");
                        let scene = Scene::new(slot, &packet).knowing(known);
                        cases.push(case(description, &packet, scene, Some(known), answer));
                    }
                }
            }
        }
    }
    check_all(&mut tracker, cases);
}

#[test]
fn a_slot_that_does_not_look_up_knows_no_flow() {
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for (slot, line) in UNKNOWN.into_iter().filter(|(slot, _)| matches!(slot, Slot::Empty | Slot::Stable)) {
        for (kind, family, packet, answer) in cells(line) {
            let known = Entry::new(hash_of(&packet), THIRD, State::Established, NOW);
            let description = format!("{slot:?}: {kind:?} over {family:?} in spite of an entry");
            let scene = Scene::new(slot, &packet).knowing(known);
            cases.push(case(description, &packet, scene, Some(known), answer));
        }
    }
    check_all(&mut tracker, cases);
}

#[test]
fn an_entry_of_another_flow_in_the_same_bucket_is_not_taken_for_this_one() {
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for (kind, family, packet, answer) in cells(UNKNOWN[3].1) {
        for bit in 0..39 {
            let other = Entry::new(hash_of(&packet) ^ 1 << bit, THIRD, State::Established, NOW);
            let description = format!("{kind:?} over {family:?} beside a flow whose tag differs in bit {bit}");
            let scene = Scene::new(Slot::Moving, &packet).knowing(other);
            cases.push(case(description, &packet, scene, None, answer));
        }
    }
    check_all(&mut tracker, cases);
}
