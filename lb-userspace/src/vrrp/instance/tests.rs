//! The state machine on a simulated clock. Times come from the RFCs' formulas, written out here once more.

use super::*;

mod table;

/// This node's priority and address.
const PRIORITY: u8 = 100;
const SOURCE: IpAddr = address(5);
/// This node's interval.
const INTERVAL: Duration = Duration::from_secs(1);

const fn address(last: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, last))
}

fn parameters() -> Parameters {
    Parameters {
        version: VrrpVersion::V3,
        priority: PRIORITY,
        interval: INTERVAL,
        preempt: true,
        preempt_delay: Duration::ZERO,
        initial_state: InitialState::Backup,
        source: SOURCE,
    }
}

/// `Skew_Time` in nanoseconds. RFC 9568, section 6.1: ((256 - Priority) * `Active_Adver_Interval`) / 256. RFC 3768,
/// section 6.1: (256 - Priority) / 256 seconds.
fn skew(version: VrrpVersion, priority: u8, interval: Duration) -> Duration {
    let unit = match version {
        VrrpVersion::V2 => 1_000_000_000,
        VrrpVersion::V3 => u64::try_from(interval.as_nanos()).unwrap(),
    };
    Duration::from_nanos((256 - u64::from(priority)) * unit / 256)
}

/// `Active_Down_Interval`. RFC 9568, section 6.1: (3 * `Active_Adver_Interval`) + `Skew_Time`.
fn down(version: VrrpVersion, priority: u8, interval: Duration) -> Duration {
    interval + interval + interval + skew(version, priority, interval)
}

/// That of this node, whose master has its interval.
fn patience() -> Duration {
    down(VrrpVersion::V3, PRIORITY, INTERVAL)
}

fn heard(last: u8, priority: u8) -> Heard {
    Heard { source: address(last), priority, interval: INTERVAL }
}

fn backup(parameters: Parameters, now: Instant) -> Instance {
    let mut instance = Instance::new(parameters);
    instance.startup(now);
    instance
}

fn master(parameters: Parameters, now: Instant) -> Instance {
    let mut instance = backup(parameters, now);
    instance.claim(now);
    instance
}

#[test]
fn the_skew_of_version_2_is_part_of_a_second_and_that_of_version_3_of_the_masters_interval() {
    for (version, priority, interval_ms, skew_us, down_us) in [
        (VrrpVersion::V2, 254, 1000, 7_812, 3_007_812),
        (VrrpVersion::V2, 100, 1000, 609_375, 3_609_375),
        (VrrpVersion::V2, 100, 4000, 609_375, 12_609_375),
        (VrrpVersion::V2, 1, 1000, 996_093, 3_996_093),
        (VrrpVersion::V3, 254, 1000, 7_812, 3_007_812),
        (VrrpVersion::V3, 100, 1000, 609_375, 3_609_375),
        (VrrpVersion::V3, 100, 4000, 2_437_500, 14_437_500),
        (VrrpVersion::V3, 100, 10, 6_093, 36_093),
        (VrrpVersion::V3, 1, 40_950, 40_790_039, 163_640_039),
    ] {
        let parameters = Parameters { version, priority, ..parameters() };
        let interval = Duration::from_millis(interval_ms);
        let row = format!("{version:?}, priority {priority}, interval {interval:?}");
        assert_eq!(parameters.skew_time(interval).as_micros(), skew_us, "{row}");
        assert_eq!(parameters.master_down_interval(interval).as_micros(), down_us, "{row}");
    }
}

#[test]
fn a_master_advertises_from_deadline_to_deadline_however_late_it_is_asked() {
    let start = Instant::now();
    let mut instance = master(parameters(), start);
    let mut sent = Vec::new();
    for late_ms in [0, 1, 400, 0, 30] {
        let now = instance.next_deadline().unwrap() + Duration::from_millis(late_ms);
        assert_eq!(instance.on_time(now), [Action::Advertise(PRIORITY)]);
        sent.push((now - start).as_millis());
    }
    assert_eq!(sent, [1000, 2001, 3400, 4000, 5030]);
}

