//! Flows whose backend is gone. For the shorthand of the cells see `answer.rs`.

use etherparse::IpNumber;
use lb_common::Verdict;

use crate::{
    case::{Action, Outcome, check_all},
    fixture::{IDLE_TICKS, NOW},
    flow_table::{Entry, State},
    packet::Packet,
    world::FAMILIES,
};

use super::{
    answer::Answer,
    reset::reset_of,
    scene::{CURRENT, Case, Gone, Kind, PREVIOUS, Scene, Slot, THIRD, Tracker, frame, hash_of},
};

type Line = [&'static str; 6];

/// The ways to be gone after which flows go to another backend.
const ELSEWHERE: [Gone; 2] = [Gone::WithoutRow, Gone::Rescheduling];

/// A known flow whose backend is gone is given to the current backend, with its first packet; a SYN opens a new one there.
#[rustfmt::skip]
const RESCHEDULED: [(State, u64, Line); 5] = [
    (State::Opening, 1, [
        /* SYN  */ "current opening     rescheduled",
        /* ACK  */ "current established rescheduled",
        /* data */ "current established rescheduled",
        /* FIN  */ "current closing     rescheduled",
        /* RST  */ "current closing     rescheduled",
        /* UDP  */ "current established rescheduled",
    ]),
    (State::Sighted, 1, [
        /* SYN  */ "current opening     rescheduled",
        /* ACK  */ "current established rescheduled",
        /* data */ "current established rescheduled",
        /* FIN  */ "current closing     rescheduled",
        /* RST  */ "current closing     rescheduled",
        /* UDP  */ "current established rescheduled",
    ]),
    (State::Established, 1, [
        /* SYN  */ "current opening     rescheduled",
        /* ACK  */ "current established rescheduled",
        /* data */ "current established rescheduled",
        /* FIN  */ "current closing     rescheduled",
        /* RST  */ "current closing     rescheduled",
        /* UDP  */ "current established rescheduled",
    ]),
    (State::Established, IDLE_TICKS as u64 + 1, [
        /* SYN  */ "current opening     reopened",
        /* ACK  */ "current established rescheduled",
        /* data */ "current established rescheduled",
        /* FIN  */ "current closing     rescheduled",
        /* RST  */ "current closing     rescheduled",
        /* UDP  */ "current established rescheduled",
    ]),
    (State::Closing, 1, [
        /* SYN  */ "current opening     reopened",
        /* ACK  */ "current moved       rescheduled",
        /* data */ "current moved       rescheduled",
        /* FIN  */ "current closing     rescheduled",
        /* RST  */ "current closing     rescheduled",
        /* UDP  */ "current established rescheduled",
    ]),
];

/// A flow that nobody knows, in a slot whose previous backend is gone.
#[rustfmt::skip]
const UNKNOWN: Line = [
    /* SYN  */ "current opening   miss+",
    /* ACK  */ "current as-it-was miss",
    /* data */ "current as-it-was miss",
    /* FIN  */ "current as-it-was miss",
    /* RST  */ "current as-it-was miss",
    /* UDP  */ "current as-it-was miss",
];

const LOOKING: [Slot; 3] = [Slot::Arming, Slot::Moving, Slot::Tracked];

fn packets(line: Line) -> impl Iterator<Item = (String, Kind, Packet, Answer<'static>)> {
    FAMILIES.into_iter().flat_map(move |family| {
        let cells = Kind::ALL.into_iter().zip(line);
        cells.map(move |(kind, cell)| {
            (format!("{kind:?} over {family:?}"), kind, kind.packet(family), Answer::parse(cell))
        })
    })
}

#[test]
fn a_known_flow_whose_backend_is_gone_gets_the_current_backend() {
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for slot in LOOKING {
        for gone in ELSEWHERE {
            for (state, age, line) in RESCHEDULED {
                for (name, _, packet, answer) in packets(line) {
                    let known = Entry::new(hash_of(&packet), THIRD, state, NOW - age * state.tick());
                    let scene = Scene::new(slot, &packet).knowing(known).without(THIRD, gone);
                    cases.push(Case {
                        description: format!(
                            "{slot:?}: {name} of a flow known as {known:?}, whose backend is {gone:?}"
                        ),
                        frame: frame(&packet).to_bytes(),
                        expected: answer.outcome(&packet, &scene, Some(known)),
                        setup: scene,
                    });
                }
            }
        }
    }
    check_all(&mut tracker, cases);
}

#[test]
fn an_unknown_flow_of_a_slot_whose_previous_backend_is_gone_goes_to_the_current_one() {
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for gone in ELSEWHERE {
        for (name, _, packet, answer) in packets(UNKNOWN) {
            let scene = Scene::new(Slot::Moving, &packet).without(PREVIOUS, gone);
            cases.push(Case {
                description: format!(
                    "{name} of a flow that nobody knows, in a slot whose previous backend is {gone:?}"
                ),
                frame: frame(&packet).to_bytes(),
                expected: answer.outcome(&packet, &scene, None),
                setup: scene,
            });
        }
    }
    check_all(&mut tracker, cases);
}

#[test]
fn without_a_row_of_the_current_backend_a_packet_is_dropped_and_its_flow_is_not_forgotten() {
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for slot in LOOKING {
        for (name, kind, packet, _) in packets(UNKNOWN) {
            if kind == Kind::Syn {
                continue;
            }
            let known = Entry::new(hash_of(&packet), CURRENT, State::Closing, NOW - State::Closing.tick());
            let scene = Scene::new(slot, &packet).knowing(known).without(CURRENT, Gone::WithoutRow);
            let answer = Answer::parse(match kind {
                Kind::Ack | Kind::Data => "current as-it-was hit",
                Kind::Fin | Kind::Rst => "current closing hit",
                _ => "current established hit",
            });
            let frame = frame(&packet).to_bytes();
            cases.push(Case {
                description: format!("{slot:?}: {name} of a flow of the current backend, which is gone"),
                expected: Outcome {
                    tracking: answer.tracking(),
                    flows: answer.flows(&scene, Some(known)),
                    ..Outcome::dropped(Verdict::DropNoBackend, &frame)
                },
                frame,
                setup: scene,
            });
        }
    }
    check_all(&mut tracker, cases);
}

/// What comes of a packet of a flow that is to be reset, if that flow stays with its backend.
fn refused(kind: Kind, packet: &Packet, tracked: &Outcome<Verdict>) -> Outcome<Verdict> {
    let frame = frame(packet);
    let outcome = match kind {
        Kind::Rst | Kind::Udp => Outcome::dropped(Verdict::DropBackendGone, &frame.to_bytes()),
        _ => {
            let answer = reset_of(&frame, packet).to_bytes();
            Outcome::untracked(Action::Transmit, vec![(Verdict::Reset, 1)], Vec::new(), answer)
        }
    };
    Outcome { tracking: tracked.tracking.clone(), flows: tracked.flows.clone(), ..outcome }
}

#[test]
fn a_flow_whose_backend_resets_is_answered_with_a_reset_and_a_syn_goes_elsewhere() {
    #[rustfmt::skip]
    const KNOWN: Line = [
        /* SYN  */ "current opening     rescheduled",
        /* ACK  */ "entry   established hit",
        /* data */ "entry   established hit",
        /* FIN  */ "entry   closing     hit",
        /* RST  */ "entry   closing     hit",
        /* UDP  */ "entry   established hit",
    ];
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for slot in LOOKING {
        for (name, kind, packet, answer) in packets(KNOWN) {
            let known = Entry::new(hash_of(&packet), THIRD, State::Established, NOW - State::Established.tick());
            let scene = Scene::new(slot, &packet).knowing(known).without(THIRD, Gone::Resetting);
            let forwarded = answer.outcome(&packet, &scene, Some(known));
            let expected = if kind == Kind::Syn { forwarded } else { refused(kind, &packet, &forwarded) };
            let description = format!("{slot:?}: {name} of a flow whose backend is {:?}", Gone::Resetting);
            cases.push(Case { description, frame: frame(&packet).to_bytes(), expected, setup: scene });
        }
    }
    check_all(&mut tracker, cases);
}

#[test]
fn an_unknown_flow_of_a_previous_backend_that_resets_is_answered_with_a_reset_and_a_syn_goes_to_the_current_one() {
    #[rustfmt::skip]
    const LINE: Line = [
        /* SYN  */ "current  opening miss+",
        /* ACK  */ "previous sighted miss+",
        /* data */ "previous sighted miss+",
        /* FIN  */ "previous closing miss+",
        /* RST  */ "previous closing miss+",
        /* UDP  */ "previous sighted miss+",
    ];
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for (name, kind, packet, answer) in packets(LINE) {
        let scene = Scene::new(Slot::Moving, &packet).without(PREVIOUS, Gone::Resetting);
        let forwarded = answer.outcome(&packet, &scene, None);
        let expected = if kind == Kind::Syn { forwarded } else { refused(kind, &packet, &forwarded) };
        let description = format!("{name} of a flow that nobody knows, in a slot whose previous backend is resetting");
        cases.push(Case { description, frame: frame(&packet).to_bytes(), expected, setup: scene });
    }
    check_all(&mut tracker, cases);
}

#[test]
fn a_service_whose_only_backend_resets_answers_every_segment_but_a_reset() {
    let Some(mut tracker) = Tracker::new() else { return };
    let mut cases = Vec::new();
    for (name, kind, packet, _) in packets(UNKNOWN) {
        let scene = Scene::new(Slot::Stable, &packet).without(CURRENT, Gone::Resetting);
        let expected = refused(kind, &packet, &Outcome::dropped(Verdict::DropBackendGone, &[]));
        let description = format!("{name} for a backend that is resetting");
        cases.push(Case { description, frame: frame(&packet).to_bytes(), expected, setup: scene });
    }
    assert!(cases.iter().any(|case| case.expected.action == Action::Transmit), "{} is answered", IpNumber::TCP.0);
    check_all(&mut tracker, cases);
}
