//! One router alone, with a clock that stands until it is moved.

use super::*;

pub(super) struct Bench {
    pub(super) router: Router,
    start: Instant,
    /// Since the start.
    pub(super) now: Duration,
}

impl Bench {
    /// A router that knows nothing of its interfaces yet.
    pub(super) fn new(instances: Vec<Vrrp>) -> Self {
        Self { router: Router::new(instances), start: Instant::now(), now: Duration::ZERO }
    }

    /// A router whose interfaces are up, each with the address 10.0.0.5.
    pub(super) fn started(instances: Vec<Vrrp>) -> Self {
        let interfaces: Vec<_> = instances.iter().map(|instance| instance.interface.clone()).collect();
        let mut bench = Self::new(instances);
        for interface in interfaces {
            bench.link(&interface, Some(&link(&interface, &[node(5)])));
        }
        bench
    }

    /// A router that has become master of all.
    pub(super) fn master(instances: Vec<Vrrp>) -> Self {
        let mut bench = Self::started(instances);
        bench.wait(ms(4000));
        assert!(bench.statuses().iter().all(|status| *status == Status::Master), "{:?}", bench.statuses());
        bench
    }

    pub(super) fn clock(&self) -> Now {
        Now { instant: self.start + self.now, unix: EPOCH + self.now }
    }

    pub(super) fn statuses(&self) -> Vec<Status> {
        self.router.members().iter().map(Member::status).collect()
    }

    pub(super) fn status(&self) -> Status {
        self.statuses()[0]
    }

    pub(super) fn in_words(&self, effects: &[Effect]) -> Vec<String> {
        in_words(&self.router, effects)
    }

    pub(super) fn link(&mut self, interface: &str, link: Option<&LinkState>) -> Vec<String> {
        let effects = self.router.on_link(interface, link, self.clock());
        self.in_words(&effects)
    }

    pub(super) fn read(&mut self, instance: usize, track: usize, reading: Reading) -> Vec<String> {
        let effects = self.router.on_reading(instance, track, reading, self.clock());
        self.in_words(&effects)
    }

    /// Lets time pass, and does all that is due in it, at its time.
    pub(super) fn wait(&mut self, time: Duration) -> Vec<String> {
        let end = self.now + time;
        let mut effects = Vec::new();
        while let Some(deadline) = self.deadline().filter(|deadline| *deadline <= end) {
            assert!(effects.len() < 10_000, "it never rests: {:?}", self.in_words(&effects[9_990..]));
            self.now = deadline.max(self.now);
            effects.extend(self.router.on_time(self.clock()));
        }
        self.now = end;
        self.in_words(&effects)
    }

    /// The next deadline, since the start.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.router.next_deadline().map(|deadline| deadline.saturating_duration_since(self.start))
    }

    /// Lets time pass in which it does not run, and has it do then what is due.
    pub(super) fn stand_still(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        let effects = self.router.on_time(self.clock());
        self.in_words(&effects)
    }

    /// Another node advertises a priority on `eth0`.
    pub(super) fn hear(&mut self, from: u8, priority: u8) -> Vec<String> {
        self.receive(node(from), &advertisement(priority))
    }

    pub(super) fn receive(&mut self, source: IpAddr, advertisement: &Advertisement) -> Vec<String> {
        let payload = advertisement.encode(source, GROUP, ChecksumHabit::PseudoHeader);
        self.deliver(packet(source, &payload))
    }

    pub(super) fn deliver(&mut self, packet: Packet<'_>) -> Vec<String> {
        let effects = self.router.on_packet(packet, self.clock());
        self.in_words(&effects)
    }
}

pub(super) const GROUP: IpAddr = IpAddr::V4(crate::vrrp::packet::GROUP_V4);

/// A packet as it comes in by `eth0`.
pub(super) fn packet(source: IpAddr, payload: &[u8]) -> Packet<'_> {
    Packet { ifindex: 10, source, destination: GROUP, ttl: 255, payload }
}
