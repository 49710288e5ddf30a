use proptest::prelude::*;

use super::*;
use Health::{Down, Unknown, Up};

const INTERVAL: Duration = Duration::from_secs(1);
const LATENCY: Duration = Duration::from_millis(2);

fn timing(rise: u16, fall: u16) -> Timing {
    Timing { interval: INTERVAL, rise, fall, jitter_percent: 0 }
}

/// A monitor whose first probe is due at `now`.
fn monitor(initial: Health, now: Instant) -> Monitor {
    Monitor::new(timing(2, 3), initial, now, 0)
}

fn result(succeeded: bool) -> Result<Duration, Failure> {
    succeeded.then_some(LATENCY).ok_or(Failure::Refused)
}

/// Runs the probe that is due, and returns when it ended.
fn run_probe(monitor: &mut Monitor, succeeded: bool) -> (Instant, Option<Transition>) {
    let now = monitor.next_deadline().expect("no probe is running");
    assert!(monitor.poll(now, 0), "the probe is due");
    (now, monitor.on_result(now, result(succeeded)))
}

/// All that a check can be in with `rise` of 2 and `fall` of 3, and what each result (`s`uccess,
/// `f`ailure) makes of it.
#[test]
fn every_state_and_result_leads_to_the_state_of_the_table() {
    #[rustfmt::skip]
    let table = [
        // health, results so far, result, next health
        (Unknown, "",   's', Up),
        (Unknown, "",   'f', Down),
        (Up,      "",   's', Up),
        (Up,      "",   'f', Up),
        (Up,      "s",  's', Up),
        (Up,      "s",  'f', Up),
        (Up,      "f",  's', Up),
        (Up,      "f",  'f', Up),
        (Up,      "ff", 's', Up),
        (Up,      "ff", 'f', Down),
        (Down,    "",   's', Down),
        (Down,    "",   'f', Down),
        (Down,    "f",  's', Down),
        (Down,    "f",  'f', Down),
        (Down,    "s",  's', Up),
        (Down,    "s",  'f', Down),
    ];
    for (from, so_far, last, to) in table {
        let row = format!("{from:?} after {so_far:?}, then {last:?}");
        let mut monitor = monitor(from, Instant::now());
        for result in so_far.chars() {
            let (_, transition) = run_probe(&mut monitor, result == 's');
            assert_eq!(transition, None, "{row}");
        }
        let (_, transition) = run_probe(&mut monitor, last == 's');
        assert_eq!(monitor.health(), to, "{row}");
        let expected = (from != to).then_some(Transition { from, to });
        assert_eq!(transition, expected, "{row}");
    }
}

/// What the last results say, without any counter.
fn naive_health(before: Health, results: &[bool], rise: usize, fall: usize) -> Health {
    let ends_with = |n, succeeded| results.ends_with(&vec![succeeded; n]);
    match before {
        Unknown if ends_with(1, true) => Up,
        Unknown => Down,
        Down if ends_with(rise, true) => Up,
        Up if ends_with(fall, false) => Down,
        unchanged => unchanged,
    }
}

proptest! {
    #[test]
    fn health_follows_from_the_last_results_in_a_row(
        initial in prop::sample::select(vec![Unknown, Up, Down]),
        results in prop::collection::vec(any::<bool>(), 1..60),
        rise in 1_u16..6,
        fall in 1_u16..6,
    ) {
        let mut monitor = Monitor::new(timing(rise, fall), initial, Instant::now(), 0);
        for n in 1..=results.len() {
            let before = monitor.health();
            let (now, transition) = run_probe(&mut monitor, results[n - 1]);
            let expected = naive_health(before, &results[..n], rise.into(), fall.into());
            prop_assert_eq!(monitor.health(), expected);
            prop_assert_eq!(transition.is_some(), before != expected);
            prop_assert_eq!(monitor.since() == now, transition.is_some() || n == 1);

            let same = results[..n].iter().rev().take_while(|&&r| r == results[n - 1]);
            prop_assert_eq!(monitor.streak() as usize, same.count());
        }
    }

    #[test]
    fn the_first_probe_is_due_within_100_ms_and_within_the_interval(
        interval_ms in 1_u64..2000,
        random: u32,
    ) {
        let now = Instant::now();
        let interval = Duration::from_millis(interval_ms);
        let timing = Timing { interval, ..timing(1, 1) };
        let first = Monitor::new(timing, Unknown, now, random).next_deadline().unwrap();
        prop_assert!(first - now <= interval.min(Duration::from_millis(100)));
    }

    #[test]
    fn an_interval_differs_from_the_configured_one_by_the_jitter_at_most(
        jitter_percent in 0_u8..=100,
        random: u32,
    ) {
        let now = Instant::now();
        let mut monitor = Monitor::new(Timing { jitter_percent, ..timing(1, 1) }, Unknown, now, 0);
        monitor.poll(now, random);
        monitor.on_result(now, result(true));
        let interval = monitor.next_deadline().unwrap() - now;
        let jitter = INTERVAL * jitter_percent.into() / 100;
        let rounding = Duration::from_nanos(1);
        prop_assert!(interval.abs_diff(INTERVAL) <= jitter + rounding);
    }
}

#[test]
fn the_jitter_uses_its_whole_range() {
    let timing = Timing { jitter_percent: 20, ..timing(1, 1) };
    assert_eq!(timing.jittered_interval(0), INTERVAL.mul_f64(0.8));
    assert_eq!(timing.jittered_interval(u32::MAX), INTERVAL.mul_f64(1.2));
}

#[test]
fn no_probe_starts_before_its_time() {
    let now = Instant::now();
    let mut monitor = Monitor::new(timing(1, 1), Unknown, now, u32::MAX);
    assert!(!monitor.poll(now, 0));
}

#[test]
fn no_second_probe_starts_while_one_is_running() {
    let now = Instant::now();
    let mut monitor = monitor(Unknown, now);
    assert!(monitor.poll(now, 0));
    assert_eq!(monitor.next_deadline(), None);
    assert!(!monitor.poll(now + 10 * INTERVAL, 0));
}

#[test]
fn the_interval_counts_from_start_to_start() {
    let now = Instant::now();
    let mut monitor = monitor(Unknown, now);
    monitor.poll(now, 0);
    monitor.on_result(now + INTERVAL / 2, result(true));
    assert_eq!(monitor.next_deadline(), Some(now + INTERVAL));
}

#[test]
fn a_probe_that_outlasts_the_interval_is_followed_by_one_and_not_by_all_that_were_missed() {
    let now = Instant::now();
    let mut monitor = monitor(Unknown, now);
    monitor.poll(now, 0);
    let ended = now + 5 * INTERVAL;
    monitor.on_result(ended, result(true));
    assert_eq!(monitor.next_deadline(), Some(ended));
    monitor.poll(ended, 0);
    monitor.on_result(ended, result(true));
    assert_eq!(monitor.next_deadline(), Some(ended + INTERVAL));
}

#[test]
fn a_result_without_a_running_probe_counts_for_nothing() {
    let now = Instant::now();
    let mut monitor = monitor(Unknown, now);
    assert_eq!(monitor.on_result(now, result(true)), None);
    assert_eq!(monitor.health(), Unknown);
    assert_eq!(monitor.last_result(), None);
}

#[test]
fn the_last_latency_outlives_a_failure() {
    let mut monitor = monitor(Unknown, Instant::now());
    run_probe(&mut monitor, true);
    run_probe(&mut monitor, false);
    assert_eq!(monitor.last_result(), Some(&Err(Failure::Refused)));
    assert_eq!(monitor.last_latency(), Some(LATENCY));
}
