//! What becomes of flows, whatever happens: a datapath that follows the table of docs/ARCHITECTURE.md, flows that speak at
//! random, and backends that come and go at random.

use proptest::prelude::*;

use super::*;

const BACKENDS: u32 = 5;
const SLOTS: usize = 8;

/// What happens.
#[derive(Debug, Clone)]
enum Event {
    /// A flow begins. It finds no room in the flow table if that is asked for.
    Open { hash: u32, room: bool },
    /// The first packet of a flow comes again.
    Again { flow: usize },
    /// A packet of a flow comes.
    Packet { flow: usize },
    /// Many flows send a packet each.
    Burst,
    /// The entry of a flow that was seen once is evicted.
    Evict { flow: usize },
    /// A backend changes.
    Backend { backend: u32, fate: NewFate },
    /// Other owners are wanted.
    Want { seed: u64, change: u8 },
    /// Time passes.
    Pass { millis: u64 },
    /// A census begins, sweeps over the table, ends.
    Census,
    /// The table grows.
    Grow,
    /// The service tracks always, or when needed.
    Tracking { always: bool },
}

#[derive(Debug, Clone, Copy)]
enum NewFate {
    Serving,
    Leaving(Option<u64>),
    Held,
    Gone,
}

fn event() -> impl Strategy<Value = Event> {
    let fate = prop_oneof![
        3 => Just(NewFate::Serving),
        2 => proptest::option::of(0..90_u64).prop_map(NewFate::Leaving),
        1 => Just(NewFate::Held),
        1 => Just(NewFate::Gone),
    ];
    prop_oneof![
        8 => (any::<u32>(), proptest::bool::weighted(0.8)).prop_map(|(hash, room)| Event::Open { hash, room }),
        4 => any::<usize>().prop_map(|flow| Event::Again { flow }),
        8 => any::<usize>().prop_map(|flow| Event::Packet { flow }),
        4 => Just(Event::Burst),
        1 => any::<usize>().prop_map(|flow| Event::Evict { flow }),
        3 => (1..=BACKENDS, fate).prop_map(|(backend, fate)| Event::Backend { backend, fate }),
        3 => (any::<u64>(), 0..4_u8).prop_map(|(seed, change)| Event::Want { seed, change }),
        6 => prop_oneof![1..1000_u64, 1000..10_000_u64, 10_000..70_000_u64].prop_map(|millis| Event::Pass { millis }),
        6 => Just(Event::Census),
        1 => Just(Event::Grow),
        1 => any::<bool>().prop_map(|always| Event::Tracking { always }),
    ]
}

/// A flow, as the client and the backend know it.
#[derive(Debug)]
struct Flow {
    hash: u32,
    /// Who has to get its packets; nobody in particular if that backend is gone.
    home: Option<BackendId>,
    /// What the flow table says.
    entry: Option<Entry>,
    last: Instant,
    /// When its first packet may still come again; a flow that was established, or for which there was no room in the
    /// table, does not ask.
    opening_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    backend: BackendId,
    last: Instant,
    is_sighted: bool,
}

struct Simulation {
    world: World,
    has_first_packets: bool,
    /// What stands in the datapath.
    words: Vec<SlotWord>,
    wanted: Vec<BackendId>,
    flows: Vec<Flow>,
    census: Option<(Census, bool)>,
}

impl Simulation {
    fn new(pace: Pace) -> Self {
        let mut world = World::new(pace, &[SlotWord::EMPTY; SLOTS]);
        world.fates = (1..=BACKENDS).map(|id| (BackendId::truncate(id), Fate::Serving)).collect();
        let mut simulation = Self {
            has_first_packets: pace.handshake > Duration::ZERO,
            words: world.words(),
            world,
            wanted: vec![NOBODY; SLOTS],
            flows: Vec::new(),
            census: None,
        };
        simulation.rewant(0, 0);
        simulation
    }

    fn fate(&self, backend: BackendId) -> Fate {
        self.world.fates.get(&backend).copied().unwrap_or(Fate::Gone)
    }

    fn handle(&mut self, event: &Event) {
        let flow = |index: usize| (!self.flows.is_empty()).then(|| index % self.flows.len());
        match *event {
            Event::Open { hash, room } => self.open(hash, room),
            Event::Again { flow: index } => {
                if let Some(index) = flow(index) {
                    self.open_again(index);
                }
            }
            Event::Packet { flow: index } => {
                if let Some(index) = flow(index) {
                    self.packet(index);
                }
            }
            Event::Burst => {
                for index in (0..self.flows.len()).rev().step_by(2) {
                    self.packet(index);
                }
            }
            Event::Evict { flow: index } => {
                if let Some(entry) = flow(index).map(|index| &mut self.flows[index].entry)
                    && entry.is_some_and(|entry| entry.is_sighted)
                {
                    *entry = None;
                    self.world.mover.on_loss(self.world.now);
                }
            }
            Event::Backend { backend, fate } => self.change(BackendId::truncate(backend), fate),
            Event::Want { seed, change } => self.rewant(seed, change),
            Event::Pass { millis } => self.pass(Duration::from_millis(millis)),
            Event::Census => self.go_on_with_census(),
            Event::Grow => self.grow(),
            Event::Tracking { always } => {
                self.world.pace.tracking = if always { Tracking::Always } else { Tracking::WhenNeeded };
                self.advance();
            }
        }
    }

