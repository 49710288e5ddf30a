//! What a flow is doing, as its packets tell.

use std::{net::SocketAddr, time::Duration};

use etherparse::IpNumber;
use lb_common::{Condition, NatMode, Verdict, nat::Phase};

use super::{
    ports::SECOND,
    scene::{Scene, Setup, endpoints, opened},
};
use crate::{
    case::Action,
    fixture::NOW,
    packet::flags::{ACK, FIN, PSH, RST, SYN},
    world::Family,
};

const CLIENT: u32 = 0x1234_5679;
const BACKEND_SEQUENCE: u32 = 5001;
const PORT: u16 = 2000;

fn scenes() -> impl Iterator<Item = Scene> {
    Setup::all().into_iter().map_while(Scene::new)
}

/// Segments after the handshake, by whom, with which flags; the sequence numbers are right.
fn after(scene: &mut Scene, port: u16, segments: &[(char, u8)]) -> Vec<Phase> {
    let source = scene.establish(port);
    for (side, flags) in segments {
        let outcome = if *side == 'c' {
            let segment = scene.request_from(IpNumber::TCP, port).with_flags(*flags, CLIENT, BACKEND_SEQUENCE);
            scene.send(&segment)
        } else {
            let segment = scene.reply(IpNumber::TCP, source).with_flags(*flags, BACKEND_SEQUENCE, CLIENT);
            scene.answer(&segment)
        };
        assert_eq!(outcome.verdicts, [(Verdict::Transmitted, 1)]);
    }
    scene.phases_of(port)
}

#[test]
fn both_sides_open_and_close_a_connection() {
    let table: &[(&[(char, u8)], Phase)] = &[
        (&[], Phase::ESTABLISHED),
        (&[('c', ACK | PSH), ('b', ACK | PSH)], Phase::ESTABLISHED),
        (&[('c', FIN | ACK)], Phase::CLIENT_CLOSED),
        (&[('c', FIN | ACK), ('b', ACK), ('b', ACK | PSH)], Phase::CLIENT_CLOSED),
        (&[('b', FIN | ACK)], Phase::BACKEND_CLOSED),
        (&[('b', FIN | ACK), ('c', FIN | ACK), ('b', ACK)], Phase::TIME_WAIT),
        (&[('c', FIN | ACK), ('b', FIN | ACK), ('c', ACK)], Phase::TIME_WAIT),
        (&[('c', RST)], Phase::RESET),
        (&[('b', RST | ACK)], Phase::RESET),
        (&[('c', RST), ('b', ACK | PSH), ('c', ACK), ('c', ACK | PSH)], Phase::RESET),
    ];
    for mut scene in scenes() {
        for (port, (segments, expected)) in (PORT..).zip(table) {
            let setup = scene.setup;
            assert_eq!(after(&mut scene, port, segments), [*expected], "{segments:?}, {setup:?}");
        }
    }
}

/// A segment of one side so many bytes after the handshake.
fn send(scene: &mut Scene, source: SocketAddr, side: char, flags: u8, distance: u32) {
    let outcome = if side == 'c' {
        let segment = scene.request_from(IpNumber::TCP, PORT);
        scene.send(&segment.with_flags(flags, CLIENT.wrapping_add(distance), BACKEND_SEQUENCE))
    } else {
        let segment = scene.reply(IpNumber::TCP, source);
        scene.answer(&segment.with_flags(flags, BACKEND_SEQUENCE.wrapping_add(distance), CLIENT))
    };
    assert_eq!(outcome.verdicts, [(Verdict::Transmitted, 1)], "the hosts decide what it means");
}

/// What a segment carries, in bytes.
fn data_len(scene: &Scene) -> u32 {
    scene.request(IpNumber::TCP).payload.len().try_into().expect("a short payload")
}

/// It was overtaken by the FIN, or was lost and comes again, or comes twice.
#[test]
fn data_from_before_a_fin_opens_nothing_again() {
    for mut scene in scenes() {
        let len = data_len(&scene);
        for (side, other, closed) in [('c', 'b', Phase::CLIENT_CLOSED), ('b', 'c', Phase::BACKEND_CLOSED)] {
            for (flags, distance) in [(FIN | ACK, 3 * len), (FIN | PSH | ACK, 2 * len)] {
                let source = scene.establish(PORT);
                send(&mut scene, source, side, flags, distance);
                // What the other side has got by then, it acknowledges, again and again.
                for distance in [0, len, 2 * len] {
                    send(&mut scene, source, other, ACK, 0);
                    send(&mut scene, source, side, ACK | PSH, distance);
                    assert_eq!(scene.phases(), [closed], "{side} {distance}, {:?}", scene.setup);
                }
                send(&mut scene, source, other, FIN | ACK, len);
                for side in [side, other] {
                    send(&mut scene, source, side, ACK | PSH, 0);
                    assert_eq!(scene.phases(), [Phase::TIME_WAIT], "{side}, {:?}", scene.setup);
                }
            }
        }
    }
}

