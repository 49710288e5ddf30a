//! What of a flow is measured where latencies decide.

use std::{net::SocketAddr, time::Duration};

use etherparse::IpNumber;
use lb_common::{NatMode, Policy, Verdict, nat::RecordIndex};

use super::{
    algorithms::{PORT, START},
    scene::{Scene, Setup},
};
use crate::{
    packet::flags::{ACK, FIN, PSH, RST, SYN},
    world::{BACKEND, Family, PROTOCOLS},
};

const DATA: u8 = PSH | ACK;
/// How long the kernel of the backend takes for a connection, in microseconds; half a second, so that it differs from all else.
const TAKEN: u64 = 500_000;
/// When a client that asks has a connection, in microseconds.
const OPEN: u64 = TAKEN + 10;

/// A flow of the only backend, and both ends of it. Times are in microseconds since its beginning.
struct Talk {
    scene: Scene,
    protocol: IpNumber,
    port: u16,
    /// Whom the backend takes for the client.
    source: SocketAddr,
    now: u64,
}

impl Talk {
    /// A connection, which is there at [`OPEN`].
    fn tcp(scene: Scene, policy: Policy) -> Self {
        let mut talk = Self::begin(scene, policy, IpNumber::TCP);
        talk.backend(TAKEN, SYN | ACK);
        talk.client(OPEN, ACK);
        talk
    }

    /// A flow whose first packet has been sent.
    fn begin(mut scene: Scene, policy: Policy, protocol: IpNumber) -> Self {
        scene.schedule(&[BACKEND], policy);
        let source = SocketAddr::new(scene.setup.client.client(), PORT);
        let mut talk = Self { scene, protocol, port: PORT, source, now: 0 };
        talk.client(0, SYN);
        talk
    }

    fn set_time(&mut self, now: u64) {
        self.now = now;
        self.scene.balancer.set_time(self.time());
    }

    fn time(&self) -> u64 {
        START + 1000 * self.now
    }

    /// A packet of the client, which is sent on.
    fn client(&mut self, now: u64, flags: u8) {
        self.set_time(now);
        let packet = self.scene.request_from(self.protocol, self.port).with_flags(flags, 0x1234_5679, 5001);
        self.source = self.scene.source_of(&packet);
    }

    /// A packet of the backend, which is sent on.
    fn backend(&mut self, now: u64, flags: u8) {
        self.set_time(now);
        let packet = self.scene.reply(self.protocol, self.source).with_flags(flags, 5000, 0x1234_5679);
        assert_eq!(self.scene.answer(&packet).verdicts, [(Verdict::Transmitted, 1)]);
    }

    /// How long the backend takes, as far as that is known.
    fn latency(&mut self) -> Option<u64> {
        let [latency, _] = self.scene.latencies(self.time());
        latency.map(|latency| u64::try_from(latency.as_micros()).expect("seconds at most"))
    }

    /// Where the records of the flows stand.
    fn places(&self) -> Vec<RecordIndex> {
        self.scene.balancer.nat_table().flows().map(|(at, _)| at).collect()
    }

    /// Ends all flows, and frees their places.
    fn forget(&mut self) {
        let before = self.places().len() as u64;
        assert_eq!(self.scene.sweep(Duration::ZERO).removed, before);
        self.scene.balancer.maps().latencies().forget(BACKEND);
    }
}

/// It makes no difference how the service translates, so two ways will do.
fn scenes() -> impl Iterator<Item = Scene> {
    [Setup::full(Family::V4, Family::V6), Setup::destination(Family::V4)].into_iter().map_while(Scene::new)
}

fn talks(policy: Policy) -> impl Iterator<Item = Talk> {
    scenes().map(move |scene| Talk::tcp(scene, policy))
}