#[test]
fn a_master_that_is_very_late_advertises_once_and_again_after_half_an_interval() {
    let start = Instant::now();
    let mut instance = master(parameters(), start);
    let now = start + INTERVAL * 5 / 2;
    assert_eq!(instance.on_time(now), [Action::Advertise(PRIORITY)]);
    assert_eq!(instance.on_time(now), []);
    assert_eq!(instance.next_deadline(), Some(now + INTERVAL / 2));
}

#[test]
fn a_master_of_lower_priority_is_let_alone_for_the_delay_and_then_as_if_it_were_silent() {
    let start = Instant::now();
    let delay = Duration::from_secs(5);
    let mut instance = backup(Parameters { preempt_delay: delay, ..parameters() }, start);
    let first = start + Duration::from_millis(300);
    let mut now = first;
    while now < first + 20 * INTERVAL && instance.state() == State::Backup {
        instance.on_advertisement(heard(8, PRIORITY - 1), now);
        now += INTERVAL;
        if instance.next_deadline().unwrap() <= now {
            now = instance.next_deadline().unwrap();
            instance.on_time(now);
        }
    }
    // The last one that was let alone came 4 s after the first.
    assert_eq!(now - first, Duration::from_secs(4) + patience());
    assert_eq!(instance.state(), State::Master);
}

#[test]
fn the_delay_of_preemption_begins_anew_after_a_master_of_no_lower_priority() {
    let start = Instant::now();
    let delay = Duration::from_secs(5);
    let mut instance = backup(Parameters { preempt_delay: delay, ..parameters() }, start);
    for (at, priority) in [(0, 99), (2, 99), (4, 100), (6, 99), (8, 99), (10, 99)] {
        instance.on_advertisement(heard(8, priority), start + at * INTERVAL);
    }
    assert_eq!(instance.next_deadline(), Some(start + 10 * INTERVAL + patience()), "it was let alone");
    instance.on_advertisement(heard(8, 99), start + 11 * INTERVAL);
    assert_eq!(instance.next_deadline(), Some(start + 10 * INTERVAL + patience()), "it was let alone no more");
}

#[test]
fn a_node_that_handed_over_does_not_take_back_what_it_gave_away() {
    let start = Instant::now();
    let mut instance = master(parameters(), start);
    instance.hand_over(start);
    for second in 1..100 {
        let now = start + second * INTERVAL;
        instance.on_advertisement(heard(8, 1), now);
        assert_eq!(instance.next_deadline(), Some(now + patience()), "after {second} s");
    }
}

#[test]
fn a_node_that_handed_over_comes_forward_when_its_successor_says_farewell() {
    let start = Instant::now();
    let mut instance = master(parameters(), start);
    instance.hand_over(start);
    instance.on_advertisement(heard(8, 1), start + INTERVAL / 2);
    let now = start + INTERVAL;
    instance.on_advertisement(heard(8, 0), now);
    assert_eq!(instance.next_deadline(), Some(now + skew(VrrpVersion::V3, PRIORITY, INTERVAL)));
}

#[test]
fn a_node_that_handed_over_preempts_again_once_it_was_master_again() {
    let start = Instant::now();
    let mut instance = master(parameters(), start);
    instance.hand_over(start);
    instance.claim(start);
    instance.on_advertisement(heard(8, 200), start);
    let deadline = instance.next_deadline();
    instance.on_advertisement(heard(8, 1), start + INTERVAL);
    assert_eq!(instance.next_deadline(), deadline);
}

#[test]
fn after_a_standstill_a_hand_over_ends_before_the_node_takes_over_anew() {
    let start = Instant::now();
    let mut instance = master(parameters(), start);
    instance.hand_over(start);
    let now = start + 10 * INTERVAL;
    assert_eq!(instance.on_time(now), [Action::Release]);
    assert_eq!(instance.on_time(now), [Action::Advertise(PRIORITY), Action::Acquire]);
}

