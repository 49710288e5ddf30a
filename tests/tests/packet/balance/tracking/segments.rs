//! What a TCP segment says about its flow: by its flags, and by whether there is data in it.

use crate::{
    case::check_all,
    fixture::NOW,
    flow_table::{Entry, State},
    frame::Frame,
    packet::{Extension, Packet, flags},
    world::Family,
};
use etherparse::IpNumber;

use super::{
    answer::Answer,
    scene::{Case, Scene, Slot, THIRD, Tracker, frame, hash_of, segment},
};

/// What a segment can say.
#[derive(Clone, Copy, Debug)]
enum Says {
    Opens,
    GoesOn,
    Closes,
}

impl Says {
    /// What becomes of the entry of a closing flow, and of that of an established one: no two are the same in both.
    fn answers(self) -> [(State, Answer<'static>); 2] {
        let [closing, established] = match self {
            Self::Opens => ["current opening reopened", "entry established hit"],
            Self::GoesOn => ["entry as-it-was hit", "entry established hit"],
            Self::Closes => ["entry closing hit", "entry closing hit"],
        };
        [(State::Closing, Answer::parse(closing)), (State::Established, Answer::parse(established))]
    }
}

use flags::{ACK, CWR, ECE, FIN, PSH, RST, SYN, URG};

const SEGMENTS: [(&str, u8, &str, Says); 24] = [
    ("a SYN", SYN, "", Says::Opens),
    ("a SYN that asks for ECN", SYN | ECE | CWR, "", Says::Opens),
    ("a SYN with data", SYN, "early", Says::Opens),
    ("a SYN with PSH and URG", SYN | PSH | URG, "", Says::Opens),
    ("a SYN with FIN", SYN | FIN, "", Says::Opens),
    ("a SYN-ACK", SYN | ACK, "", Says::GoesOn),
    ("a SYN-ACK with data", SYN | ACK, "early", Says::GoesOn),
    ("an ACK", ACK, "", Says::GoesOn),
    ("an ACK with PSH", ACK | PSH, "", Says::GoesOn),
    ("an ACK with ECE", ACK | ECE, "", Says::GoesOn),
    ("an ACK with CWR and URG", ACK | CWR | URG, "", Says::GoesOn),
    ("no flag", 0, "", Says::GoesOn),
    ("data", ACK, "data", Says::GoesOn),
    ("a byte of data", ACK, "d", Says::GoesOn),
    ("data with PSH", ACK | PSH, "data", Says::GoesOn),
    ("data without ACK", 0, "data", Says::GoesOn),
    ("a FIN", ACK | FIN, "", Says::Closes),
    ("a FIN without ACK", FIN, "", Says::Closes),
    ("a FIN with data", ACK | FIN | PSH, "bye", Says::Closes),
    ("a RST", RST, "", Says::Closes),
    ("a RST with ACK", ACK | RST, "", Says::Closes),
    ("a RST with data", RST, "why", Says::Closes),
    ("a RST with SYN", SYN | RST, "", Says::Closes),
    ("a SYN-ACK with FIN", SYN | ACK | FIN, "", Says::Closes),
];

type Wrap = fn(Packet) -> Packet;

/// The headers that a segment may have around it, for which none may be taken for data.
fn wrappings() -> [(&'static str, Family, Wrap); 7] {
    fn options(count: usize) -> Vec<u8> {
        vec![1; count]
    }
    [
        ("over IPv4", Family::V4, |packet| packet),
        ("over IPv6", Family::V6, |packet| packet),
        ("over IPv4 with options", Family::V4, |packet| Packet { options: options(40), ..packet }),
        ("over IPv6 with extension headers", Family::V6, |packet| {
            let padding = Extension { number: IpNumber::IPV6_DESTINATION_OPTIONS, data: vec![1, 4, 0, 0, 0, 0] };
            Packet { extensions: vec![padding.clone(), padding], ..packet }
        }),
        ("with the smallest option", Family::V4, |mut packet| {
            packet.segment.options = options(4);
            packet
        }),
        ("with all options that fit", Family::V4, |mut packet| {
            packet.segment.options = options(40);
            packet
        }),
        ("with all options that fit, over IPv6", Family::V6, |mut packet| {
            packet.segment.options = options(40);
            packet
        }),
    ]
}

fn cases(description: &str, packet: &Packet, frame: &Frame, says: Says) -> Vec<Case> {
    let case = |(state, answer): (State, Answer<'_>)| {
        let known = Entry::new(hash_of(packet), THIRD, state, NOW - state.tick());
        let scene = Scene::new(Slot::Tracked, packet).knowing(known);
        let mut expected = answer.outcome(packet, &scene, Some(known));
        expected.frame.extend(&frame.padding);
        Case {
            description: format!("{description}, of a flow that is {state:?}, says {says:?}"),
            frame: frame.to_bytes(),
            expected,
            setup: scene,
        }
    };
    says.answers().into_iter().map(case).collect()
}

#[test]
fn flags_say_whether_a_flow_opens_goes_on_or_closes() {
    let Some(mut tracker) = Tracker::new() else { return };
    let mut all = Vec::new();
    for (segment_name, flags, payload, says) in SEGMENTS {
        for (wrapping, family, wrap) in wrappings() {
            let packet = wrap(segment(family, flags, payload));
            all.extend(cases(&format!("{segment_name} {wrapping}"), &packet, &frame(&packet), says));
        }
    }
    check_all(&mut tracker, all);
}
