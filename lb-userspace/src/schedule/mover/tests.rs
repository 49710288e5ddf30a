//! The mover on a simulated clock: what each state does next, what moves cost, and what becomes of flows.

#![expect(clippy::unchecked_time_subtraction, reason = "times of the simulated clock are what the test says")]

use std::collections::HashMap;

use lb_common::{FlowHash, flow_table::FlowTag};

use super::*;

mod flows;
mod table;

const A: BackendId = BackendId::truncate(1);
const B: BackendId = BackendId::truncate(2);
const C: BackendId = BackendId::truncate(3);
const D: BackendId = BackendId::truncate(4);
const NOBODY: BackendId = BackendId::NONE;

const HANDSHAKE: Duration = Duration::from_secs(3);
const IDLE: Duration = Duration::from_mins(1);
const TCP: Pace = Pace { handshake: HANDSHAKE, idle: IDLE, tracking: Tracking::WhenNeeded };
const UDP: Pace = Pace { handshake: Duration::ZERO, ..TCP };

const LEAVING: Fate = Fate::Leaving { until: None };

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn stable(owner: BackendId) -> SlotWord {
    SlotWord::stable(owner)
}

fn tracked(owner: BackendId) -> SlotWord {
    SlotWord::new(owner, owner, true, false)
}

fn arming(owner: BackendId) -> SlotWord {
    SlotWord::new(owner, owner, true, true)
}

fn moving(current: BackendId, previous: BackendId) -> SlotWord {
    SlotWord::new(current, previous, true, true)
}

/// A mover with a clock, and backends that serve but for those in `fates`.
struct World {
    now: Instant,
    start: Instant,
    pace: Pace,
    fates: HashMap<BackendId, Fate>,
    mover: SlotMover,
}

impl World {
    fn new(pace: Pace, words: &[SlotWord]) -> Self {
        let now = Instant::now();
        let mover = SlotMover::take_over(words.to_vec(), now);
        let mut world = Self { now, start: now, pace, fates: HashMap::new(), mover };
        world.advance();
        world
    }

    /// `slots` slots that are all A's.
    fn of_a(pace: Pace, slots: usize) -> Self {
        Self::new(pace, &vec![stable(A); slots])
    }

    fn advance(&mut self) -> Vec<(u32, SlotWord)> {
        let fates = &self.fates;
        self.mover.advance(&self.pace, |id| fates.get(&id).copied().unwrap_or(Fate::Serving), self.now)
    }

    fn want(&mut self, owner: BackendId) -> Vec<(u32, SlotWord)> {
        self.mover.set_wanted(std::iter::repeat_n(owner, self.mover.slots.len()));
        self.advance()
    }

    fn fate(&mut self, backend: BackendId, fate: Fate) {
        self.fates.insert(backend, fate);
    }

    /// Lets time pass, and does what is due meanwhile.
    fn pass(&mut self, time: Duration) -> Vec<(u32, SlotWord)> {
        let end = self.now + time;
        let mut stores = Vec::new();
        while let Some(deadline) = self.mover.next_deadline().filter(|deadline| *deadline <= end) {
            assert!(deadline > self.now, "what was due is done");
            self.now = deadline;
            stores.append(&mut self.advance());
        }
        self.now = end;
        stores
    }

    /// A census that ends where it began.
    fn census(&mut self, entries: &[(u32, BackendId)]) -> Vec<(u32, SlotWord)> {
        let mut census = self.mover.census(&self.pace, self.now);
        for (slot, backend) in entries {
            let _ = census.meet(flow(*slot), *backend);
        }
        self.finish(&census)
    }

    fn finish(&mut self, census: &Census) -> Vec<(u32, SlotWord)> {
        let fates = &self.fates;
        let fate = |id| fates.get(&id).copied().unwrap_or(Fate::Serving);
        self.mover.on_census(census, &self.pace, fate, self.now)
    }

