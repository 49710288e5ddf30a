//! Numbers that name things in the maps. A number that was given back rests for a while: a packet that is on its way
//! through the datapath may still hold it.

use std::{
    collections::VecDeque,
    ops::Range,
    time::{Duration, Instant},
};

/// How long a number rests. A packet is on its way for microseconds, so this is ample.
const REST: Duration = Duration::from_secs(1);

/// Single numbers of a range.
#[derive(Debug)]
pub(super) struct Pool {
    fresh: VecDeque<u32>,
    resting: VecDeque<(Instant, u32)>,
}

impl Pool {
    /// All of `range` but those `in_use`.
    pub(super) fn new(range: Range<u32>, in_use: impl Fn(u32) -> bool) -> Self {
        Self { fresh: range.filter(|&number| !in_use(number)).collect(), resting: VecDeque::new() }
    }

    pub(super) fn take(&mut self, now: Instant) -> Option<u32> {
        self.fresh.pop_front().or_else(|| {
            let rested = self.resting.front().is_some_and(|(since, _)| *since + REST <= now);
            rested.then(|| self.resting.pop_front()).flatten().map(|(_, number)| number)
        })
    }

    pub(super) fn give_back(&mut self, number: u32, now: Instant) {
        self.resting.push_back((now, number));
    }
}

/// Runs of consecutive numbers: the chunks of a slot table.
#[derive(Debug)]
pub(super) struct RunPool {
    numbers: Vec<Use>,
}

#[derive(Debug, Clone, Copy)]
enum Use {
    Fresh,
    Taken,
    Resting(Instant),
}

impl RunPool {
    pub(super) fn new(len: u32) -> Self {
        Self { numbers: vec![Use::Fresh; len as usize] }
    }

    /// Marks a run as in use.
    pub(super) fn occupy(&mut self, first: u32, len: u32) {
        self.run(first, len).fill(Use::Taken);
    }

    /// The first run of `len` free and rested numbers.
    pub(super) fn take(&mut self, len: u32, now: Instant) -> Option<u32> {
        let rested = |number: &Use| match number {
            Use::Fresh => true,
            Use::Taken => false,
            Use::Resting(since) => *since + REST <= now,
        };
        let first = self.numbers.windows(len as usize).position(|run| run.iter().all(rested))?;
        let first = u32::try_from(first).expect("the pool was made with a 32-bit length");
        self.occupy(first, len);
        Some(first)
    }

    pub(super) fn give_back(&mut self, first: u32, len: u32, now: Instant) {
        self.run(first, len).fill(Use::Resting(now));
    }

    fn run(&mut self, first: u32, len: u32) -> &mut [Use] {
        &mut self.numbers[first as usize..][..len as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_was_given_back_rests_before_it_is_taken_again() {
        let now = Instant::now();
        let mut pool = Pool::new(1..3, |number| number == 2);
        assert_eq!(pool.take(now), Some(1));
        assert_eq!(pool.take(now), None);
        pool.give_back(1, now);
        assert_eq!(pool.take(now), None);
        assert_eq!(pool.take(now + REST), Some(1));
    }

    #[test]
    fn a_run_is_taken_whole_and_rests_whole() {
        let now = Instant::now();
        let mut pool = RunPool::new(8);
        pool.occupy(2, 1);
        assert_eq!(pool.take(4, now), Some(3));
        assert_eq!(pool.take(2, now), Some(0));
        assert_eq!(pool.take(2, now), None);
        pool.give_back(3, 4, now);
        assert_eq!(pool.take(2, now), None);
        assert_eq!(pool.take(5, now + REST), Some(3));
    }
}
