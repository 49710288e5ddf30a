//! From which load on a backend gets no new flows for being fast.

use lb_common::{Connections, HotLoad, Load};

/// The quantile of the pool's loads, in percent, above which a backend may be hot: that of Prequal (Wydrowski et al., *Load is not
/// what you should balance*, NSDI 2024), whose authors found 0.84 to be good.
const QUANTILE: usize = 84;
/// How many percent of the mean load a backend has without being hot. In a pool of a few backends a quantile is next to nothing: of two,
/// the one with a connection more than the other would be hot, and the other get the next flow, however slow. It is more than twice the
/// mean, which one of two has that has all connections.
const OF_MEAN: u64 = 225;
/// How many connections a backend of average weight has without being hot: among so few chance decides who has more.
const FEW: u64 = 8;

/// The load above which backends of this pool are hot.
pub fn hot_load(pool: &[Connections]) -> HotLoad {
    let mut loads: Vec<u64> = pool.iter().map(|one| one.load().quotient()).collect();
    loads.sort_unstable();
    let Some(quantile) = loads.get((loads.len().saturating_sub(1)) * QUANTILE / 100) else { return HotLoad::default() };
    let weights: u64 = pool.iter().map(|one| u64::from(one.weight)).sum::<u64>().max(1);
    let connections: u64 = pool.iter().map(|one| u64::from(one.tally.active()) + 1).sum();
    let by_weights = |connections: u64| (connections << Load::QUOTIENT_SHIFT) / weights;
    let few = by_weights((FEW + 1) * pool.len() as u64);
    HotLoad((*quantile).max(by_weights(connections) * OF_MEAN / 100).max(few))
}

#[cfg(test)]
mod tests {
    use lb_common::Tally;

    use super::*;

    fn one(active: u32, weight: u32) -> Connections {
        Connections { tally: Tally::from_bits(active.into()), weight, limit: 0 }
    }

    /// Which of a pool are hot.
    fn hot(pool: &[(u32, u32)]) -> Vec<usize> {
        let pool: Vec<Connections> = pool.iter().map(|(active, weight)| one(*active, *weight)).collect();
        let HotLoad(hot) = hot_load(&pool);
        (0..pool.len()).filter(|index| pool[*index].load().quotient() > hot).collect()
    }

    #[test]
    fn of_many_at_most_a_sixth_is_hot() {
        let pool: Vec<(u32, u32)> = (0..100_u32).map(|number| (10 * (number % 10).pow(2), 1)).collect();
        assert_eq!(hot(&pool), (0..100).filter(|number| number % 10 == 9).collect::<Vec<_>>());
    }

    #[test]
    fn of_a_few_that_have_about_as_many_nobody_is_hot() {
        assert_eq!(hot(&[(120, 1), (100, 1), (90, 1)]), [0_usize; 0]);
    }

    #[test]
    fn of_two_one_may_have_all_connections() {
        assert_eq!(hot(&[(1_000_000, 1), (0, 1)]), [0_usize; 0]);
    }

    #[test]
    fn of_three_one_may_have_six_times_as_many_connections_as_each_other_one() {
        assert_eq!(hot(&[(590, 1), (100, 1), (100, 1)]), [0_usize; 0]);
        assert_eq!(hot(&[(610, 1), (100, 1), (100, 1)]), [0]);
    }

    #[test]
    fn connections_count_by_weight() {
        assert_eq!(hot(&[(300, 3), (100, 1), (90, 1)]), [0_usize; 0]);
        assert_eq!(hot(&[(100, 3), (100, 1), (90, 3)]), [1]);
    }

    #[test]
    fn nobody_is_hot_with_a_few_connections_and_where_nobody_is_nothing_fails() {
        assert_eq!(hot(&[(8, 1), (0, 1), (0, 1)]), [0_usize; 0]);
        assert_eq!(hot(&[(9, 1), (0, 1), (0, 1)]), [0]);
        assert_eq!(hot_load(&[]), HotLoad::default());
    }
}
