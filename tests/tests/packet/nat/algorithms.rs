//! Who gets the flows of a service that translates, and how they are counted.

use std::{net::SocketAddr, ops::Range, time::Duration};

use etherparse::IpNumber;
use lb_common::{
    Affinity, AffinityScope, AffinityServer, BackendId, Datagrams, FlowTime, HashInput, HashInputs, HotLoad, Latency,
    NatMode, NetU16, Policy, Scheduler, ServerOf, Service, SlotWord, Verdict, layout,
};
use lb_userspace::{config::NatTimeouts, dataplane::Sweep, model::Subject};

use super::{
    ports::open_and_close,
    scene::{BACKEND_PORT, Scene, Setup, endpoints},
};
use crate::{
    case::Action,
    fixture::NOW,
    packet::flags::{ACK, FIN, PSH, RST, SYN},
    sandbox::stay_on,
    world::{BACKEND, FAMILIES, PROTOCOLS, SERVICE},
};

/// Where the rotation stands: behind the slots.
const ROTATION_CHUNK: u32 = 100;
const SECOND: BackendId = BackendId::truncate(BACKEND.get() + 1);
pub(super) const PORT: u16 = 2000;

impl Scene {
    /// Lets a scheduler choose between the backend and a second one, which has the port after.
    pub(super) fn schedule(&mut self, turns: &[BackendId], policy: Policy) -> Scheduler {
        self.add_second();
        stay_on(0).expect("there is a first CPU, which begins with the first turn");
        let maps = self.balancer.maps();
        for backend in [BACKEND, SECOND] {
            maps.connections().store_capacity(backend, 1, 0);
        }
        maps.store_turns(ROTATION_CHUNK, turns);
        let scheduler = Scheduler::new(policy, ROTATION_CHUNK, u32::try_from(turns.len()).expect("few turns"));
        maps.store_scheduler(SERVICE, scheduler);
        scheduler
    }

    /// How many connections both backends have, as they are counted.
    pub(super) fn active(&mut self) -> [u32; 2] {
        let connections = self.balancer.maps().connections();
        [BACKEND, SECOND].map(|backend| connections.tally(backend).active())
    }

    /// The port of the backend that gets this new flow, as a number from 0 on.
    fn chosen(&mut self, port: u16) -> u16 {
        let outcome = self.send(&self.request_from(IpNumber::TCP, port).with_flags(SYN, 1, 0));
        assert_eq!((outcome.action, &outcome.verdicts[..]), (Action::Transmit, &[(Verdict::Transmitted, 1)][..]));
        endpoints(&outcome.frame).1.port() - BACKEND_PORT
    }

    /// The port of the backend that gets this new flow, as a number from 0 on, and whom it takes for the client.
    fn begin(&mut self, protocol: IpNumber, port: u16) -> (u16, SocketAddr) {
        let request = self.request_from(protocol, port);
        let request = if protocol == IpNumber::TCP { request.with_flags(SYN, 1, 0) } else { request };
        let outcome = self.send(&request);
        let (source, destination) = endpoints(&outcome.frame);
        (destination.port() - BACKEND_PORT, source)
    }

    /// The first answer of that backend.
    fn answer_of(&mut self, number: u16, protocol: IpNumber, source: SocketAddr) {
        let mut answer = self.reply(protocol, source);
        answer.source.set_port(BACKEND_PORT + number);
        let answer = if protocol == IpNumber::TCP { answer.with_flags(SYN | ACK, 5000, 2) } else { answer };
        assert_eq!(self.answer(&answer).verdicts, [(Verdict::Transmitted, 1)]);
    }

    /// How long both backends take at this time, as far as that is known.
    pub(super) fn latencies(&mut self, now: u64) -> [Option<Duration>; 2] {
        let latencies = self.balancer.maps().latencies();
        [BACKEND, SECOND].map(|backend| latencies.of(backend, FlowTime(now)))
    }

