//! The order in which a service's backends take turns at new flows.

use lb_common::Policy;

use crate::config::Algorithm;

/// How the datapath chooses among so many backends, and how often each has its turn, if there is a scheduler.
pub fn plan(algorithm: Algorithm, backends: usize) -> Option<(Policy, Turns)> {
    match algorithm {
        Algorithm::Maglev | Algorithm::SourceHash => None,
        Algorithm::RoundRobin => Some((Policy::NEXT, Turns::Equal)),
        Algorithm::WeightedRoundRobin => Some((Policy::NEXT, Turns::Weighted)),
        Algorithm::Random => Some((Policy::RANDOM, Turns::Weighted)),
        Algorithm::LeastConnections if backends <= Policy::MAX_COMPARED as usize => Some((Policy::LEAST, Turns::Equal)),
        Algorithm::LeastConnections => Some((Policy::LEAST_OF_TWO, Turns::Weighted)),
        Algorithm::LeastResponseTime => Some((Policy::FASTEST, Turns::Weighted)),
    }
}

/// How often each backend has its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turns {
    /// Once, in order.
    Equal,
    /// In proportion to its weight.
    Weighted,
}

/// How many comparisons the longest rotations may take to be worked out: some 10 ms.
const MAX_COMPARISONS: usize = 1 << 24;

impl Turns {
    /// For each turn the index of the backend whose turn it is: one period of the rotation, of at most `max` turns, or one for
    /// each backend if that is more. A backend of weight zero has none.
    pub fn rotation(self, weights: &[u32], max: u32) -> Vec<u32> {
        let with_weight = || (0..).zip(weights).filter(|(_, weight)| **weight > 0);
        let members: Vec<u32> = with_weight().map(|(index, _)| index).collect();
        let weights: Vec<u64> = with_weight().map(|(_, weight)| u64::from(*weight)).collect();
        let turns = match self {
            Self::Equal => vec![1; members.len()],
            Self::Weighted => turns_each(&weights, max),
        };
        smooth(&turns).into_iter().map(|place| members[place]).collect()
    }

    /// How long that rotation is.
    pub fn rotation_len(self, weights: &[u32], max: u32) -> u32 {
        let weights = weights.iter().copied().filter(|weight| *weight > 0).map(u64::from);
        let len = match self {
            Self::Equal => weights.count() as u64,
            Self::Weighted => turns_each(&weights.collect::<Vec<_>>(), max).iter().sum(),
        };
        u32::try_from(len).unwrap_or(u32::MAX)
    }
}

/// How many turns each has that has one of `weights`, none of them zero: in proportion, at least one, and at most `max` in all.
/// Exact where that is enough, else by largest remainder.
fn turns_each(weights: &[u64], max: u32) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let total: u64 = weights.iter().map(|weight| weight / divisor).sum();
    let max = u64::from(max).min((MAX_COMPARISONS / weights.len().max(1)) as u64).max(weights.len() as u64);
    if total <= max {
        return weights.iter().map(|weight| weight / divisor).collect();
    }
    // One for each, and of the rest what is left to each that is owed more than that.
    let rest = max - weights.len() as u64;
    let owed: Vec<u64> = weights.iter().map(|weight| (weight / divisor * max).saturating_sub(total)).collect();
    let all_owed: u64 = owed.iter().sum::<u64>().max(1);
    let share = |owed: u64| u128::from(owed) * u128::from(rest);
    let whole = |owed: u64| u64::try_from(share(owed) / u128::from(all_owed)).expect("a part of the turns");
    let mut turns: Vec<u64> = owed.iter().map(|owed| 1 + whole(*owed)).collect();
    let left = max - turns.iter().sum::<u64>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(share(owed[*index]) % u128::from(all_owed)));
    for index in order.into_iter().take(usize::try_from(left).expect("less than one for each")) {
        turns[index] += 1;
    }
    turns
}

const fn greatest_common_divisor(mut one: u64, mut other: u64) -> u64 {
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one
}