    fn words(&self) -> Vec<SlotWord> {
        self.mover.words().collect()
    }

    /// The word of the first slot.
    fn word(&self) -> SlotWord {
        self.words()[0]
    }

    /// How many slots are in `word`.
    fn count(&self, word: SlotWord) -> usize {
        self.mover.words().filter(|present| *present == word).count()
    }

    fn elapsed(&self, deadline: Option<Instant>) -> Option<Duration> {
        deadline.map(|deadline| deadline - self.start)
    }
}

/// A flow of the slot.
fn flow(slot: u32) -> FlowTag {
    FlowTag::of(FlowHash(slot.into()))
}

#[test]
fn a_new_table_is_empty_and_its_first_owners_get_it_at_once() {
    let now = Instant::now();
    let mut mover = SlotMover::new(4, now);
    assert!(mover.words().all(|word| word == SlotWord::EMPTY));
    mover.set_wanted([A, B, NOBODY]);
    let stores = mover.advance(&TCP, |_| Fate::Serving, now);
    assert_eq!(stores, [(0, tracked(A)), (1, tracked(B))]);
    assert_eq!(mover.next_deadline(), None);
}

#[test]
fn a_planned_move_begins_when_no_handshake_of_before_is_left() {
    let mut world = World::of_a(TCP, 1);
    assert_eq!(world.want(B), [(0, arming(A))]);
    assert_eq!(world.elapsed(world.mover.next_deadline()), Some(HANDSHAKE));
    world.now += HANDSHAKE - Duration::from_millis(1);
    assert_eq!(world.advance(), []);
    world.now += Duration::from_millis(1);
    assert_eq!(world.advance(), [(0, moving(B, A))]);
    assert_eq!(world.advance(), []);
}

#[test]
fn a_move_that_begins_between_two_ticks_is_armed_no_shorter() {
    let mut world = World::of_a(TCP, 1);
    world.now += Duration::from_micros(200_001);
    assert_eq!(world.want(B), [(0, arming(A))]);
    world.now += HANDSHAKE - Duration::from_nanos(1);
    assert_eq!(world.advance(), []);
}

#[test]
fn flows_without_first_packets_move_at_once() {
    let mut world = World::of_a(UDP, 1);
    assert_eq!(world.want(B), [(0, moving(B, A))]);
}

#[test]
fn a_change_of_mind_before_the_move_ends_the_arming() {
    let mut world = World::of_a(TCP, 1);
    world.want(B);
    world.pass(secs(1));
    assert_eq!(world.want(A), [(0, tracked(A))]);
    assert_eq!(world.mover.next_deadline(), None);
}

#[test]
fn a_change_of_target_does_not_prolong_the_arming() {
    let mut world = World::of_a(TCP, 1);
    world.want(B);
    world.pass(secs(2));
    assert_eq!(world.want(C), []);
    world.pass(secs(1));
    assert_eq!(world.word(), moving(C, A));
}

#[test]
fn a_slot_that_moves_is_given_on_at_once_and_waits_no_longer_for_that() {
    let mut world = World::of_a(TCP, 4);
    world.want(B);
    world.pass(secs(33));
    assert_eq!(world.want(C), [(0, moving(C, A)), (1, moving(C, A))], "half a minute has passed");
    world.pass(IDLE - secs(30));
    assert_eq!(world.census(&[]).len(), 4);
}

#[test]
fn back_and_forth_needs_no_third_owner() {
    let mut world = World::of_a(TCP, 1);
    world.want(B);
    world.pass(secs(10));
    assert_eq!(world.want(A), [(0, tracked(A))]);
    world.pass(secs(1));
    world.census(&[(0, A)]);
    assert_eq!(world.word(), stable(A));
}

