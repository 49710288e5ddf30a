//! When the link is told where the addresses are.

use super::{bench::*, *};

fn announcing(delay: u64, refresh: u64) -> Vrrp {
    Vrrp { announcement: Announcement { repeat: 3, delay: ms(delay), refresh: ms(refresh) }, ..vrrp() }
}

/// The times of announcements since the start, in milliseconds, and how many frames.
fn announcements(bench: &mut Bench, time: Duration) -> Vec<(u128, u8)> {
    let end = bench.now + time;
    let mut announcements = Vec::new();
    while let Some(deadline) = bench.deadline().filter(|deadline| *deadline <= end) {
        bench.now = deadline.max(bench.now);
        for effect in bench.router.on_time(bench.clock()) {
            if let Effect::Announce(_, times) = effect {
                announcements.push((bench.now.as_millis(), times));
            }
        }
        assert!(announcements.len() < 1000, "it never rests");
    }
    bench.now = end;
    announcements
}

#[test]
fn addresses_are_announced_at_once_and_after_the_delay_and_for_refreshment() {
    let mut bench = Bench::started(vec![announcing(1000, 60_000)]);
    let told = announcements(&mut bench, ms(130_000));
    assert_eq!(told, [(3609, 3), (4609, 3), (63_609, 1), (123_609, 1)]);
}

#[test]
fn without_delay_and_refreshment_addresses_are_announced_at_once_only() {
    let mut bench = Bench::started(vec![announcing(0, 0)]);
    assert_eq!(announcements(&mut bench, ms(130_000)), [(3609, 3)]);
}

#[test]
fn addresses_are_acquired_before_they_are_announced() {
    let mut bench = Bench::started(vec![announcing(0, 0)]);
    assert_eq!(
        bench.wait(ms(3700)),
        ["advertises 100", "acquires", "announces 3", "backup -> master (no better master was heard)"]
    );
}

#[test]
fn a_former_master_announces_nothing() {
    let mut bench = Bench::started(vec![announcing(1000, 5000)]);
    bench.wait(ms(3700));
    bench.hear(8, 200);
    bench.wait(ms(1000));
    for _ in 0..10 {
        bench.hear(8, 200);
        assert_eq!(announcements(&mut bench, ms(1000)), []);
    }
}

#[test]
fn a_master_that_stood_still_announces_nothing_before_it_releases() {
    let mut bench = Bench::master(vec![announcing(1000, 5000)]);
    assert_eq!(bench.stand_still(ms(60_000)), ["releases", "master -> backup (this node stood still)"]);
}

#[test]
fn who_is_answered_as_a_master_of_lower_priority_has_misled_the_link() {
    let mut bench = Bench::master(vec![announcing(0, 0)]);
    assert_eq!(bench.hear(8, 50), ["advertises 100", "announces 1"]);
    bench.wait(ms(1000));
    assert_eq!(bench.hear(8, 0), ["advertises 100"], "who says farewell has announced nothing");
}

#[test]
fn a_reload_changes_the_times_of_announcement() {
    let mut bench = Bench::master(vec![announcing(0, 0)]);
    for (refresh, told) in [(60_000, vec![(64_000, 1)]), (0, vec![])] {
        bench.router.reconfigure(vec![announcing(0, refresh)], bench.clock());
        assert_eq!(announcements(&mut bench, ms(100_000)), told, "every {refresh} ms");
    }
}
