//! Choosing a backend for a new flow. The eBPF program does it with its maps, and a simulation with memory of its own.

use crate::{BackendId, Connections, HotLoad, Load, Policy, Ring, Scheduler};

/// Those who may be chosen, and how loaded they are.
pub trait Candidates: Copy {
    /// The backend at a place of a ring.
    fn backend_at(self, ring: Ring, index: u32) -> BackendId;

    /// How many connections a backend has, and how many it may have.
    fn connections_of(self, backend: BackendId) -> Connections;

    /// `value` itself, in a form from which the verifier of eBPF programs cannot tell what it is: see
    /// [`Bucket::veil`](crate::flow_table::Bucket::veil).
    #[inline(always)]
    fn veil(self, value: u64) -> u64 {
        value
    }
}

/// Candidates of which it is known how long they take to answer.
pub trait Timed: Candidates {
    /// How long a backend takes, in nanoseconds; zero if that is not known.
    fn latency_of(self, backend: BackendId) -> u32;

    /// The load above which a backend is hot.
    fn hot_load(self) -> HotLoad;
}

/// Whoever chooses.
pub trait Chooser: Candidates {
    /// Which of so many turns, at least one, is next.
    fn next_turn(self, turns: u32) -> u32;

    /// Any number.
    fn random(self) -> u32;

    /// [`least`], which an eBPF program makes a function of its own.
    fn least(self, ring: Ring, start: u32) -> BackendId {
        least(self, ring, start)
    }

    /// [`fastest`], with any number, which an eBPF program makes a function of its own.
    fn fastest(self, ring: Ring, random: u32) -> BackendId;

    /// [`next_with_room`], which an eBPF program makes a function of its own.
    fn next_with_room(self, ring: Ring, start: u32) -> BackendId {
        next_with_room(self, ring, start)
    }
}

/// How often another backend is drawn when the one that was chosen is full, before all are searched.
const DRAWS: u32 = 4;
/// How many places of a ring are asked for room at a time, and how many times: in all, more than most services have backends, and of a
/// large one that is nearly full not all.
const ATTEMPTS: u32 = 64;
const SEARCHES: u32 = 4;

/// The backend for a new flow of a service with this scheduler, in slot number `slot` of the ring of its slots, which `owner` has.
/// Nobody, if all are full.
pub fn choose(chooser: impl Chooser, scheduler: Scheduler, owner: BackendId, slot: u32, slots: Ring) -> BackendId {
    first_choice(chooser, scheduler, owner).unwrap_or_else(|| another(chooser, scheduler, slot, slots))
}

/// The first half of [`choose`]. `None` if [`another`] has to be found, as the one that was chosen is full.
#[inline(always)]
pub fn first_choice(chooser: impl Chooser, scheduler: Scheduler, owner: BackendId) -> Option<BackendId> {
    let rotation = scheduler.rotation();
    let policy = policy(scheduler);
    let chosen = if policy == Policy::SLOT {
        owner
    } else {
        let (start, other) = match policy {
            Policy::NEXT | Policy::LEAST => (chooser.next_turn(rotation.len), 0),
            _ => any_two(chooser.random(), rotation),
        };
        match policy {
            Policy::LEAST => chooser.least(rotation, start),
            Policy::FASTEST => chooser.fastest(rotation, chooser.random()),
            Policy::LEAST_OF_TWO => lighter(chooser, rotation, start, other),
            _ => chooser.backend_at(rotation, start),
        }
    };
    if !scheduler.is_limited() || !chooser.connections_of(chosen).is_full() {
        return Some(chosen);
    }
    // Where all are compared, one that is full is found only if all are.
    let compares_all = policy == Policy::LEAST && rotation.len <= Policy::MAX_COMPARED;
    compares_all.then_some(BackendId::NONE)
}

/// How a new flow gets its backend: where nobody has a turn, by its slot.
#[inline(always)]
fn policy(scheduler: Scheduler) -> Policy {
    if scheduler.turns() == 0 { Policy::SLOT } else { scheduler.policy() }
}