#[test]
fn data_after_a_fin_shows_that_it_was_forged() {
    for mut scene in scenes() {
        let len = data_len(&scene);
        for side in ['c', 'b'] {
            let source = scene.establish(PORT);
            send(&mut scene, source, side, FIN | ACK, 5);
            assert_ne!(scene.phases(), [Phase::ESTABLISHED], "{side}");
            send(&mut scene, source, side, ACK | PSH, 5 + len);
            assert_eq!(scene.phases(), [Phase::ESTABLISHED], "{side}, {:?}", scene.setup);
            send(&mut scene, source, 'c', RST, 0);
        }
    }
}

#[test]
fn a_fin_out_of_the_window_changes_nothing() {
    for mut scene in scenes() {
        let source = scene.establish(PORT);
        for distance in [1 << 26, 1 << 30, 1 << 31, u32::MAX - 5] {
            for side in ['c', 'b'] {
                send(&mut scene, source, side, FIN | ACK, distance);
                assert_eq!(scene.phases(), [Phase::ESTABLISHED], "{side} {distance}, {:?}", scene.setup);
            }
        }
    }
}

#[test]
fn data_a_while_after_a_reset_shows_that_it_was_forged() {
    let table: &[(&[(char, u8)], Phase)] = &[
        (&[('b', ACK | PSH)], Phase::ESTABLISHED),
        (&[('c', ACK | PSH)], Phase::SIGHTED),
        (&[('c', ACK | PSH), ('b', ACK)], Phase::ESTABLISHED),
        (&[('c', ACK), ('b', ACK)], Phase::RESET),
    ];
    for mut scene in scenes() {
        for (segments, expected) in table {
            scene.balancer.set_time(NOW);
            let source = scene.establish(PORT);
            send(&mut scene, source, 'c', RST, 0);
            for side in ['c', 'b'] {
                // On their way since before, they do not make it younger either.
                scene.balancer.set_time(NOW + SECOND);
                send(&mut scene, source, side, ACK | PSH, 0);
                send(&mut scene, source, side, ACK, 0);
                assert_eq!(scene.phases(), [Phase::RESET], "{side}, {:?}", scene.setup);
            }
            scene.balancer.set_time(NOW + 4 * SECOND);
            for (side, flags) in *segments {
                send(&mut scene, source, *side, *flags, 0);
            }
            assert_eq!(scene.phases(), [*expected], "{segments:?}, {:?}", scene.setup);
            scene.balancer.nat_table().end_all_of(scene.service.id);
            scene.sweep(Duration::from_mins(1));
        }
    }
}

#[test]
fn a_handshake_is_seen_from_both_sides() {
    for mut scene in scenes() {
        let source = scene.source_of(&scene.request(IpNumber::TCP));
        assert_eq!(scene.phases(), [Phase::OPENING]);
        scene.answer(&scene.reply(IpNumber::TCP, source).with_flags(SYN | ACK, 5000, CLIENT));
        assert_eq!(scene.phases(), [Phase::ANSWERED]);
    }
}

/// Whoever sends from a forged address sees nothing of what the backend answers.
#[test]
fn a_handshake_needs_what_the_backend_has_sent() {
    for mut scene in scenes() {
        let source = scene.source_of(&scene.request_from(IpNumber::TCP, PORT));
        scene.answer(&scene.reply(IpNumber::TCP, source).with_flags(SYN | ACK, BACKEND_SEQUENCE - 1, CLIENT));
        let before = scene.states();
        scene.balancer.set_time(NOW + 10_000_000_000);
        let guesses = [0, 1, BACKEND_SEQUENCE - 1, BACKEND_SEQUENCE + 1, u32::MAX];
        let forged = [ACK, ACK | PSH, FIN | ACK].into_iter().flat_map(|flags| guesses.map(|guess| (flags, guess)));
        let without_ack = [0, PSH, FIN].map(|flags| (flags, BACKEND_SEQUENCE));
        for (flags, guess) in forged.chain(without_ack) {
            let segment = scene.request_from(IpNumber::TCP, PORT).with_flags(flags, CLIENT, guess);
            assert_eq!(scene.send(&segment).verdicts, [(Verdict::Transmitted, 1)], "the backend decides");
            assert_eq!(scene.states(), before, "{flags:#x} {guess}, {:?}", scene.setup);
        }
        scene.send(&scene.request_from(IpNumber::TCP, PORT).with_flags(ACK, CLIENT, BACKEND_SEQUENCE));
        assert_eq!(scene.phases(), [Phase::ESTABLISHED]);
    }
}

