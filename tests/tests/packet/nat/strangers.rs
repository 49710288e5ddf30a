//! Packets that belong to no flow.

use std::net::SocketAddr;

use etherparse::IpNumber;
use lb_common::{Verdict, nat::Phase};

use super::scene::{Scene, Setup, opened};
use crate::{
    case::Action,
    packet::flags::{ACK, FIN, PSH, RST, SYN},
    world::PROTOCOLS,
};

/// The backend would not know the connection either, since it knows clients by the source that the flow had.
#[test]
fn a_segment_of_a_connection_that_nobody_knows_is_reset_where_sources_are_translated() {
    for setup in Setup::all().into_iter().filter(|setup| setup.sources > 0) {
        let Some(mut scene) = Scene::new(setup) else { return };
        for flags in [ACK, ACK | PSH, FIN | ACK, SYN | ACK] {
            let outcome = scene.send(&scene.request(IpNumber::TCP).with_flags(flags, 1, 1));
            assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Transmit, &[(Verdict::Reset, 1)][..]));
        }
        let outcome = scene.send(&scene.request(IpNumber::TCP).with_flags(RST, 1, 0));
        assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Drop, &[(Verdict::DropBackendGone, 1)][..]));
        assert_eq!(scene.phases(), []);
    }
}

/// Where the client's address is kept, the backend may know it: the connection may have come by another node.
#[test]
fn a_segment_of_a_connection_that_nobody_knows_goes_on_where_the_client_is_kept() {
    for setup in Setup::all().into_iter().filter(|setup| setup.sources == 0) {
        let Some(mut scene) = Scene::new(setup) else { return };
        let outcome = scene.send(&scene.request(IpNumber::TCP).with_flags(ACK | PSH, 1, 1));
        assert_eq!((opened(&outcome), &outcome.verdicts[..]), (1, &[(Verdict::Transmitted, 1)][..]));
        assert_eq!(scene.phases(), [Phase::ESTABLISHED]);
    }
}

#[test]
fn a_packet_from_a_backend_that_belongs_to_no_flow_passes() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        for protocol in PROTOCOLS {
            let source = scene.source_of(&scene.request(protocol));
            let elsewhere = SocketAddr::new(source.ip(), source.port() ^ 1);
            let stranger = scene.reply(protocol, elsewhere).with_flags(SYN | ACK, 1, 1);
            let outcome = scene.answer(&stranger);
            assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Pass, &[(Verdict::PassNoService, 1)][..]));
            // Of another port of the backend.
            let mut other = scene.reply(protocol, source).with_flags(SYN | ACK, 1, 1);
            other.source.set_port(1);
            assert_eq!(scene.answer(&other).verdicts, [(Verdict::PassNoService, 1)]);
        }
    }
}

#[test]
fn a_reply_of_one_protocol_is_none_of_the_other() {
    for setup in Setup::all() {
        let Some(mut scene) = Scene::new(setup) else { return };
        let source = scene.source_of(&scene.request(IpNumber::UDP));
        let outcome = scene.answer(&scene.reply(IpNumber::TCP, source).with_flags(ACK, 1, 1));
        assert_eq!(outcome.verdicts, [(Verdict::PassNoService, 1)]);
    }
}