/// A backend that may have more connections, when the one that was chosen may not. First some are drawn in the same way, so that what
/// one does not take is shared by the others as all the rest is. Where slots decide, the slot says who is drawn: so a client has the same
/// second choice each time.
#[inline(always)]
pub fn another(chooser: impl Chooser, scheduler: Scheduler, slot: u32, slots: Ring) -> BackendId {
    let policy = policy(scheduler);
    let by_slot = policy == Policy::SLOT;
    let ring = if by_slot { slots } else { scheduler.rotation() };
    let mut number = if by_slot { slot.wrapping_mul(SPREAD) } else { chooser.random() };
    for _ in 0..DRAWS {
        number = chooser.veil(number.wrapping_mul(STEP).wrapping_add(SPREAD).into()) as u32;
        let index = if policy == Policy::NEXT { chooser.next_turn(ring.len) } else { place_of(number, ring) };
        let backend = chooser.backend_at(ring, index);
        if backend != BackendId::NONE && !chooser.connections_of(backend).is_full() {
            return backend;
        }
    }
    let members = scheduler.members();
    if members.len == 0 {
        return search(chooser, slots, slot);
    }
    search(chooser, members, place_of(number, members))
}

/// A backend of a ring that may have more connections, after the one at `start`.
#[inline(always)]
fn search(chooser: impl Chooser, ring: Ring, mut start: u32) -> BackendId {
    let mut asked = 0;
    for _ in 0..SEARCHES {
        let found = chooser.next_with_room(ring, start);
        asked += ATTEMPTS;
        if found != BackendId::NONE || asked >= ring.len {
            return found;
        }
        start += ATTEMPTS;
        if start >= ring.len {
            start -= ring.len;
        }
    }
    BackendId::NONE
}

/// 2^32 divided by the golden ratio: what is below in a number comes to the top.
const SPREAD: u32 = 0x9e37_79b1;
/// Makes of a number the next of a sequence without a pattern (a linear congruential generator, with the multiplier of *Numerical Recipes*).
const STEP: u32 = 1_664_525;

/// The place in a ring that a number, each as likely as the others, stands for.
#[inline(always)]
fn place_of(number: u32, ring: Ring) -> u32 {
    ((u64::from(number) * u64::from(ring.len)) >> 32) as u32
}

/// Two places of a ring, each as likely as the others.
#[inline(always)]
fn any_two(random: u32, ring: Ring) -> (u32, u32) {
    (place_of(random, ring), place_of(random.wrapping_mul(SPREAD), ring))
}

#[inline(always)]
fn lighter(candidates: impl Candidates, ring: Ring, one: u32, other: u32) -> BackendId {
    let [one, other] = [candidates.backend_at(ring, one), candidates.backend_at(ring, other)];
    let [known, of_other] = [candidates.connections_of(one), candidates.connections_of(other)];
    let is_lighter = if known.is_full() == of_other.is_full() {
        of_other.load().is_less_than(known.load())
    } else {
        known.is_full()
    };
    if is_lighter { other } else { one }
}

/// What there is to say for a backend that may be the fastest.
#[derive(Clone, Copy)]
struct Standing {
    backend: BackendId,
    /// In nanoseconds, and with [`Standing::HOT`] if the backend is hot, or full: in one number, since the stack of an eBPF program is small.
    latency: u64,
    /// See [`Load::quotient`].
    load: u64,
}

impl Standing {
    const HOT: u64 = 1 << 32;

    #[inline(always)]
    fn of(candidates: impl Timed, ring: Ring, random: u32) -> Self {
        let backend = candidates.backend_at(ring, place_of(random, ring));
        let connections = candidates.connections_of(backend);
        let load = connections.load().quotient();
        let hot = if load > candidates.hot_load().0 || connections.is_full() { Self::HOT } else { 0 };
        Self { backend, latency: u64::from(candidates.latency_of(backend)) | hot, load }
    }

    #[inline(always)]
    const fn is_hot(&self) -> bool {
        self.latency >= Self::HOT
    }

    /// Prequal's rule, but that latencies which are about the same decide nothing: they are averages of what differs by chance, and
    /// otherwise whoever is ahead by a hair would get everything until it is behind by a hair.
    #[inline(always)]
    fn is_better_than(&self, other: &Self) -> bool {
        if self.is_hot() != other.is_hot() {
            return other.is_hot();
        }
        if !self.is_hot() && self.is_clearly_faster_than(other) {
            return true;
        }
        (self.is_hot() || !other.is_clearly_faster_than(self)) && self.load < other.load
    }

    /// By a third.
    #[inline(always)]
    const fn is_clearly_faster_than(&self, other: &Self) -> bool {
        self.latency * 3 < other.latency * 2
    }
}

/// Of [`Policy::SAMPLES`] turns of a rotation, which follow from any number, the fastest backend that is not hot; of those that are
/// about as fast, or if all are hot, the one with the fewest connections for its weight.
#[inline(always)]
pub fn fastest(candidates: impl Timed, ring: Ring, random: u32) -> BackendId {
    let mut number = random;
    let mut best = Standing::of(candidates, ring, number);
    for _ in 1..Policy::SAMPLES {
        // Veiled, lest the compiler works out all of them before, and keeps them on the stack.
        number = candidates.veil(scramble(number).into()) as u32;
        let other = Standing::of(candidates, ring, number);
        if other.is_better_than(&best) {
            best = other;
        }
        best.backend = BackendId::truncate(candidates.veil(best.backend.get().into()) as u32);
    }
    best.backend
}