#[test]
fn a_slot_moves_until_a_census_after_the_idle_timeout_has_confirmed_its_flows() {
    let mut world = World::of_a(TCP, 2);
    world.want(B);
    world.pass(HANDSHAKE + IDLE - Duration::from_millis(1));
    let mut early = world.mover.census(&TCP, world.now);
    assert!(!early.meet(flow(0), A), "a flow is confirmed only where nothing else will say whose it is");
    world.pass(Duration::from_millis(1));
    assert_eq!(world.elapsed(world.mover.census_due()), Some(HANDSHAKE + IDLE));
    assert_eq!(world.advance(), []);
    assert_eq!(world.finish(&early), []);
    let mut census = world.mover.census(&TCP, world.now);
    assert!(census.meet(flow(0), A));
    world.pass(secs(5));
    assert_eq!(world.finish(&census), [(0, tracked(B)), (1, tracked(B))]);
}

#[test]
fn a_lost_flow_makes_slots_move_for_another_idle_timeout() {
    let mut world = World::of_a(TCP, 1);
    world.want(B);
    world.pass(secs(33));
    world.mover.on_loss(world.now);
    world.pass(secs(59));
    assert_eq!(world.census(&[]), []);
    assert_eq!(world.elapsed(world.mover.census_due()), Some(secs(33) + IDLE));
    world.pass(secs(1));
    assert_eq!(world.census(&[]), [(0, tracked(B))]);
}

#[test]
fn a_flow_that_is_lost_during_the_census_counts() {
    let mut world = World::of_a(TCP, 1);
    world.want(B);
    world.pass(HANDSHAKE + IDLE);
    let census = world.mover.census(&TCP, world.now);
    world.pass(secs(1));
    world.mover.on_loss(world.now);
    assert_eq!(world.finish(&census), []);
}

#[test]
fn a_census_confirms_nothing_in_slots_that_it_did_not_know_to_be_due() {
    let mut world = World::of_a(TCP, 1);
    world.want(B);
    world.pass(HANDSHAKE + IDLE / 2);
    let census = world.mover.census(&TCP, world.now);
    world.pace.idle = IDLE / 4;
    assert_eq!(world.finish(&census), []);
    assert_eq!(world.census(&[]), [(0, tracked(B))]);
}

#[test]
fn a_backend_that_leaves_gives_its_flows_up_at_its_deadline() {
    let mut world = World::of_a(TCP, 1);
    world.fate(A, Fate::Leaving { until: Some(world.now + secs(20)) });
    world.want(B);
    world.pass(HANDSHAKE);
    assert_eq!(world.word(), moving(B, A));
    assert_eq!(world.elapsed(world.mover.next_deadline()), Some(secs(20)));
    world.pass(secs(17));
    assert_eq!(world.word(), tracked(B));
}

#[test]
fn a_backend_that_leaves_for_long_is_waited_for_no_longer_than_its_flows_may_be_silent() {
    let mut world = World::of_a(TCP, 1);
    world.fate(A, Fate::Leaving { until: Some(world.now + 2 * IDLE) });
    world.want(B);
    world.pass(HANDSHAKE + IDLE);
    assert_eq!(world.census(&[(0, A)]), [(0, tracked(B))]);
}

#[test]
fn a_drain_without_grace_moves_at_once() {
    let mut world = World::of_a(TCP, 1);
    world.fate(A, Fate::Leaving { until: Some(world.now) });
    assert_eq!(world.want(B), [(0, tracked(B))]);
}

#[test]
fn a_drain_deadline_cuts_the_arming_short() {
    let mut world = World::of_a(TCP, 1);
    world.fate(A, Fate::Leaving { until: Some(world.now + secs(1)) });
    world.want(B);
    assert_eq!(world.elapsed(world.mover.next_deadline()), Some(secs(1)));
    world.pass(secs(1));
    assert_eq!(world.word(), tracked(B));
}