    fn word(&self, hash: u32) -> SlotWord {
        self.words[hash as usize & (self.words.len() - 1)]
    }

    /// The first packet of a new flow.
    fn open(&mut self, hash: u32, room: bool) {
        let word = self.word(hash);
        let now = self.world.now;
        if word == SlotWord::EMPTY {
            return;
        }
        let mut flow = Flow { hash, home: None, entry: None, last: now, opening_until: None };
        let is_current = self.has_first_packets && room || !word.remember();
        let backend = if is_current { word.current() } else { word.previous() };
        let remembers = if self.has_first_packets { word.remember() } else { State::of(word) == State::Moving };
        if remembers && room {
            let is_sighted = !self.has_first_packets && self.sweep_is_ahead();
            flow.entry = Some(Entry { backend, last: now, is_sighted });
        } else if remembers {
            self.world.mover.on_loss(now);
        }
        flow.home = self.has_flows(backend).then_some(backend);
        flow.opening_until = (self.has_first_packets && room).then(|| now + HANDSHAKE);
        self.flows.push(flow);
    }

    /// Its first packet again, as long as a client may send that.
    fn open_again(&mut self, index: usize) {
        let now = self.world.now;
        let word = self.word(self.flows[index].hash);
        if self.flows[index].opening_until.is_none_or(|until| until <= now) || word == SlotWord::EMPTY {
            return;
        }
        let found = self.found(index, word);
        if found.is_none() && word.remember() {
            self.flows[index].entry = Some(Entry { backend: word.current(), last: now, is_sighted: false });
        }
        self.arrives(index, found.unwrap_or(word.current()));
    }

    /// Any other packet. A flow that was silent for too long is over.
    fn packet(&mut self, index: usize) {
        let now = self.world.now;
        let word = self.word(self.flows[index].hash);
        if self.flows[index].last + self.world.pace.idle <= now {
            self.flows.swap_remove(index);
            return;
        }
        if word == SlotWord::EMPTY {
            self.flows[index].home = None;
            return;
        }
        self.flows[index].opening_until = None;
        let backend = match self.found(index, word) {
            Some(backend) => {
                if let Some(entry) = &mut self.flows[index].entry {
                    entry.is_sighted = false;
                }
                backend
            }
            None if State::of(word) == State::Moving => {
                let is_sighted = self.sweep_is_ahead();
                self.flows[index].entry = Some(Entry { backend: word.previous(), last: now, is_sighted });
                word.previous()
            }
            None => word.current(),
        };
        self.arrives(index, backend);
    }

    /// Whose flow it is by the flow table, where the slot asks for that.
    fn found(&mut self, index: usize, word: SlotWord) -> Option<BackendId> {
        let entry = self.flows[index].entry.filter(|_| word.look_up())?;
        let backend = if self.fate(entry.backend) == Fate::Gone { word.current() } else { entry.backend };
        self.flows[index].entry = Some(Entry { backend, last: self.world.now, ..entry });
        Some(backend)
    }

    /// Whether a census that goes on will still come past an entry that is made now. What is evicted before its second packet
    /// comes, and was not seen by the sweep, is lost: nobody can help that, so it does not happen here.
    fn sweep_is_ahead(&self) -> bool {
        !matches!(self.census, Some((_, true)))
    }

    /// A packet of the flow has come to `backend`.
    fn arrives(&mut self, index: usize, backend: BackendId) {
        let has_flows = self.has_flows(backend);
        let word = self.word(self.flows[index].hash);
        let flow = &mut self.flows[index];
        if let Some(home) = flow.home {
            assert_eq!(backend, home, "{flow:?} has come to another backend: {word:?}");
        }
        flow.last = self.world.now;
        flow.home = has_flows.then_some(backend);
    }

    /// Whether flows of the backend stay with it.
    fn has_flows(&self, backend: BackendId) -> bool {
        match self.fate(backend) {
            Fate::Gone => false,
            Fate::Leaving { until: Some(until) } => self.world.now < until,
            Fate::Leaving { until: None } | Fate::Serving | Fate::Held => true,
        }
    }

    fn forget_homeless(&mut self) {
        for index in 0..self.flows.len() {
            let home = self.flows[index].home;
            let is_held = home.is_some_and(|home| self.fate(home) == Fate::Held);
            let flow = &mut self.flows[index];
            // What never got an answer from a dead backend is not one of its flows.
            if is_held && flow.opening_until.is_some() {
                flow.home = None;
            }
        }
        for index in 0..self.flows.len() {
            if self.flows[index].home.is_some_and(|home| !self.has_flows(home)) {
                self.flows[index].home = None;
            }
        }
    }