    /// Which share of so many flows the second backend gets, if both answer after so many nanoseconds; the clock goes on from `now`.
    fn share_of_second(&mut self, ports: Range<u16>, now: &mut u64, answers_after: [u64; 2]) -> f64 {
        let (count, mut of_second) = (ports.len(), 0);
        for port in ports {
            let (number, source) = self.begin(IpNumber::TCP, port);
            of_second += number;
            self.balancer.set_time(*now + answers_after[usize::from(number)]);
            self.answer_of(number, IpNumber::TCP, source);
            *now += 10 * MILLISECOND;
            self.balancer.set_time(*now);
        }
        f64::from(of_second) / f64::from(u16::try_from(count).expect("a few"))
    }

    /// What the daemon finds when flows may not be silent for so long.
    pub(super) fn sweep(&self, timeout: Duration) -> Sweep {
        let timeouts =
            NatTimeouts { opening: timeout, half_closed: timeout, time_wait: timeout, ..NatTimeouts::default() };
        let mut subjects = [Subject {
            service: self.service,
            idle_timeout: timeout,
            is_limited: false,
            backends: vec![BACKEND, SECOND],
            nat: Some(NatTimeouts { reset: timeout, unreplied: timeout, ..timeouts }),
            slots: None,
        }];
        self.balancer.sweep(&mut subjects)
    }
}

fn scenes() -> impl Iterator<Item = Scene> {
    Setup::all().into_iter().map_while(Scene::new)
}

#[test]
fn new_flows_go_by_turns_and_stay_where_they_are() {
    for mut scene in scenes() {
        scene.schedule(&[BACKEND, SECOND, SECOND], Policy::NEXT);
        let chosen: Vec<u16> = (PORT..PORT + 6).map(|port| scene.chosen(port)).collect();
        assert_eq!(chosen, [0, 1, 1, 0, 1, 1], "{:?}", scene.setup);
        let again: Vec<u16> = (PORT..PORT + 6).map(|port| scene.chosen(port)).collect();
        assert_eq!(again, chosen, "repeated packets");
        assert_eq!(scene.active(), [2, 4]);
    }
}

#[test]
fn the_fewest_connections_are_those_that_neither_side_has_ended() {
    for mut scene in scenes() {
        scene.schedule(&[BACKEND, SECOND], Policy::LEAST);
        let chosen: Vec<u16> = (PORT..PORT + 4).map(|port| scene.chosen(port)).collect();
        assert_eq!(chosen, [0, 1, 0, 1]);
        assert_eq!(scene.active(), [2, 2]);
        // Those of the first backend are reset, and one of the second's is closed by one side only.
        for port in [PORT, PORT + 2] {
            scene.send(&scene.request_from(IpNumber::TCP, port).with_flags(RST, 2, 0));
        }
        scene.send(&scene.request_from(IpNumber::TCP, PORT + 1).with_flags(FIN | ACK, 2, 1));
        assert_eq!(scene.active(), [0, 2]);
        assert_eq!([scene.chosen(PORT + 4), scene.chosen(PORT + 5)], [0, 0], "{:?}", scene.setup);
    }
}

/// With four ports for each backend, all of which closed connections have with the first.
fn exhausted() -> impl Iterator<Item = Scene> {
    let setups = Setup::all().into_iter().filter(|setup| setup.sources > 0);
    setups.map_while(|setup| {
        let mut scene = Scene::new(Setup { ports: 4, ..setup })?;
        for port in PORT..PORT + 4 {
            open_and_close(&mut scene, port);
        }
        Some(scene)
    })
}