#[test]
fn a_tracked_slot_is_stable_when_a_census_that_began_later_finds_only_its_owners_flows() {
    let mut world = World::new(TCP, &[tracked(A); 4]);
    let too_early = world.mover.census(&TCP, world.now);
    assert_eq!(world.finish(&too_early), []);
    world.pass(secs(1));
    assert!(world.mover.census_due().is_some_and(|due| due <= world.now));
    assert_eq!(world.census(&[(0, A), (1, B), (1, A)]), [0, 2, 3].map(|slot| (slot, stable(A))));
    assert_eq!(world.census(&[(1, A)]), [(1, stable(A))]);
    assert_eq!(world.mover.census_due(), None);
}

#[test]
fn a_census_that_began_before_the_slot_was_tracked_says_nothing_about_it() {
    let mut world = World::of_a(TCP, 1);
    world.want(B);
    world.pass(secs(10));
    let census = world.mover.census(&TCP, world.now);
    world.want(A);
    world.pass(secs(1));
    assert_eq!(world.finish(&census), []);
}

#[test]
fn a_census_of_the_table_before_it_grew_says_nothing() {
    let mut world = World::new(TCP, &[tracked(A)]);
    world.pass(secs(1));
    let census = world.mover.census(&TCP, world.now);
    world.mover = world.mover.grown(2);
    assert_eq!(world.finish(&census), []);
    assert_eq!(world.census(&[]), [(0, stable(A)), (1, stable(A))]);
}

#[test]
fn each_flow_finds_its_word_in_a_larger_table() {
    let mut world = World::new(TCP, &[stable(A), tracked(B), moving(C, A), SlotWord::EMPTY]);
    let old = world.words();
    world.mover = world.mover.grown(16);
    for (slot, word) in world.words().into_iter().enumerate() {
        assert_eq!(word, old[slot % 4], "slot {slot}");
    }
    world.pass(IDLE);
    world.census(&[(6, A)]);
    assert_eq!(world.words()[6], tracked(C));
}

#[test]
#[should_panic(expected = "a table of 4 slots cannot grow to 2")]
fn a_table_does_not_grow_smaller() {
    let _ = World::of_a(TCP, 4).mover.grown(2);
}

#[test]
fn the_slots_of_an_earlier_daemon_are_taken_over_and_wait_anew() {
    let mut world = World::new(TCP, &[stable(A), arming(A), moving(B, A), tracked(A)]);
    assert_eq!(world.words(), [stable(A), tracked(A), moving(B, A), tracked(A)]);
    assert_eq!(world.census(&[]), []);
    assert_eq!(world.elapsed(world.mover.census_due()), Some(Duration::from_millis(100)));
    world.pass(IDLE);
    assert_eq!(world.census(&[(1, B)]), [(2, tracked(B)), (3, stable(A))]);
}

#[test]
fn an_armed_slot_of_an_earlier_daemon_is_armed_anew() {
    let now = Instant::now();
    let mut mover = SlotMover::take_over(vec![arming(A)], now);
    mover.set_wanted([B]);
    assert_eq!(mover.advance(&TCP, |_| Fate::Serving, now), []);
    assert_eq!(mover.next_deadline(), Some(now + HANDSHAKE));
}

#[test]
fn what_can_wait_moves_as_many_slots_per_minute_as_the_table_has() {
    let mut world = World::of_a(TCP, 128);
    for owner in [B, A] {
        world.want(owner);
        world.pass(HANDSHAKE);
    }
    assert_eq!(world.count(tracked(A)), 128);
    // Six seconds have passed, a tenth of a minute.
    assert_eq!(world.want(B).len(), 12);
    assert_eq!(world.count(tracked(A)), 116);
    let next = world.mover.next_deadline().unwrap();
    assert!(next > world.now && next <= world.now + secs(1));
    world.pass(secs(30));
    assert_eq!(world.count(tracked(A)), 116 - 64);
    world.pass(secs(30));
    assert_eq!(world.count(tracked(A)), 0);
}