/// Another number, which has little to do with this one: a step of a linear congruential generator, with its bits mixed as in
/// O'Neill's PCG-RXS-M-XS-32.
#[inline(always)]
const fn scramble(number: u32) -> u32 {
    let state = number.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

/// Of a rotation of at most [`Policy::MAX_COMPARED`] turns the backend with the fewest connections for its weight, of those that may have
/// more; of several the one whose turn is next from `start` on. If all are full, the one at `start`.
#[inline(always)]
pub fn least(candidates: impl Candidates, ring: Ring, start: u32) -> BackendId {
    let first = candidates.backend_at(ring, start);
    let mut best = BackendId::truncate(candidates.veil(first.get().into()) as u32);
    let mut fewest = Load::ABOVE_ALL.map(|number| candidates.veil(number));
    let mut index = start;
    for _ in 0..Policy::MAX_COMPARED {
        let backend = candidates.backend_at(ring, index);
        let connections = candidates.connections_of(backend);
        // Whether it is full is asked of few.
        if connections.load().is_less_than(fewest) && !connections.is_full() {
            (best, fewest) = (backend, connections.load());
        }
        index = candidates.veil(ring.after(index).into()) as u32;
        if index == start {
            break;
        }
    }
    best
}

/// The next backend of a ring, among the [`ATTEMPTS`] after the one at `start`, that may have more connections.
#[inline(always)]
pub fn next_with_room(candidates: impl Candidates, ring: Ring, start: u32) -> BackendId {
    let mut index = start;
    for _ in 0..ATTEMPTS {
        index = candidates.veil(ring.after(index).into()) as u32;
        let backend = BackendId::truncate(candidates.veil(candidates.backend_at(ring, index).get().into()) as u32);
        if backend != BackendId::NONE && !candidates.connections_of(backend).is_full() {
            return backend;
        }
        if index == start {
            break;
        }
    }
    BackendId::NONE
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{cell::Cell, vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::Tally;

    /// Backends with numbers from 1 on, each with some connections, a ring of their numbers, and one of them where each is once.
    struct World {
        ring: Vec<u32>,
        members: Vec<u32>,
        connections: Vec<Connections>,
        turn: Cell<u32>,
        random: Cell<u64>,
        /// In nanoseconds.
        latencies: Vec<u32>,
        hot: HotLoad,
    }

    impl World {
        fn new(ring: Vec<u32>, connections: Vec<Connections>) -> Self {
            let (latencies, hot) = (vec![0; connections.len()], HotLoad(u64::MAX));
            let (members, turn, random) = (Vec::new(), Cell::new(0), Cell::new(1));
            Self { ring, members, connections, turn, random, latencies, hot }
        }

        fn ring(&self) -> Ring {
            Ring { first_chunk: 0, len: u32::try_from(self.ring.len()).unwrap() }
        }

        fn choose(&self, policy: Policy) -> usize {
            self.choose_in_slot(policy, 0)
        }

        fn choose_in_slot(&self, policy: Policy, slot: usize) -> usize {
            let turns = if policy == Policy::SLOT { 0 } else { self.ring().len };
            let scheduler = Scheduler::new(policy, 0, turns).with_members(self.members.len() as u32).limited(false);
            let slots = Ring { first_chunk: SLOTS, ..self.ring() };
            choose(self, scheduler, BackendId::truncate(self.ring[slot]), slot as u32, slots).get() as usize
        }

        /// With these weights, each backend having as many connections as it may have but for one.
        fn nearly_full(turns: &[u32], free: u32) -> Self {
            let ring: Vec<u32> = (1..).zip(turns).flat_map(|(id, turns)| vec![id; *turns as usize]).collect();
            let connections = (0..=turns.len() as u32).map(|id| with((id != free).into(), 1, 1)).collect();
            Self { members: (1..).take(turns.len()).collect(), ..Self::new(ring, connections) }
        }
    }

    /// Where the slots stand.
    const SLOTS: u32 = 1000;

    impl Candidates for &World {
        fn backend_at(self, ring: Ring, index: u32) -> BackendId {
            let is_rotation = ring == self.ring() || ring.first_chunk == SLOTS;
            BackendId::truncate(if is_rotation { self.ring[index as usize] } else { self.members[index as usize] })
        }

        fn connections_of(self, backend: BackendId) -> Connections {
            self.connections[backend.get() as usize]
        }
    }

    impl Timed for &World {
        fn latency_of(self, backend: BackendId) -> u32 {
            self.latencies[backend.get() as usize]
        }

        fn hot_load(self) -> HotLoad {
            self.hot
        }
    }

    impl Chooser for &World {
        fn fastest(self, ring: Ring, random: u32) -> BackendId {
            fastest(self, ring, random)
        }

        fn next_turn(self, turns: u32) -> u32 {
            let turn = self.turn.get() % turns;
            self.turn.set(turn + 1);
            turn
        }

        fn random(self) -> u32 {
            let mixed = self.random.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            self.random.set(mixed);
            (mixed >> 32) as u32
        }
    }

    fn with(active: u32, weight: u32, limit: u32) -> Connections {
        Connections { tally: Tally::from_bits(active.into()), weight, limit }
    }

    const POLICIES: [Policy; 6] =
        [Policy::SLOT, Policy::NEXT, Policy::RANDOM, Policy::LEAST, Policy::LEAST_OF_TWO, Policy::FASTEST];

    /// A world of backends with these latencies and numbers of connections, each of the same weight, that are hot with more than so many.
    fn timed(backends: &[(u32, u32)], hot: u32) -> World {
        let connections = [(0, 0)].iter().chain(backends).map(|(_, active)| with(*active, 1, 0));
        let world = World::new((1..).take(backends.len()).collect(), connections.collect());
        let latencies = [0].into_iter().chain(backends.iter().map(|(latency, _)| *latency)).collect();
        World { latencies, hot: HotLoad(with(hot, 1, 0).load().quotient()), ..world }
    }

    /// How many of a hundred thousand flows each backend gets, as long as nothing changes.
    fn shares(world: &World) -> Vec<u32> {
        let mut shares = vec![0; world.connections.len()];
        (0..100_000).for_each(|_| shares[world.choose(Policy::FASTEST)] += 1);
        shares[1..].to_vec()
    }

    proptest! {
        #[test]
        fn the_least_loaded_one_is_found_by_comparing_all(
            counts in prop::collection::vec((0..100_u32, 1..50_u32), 1..=64), start: prop::sample::Index,
        ) {
            let connections = [Connections::default()].into_iter();
            let connections = connections.chain(counts.iter().map(|(active, weight)| with(*active, *weight, 0)));
            let world = World::new((1..).take(counts.len()).collect(), connections.collect());
            let found = least(&world, world.ring(), start.index(counts.len()) as u32).get() as usize;
            let load = |(active, weight): (u32, u32)| f64::from(active + 1) / f64::from(weight);
            let lowest = counts.iter().map(|count| load(*count)).fold(f64::MAX, f64::min);
            prop_assert!(load(counts[found - 1]) <= lowest * 1.000_001);
        }

        #[test]
        fn nobody_is_given_more_than_it_may_have_and_who_has_room_gets_what_others_may_not_have(
            limits in prop::collection::vec(1..4_u32, 1..=250), policy in prop::sample::select(&POLICIES[..]),
        ) {
            let connections = [Connections::default()].into_iter();
            let connections = connections.chain(limits.iter().map(|limit| with(0, 1, *limit)));
            let mut world = World::new((1..).take(limits.len()).collect(), connections.collect());
            for _ in 0..limits.iter().sum::<u32>() {
                let chosen = world.choose(policy);
                prop_assert_ne!(chosen, 0, "there is room");
                let Connections { tally, weight, limit } = world.connections[chosen];
                prop_assert!(tally.active() < limit);
                world.connections[chosen] = with(tally.active() + 1, weight, limit);
            }
            prop_assert_eq!(world.choose(policy), 0);
        }
    }

    #[test]
    fn the_only_one_that_has_room_is_found_however_seldom_its_turn_comes() {
        for (turns, free) in [(vec![1000, 1, 1], 2), (vec![1013, 11], 2), (vec![100; 200], 199), (vec![700; 90], 1)] {
            for policy in [Policy::SLOT, Policy::NEXT, Policy::RANDOM, Policy::LEAST_OF_TWO] {
                let world = World::nearly_full(&turns, free);
                for slot in 0..500 {
                    assert_eq!(world.choose_in_slot(policy, slot) as u32, free, "{policy:?} of {}", turns.len());
                }
            }
        }
    }

    #[test]
    fn what_a_full_one_may_not_have_is_shared_by_all_others() {
        const ROUNDS: usize = 40_000;
        for policy in [Policy::SLOT, Policy::NEXT, Policy::RANDOM] {
            let connections = (0..=4).map(|id| with((id == 1).into(), 1, (id == 1).into())).collect();
            let world = World::new((0..1024).map(|place| 1 + place % 4).collect(), connections);
            let mut counts = [0_usize; 5];
            for round in 0..ROUNDS {
                counts[world.choose_in_slot(policy, round % 1024)] += 1;
            }
            assert_eq!(counts[..2], [0, 0]);
            assert!(counts[2..].iter().all(|count| count.abs_diff(ROUNDS / 3) < ROUNDS / 40), "{policy:?}: {counts:?}");
        }
    }

    #[test]
    fn one_that_is_full_is_not_chosen_whatever_its_weight() {
        let light = with(33_000, 1, 0);
        let heavy = with(10, 65_535, 10);
        let world = World::new(vec![1, 2], vec![light, heavy, light]);
        assert_eq!([(0, 1), (1, 0)].map(|(one, other)| lighter(&world, world.ring(), one, other).get()), [2, 2]);
        assert!((0..50).all(|_| world.choose(Policy::LEAST) == 2));
    }

    #[test]
    fn each_pair_of_places_is_about_as_likely_as_the_others() {
        const LEN: usize = 10;
        const ROUNDS: u32 = 1_000_000;
        let world = World::new(vec![1], vec![]);
        let mut counts = [[0_u32; LEN]; LEN];
        for _ in 0..ROUNDS {
            let (one, other) = any_two((&world).random(), Ring { first_chunk: 0, len: LEN as u32 });
            counts[one as usize][other as usize] += 1;
        }
        let expected = ROUNDS / (LEN * LEN) as u32;
        assert!(counts.iter().flatten().all(|count| count.abs_diff(expected) < expected / 10), "{counts:?}");
    }

    #[test]
    fn who_is_slow_gets_only_what_is_sampled_alone() {
        for backends in 2..=10 {
            let mut standings = vec![(100, 5); backends];
            standings[1].0 = 1000;
            let slow = f64::from(shares(&timed(&standings, 50))[1]) / 100_000.0;
            let expected = f64::from(u32::try_from(backends).unwrap()).powi(-Policy::SAMPLES.cast_signed());
            assert!((slow - expected).abs() < 0.003, "{slow} of {backends}, and not {expected}");
        }
    }

    #[test]
    fn who_is_hot_gets_no_more_for_being_fast() {
        let [hot, cold] = shares(&timed(&[(100, 51), (1000, 50)], 50))[..] else { unreachable!() };
        assert!(hot < cold / 10, "{hot}, {cold}");
        let [cold, hot] = shares(&timed(&[(100, 50), (1000, 51)], 50))[..] else { unreachable!() };
        assert!(hot < cold / 10, "{hot}, {cold}");
    }

    #[test]
    fn what_a_fast_one_may_not_have_goes_to_the_next_fastest() {
        let mut world = timed(&[(100, 10), (1000, 40), (10_000, 40)], 50);
        world.connections[1].limit = 10;
        let [full, fast, slow] = shares(&world)[..] else { unreachable!() };
        assert_eq!(full, 0);
        assert!(slow < fast / 3, "{slow}, {fast}");
    }

    #[test]
    fn where_all_are_hot_the_fewest_connections_count_however_slow() {
        let [more, fewer] = shares(&timed(&[(100, 61), (1000, 60)], 50))[..] else { unreachable!() };
        assert!(more < fewer / 10, "{more}, {fewer}");
    }

    #[test]
    fn of_those_that_are_about_as_fast_the_fewest_connections_count() {
        let [more, fewer] = shares(&timed(&[(100, 21), (115, 20)], 50))[..] else { unreachable!() };
        assert!(more < fewer / 10, "{more}, {fewer}");
        let shares = shares(&timed(&[(100, 20); 5], 50));
        assert!(shares.iter().all(|share| share.abs_diff(20_000) < 400), "{shares:?}");
    }

    #[test]
    fn who_has_never_answered_is_tried() {
        let [known, unknown] = shares(&timed(&[(100, 0), (0, 9)], 50))[..] else { unreachable!() };
        assert!(known < unknown / 10, "{known}, {unknown}");
    }

    #[test]
    fn of_equally_loaded_ones_each_is_chosen_in_turn() {
        let world = World::new(vec![1, 2, 3], vec![with(0, 1, 0); 4]);
        let chosen: Vec<usize> = (0..6).map(|_| world.choose(Policy::LEAST)).collect();
        assert_eq!(chosen, [1, 2, 3, 1, 2, 3]);
    }
}