/// It has the fewest connections just because it can have no more.
#[test]
fn where_the_backend_that_is_chosen_has_no_port_another_gets_the_flow() {
    for mut scene in exhausted() {
        scene.schedule(&[BACKEND, SECOND], Policy::LEAST);
        scene.balancer.maps().connections().correct(SECOND, 10);
        for port in PORT + 10..PORT + 14 {
            let request = scene.request_from(IpNumber::TCP, port).with_flags(SYN, 1, 0);
            // Who gets it instead is drawn, and may be the same one again; then the client comes again, too.
            let is_sent = (0..30).any(|_| scene.send(&request).verdicts == [(Verdict::Transmitted, 1)]);
            assert!(is_sent && scene.chosen(port) == 1, "{port} {:?}", scene.setup);
        }
        assert_eq!(scene.active(), [0, 14]);
        let outcome = scene.send(&scene.request_from(IpNumber::TCP, PORT + 14).with_flags(SYN, 1, 0));
        assert_eq!(outcome.verdicts, [(Verdict::DropNoPort, 1)], "now neither has one");
    }
}

#[test]
fn where_the_owner_of_a_slot_has_no_port_that_of_another_slot_gets_the_flow() {
    for mut scene in exhausted() {
        let second = scene.add_second();
        for slot in (0..layout::MIN_SLOTS).step_by(2) {
            scene.balancer.maps().store_slot(&scene.service, slot, SlotWord::stable(second));
        }
        for port in PORT + 10..PORT + 14 {
            let request = scene.request_from(IpNumber::TCP, port).with_flags(SYN, 1, 0);
            let is_sent = (1..30).any(|second| {
                scene.balancer.set_time(NOW + second * 50 * MILLISECOND);
                scene.send(&request).verdicts == [(Verdict::Transmitted, 1)]
            });
            assert!(is_sent && scene.chosen(port) == 1, "{port} {:?}", scene.setup);
        }
    }
}

/// Its records are found by the backend.
#[test]
fn a_single_datagram_goes_to_the_backend_that_is_chosen_or_to_none() {
    for setup in Setup::all().into_iter().filter(|setup| setup.sources > 0) {
        let Some(mut scene) = Scene::new(Setup { ports: 4, ..setup }) else { return };
        scene.put_service(Service { datagrams: Datagrams::SINGLE, ..scene.service });
        let send = |scene: &mut Scene, port| scene.try_source_of(&scene.request_from(IpNumber::UDP, port)).is_some();
        scene.schedule(&[BACKEND], Policy::NEXT);
        assert!((PORT..PORT + 4).all(|port| send(&mut scene, port)), "now the first has no port left");
        scene.schedule(&[BACKEND, SECOND], Policy::NEXT);
        let sent = (0..10).filter(|_| send(&mut scene, PORT + 10)).count();
        assert_eq!(sent, 5, "those of the second, {:?}", scene.setup);
    }
}

const MICROSECOND: u64 = 1000;
const MILLISECOND: u64 = 1000 * MICROSECOND;
/// When the clock begins.
pub(super) const START: u64 = 1 << 40;

#[test]
fn how_long_an_answer_takes_is_measured_where_it_decides() {
    for mut scene in scenes() {
        for protocol in PROTOCOLS {
            for (policy, measured) in [(Policy::NEXT, None), (Policy::FASTEST, Some(Duration::from_micros(123)))] {
                scene.schedule(&[SECOND], policy);
                scene.balancer.maps().latencies().forget(SECOND);
                let port = PORT + u16::from(policy == Policy::NEXT);
                scene.balancer.set_time(START);
                let (number, source) = scene.begin(protocol, port);
                let now = START + 123 * MICROSECOND;
                scene.balancer.set_time(now - 7 * MICROSECOND);
                if protocol == IpNumber::TCP {
                    // Sent again, and something that cannot be: neither is an answer.
                    scene.send(&scene.request_from(protocol, port).with_flags(SYN, 1, 0));
                    scene.send(&scene.request_from(protocol, port).with_flags(ACK, 2, 77));
                }
                assert_eq!(scene.latencies(now), [None; 2]);
                scene.balancer.set_time(now);
                scene.answer_of(number, protocol, source);
                let what = format!("{:?} {protocol:?} {policy:?}", scene.setup);
                assert_eq!(scene.latencies(now), [None, measured], "{what}");
                scene.balancer.set_time(now + MILLISECOND);
                scene.answer_of(number, protocol, source);
                assert_eq!(scene.latencies(now), [None, measured], "{what}: an answer that comes again");
            }
        }
    }
}

