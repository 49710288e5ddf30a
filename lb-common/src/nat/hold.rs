//! Words of the reverse index that hold a port: they lead to a record that does not lead back.
//!
//! Three may want such a word at the same time: the client of its record, for the next connection to the same backend; a flow that finds no
//! other port; and the daemon, which frees it. Whoever takes it says so in the own record first, and then takes it; the others take it, and
//! then look at the record that it led to, and put it back if that leads there. So of two at least one sees the other.

use super::{Index, RecordIndex, Ways};

/// A record that a word leads to, while others change it.
pub trait Holder {
    /// Where its own word stands, as it says.
    fn reverse(&self) -> RecordIndex;
    /// Whether it is that of a flow, and not of one that is being made.
    fn is_alive(&self) -> bool;
}

/// Takes the place `at` for `word`, where `held` stands, which leads to `holder`: if that is the same word, or else if the port is held
/// and `is_second_hand` will do. `say_so` writes the place into the record of `word`. Whether it is that record's now; if not, what the
/// record says means nothing.
#[inline(always)]
pub fn adopt<B: Ways>(
    bucket: &B,
    at: RecordIndex,
    [held, word]: [u64; 2],
    holder: &impl Holder,
    is_second_hand: bool,
    say_so: impl FnOnce(),
) -> bool {
    let is_own = held == word;
    if !is_own && (!is_second_hand || !holder.is_alive() || holder.reverse() == at) {
        return false;
    }
    say_so();
    if !bucket.replace(at.way(), held, word) {
        return false;
    }
    if !is_own && holder.reverse() == at {
        bucket.replace(at.way(), word, held);
        return false;
    }
    true
}

/// Frees the place `at` of `held`, unless the record that it leads to leads back; whether it did. `reverse` is where that leads at the
/// moment.
pub fn release<B: Ways>(bucket: &B, at: RecordIndex, held: u64, reverse: impl Fn() -> RecordIndex) -> bool {
    if reverse() == at || !bucket.replace(at.way(), held, Index::OVER) {
        return false;
    }
    let is_held = reverse() != at;
    bucket.replace(at.way(), Index::OVER, if is_held { Index::FREE } else { held });
    is_held
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::{
        array::from_fn,
        hint::spin_loop,
        sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst},
    };
    use std::{thread, vec::Vec};

    use super::{super::ReverseWord, *};
    use crate::{FlowHash, flow_table::WAYS};

    const AT: RecordIndex = RecordIndex(3);
    const ELSEWHERE: RecordIndex = RecordIndex(100);

    struct Record {
        reverse: AtomicU32,
        is_alive: bool,
    }

    impl Record {
        fn new(reverse: RecordIndex, is_alive: bool) -> Self {
            Self { reverse: AtomicU32::new(reverse.0), is_alive }
        }
    }

    impl Holder for Record {
        fn reverse(&self) -> RecordIndex {
            RecordIndex(self.reverse.load(SeqCst))
        }

        fn is_alive(&self) -> bool {
            self.is_alive
        }
    }

    /// A bucket in which a word of `holder` stands, and another record that wants its place.
    struct World {
        bucket: [AtomicU64; WAYS],
        holder: Record,
        other: Record,
    }

    impl World {
        fn new(holder: Record) -> Self {
            let bucket = from_fn(|way| AtomicU64::new(if way == 3 { word(1) } else { Index::FREE }));
            Self { bucket, holder, other: Record::new(ELSEWHERE, false) }
        }

        fn adopt_own(&self) -> bool {
            let say_so = || self.holder.reverse.store(AT.0, SeqCst);
            adopt(&self.bucket, AT, [word(1); 2], &self.holder, false, say_so)
        }

        fn adopt_other(&self, is_second_hand: bool) -> bool {
            let say_so = || self.other.reverse.store(AT.0, SeqCst);
            adopt(&self.bucket, AT, [word(1), word(2)], &self.holder, is_second_hand, say_so)
        }

        fn release(&self) -> bool {
            release(&self.bucket, AT, word(1), || self.holder.reverse())
        }

        fn stands(&self) -> u64 {
            self.bucket[3].load(SeqCst)
        }
    }

    type Wish = fn(&World) -> bool;

    fn word(record: u32) -> u64 {
        ReverseWord::new(FlowHash(7 << 32), RecordIndex(record)).to_bits()
    }

    #[test]
    fn a_port_that_is_held_is_its_clients_or_anothers_or_freed() {
        let held = || World::new(Record::new(ELSEWHERE, true));
        let own = held();
        assert!(own.adopt_own() && own.holder.reverse() == AT && own.stands() == word(1));
        let other = held();
        assert!(!other.adopt_other(false), "there may be better ones");
        assert!(other.adopt_other(true) && other.other.reverse() == AT && other.stands() == word(2));
        let released = held();
        assert!(released.release() && released.stands() == Index::FREE);
    }

    #[test]
    fn one_that_is_a_flows_is_nobody_elses() {
        for holder in [Record::new(AT, true), Record::new(ELSEWHERE, false)] {
            assert!(!World::new(holder).adopt_other(true), "that of a flow, or of one that is being made");
        }
        let world = World::new(Record::new(AT, true));
        assert!(!world.release() && world.stands() == word(1));
    }

    #[test]
    fn whoever_comes_late_gets_nothing() {
        let world = World::new(Record::new(ELSEWHERE, true));
        assert!(world.adopt_other(true));
        assert!(!world.adopt_own() && !world.release());
        assert_eq!(world.stands(), word(2));
    }

    /// Two want it at the same moment, over and over; who got it each time.
    fn race(wishes: [Wish; 2]) -> Vec<(World, [bool; 2])> {
        const ROUNDS: usize = 50_000;
        let worlds: Vec<World> = (0..ROUNDS).map(|_| World::new(Record::new(ELSEWHERE, true))).collect();
        let arrived = AtomicUsize::new(0);
        let mut got: [Vec<bool>; 2] = thread::scope(|scope| {
            let threads = wishes.map(|wish| {
                let (worlds, arrived) = (&worlds, &arrived);
                scope.spawn(move || {
                    let rounds = (2..).step_by(2).zip(worlds);
                    rounds
                        .map(|(all, world)| {
                            arrived.fetch_add(1, SeqCst);
                            // A barrier of the library wakes them up one after the other, which takes longer than all they do.
                            for spins in 0.. {
                                if arrived.load(SeqCst) >= all {
                                    break;
                                }
                                if spins < 1000 { spin_loop() } else { thread::yield_now() }
                            }
                            wish(world)
                        })
                        .collect()
                })
            });
            threads.map(|thread| thread.join().unwrap())
        });
        let [one, other] = &mut got;
        worlds.into_iter().zip(one.drain(..).zip(other.drain(..)).map(<[bool; 2]>::from)).collect()
    }

    #[test]
    fn of_two_at_most_one_gets_it_and_what_stands_says_who() {
        let wishes: [(Wish, u64); 3] =
            [(World::adopt_own, word(1)), (|world| world.adopt_other(true), word(2)), (World::release, Index::FREE)];
        for [(one, by_one), (other, by_other)] in
            [[wishes[0], wishes[1]], [wishes[1], wishes[2]], [wishes[2], wishes[0]]]
        {
            for (round, (world, got)) in race([one, other]).iter().enumerate() {
                let expected = match got {
                    [true, true] => panic!("round {round}: both got it"),
                    [true, false] => by_one,
                    [false, true] => by_other,
                    [false, false] => word(1),
                };
                assert_eq!(world.stands(), expected, "round {round}: {got:?}");
            }
        }
    }
}