/// With SYN cookies a backend may answer twice with different numbers, and the client has taken the first.
#[test]
fn a_backend_that_sends_data_has_heard_its_client() {
    for mut scene in scenes() {
        let source = scene.source_of(&scene.request_from(IpNumber::TCP, PORT));
        for sequence in [5000, 6000] {
            scene.answer(&scene.reply(IpNumber::TCP, source).with_flags(SYN | ACK, sequence, CLIENT));
        }
        scene.send(&scene.request_from(IpNumber::TCP, PORT).with_flags(ACK, CLIENT, 5001));
        assert_eq!(scene.phases(), [Phase::ANSWERED]);
        scene.answer(&scene.reply(IpNumber::TCP, source).with_flags(ACK | PSH, 5001, CLIENT));
        assert_eq!(scene.phases(), [Phase::ESTABLISHED]);
    }
}

#[test]
fn what_no_host_would_take_keeps_no_connection_alive() {
    for mut scene in scenes() {
        scene.establish(PORT);
        let before = scene.states();
        scene.balancer.set_time(NOW + 10_000_000_000);
        let forged = CLIENT.wrapping_add(1 << 30);
        for (flags, sequence) in [(0, CLIENT), (PSH, CLIENT), (FIN, CLIENT), (RST, forged)] {
            scene.send(&scene.request_from(IpNumber::TCP, PORT).with_flags(flags, sequence, 0));
            assert_eq!(scene.states(), before, "{flags:#x}");
        }
    }
}

/// The record says who the client is for the backend, and that is another by now.
#[test]
fn a_connection_is_over_where_the_service_translates_otherwise() {
    for mut scene in scenes() {
        let source = scene.establish(PORT);
        let (mode, sources) = if scene.setup.sources == 0 { (NatMode::BOTH, 1) } else { (NatMode::DESTINATION, 0) };
        let has_families = scene.setup.client == scene.setup.backend;
        if !has_families {
            continue;
        }
        scene.put_mode(mode, sources);
        let answer = scene.reply(IpNumber::TCP, source).with_flags(ACK | PSH, BACKEND_SEQUENCE, CLIENT);
        assert_eq!(scene.answer(&answer).verdicts, [(Verdict::PassNoService, 1)], "{:?}", scene.setup);
        let segment = scene.request_from(IpNumber::TCP, PORT).with_flags(ACK | PSH, CLIENT, BACKEND_SEQUENCE);
        let outcome = scene.send(&segment);
        assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Transmit, &[(Verdict::Reset, 1)][..]));
        assert_eq!(scene.phases(), []);
        let outcome = scene.send(&scene.request_from(IpNumber::TCP, PORT));
        assert_eq!((opened(&outcome), &outcome.verdicts[..]), (1, &[(Verdict::Transmitted, 1)][..]));
    }
}

/// RFC 5961, section 3: a reset has to be near what the other side expects.
#[test]
fn a_reset_out_of_the_window_changes_nothing() {
    for mut scene in scenes() {
        let source = scene.establish(PORT);
        for distance in [1 << 21, 1 << 30, 1 << 31, u32::MAX - 5] {
            let forged = scene.request_from(IpNumber::TCP, PORT).with_flags(RST, CLIENT.wrapping_add(distance), 0);
            assert_eq!(scene.send(&forged).verdicts, [(Verdict::Transmitted, 1)], "the backend decides");
            let sequence = BACKEND_SEQUENCE.wrapping_add(distance);
            let forged = scene.reply(IpNumber::TCP, source).with_flags(RST | ACK, sequence, CLIENT);
            scene.answer(&forged);
            assert_eq!(scene.phases(), [Phase::ESTABLISHED], "{distance}, {:?}", scene.setup);
        }
    }
}