#[test]
fn new_flows_go_to_the_faster_one_and_come_back_when_the_other_one_is_as_fast() {
    for mut scene in scenes() {
        scene.schedule(&[BACKEND, SECOND], Policy::FASTEST);
        scene.balancer.maps().store_hot_load(SERVICE, HotLoad(u64::MAX));
        let mut now = START;
        scene.balancer.set_time(now);
        let [fast, slow] = [100 * MICROSECOND, MILLISECOND];
        // Of a thousand, six standard deviations are a tenth.
        let even = scene.share_of_second(2000..3000, &mut now, [fast, fast]);
        assert!((0.4..0.6).contains(&even), "{even}");
        let slower = scene.share_of_second(3000..4000, &mut now, [fast, slow]);
        assert!(slower < 0.15, "{slower}");
        scene.share_of_second(4000..5000, &mut now, [fast, fast]);
        let again = scene.share_of_second(5000..6000, &mut now, [fast, fast]);
        assert!(again > 0.4, "{again}, and more as long as it has fewer connections");
    }
}

/// As `share_of_second`, but that it takes no time to take a connection, and so long to reply to what is asked there.
fn share_of_second_by_replies(scene: &mut Scene, ports: Range<u16>, now: &mut u64, replies_after: [u64; 2]) -> f64 {
    let (count, mut of_second) = (ports.len(), 0);
    for port in ports {
        let (number, source) = scene.begin(IpNumber::TCP, port);
        of_second += number;
        scene.balancer.set_time(*now + 50 * MICROSECOND);
        scene.answer_of(number, IpNumber::TCP, source);
        scene.send(&scene.request_from(IpNumber::TCP, port).with_flags(PSH | ACK, 2, 5001));
        *now += 50 * MICROSECOND + replies_after[usize::from(number)];
        scene.balancer.set_time(*now);
        let mut reply = scene.reply(IpNumber::TCP, source).with_flags(PSH | ACK, 5001, 7);
        reply.source.set_port(BACKEND_PORT + number);
        scene.answer(&reply);
        *now += 10 * MILLISECOND;
        scene.balancer.set_time(*now);
    }
    f64::from(of_second) / f64::from(u16::try_from(count).expect("a few"))
}

#[test]
fn new_flows_leave_an_application_that_becomes_slow_however_fast_its_kernel_takes_connections() {
    for mut scene in scenes() {
        scene.schedule(&[BACKEND, SECOND], Policy::FASTEST);
        scene.balancer.maps().store_hot_load(SERVICE, HotLoad(u64::MAX));
        let mut now = START;
        scene.balancer.set_time(now);
        let [fast, slow] = [2 * MILLISECOND, 20 * MILLISECOND];
        let even = share_of_second_by_replies(&mut scene, 2000..3000, &mut now, [fast, fast]);
        assert!((0.4..0.6).contains(&even), "{even}");
        let slower = share_of_second_by_replies(&mut scene, 3000..4000, &mut now, [fast, slow]);
        assert!(slower < 0.15, "{slower}");
        share_of_second_by_replies(&mut scene, 4000..5000, &mut now, [fast, fast]);
        let again = share_of_second_by_replies(&mut scene, 5000..6000, &mut now, [fast, fast]);
        assert!(again > 0.4, "{again}, and more as long as it has fewer connections");
    }
}