#[test]
fn a_request_is_timed_until_its_reply_begins() {
    for mut talk in talks(Policy::FASTEST) {
        assert_eq!(talk.latency(), Some(TAKEN), "the handshake, as long as nothing is asked");
        talk.client(OPEN + 1000, DATA);
        assert_eq!(talk.latency(), Some(TAKEN));
        talk.backend(OPEN + 1300, DATA);
        assert_eq!(talk.latency(), Some(300), "{:?}: and handshakes are no part of it", talk.scene.setup);
        // The rest of the reply, and a part of it that comes again.
        talk.backend(OPEN + 1800, DATA);
        talk.client(OPEN + 1900, ACK);
        talk.backend(OPEN + 2500, DATA);
        talk.backend(OPEN + 2600, FIN | DATA);
        assert_eq!(talk.latency(), Some(300), "{:?}", talk.scene.setup);
    }
}

#[test]
fn an_acknowledgement_is_no_answer() {
    for mut talk in talks(Policy::FASTEST) {
        talk.client(OPEN + 1000, DATA);
        talk.backend(OPEN + 1010, ACK);
        assert_eq!(talk.latency(), Some(TAKEN));
        talk.backend(OPEN + 9000, DATA);
        assert_eq!(talk.latency(), Some(8000), "{:?}", talk.scene.setup);
    }
}

#[test]
fn an_upload_takes_as_long_as_it_takes_and_its_reply_is_timed_from_its_end() {
    for mut talk in talks(Policy::FASTEST) {
        for part in 0..10 {
            talk.client(OPEN + 10_000 * part, DATA);
            talk.backend(OPEN + 10_000 * part + 20, ACK);
        }
        talk.backend(OPEN + 90_000 + 700, DATA);
        assert_eq!(talk.latency(), Some(700), "{:?}", talk.scene.setup);
    }
}

#[test]
fn a_request_that_comes_again_begins_again() {
    for mut talk in talks(Policy::FASTEST) {
        talk.client(OPEN, DATA);
        talk.client(OPEN + 200_000, DATA);
        talk.backend(OPEN + 200_400, DATA);
        assert_eq!(talk.latency(), Some(400), "{:?}", talk.scene.setup);
    }
}

#[test]
fn each_request_of_a_connection_counts() {
    for mut talk in talks(Policy::FASTEST) {
        talk.client(OPEN + 1000, DATA);
        talk.backend(OPEN + 1800, DATA);
        talk.client(OPEN + 5000, DATA);
        talk.backend(OPEN + 5000 + 1600, DATA);
        assert_eq!(talk.latency(), Some(800 + (1600 - 800) / 8), "{:?}", talk.scene.setup);
    }
}

#[test]
fn the_last_request_and_the_last_reply_may_come_with_the_end() {
    for mut talk in talks(Policy::FASTEST) {
        talk.client(OPEN + 1000, FIN | DATA);
        talk.backend(OPEN + 1100, FIN | DATA);
        assert_eq!(talk.latency(), Some(100), "{:?}", talk.scene.setup);
    }
}

#[test]
fn an_end_without_data_is_no_answer() {
    for end in [FIN | ACK, RST | ACK] {
        for mut talk in talks(Policy::FASTEST) {
            talk.client(OPEN + 1000, DATA);
            talk.backend(OPEN + 1100, end);
            assert_eq!(talk.latency(), Some(TAKEN), "{:?}", talk.scene.setup);
        }
    }
}

#[test]
fn what_the_server_says_unasked_is_no_answer() {
    for mut talk in talks(Policy::FASTEST) {
        talk.backend(OPEN + 1000, DATA);
        assert_eq!(talk.latency(), Some(TAKEN), "{:?}", talk.scene.setup);
        talk.client(OPEN + 2000, DATA);
        talk.backend(OPEN + 2050, DATA);
        assert_eq!(talk.latency(), Some(50), "{:?}", talk.scene.setup);
    }
}