#[test]
fn the_window_goes_with_the_connection() {
    let Some(mut scene) = Scene::new(Setup::full(Family::V4, Family::V4)) else { return };
    let source = scene.establish(PORT);
    // The backend acknowledges three gigabytes, bit by bit.
    for megabyte in (0..3000_u32).step_by(10) {
        let acknowledgment = CLIENT.wrapping_add(megabyte << 20);
        scene.answer(&scene.reply(IpNumber::TCP, source).with_flags(ACK, BACKEND_SEQUENCE, acknowledgment));
    }
    let end = CLIENT.wrapping_add(2990 << 20);
    scene.send(&scene.request_from(IpNumber::TCP, PORT).with_flags(RST, CLIENT, 0));
    assert_eq!(scene.phases(), [Phase::ESTABLISHED], "long acknowledged");
    scene.send(&scene.request_from(IpNumber::TCP, PORT).with_flags(RST, end, 0));
    assert_eq!(scene.phases(), [Phase::RESET]);
}

#[test]
fn what_opens_a_connection_that_is_over_opens_another_one() {
    let ends: [&[(char, u8)]; 2] = [&[('c', FIN | ACK), ('b', FIN | ACK)], &[('c', RST)]];
    for mut scene in scenes() {
        for (port, ends) in (PORT..).zip(ends) {
            after(&mut scene, port, ends);
            let outcome = scene.send(&scene.request_from(IpNumber::TCP, port));
            assert_eq!(opened(&outcome), 1, "{ends:?}, {:?}", scene.setup);
            assert_eq!(scene.phases_of(port), [Phase::OPENING]);
            // Its reply finds it.
            let source = endpoints(&outcome.frame).0;
            let answer = scene.reply(IpNumber::TCP, source).with_flags(SYN | ACK, 7000, CLIENT);
            assert_eq!(scene.answer(&answer).verdicts, [(Verdict::Transmitted, 1)]);
            assert_eq!(scene.phases_of(port), [Phase::ANSWERED]);
        }
    }
}

#[test]
fn what_opens_a_connection_that_lives_belongs_to_it() {
    for mut scene in scenes() {
        let source = scene.establish(PORT);
        let outcome = scene.send(&scene.request_from(IpNumber::TCP, PORT));
        assert_eq!((endpoints(&outcome.frame).0, opened(&outcome)), (source, 0), "it may be forged");
        assert_eq!(scene.phases(), [Phase::ESTABLISHED]);
    }
}

#[test]
fn a_datagram_is_replied_to_or_not() {
    for mut scene in scenes() {
        let source = scene.source_of(&scene.request(IpNumber::UDP));
        assert_eq!(scene.phases(), [Phase::UNREPLIED]);
        scene.answer(&scene.reply(IpNumber::UDP, source));
        assert_eq!(scene.phases(), [Phase::REPLIED]);
    }
}

#[test]
fn a_connection_of_a_backend_that_is_gone_is_reset_and_a_new_one_goes_elsewhere() {
    for mut scene in scenes() {
        let old = scene.setup.backend_address();
        scene.establish(PORT);
        scene.put_condition(Condition::RESCHEDULE);
        scene.move_to_another_backend();
        let outcome = scene.send(&scene.request_from(IpNumber::TCP, PORT).with_flags(ACK | PSH, CLIENT, 5001));
        assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Transmit, &[(Verdict::Reset, 1)][..]));
        assert_eq!(scene.phases(), []);
        let outcome = scene.send(&scene.request_from(IpNumber::TCP, PORT));
        assert_eq!(endpoints(&outcome.frame).1, scene.setup.backend_address());
        assert_ne!(scene.setup.backend_address(), old);
    }
}

#[test]
fn a_datagram_of_a_backend_that_is_gone_goes_elsewhere() {
    for mut scene in scenes() {
        let request = scene.request(IpNumber::UDP);
        scene.source_of(&request);
        scene.put_condition(Condition::RESCHEDULE);
        scene.move_to_another_backend();
        let outcome = scene.send(&request);
        assert_eq!(endpoints(&outcome.frame).1, scene.setup.backend_address());
        let answer = scene.reply(IpNumber::UDP, endpoints(&outcome.frame).0);
        assert_eq!(endpoints(&scene.answer(&answer).frame).1, request.source);
    }
}

#[test]
fn a_flow_stays_where_it_is_when_its_slot_moves() {
    for mut scene in scenes() {
        let before = scene.setup.backend_address();
        scene.establish(PORT);
        scene.move_to_another_backend();
        let outcome = scene.send(&scene.request_from(IpNumber::TCP, PORT).with_flags(ACK | PSH, CLIENT, 5001));
        assert_eq!(endpoints(&outcome.frame).1, before);
        let outcome = scene.send(&scene.request_from(IpNumber::TCP, PORT + 1));
        assert_eq!(endpoints(&outcome.frame).1, scene.setup.backend_address());
    }
}