#[test]
fn who_gets_no_flows_for_being_slow_is_tried_again() {
    for mut scene in scenes() {
        scene.schedule(&[BACKEND, SECOND], Policy::FASTEST);
        scene.balancer.maps().store_hot_load(SERVICE, HotLoad(u64::MAX));
        let mut now = START;
        scene.balancer.set_time(now);
        let begins = scene.share_of_second(2000..2100, &mut now, [100 * MICROSECOND, MILLISECOND]);
        assert!(begins < 0.2, "{begins}");
        // As if it were one of so many that nobody samples it.
        scene.schedule(&[BACKEND], Policy::FASTEST);
        for port in 2100..2105 {
            now += Latency::HALF_LIFE;
            scene.balancer.set_time(now);
            scene.share_of_second(port..port + 1, &mut now, [100 * MICROSECOND, 0]);
        }
        scene.schedule(&[BACKEND, SECOND], Policy::FASTEST);
        let tried: u16 = (2105..2125).map(|port| scene.begin(IpNumber::TCP, port).0).sum();
        assert!(tried > 10, "{tried} of 20 before it answers");
        scene.share_of_second(2125..2145, &mut now, [100 * MICROSECOND, MILLISECOND]);
        let again = scene.share_of_second(2145..2245, &mut now, [100 * MICROSECOND, MILLISECOND]);
        assert!(again < 0.2, "{again} when it has");
    }
}

#[test]
fn a_hot_backend_gets_no_more_however_fast_it_is() {
    for mut scene in scenes() {
        scene.schedule(&[BACKEND, SECOND], Policy::FASTEST);
        scene.balancer.set_time(START);
        let mut now = START;
        scene.balancer.maps().store_hot_load(SERVICE, HotLoad(u64::MAX));
        scene.share_of_second(2000..2050, &mut now, [100 * MICROSECOND, MILLISECOND]);
        let [fast, slow] = scene.active();
        assert!(fast > 2 * slow, "{fast}, {slow}");
        let connections = scene.balancer.maps().connections().get(BACKEND);
        scene.balancer.maps().store_hot_load(SERVICE, HotLoad(connections.load().quotient()));
        // It may have one more, and then the other one gets nearly all until it is hot, too.
        let to_slow: u16 = (2050..2070).map(|port| scene.begin(IpNumber::TCP, port).0).sum();
        assert!(to_slow > 12, "{to_slow} of 20");
    }
}

#[test]
fn what_both_sides_have_closed_is_not_active_and_what_begins_anew_is() {
    for mut scene in scenes() {
        scene.add_second();
        let source = scene.establish(PORT);
        assert_eq!(scene.active(), [1, 0]);
        scene.send(&scene.request_from(IpNumber::TCP, PORT).with_flags(FIN | ACK, 0x1234_5679, 5001));
        assert_eq!(scene.active(), [1, 0]);
        let end = scene.reply(IpNumber::TCP, source).with_flags(FIN | ACK, 5001, 0x1234_567a);
        scene.answer(&end);
        assert_eq!(scene.active(), [0, 0]);
        scene.send(&scene.request_from(IpNumber::TCP, PORT).with_flags(SYN, 7, 0));
        assert_eq!(scene.active(), [1, 0]);
    }
}

#[test]
fn nothing_was_miscounted_when_all_is_over() {
    for mut scene in scenes() {
        scene.schedule(&[BACKEND, SECOND], Policy::NEXT);
        for port in PORT..PORT + 40 {
            scene.chosen(port);
            scene.send(&scene.request_from(IpNumber::UDP, port));
        }
        assert_eq!(scene.active(), [40, 40]);
        let swept = scene.sweep(Duration::from_hours(1));
        assert_eq!((swept.removed, &swept.drift[..]), (0, &[][..]));
        let swept = scene.sweep(Duration::ZERO);
        assert_eq!((swept.removed, &swept.drift[..]), (80, &[][..]));
        assert_eq!(scene.active(), [0, 0]);
        // Whoever dies in the middle of something leaves a miscount.
        scene.balancer.maps().connections().correct(SECOND, 3);
        assert_eq!(scene.sweep(Duration::ZERO).drift, [(SECOND, -3)]);
    }
}