#[test]
fn a_drain_or_a_death_does_not_wait_for_the_bound() {
    for fate in [LEAVING, Fate::Gone, Fate::Held] {
        let mut world = World::of_a(TCP, 128);
        for owner in [B, A] {
            world.want(owner);
            world.pass(HANDSHAKE);
        }
        world.want(B);
        world.fate(A, fate);
        assert_eq!(world.want(B).len(), 116 + if fate == LEAVING { 0 } else { 12 }, "{fate:?}");
        assert_eq!(world.count(tracked(A)), 0, "{fate:?}");
    }
}

#[test]
fn a_backend_that_keeps_coming_and_going_moves_no_more_than_the_bound() {
    let mut world = World::of_a(TCP, 64);
    let mut armed = 0;
    for round in 0..600 {
        let mut stores = world.want([B, A][round % 2]);
        stores.append(&mut world.pass(secs(1)));
        armed += stores.iter().filter(|(_, word)| *word == arming(A)).count();
    }
    assert!((64 * 10..=64 * 11).contains(&armed), "{armed} moves in ten minutes");
}

#[test]
fn giving_a_moving_slot_on_counts_as_a_move() {
    let mut world = World::of_a(UDP, 128);
    world.want(B);
    assert_eq!(world.count(moving(B, A)), 128);
    assert_eq!(world.want(C), []);
    world.pass(secs(30));
    assert_eq!(world.count(moving(C, A)), 64);
}

#[test]
fn slots_that_always_come_first_do_not_keep_the_others_waiting() {
    let mut world = World::of_a(UDP, 128);
    world.want(B);
    world.want(A);
    let mut moved = [false; 128];
    for second in 0..240 {
        // The first half never has what it wants, the second half is to move once.
        let first = [B, C][second % 2];
        world.mover.set_wanted(std::iter::repeat_n(first, 64).chain(std::iter::repeat_n(D, 64)));
        world.advance();
        for (moved, word) in moved.iter_mut().zip(world.words()) {
            *moved |= word.current() == D;
        }
        world.pass(secs(1));
    }
    assert!(moved[64..].iter().all(|moved| *moved));
}

#[test]
fn a_service_that_always_tracks_is_armed_for_good_and_moves_at_once() {
    let pace = Pace { tracking: Tracking::Always, ..TCP };
    let mut world = World::new(pace, &[stable(A)]);
    assert_eq!(world.word(), arming(A));
    assert_eq!((world.mover.next_deadline(), world.mover.census_due()), (None, None));
    world.pass(HANDSHAKE);
    assert_eq!(world.want(B), [(0, moving(B, A))]);
    world.pass(IDLE);
    assert_eq!(world.census(&[(0, A)]), [(0, arming(B))]);
    assert_eq!((world.mover.next_deadline(), world.mover.census_due()), (None, None));
}

#[test]
fn moves_of_a_service_that_always_tracks_are_bounded_too() {
    let pace = Pace { tracking: Tracking::Always, ..TCP };
    let mut world = World::of_a(pace, 128);
    world.pass(HANDSHAKE);
    assert_eq!(world.want(B).len(), 128);
    assert_eq!(world.want(C).len(), 0);
    world.pass(secs(30));
    assert_eq!(world.count(moving(C, A)), 64);
}

#[test]
fn a_slot_that_waits_for_the_bound_is_always_tracked_meanwhile() {
    let mut world = World::of_a(UDP, 128);
    for owner in [B, A] {
        world.want(owner);
    }
    world.pass(secs(1));
    world.census(&[]);
    assert_eq!(world.count(stable(A)), 128);
    world.pace = Pace { tracking: Tracking::Always, ..TCP };
    world.want(B);
    assert_eq!(world.count(arming(A)), 128);
    world.pass(secs(59));
    assert_eq!(world.count(moving(B, A)), 128);
}

#[test]
fn a_service_that_never_tracks_moves_at_once_and_as_often_as_it_likes() {
    let pace = Pace { tracking: Tracking::Never, ..TCP };
    let mut world = World::of_a(pace, 128);
    for owner in [B, A, C] {
        assert_eq!(world.want(owner), (0..128).map(|slot| (slot, stable(owner))).collect::<Vec<_>>());
    }
}