#[test]
fn a_master_stood_still_from_the_time_at_which_another_of_its_priority_takes_over() {
    let start = Instant::now();
    let instance = master(parameters(), start);
    let moment = Duration::from_nanos(1);
    let limit = start + patience();
    assert!(instance.has_stood_still(limit));
    assert!(!backup(parameters(), start).has_stood_still(limit), "a backup has nothing to miss");
    let instance = master(parameters(), start + moment);
    assert!(!instance.has_stood_still(limit));
}

#[test]
fn a_standstill_is_seen_whatever_comes_first_after_it() {
    type Step<'a> = &'a dyn Fn(&mut Instance) -> Vec<Action>;
    let start = Instant::now();
    let now = start + 4 * INTERVAL;
    let other = Parameters { priority: PRIORITY + 1, ..parameters() };
    let steps: [(&str, Step<'_>); 5] = [
        ("the time", &|instance| instance.on_time(now)),
        ("an advertisement of lower priority", &|instance| instance.on_advertisement(heard(8, 1), now)),
        ("an advertisement of higher priority", &|instance| instance.on_advertisement(heard(8, 200), now)),
        ("a wish to hand over", &|instance| instance.hand_over(now)),
        ("another priority", &|instance| instance.set_parameters(other, now)),
    ];
    for (what, step) in steps {
        let mut instance = master(parameters(), start);
        assert_eq!(step(&mut instance), [Action::Release], "{what}");
        assert_eq!(instance.state(), State::Backup, "{what}");
        assert_eq!(instance.on_time(now), [], "{what}");
    }
}

#[test]
fn a_master_answers_lower_priorities_once_in_an_interval_and_never_stays_silent_for_longer() {
    let start = Instant::now();
    let mut instance = master(parameters(), start);
    let (mut answers, mut last) = (0, start);
    for ms in 0..10_000 {
        let now = start + Duration::from_millis(ms);
        let answer = instance.on_advertisement(heard(8, 99), now);
        answers += answer.len() / 2;
        let sent = [answer, instance.on_time(now)].concat();
        if sent.contains(&Action::Advertise(PRIORITY)) {
            last = now;
        }
        assert!(now - last <= INTERVAL, "silent at {ms} ms");
    }
    assert_eq!(answers, 10);
}

#[test]
fn an_address_decides_by_its_value_and_not_by_its_text() {
    let start = Instant::now();
    let mut instance = master(Parameters { source: address(9), ..parameters() }, start);
    assert_eq!(instance.on_advertisement(heard(10, PRIORITY), start), [Action::Release]);
}

#[test]
fn a_farewell_that_is_heard_before_any_master_counts() {
    let start = Instant::now();
    let mut instance = backup(parameters(), start);
    let theirs = Duration::from_millis(500);
    instance.on_advertisement(Heard { interval: theirs, ..heard(8, 0) }, start);
    assert_eq!(instance.next_deadline(), Some(start + skew(VrrpVersion::V3, PRIORITY, theirs)));
}

#[test]
fn a_priority_that_tracking_lowers_makes_way_for_the_master_that_was_not_let_alone() {
    let start = Instant::now();
    let mut instance = backup(parameters(), start);
    let deadline = instance.next_deadline();
    instance.on_advertisement(heard(8, 50), start + INTERVAL);
    assert_eq!(instance.next_deadline(), deadline);
    instance.set_parameters(Parameters { priority: 50, ..parameters() }, start + INTERVAL);
    instance.on_advertisement(heard(8, 50), start + 2 * INTERVAL);
    assert_eq!(instance.next_deadline(), Some(start + 2 * INTERVAL + down(VrrpVersion::V3, 50, INTERVAL)));
}
