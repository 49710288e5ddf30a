//! Choosing a backend for a new flow. The eBPF program does it with its maps, and a simulation with memory of its own.

use crate::{BackendId, Connections, Policy, Ring, Scheduler};

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

    /// [`next_with_room`], which an eBPF program makes a function of its own.
    fn next_with_room(self, ring: Ring, start: u32) -> BackendId {
        next_with_room(self, ring, start)
    }
}

/// How many places of a ring are asked for room at a time when the backend that was chosen is full, and how many times: in all, more
/// than most services have backends, and of a large one that is nearly full not all.
const ATTEMPTS: u32 = 64;
const SEARCHES: u32 = 4;

/// The backend for a new flow of a service with this scheduler, in slot number `slot` of the ring of its slots, which `owner` has.
/// Nobody, if all are full.
#[inline(always)]
pub fn choose(chooser: impl Chooser, scheduler: Scheduler, owner: BackendId, slot: u32, slots: Ring) -> BackendId {
    let rotation = scheduler.rotation();
    let by_slot = scheduler.policy() == Policy::SLOT || rotation.len == 0;
    let (chosen, ring, start) = if by_slot {
        (owner, slots, slot)
    } else {
        let (start, other) = match scheduler.policy() {
            Policy::NEXT | Policy::LEAST => (chooser.next_turn(rotation.len), 0),
            _ => any_two(chooser.random(), rotation),
        };
        let chosen = match scheduler.policy() {
            Policy::LEAST => chooser.least(rotation, start),
            Policy::LEAST_OF_TWO => lighter(chooser, rotation, start, other),
            _ => chooser.backend_at(rotation, start),
        };
        (chosen, rotation, start)
    };
    if !scheduler.is_limited() || !chooser.connections_of(chosen).is_full() {
        return chosen;
    }
    search(chooser, ring, start)
}

/// A backend of a ring that may have more connections, after the one at `start`.
#[inline(always)]
fn search(chooser: impl Chooser, ring: Ring, mut start: u32) -> BackendId {
    for _ in 0..SEARCHES {
        let found = chooser.next_with_room(ring, start);
        if found != BackendId::NONE || ring.len <= ATTEMPTS {
            return found;
        }
        start += ATTEMPTS;
        if start >= ring.len {
            start -= ring.len;
        }
    }
    BackendId::NONE
}

/// Two places of a ring, each as likely as the others.
#[inline(always)]
fn any_two(random: u32, ring: Ring) -> (u32, u32) {
    /// 2^32 divided by the golden ratio: what is below in a number comes to the top.
    const SPREAD: u32 = 0x9e37_79b1;
    let place = |number: u32| ((u64::from(number) * u64::from(ring.len)) >> 32) as u32;
    (place(random), place(random.wrapping_mul(SPREAD)))
}

#[inline(always)]
fn lighter(candidates: impl Candidates, ring: Ring, one: u32, other: u32) -> BackendId {
    let [one, other] = [candidates.backend_at(ring, one), candidates.backend_at(ring, other)];
    let [one_load, other_load] = [candidates.connections_of(one).load(), candidates.connections_of(other).load()];
    if other_load.is_less_than(one_load) { other } else { one }
}

/// Of a rotation of at most [`Policy::MAX_COMPARED`] turns the backend with the fewest connections for its weight; of several the
/// one whose turn is next from `start` on. One that is full only if all are.
#[inline(always)]
pub fn least(candidates: impl Candidates, ring: Ring, start: u32) -> BackendId {
    let mut index = start;
    let mut best = candidates.backend_at(ring, index);
    let mut fewest = candidates.connections_of(best).load();
    for _ in 1..Policy::MAX_COMPARED {
        index = candidates.veil(ring.after(index).into()) as u32;
        if index == start {
            break;
        }
        let backend = candidates.backend_at(ring, index);
        let load = candidates.connections_of(backend).load();
        if load.is_less_than(fewest) {
            (best, fewest) = (backend, load);
        }
        best = BackendId::truncate(candidates.veil(best.get().into()) as u32);
        fewest = fewest.map(|number| candidates.veil(number));
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

    /// Backends with numbers from 1 on, each with some connections, and a ring of their numbers.
    struct World {
        ring: Vec<u32>,
        connections: Vec<Connections>,
        turn: Cell<u32>,
        random: Cell<u64>,
    }

    impl World {
        fn new(ring: Vec<u32>, connections: Vec<Connections>) -> Self {
            Self { ring, connections, turn: Cell::new(0), random: Cell::new(1) }
        }

        fn ring(&self) -> Ring {
            Ring { first_chunk: 0, len: u32::try_from(self.ring.len()).unwrap() }
        }

        fn choose(&self, policy: Policy) -> usize {
            let scheduler = Scheduler::new(policy, 0, self.ring().len).limited(false);
            choose(self, scheduler, BackendId::truncate(self.ring[0]), 0, self.ring()).get() as usize
        }
    }

    impl Candidates for &World {
        fn backend_at(self, _ring: Ring, index: u32) -> BackendId {
            BackendId::truncate(self.ring[index as usize])
        }

        fn connections_of(self, backend: BackendId) -> Connections {
            self.connections[backend.get() as usize]
        }
    }

    impl Chooser for &World {
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

    const POLICIES: [Policy; 5] = [Policy::SLOT, Policy::NEXT, Policy::RANDOM, Policy::LEAST, Policy::LEAST_OF_TWO];

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
    fn of_equally_loaded_ones_each_is_chosen_in_turn() {
        let world = World::new(vec![1, 2, 3], vec![with(0, 1, 0); 4]);
        let chosen: Vec<usize> = (0..6).map(|_| world.choose(Policy::LEAST)).collect();
        assert_eq!(chosen, [1, 2, 3, 1, 2, 3]);
    }
}