#[test]
fn a_handshake_counts_no_more_when_a_reply_was_measured() {
    for mut talk in talks(Policy::FASTEST) {
        talk.client(OPEN, DATA);
        talk.backend(OPEN + 20_000, DATA);
        talk.port += 1;
        talk.client(OPEN + 30_000, SYN);
        talk.backend(OPEN + 30_050, SYN | ACK);
        assert_eq!(talk.latency(), Some(20_000), "{:?}", talk.scene.setup);
    }
}

#[test]
fn each_datagram_that_is_answered_is_a_request() {
    for scene in scenes() {
        let mut talk = Talk::begin(scene, Policy::FASTEST, IpNumber::UDP);
        talk.backend(800, 0);
        assert_eq!(talk.latency(), Some(800), "{:?}", talk.scene.setup);
        talk.client(5000, 0);
        talk.backend(6600, 0);
        assert_eq!(talk.latency(), Some(900), "{:?}", talk.scene.setup);
        talk.backend(9000, 0);
        assert_eq!(talk.latency(), Some(900), "{:?}: it waits no more", talk.scene.setup);
    }
}

#[test]
fn where_latencies_do_not_decide_nothing_is_measured() {
    for policy in [Policy::NEXT, Policy::LEAST] {
        for mut talk in talks(policy) {
            talk.client(OPEN + 1000, DATA);
            talk.backend(OPEN + 1300, DATA);
            assert_eq!(talk.latency(), None, "{:?} {policy:?}", talk.scene.setup);
        }
    }
}

#[test]
fn a_flow_that_began_before_latencies_decided_is_not_measured() {
    for mut talk in talks(Policy::NEXT) {
        talk.scene.schedule(&[BACKEND], Policy::FASTEST);
        talk.client(OPEN + 1000, DATA);
        talk.backend(OPEN + 1300, DATA);
        assert_eq!(talk.latency(), None, "{:?}", talk.scene.setup);
    }
}

#[test]
fn a_record_that_becomes_another_flows_begins_anew() {
    for mut talk in talks(Policy::FASTEST) {
        talk.client(OPEN + 1000, DATA);
        let places = talk.places();
        talk.forget();
        talk.client(OPEN + 2000, SYN);
        assert_eq!(talk.places(), places, "{:?}", talk.scene.setup);
        talk.backend(OPEN + 2040, SYN | ACK);
        assert_eq!(talk.latency(), Some(40), "{:?}", talk.scene.setup);
    }
}

/// In mid-connection, with a segment that asks nothing: then it is not known what the backend sends.
#[test]
fn a_record_that_becomes_that_of_a_connection_made_elsewhere_does_not_wait() {
    for mut talk in talks(Policy::FASTEST).filter(|talk| talk.scene.setup.mode == NatMode::DESTINATION) {
        talk.client(OPEN + 1000, DATA);
        let places = talk.places();
        talk.forget();
        talk.client(OPEN + 2000, ACK);
        assert_eq!(talk.places(), places);
        talk.backend(OPEN + 3000, DATA);
        assert_eq!(talk.latency(), None);
        talk.client(OPEN + 4000, DATA);
        talk.backend(OPEN + 4060, DATA);
        assert_eq!(talk.latency(), Some(60));
        talk.forget();
        talk.client(OPEN + 5000, DATA);
        talk.backend(OPEN + 5080, DATA);
        assert_eq!(talk.latency(), Some(80), "with a request it is");
    }
}

#[test]
fn a_record_that_becomes_that_of_another_algorithm_is_not_measured() {
    for protocol in PROTOCOLS {
        for scene in scenes() {
            let mut talk = Talk::begin(scene, Policy::FASTEST, protocol);
            let places = talk.places();
            talk.forget();
            talk.scene.schedule(&[BACKEND], Policy::NEXT);
            talk.client(OPEN, SYN);
            assert_eq!(talk.places(), places, "{:?}", talk.scene.setup);
            talk.backend(OPEN + 100, SYN | ACK);
            assert_eq!(talk.latency(), None, "{:?}", talk.scene.setup);
        }
    }
}
