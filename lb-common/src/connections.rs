//! How many connections backends have, and how many they may have.

/// What the datapath knows of a backend when it chooses one for a new flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Connections {
    /// How many there are.
    pub tally: Tally,
    /// The backend's weight: its connections count for as much less.
    pub weight: u32,
    /// How many there may be, as far as schedulers are concerned; zero is any number.
    pub limit: u32,
}

impl Connections {
    /// Whether the backend has as many as it may have.
    #[inline(always)]
    pub const fn is_full(&self) -> bool {
        // Without a limit that is more than there ever are.
        self.tally.active() > self.limit.wrapping_sub(1)
    }

    /// How loaded it would be with one connection more, whether it may have one or not.
    #[inline(always)]
    pub const fn load(&self) -> Load {
        Load { connections: self.tally.balance() as i64 + 1, weight: self.weight as i64 }
    }
}

/// Connections by weight, to be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Below 2^32, and negative where ends were counted without their beginnings.
    connections: i64,
    /// Below 2^22.
    weight: i64,
}

impl Load {
    /// More than that of any backend with a weight.
    pub const ABOVE_ALL: Self = Self { connections: 1 << 40, weight: 1 };

    /// Whether it is less than `other`.
    #[inline(always)]
    pub const fn is_less_than(self, other: Self) -> bool {
        self.connections * other.weight < other.connections * self.weight
    }

    /// The quotient, in 4096ths: what has to be kept is one number then, at the price of a division.
    #[inline(always)]
    pub const fn quotient(self) -> u64 {
        let connections = if self.connections < 0 { 0 } else { self.connections.cast_unsigned() };
        match (connections << Self::QUOTIENT_SHIFT).checked_div(self.weight.cast_unsigned()) {
            Some(quotient) => quotient,
            // Who has no weight has no turns.
            None => u64::MAX,
        }
    }

    /// How many bits of a quotient stand behind the point.
    pub const QUOTIENT_SHIFT: u32 = 12;

    /// The same with both numbers sent through `map`.
    #[inline(always)]
    #[must_use]
    pub fn map(self, map: impl Fn(u64) -> u64) -> Self {
        let [connections, weight] =
            [self.connections, self.weight].map(|number| map(number.cast_unsigned()).cast_signed());
        Self { connections, weight }
    }
}

/// The load of a pool above which a backend of it is *hot*, so that it gets no new flows for being fast (Wydrowski et al., *Load is not
/// what you should balance*, NSDI 2024): a [`Load::quotient`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct HotLoad(pub u64);

/// A count of active connections that only needs additions, which CPUs may do in any order: active ones in the lower half, those
/// that have ended, in all, in the upper half. So whoever has seen the number twice knows how many have begun and ended in
/// between.
///
/// A connection is active if the flow table has an entry for it that is not closing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Tally(u64);

impl Tally {
    /// What is added for a connection that begins.
    pub const BEGUN: u64 = 1;
    /// What is added for one that has ended: one less below, with a carry above.
    pub const ENDED: u64 = u32::MAX as u64;

    /// From the word in the map.
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The word in the map.
    #[inline(always)]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// How many there are. For a moment an end may be counted before its beginning.
    #[inline(always)]
    pub const fn active(self) -> u32 {
        let count = self.0 as u32;
        // Negative numbers are none.
        count & (count >> 31).wrapping_sub(1)
    }

    /// The same, and fewer than none where ends were counted without their beginnings.
    pub const fn balance(self) -> i32 {
        self.0 as i32
    }

    /// How many have ended, in all: below 2^32, after which it starts over.
    pub const fn ended(self) -> u32 {
        (self.0.wrapping_sub((self.balance() as i64).cast_unsigned()) >> 32) as u32
    }

    /// The same after so many connections have ended.
    #[must_use]
    pub const fn after(self, ended: u64) -> Self {
        Self(self.0.wrapping_add(ended.wrapping_mul(Self::ENDED)))
    }