    fn change(&mut self, backend: BackendId, fate: NewFate) {
        let fate = match fate {
            NewFate::Serving => Fate::Serving,
            NewFate::Leaving(secs) => {
                Fate::Leaving { until: secs.map(|secs| self.world.now + Duration::from_secs(secs)) }
            }
            NewFate::Held => Fate::Held,
            NewFate::Gone => Fate::Gone,
        };
        self.world.fate(backend, fate);
        self.forget_homeless();
        self.rewant(u64::from(backend.get()), 0);
    }

    /// Wants other owners for `change` of four slots, and for those whose owner does not serve.
    fn rewant(&mut self, seed: u64, change: u8) {
        let mut serving: Vec<BackendId> = (1..=BACKENDS).map(BackendId::truncate).collect();
        serving.retain(|backend| self.fate(*backend) == Fate::Serving);
        let mut random = fastrand::Rng::with_seed(seed);
        for index in 0..self.wanted.len() {
            if !serving.contains(&self.wanted[index]) || random.u8(0..4) < change {
                self.wanted[index] = random.choice(&serving).copied().unwrap_or(NOBODY);
            }
        }
        self.world.mover.set_wanted(self.wanted.iter().copied());
        self.advance();
    }

    fn advance(&mut self) {
        let before = self.words.clone();
        let stores = self.world.advance();
        self.store(&stores);
        assert_eq!(self.world.advance(), [], "advancing twice at once does nothing");
        for (slot, word) in before.iter().zip(&self.words) {
            let is_planned = State::of(*word) == State::Moving && State::of(*slot) != State::Moving;
            assert!(
                !self.has_first_packets
                    || !is_planned
                    || State::of(*slot) == State::Arming
                    || self.fate(word.previous()) == Fate::Held,
                "{slot:?} became {word:?} without arming"
            );
        }
    }

    fn store(&mut self, stores: &[(u32, SlotWord)]) {
        for (slot, word) in stores {
            assert_ne!(self.words[*slot as usize], *word, "slot {slot} is stored in vain");
            self.words[*slot as usize] = *word;
        }
        assert_eq!(self.words, self.world.words());
        for word in &self.words {
            for owner in [word.current(), word.previous()] {
                assert!(*word == SlotWord::EMPTY || self.fate(owner) != Fate::Gone, "{word:?} names a gone backend");
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.world.now + time;
        while let Some(deadline) = self.world.mover.next_deadline().filter(|deadline| *deadline <= end) {
            assert!(self.world.now < deadline, "the deadline is ahead");
            self.world.now = self.world.now.max(deadline - Duration::from_nanos(1));
            assert_eq!(self.world.advance(), [], "nothing is due before the deadline");
            self.world.now = deadline;
            self.forget_homeless();
            self.advance();
        }
        self.world.now = end;
        self.forget_homeless();
    }

    fn go_on_with_census(&mut self) {
        let now = self.world.now;
        self.census = match self.census.take() {
            None => Some((self.world.mover.census(&self.world.pace, now), false)),
            Some((mut census, false)) => {
                self.sweep(&mut census);
                Some((census, true))
            }
            Some((census, true)) => {
                let stores = self.world.finish(&census);
                self.store(&stores);
                None
            }
        };
    }

    fn sweep(&mut self, census: &mut Census) {
        let (now, idle) = (self.world.now, self.world.pace.idle);
        let mask = census.slots() - 1;
        for flow in &mut self.flows {
            match &mut flow.entry {
                Some(entry) if entry.last + idle <= now => flow.entry = None,
                Some(entry) => {
                    let is_confirmed = census.meet(super::flow(flow.hash & mask), entry.backend);
                    entry.is_sighted &= !is_confirmed;
                }
                None => {}
            }
        }
    }

    fn grow(&mut self) {
        let slots = self.words.len() * 2;
        if slots <= 64 {
            self.world.mover = self.world.mover.grown(u32::try_from(slots).unwrap());
            self.words = self.world.words();
            self.wanted = self.wanted.repeat(2);
            self.rewant(slots as u64, 1);
        }
    }

    /// Lets everything come to an end.
    fn settle(&mut self) {
        self.census = None;
        for _ in 0..80 {
            self.pass(secs(5));
            for _ in 0..3 {
                self.go_on_with_census();
            }
            self.advance();
        }
        for (word, wanted) in self.words.iter().zip(&self.wanted) {
            let at_rest = match self.world.pace.tracking {
                Tracking::Always => arming(*wanted),
                _ => stable(*wanted),
            };
            assert!(*wanted == NOBODY || *word == at_rest, "{word:?} has not settled on {wanted:?}");
        }
        assert_eq!(self.world.mover.waiting, 0);
        assert_eq!(self.world.mover.next_deadline(), None);
    }
}

fn simulate(pace: Pace, events: &[Event]) {
    let mut simulation = Simulation::new(pace);
    for event in events {
        simulation.handle(event);
    }
    simulation.settle();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_flow_changes_its_backend_while_that_takes_it(events in proptest::collection::vec(event(), 1..150)) {
        simulate(TCP, &events);
    }

    #[test]
    fn no_flow_without_a_first_packet_changes_its_backend(events in proptest::collection::vec(event(), 1..150)) {
        simulate(UDP, &events);
    }
}
