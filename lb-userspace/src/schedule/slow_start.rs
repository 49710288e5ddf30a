//! Slow start: the weight of a backend that comes up rises in steps, while its caches fill.

use std::time::Duration;

/// A weight counts so many parts, and rises by one of them at a time: each step moves slots.
const PARTS: u32 = 16;

/// The weight of a backend at some time after it came up. Of a service with slow start all weights are counted like this:
/// the smallest one could not rise otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rising {
    /// In sixteenths of a weight of 1.
    pub sixteenths: u32,
    /// How long after it came up it rises next; `None` at the top.
    pub next: Option<Duration>,
}

/// What has become of `weight` at `elapsed` after the backend came up, when it takes `over`, more than zero, until the
/// weight counts in full: it begins with a sixteenth, and rises by 15 others in equal times.
pub fn slow_start(weight: u16, elapsed: Duration, over: Duration) -> Rising {
    let steps = PARTS - 1;
    let done = (elapsed.as_nanos().saturating_mul(steps.into()) / over.as_nanos()).min(steps.into());
    let done = u32::try_from(done).unwrap_or(steps);
    // Rounded up, so that the step has been taken by then.
    let next = || Duration::from_nanos_u128((over.as_nanos() * u128::from(done + 1)).div_ceil(steps.into()));
    Rising { sixteenths: u32::from(weight) * (done + 1), next: (done < steps).then(next) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OVER: Duration = Duration::from_mins(1);

    fn at(seconds: u64) -> Rising {
        slow_start(10, Duration::from_secs(seconds), OVER)
    }

    #[test]
    fn a_weight_begins_with_a_sixteenth_and_is_whole_at_the_end() {
        assert_eq!(at(0), Rising { sixteenths: 10, next: Some(Duration::from_secs(4)) });
        assert_eq!(at(3), at(0));
        assert_eq!(at(4), Rising { sixteenths: 20, next: Some(Duration::from_secs(8)) });
        assert_eq!(at(59), Rising { sixteenths: 150, next: Some(OVER) });
        assert_eq!(at(60), Rising { sixteenths: 160, next: None });
        assert_eq!(slow_start(10, Duration::MAX, OVER), at(60));
    }

    #[test]
    fn the_smallest_weight_rises_too_and_none_stays_none() {
        let sixteenths = |weight| slow_start(weight, OVER / 2, OVER).sixteenths;
        assert_eq!(sixteenths(1), 8);
        assert_eq!(sixteenths(0), 0);
    }

    proptest! {
        #[test]
        fn a_weight_rises_step_by_step_exactly_when_it_says(weight in 1..=u16::MAX, over in 1..=3_600_000_000_000_u64) {
            let over = Duration::from_nanos(over);
            let mut steps = 1;
            let mut rising = slow_start(weight, Duration::ZERO, over);
            while let Some(next) = rising.next {
                let before = slow_start(weight, next.saturating_sub(Duration::from_nanos(1)), over);
                let after = slow_start(weight, next, over);
                prop_assert!(before.sixteenths < after.sixteenths && before.sixteenths >= rising.sixteenths);
                rising = after;
                steps += 1;
            }
            prop_assert_eq!(rising.sixteenths, 16 * u32::from(weight));
            prop_assert!(steps <= 16);
        }
    }
}