    /// What has to be added so that there are `more`, or fewer where that is negative.
    pub const fn correction(more: i64) -> u64 {
        let each = if more < 0 { Self::ENDED } else { Self::BEGUN };
        more.unsigned_abs().wrapping_mul(each)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn with(active: u32, weight: u32, limit: u32) -> Connections {
        Connections { tally: Tally(u64::from(active)), weight, limit }
    }

    proptest! {
        #[test]
        fn a_tally_is_the_sum_of_what_has_happened_in_whatever_order(begun in 0..2000_u32, ended in 0..2000_u32, seed: u64) {
            let ended = ended.min(begun);
            let mut events: Vec<u64> = [Tally::BEGUN].repeat(begun as usize);
            events.extend([Tally::ENDED].repeat(ended as usize));
            let len = events.len().max(1);
            events.rotate_left(seed as usize % len);
            let tally = Tally(events.iter().fold(0, |sum, event| sum.wrapping_add(*event)));
            prop_assert_eq!(tally.active(), begun - ended);
            prop_assert_eq!(tally, Tally(u64::from(begun)).after(u64::from(ended)));
            prop_assert_eq!(tally.0 >> 32, u64::from(ended));
        }

        #[test]
        fn a_correction_corrects(active in 0..1_000_000_u32, to in 0..1_000_000_u32) {
            let change = Tally::correction(i64::from(to) - i64::from(active));
            prop_assert_eq!(Tally(u64::from(active).wrapping_add(change)).active(), to);
        }

        #[test]
        fn the_lighter_one_has_the_smaller_quotient(counts: [u16; 2], weights in [1..1000_u32, 1..1000_u32]) {
            let [one, other] = [0, 1].map(|index| with(counts[index].into(), weights[index], 0));
            let quotients = [0, 1].map(|index| (f64::from(counts[index]) + 1.0) / f64::from(weights[index]));
            prop_assume!((quotients[0] - quotients[1]).abs() > 1e-9);
            prop_assert_eq!(one.load().is_less_than(other.load()), quotients[0] < quotients[1]);
        }

        #[test]
        fn a_quotient_is_the_connections_by_the_weight(count: u16, weight in 1..1000_u32) {
            let quotient = (f64::from(count) + 1.0) / f64::from(weight);
            let known = f64::from(u32::try_from(with(count.into(), weight, 0).load().quotient()).unwrap()) / 4096.0;
            prop_assert!((known - quotient).abs() <= 1.0 / 4096.0);
        }

        #[test]
        fn ends_are_counted_also_where_they_come_before_their_beginnings(begun in 0..2000_u32, ended in 0..4000_u32) {
            let tally = Tally(u64::from(begun)).after(u64::from(ended));
            prop_assert_eq!(tally.ended(), ended);
            prop_assert_eq!(i64::from(tally.balance()), i64::from(begun) - i64::from(ended));
        }

        #[test]
        fn loads_are_compared_by_weight(
            counts in [0..1_000_000_u32, 0..1_000_000_u32], weights in [1..=1_048_560_u32, 1..=1_048_560_u32],
        ) {
            let load = |index: usize| with(counts[index], weights[index], 0).load();
            let [one, other] = [0, 1].map(|index| u64::from(counts[index] + 1) * u64::from(weights[1 - index]));
            prop_assert_eq!(load(0).is_less_than(load(1)), one < other);
            prop_assert!(load(0).is_less_than(Load::ABOVE_ALL));
        }
    }

    #[test]
    fn an_end_that_is_counted_first_is_no_crowd() {
        let early = Tally(0).after(1);
        assert_eq!(early.active(), 0);
        assert_eq!(Tally(early.0.wrapping_add(Tally::BEGUN)).active(), 0);
    }

    #[test]
    fn who_has_no_limit_is_never_full() {
        assert!(!with(1_000_000, 1, 0).is_full());
        assert!(!with(9, 1, 10).is_full());
        assert!(with(10, 1, 10).is_full() && with(11, 1, 10).is_full());
    }
}