#[test]
fn what_somebody_has_decided_does_not_wait() {
    let mut world = World::of_a(Pace { tracking: Tracking::Always, ..TCP }, 128);
    world.pass(HANDSHAKE);
    assert_eq!(world.want(B).len(), 128);
    assert_eq!(world.want(C).len(), 0);
    world.mover.do_not_wait(world.now);
    assert_eq!(world.advance().len(), 128);
}

#[test]
fn a_change_of_the_tracking_changes_the_words() {
    let mut world = World::new(TCP, &[stable(A), tracked(A), moving(B, A)]);
    world.pace.tracking = Tracking::Always;
    assert_eq!(world.advance(), [(0, arming(A)), (1, arming(A))]);
    world.pace.tracking = Tracking::WhenNeeded;
    assert_eq!(world.advance(), [(0, tracked(A)), (1, tracked(A))]);
    world.pace.tracking = Tracking::Never;
    assert_eq!(world.advance(), [(0, stable(A)), (1, stable(A)), (2, stable(B))]);
}

#[test]
fn slots_that_name_a_backend_are_counted() {
    let world = World::new(TCP, &[stable(A), moving(B, A), tracked(B), SlotWord::EMPTY]);
    assert_eq!([A, B, C].map(|id| world.mover.naming(id)), [2, 2, 0]);
}

#[test]
fn the_report_says_what_the_slots_do_and_for_how_long() {
    let mut world = World::new(TCP, &[stable(A), stable(A), stable(A), tracked(B), stable(B), SlotWord::EMPTY]);
    world.mover.set_wanted([C, A, A, B, B, NOBODY]);
    world.advance();
    world.pass(secs(10));
    world.mover.set_wanted([C, C, A, B, C, NOBODY]);
    world.fate(B, Fate::Leaving { until: Some(world.now + secs(20)) });
    world.advance();
    world.pass(secs(1));
    let start = world.start;
    let at = |seconds| start + secs(seconds);
    let group = |current, previous, since, until| Group { current, previous, slots: 1, since, until };
    let fates = &world.fates;
    let fate = |id| fates.get(&id).copied().unwrap_or(Fate::Serving);
    let expected = Report {
        empty: 1,
        stable: 1,
        tracked: 1,
        arming: vec![group(C, A, at(10), at(13)), group(C, B, at(10), at(13))],
        moving: vec![group(C, A, at(3), at(63))],
        restarted: None,
        waiting: 0,
    };
    assert_eq!(world.mover.report(&TCP, fate), expected);

    world.pass(secs(2));
    let fates = &world.fates;
    let fate = |id| fates.get(&id).copied().unwrap_or(Fate::Serving);
    let both = Group { slots: 2, ..group(C, A, at(3), at(73)) };
    assert_eq!(world.mover.report(&TCP, fate).moving, [both, group(C, B, at(13), at(30))]);
    world.mover.on_loss(at(20));
    let fates = &world.fates;
    let report = world.mover.report(&TCP, |id| fates.get(&id).copied().unwrap_or(Fate::Serving));
    assert_eq!((report.restarted, report.moving[0].until), (Some(at(20)), at(80)));
}

#[test]
fn the_report_counts_what_waits() {
    let mut world = World::of_a(UDP, 128);
    world.want(B);
    world.want(C);
    assert_eq!(world.mover.report(&UDP, |_| Fate::Serving).waiting, 128);
}

#[test]
fn slots_of_a_service_that_always_tracks_are_reported_as_tracked() {
    let pace = Pace { tracking: Tracking::Always, ..TCP };
    let world = World::of_a(pace, 3);
    assert_eq!(world.mover.report(&pace, |_| Fate::Serving), Report { tracked: 3, ..Report::default() });
}