/// Smooth weighted round-robin, as nginx does it (`ngx_http_upstream_get_peer` in `ngx_http_upstream_round_robin.c`): at each
/// turn everybody gains as much as its weight, the first of those who have most takes the turn, and pays with the sum of all
/// weights. So the turns of one are spread among those of the others.
fn smooth(weights: &[u64]) -> Vec<usize> {
    let total: i64 = weights.iter().map(|weight| weight.cast_signed()).sum();
    if weights.iter().all(|weight| *weight == 1) {
        return (0..weights.len()).collect();
    }
    let mut credit = vec![0; weights.len()];
    let turn = |_| {
        let mut best = 0;
        for (index, weight) in weights.iter().enumerate() {
            credit[index] += weight.cast_signed();
            if credit[index] > credit[best] {
                best = index;
            }
        }
        credit[best] -= total;
        best
    };
    (0..total).map(turn).collect()
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "the numbers are small")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn letters(weights: &[u32]) -> String {
        let name = |index: u32| char::from(b'a' + u8::try_from(index).unwrap());
        Turns::Weighted.rotation(weights, 65_536).into_iter().map(name).collect()
    }

    #[test]
    fn the_turns_are_those_of_nginx() {
        // The first is the example of the commit that brought the algorithm to nginx (52327e0627f4).
        assert_eq!(letters(&[5, 1, 1]), "aabacaa");
        // By hand: credits before each choice are 5 3 2, 0 6 4, 5 -1 6, 10 2 -2, 5 5 0, 0 8 2, 5 1 4, 0 4 6, 5 7 -2, 10 0 0.
        assert_eq!(letters(&[5, 3, 2]), "abcaabacba");
        assert_eq!(letters(&[50, 30, 20]), "abcaabacba", "what weights have in common changes nothing");
        assert_eq!(letters(&[0, 5, 0, 3, 2]), "bdebbdbedb", "who has no weight has no turn");
    }

    #[test]
    fn in_equal_turns_everybody_with_a_weight_comes_once_in_order() {
        assert_eq!(Turns::Equal.rotation(&[5, 0, 1, 7], 65_536), [0, 2, 3]);
        assert_eq!(Turns::Equal.rotation_len(&[5, 0, 1, 7], 65_536), 3);
    }

    #[test]
    fn nobody_has_a_turn_where_nobody_has_a_weight() {
        for turns in [Turns::Equal, Turns::Weighted] {
            assert_eq!(turns.rotation(&[], 1024), [0_u32; 0]);
            assert_eq!(turns.rotation(&[0, 0], 1024), [0_u32; 0]);
        }
    }

    #[test]
    fn the_rotation_of_thirty_thousand_backends_is_soon_known() {
        let weights: Vec<u32> = (0..30_000).map(|index| 1 + index % 2).collect();
        let before = std::time::Instant::now();
        assert_eq!(Turns::Weighted.rotation(&weights, 65_536).len(), 30_000);
        assert!(before.elapsed().as_secs() < 5);
    }

    proptest! {
        #[test]
        fn each_has_as_many_turns_as_its_weight_asks_for(weights in prop::collection::vec(0..=100_u32, 1..20)) {
            let rotation = Turns::Weighted.rotation(&weights, 65_536);
            let total: u32 = weights.iter().sum();
            for (index, weight) in (0..).zip(&weights) {
                let turns = rotation.iter().filter(|turn| **turn == index).count() as u64;
                prop_assert_eq!(turns * u64::from(total), u64::from(*weight) * rotation.len() as u64);
            }
        }

        #[test]
        fn a_rotation_that_would_be_too_long_has_the_length_it_may_have_and_is_about_right(
            weights in prop::collection::vec(1..=65_535_u32, 1..100), max in 1000..5000_u32,
        ) {
            let rotation = Turns::Weighted.rotation(&weights, max);
            prop_assert_eq!(rotation.len(), Turns::Weighted.rotation_len(&weights, max) as usize);
            let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            prop_assert!(rotation.len() <= max as usize);
            for (index, weight) in (0..).zip(&weights) {
                let turns = rotation.iter().filter(|turn| **turn == index).count();
                let exact = u64::from(*weight) as f64 * rotation.len() as f64 / total as f64;
                let largest_share_of_those_raised_to_one = weights.len() as f64;
                prop_assert!(turns >= 1);
                let wrong = (turns as f64 - exact).abs();
                prop_assert!(wrong <= 1.0 + exact * largest_share_of_those_raised_to_one / rotation.len() as f64);
            }
        }

        #[test]
        fn within_any_part_of_a_rotation_nobody_is_far_from_its_share(weights in prop::collection::vec(1..=50_u32, 1..10)) {
            let rotation = Turns::Weighted.rotation(&weights, 65_536);
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let mut taken = vec![0.0; weights.len()];
            for (turn, index) in (1..).zip(&rotation) {
                taken[*index as usize] += 1.0;
                for (taken, weight) in taken.iter().zip(&weights) {
                    prop_assert!((taken - f64::from(turn) * f64::from(*weight) / total).abs() < weights.len() as f64);
                }
            }
        }
    }
}