#[test]
fn who_is_full_is_passed_over_and_if_all_are_the_client_is_told_or_not() {
    for setup in Setup::all() {
        for (mode, resets, verdict) in
            [(setup.mode, false, Verdict::DropBackendsFull), (setup.mode.resetting(), true, Verdict::Reset)]
        {
            let Some(mut scene) = Scene::new(Setup { mode, ..setup }) else { return };
            let scheduler = scene.schedule(&[BACKEND, SECOND], Policy::NEXT);
            scene.balancer.maps().connections().store_capacity(BACKEND, 1, 1);
            scene.balancer.maps().connections().store_capacity(SECOND, 1, 3);
            scene.balancer.maps().store_scheduler(SERVICE, scheduler.limited(resets));
            let chosen: Vec<u16> = (PORT..PORT + 4).map(|port| scene.chosen(port)).collect();
            assert_eq!(chosen, [0, 1, 1, 1]);
            let refused = scene.send(&scene.request_from(IpNumber::TCP, PORT + 4).with_flags(SYN, 1, 0));
            assert_eq!(refused.verdicts, [(verdict, 1)]);
            assert_eq!(scene.chosen(PORT + 1), 1, "who was there before goes on");
            scene.send(&scene.request_from(IpNumber::TCP, PORT).with_flags(RST, 2, 0));
            assert_eq!(scene.chosen(PORT + 4), 0);
        }
    }
}

#[test]
fn by_the_source_all_flows_of_a_client_go_to_one_backend() {
    for mut scene in scenes() {
        scene.add_second();
        let hash = HashInputs::new(HashInput::source(24).expect("a length"));
        scene.put_service(Service { hash, ..scene.service });
        for slot in (1..layout::MIN_SLOTS).step_by(2) {
            scene.balancer.maps().store_slot(&scene.service, slot, SlotWord::stable(SECOND));
        }
        let first = scene.chosen(PORT);
        assert!((PORT..PORT + 64).all(|port| scene.chosen(port) == first), "{:?}", scene.setup);
    }
}

/// A segment in the middle of a connection that nobody knows is of one that was made before, by the slots.
#[test]
fn what_was_made_elsewhere_goes_by_its_slot() {
    for family in FAMILIES {
        let Some(mut scene) = Scene::new(Setup::destination(family)) else { return };
        assert_eq!(scene.setup.mode, NatMode::DESTINATION);
        scene.schedule(&[SECOND], Policy::NEXT);
        let outcome = scene.send(&scene.request_from(IpNumber::TCP, PORT).with_flags(ACK, 1, 1));
        assert_eq!(endpoints(&outcome.frame).1.port(), BACKEND_PORT);
        assert_eq!(scene.chosen(PORT + 1), 1);
    }
}

#[test]
fn a_client_stays_with_the_backend_of_its_last_new_flow() {
    for mut scene in scenes() {
        scene.schedule(&[BACKEND, SECOND], Policy::NEXT);
        let scope = AffinityScope::service(SERVICE);
        let address = scene.setup.backend_address().ip().into();
        let server = |port| ServerOf::new(SERVICE, AffinityServer::new(scope, address, NetU16::new(port)));
        let maps = scene.balancer.maps();
        maps.store_affinity(SERVICE, Affinity::new(scope, 32, 300));
        maps.put_server(server(BACKEND_PORT), BACKEND).expect("there is room");
        maps.put_server(server(BACKEND_PORT + 1), SECOND).expect("there is room");
        let chosen: Vec<u16> = (PORT..PORT + 4).map(|port| scene.chosen(port)).collect();
        assert_eq!(chosen, [0; 4], "{:?}", scene.setup);
        scene.balancer.maps().remove_server(&server(BACKEND_PORT)).expect("the map can be written");
        let chosen: Vec<u16> = (PORT + 4..PORT + 8).map(|port| scene.chosen(port)).collect();
        assert_eq!(chosen, [1; 4], "{:?}", scene.setup);
    }
}
