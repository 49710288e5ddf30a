//! What each event makes of each state: all combinations are tried, and each of them has one row.
//!
//! Times are those of the RFCs' formulas, with `Skew_Time` and `Active_Down_Interval` as the parent module has them.

use Event::{
    Bury, Claim, Due, Early, HandOver, Hears, NewInterval, NewPriority, SameParameters, Shutdown, Startup, StoodStill,
};
use Guard::{Always, LetsAlone, Preempts};
use Preempt::{AtOnce, Delayed, Never};
use Situation::{Follows, HandingOver, HasHandedOver, Initialize, Master, Unsucceeded, Waits};
use Timer::{Down, DownSinceHandOver, Intervals, Kept, Off, Skew, Start};
use What::{EqualHigher, EqualLower, Farewell, Higher, Lower};
use Who::{Another, TheMaster};
use Whose::{Masters, Own, Theirs};

use super::{Action::*, *};

/// A state, with what else it remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Situation {
    Initialize,
    /// Backup that has heard no master.
    Waits,
    /// Backup that has heard a master.
    Follows,
    /// Backup that keeps its addresses until it hears a successor.
    HandingOver,
    /// Backup that has released its addresses without having heard a successor.
    Unsucceeded,
    /// Backup that has heard the successor.
    HasHandedOver,
    Master,
}

const SITUATIONS: [Situation; 7] = [Initialize, Waits, Follows, HandingOver, Unsucceeded, HasHandedOver, Master];
/// Those that RFC 9568, section 6.4.2, is about.
const BACKUPS: &[Situation] = &[Waits, Follows, HandingOver, Unsucceeded, HasHandedOver];
/// Those of them that do not preempt, whatever the parameters say.
const YIELDING: &[Situation] = &[HandingOver, Unsucceeded, HasHandedOver];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Startup,
    Shutdown,
    HandOver,
    Claim,
    Bury,
    /// It is asked before the timer is due.
    Early,
    /// It is asked when the timer is due.
    Due,
    /// It is not asked until everything is long due.
    StoodStill,
    SameParameters,
    NewPriority,
    NewInterval,
    Hears(Who, What),
}

/// Who advertises: where a master is known, it or another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    TheMaster,
    Another,
}

/// The priority of what is heard, and for the same priority the address, compared with those of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Farewell,
    Lower,
    EqualLower,
    EqualHigher,
    Higher,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preempt {
    AtOnce,
    /// None of the delay is over.
    Delayed,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
    Always,
    Preempts,
    LetsAlone,
}

/// What the next deadline is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timer {
    Off,
    /// It is the same as before.
    Kept,
    /// `Active_Down_Interval` from now; for a node that expects to be master one interval and `Skew_Time`.
    Start,
    /// `Active_Down_Interval` from now.
    Down(Whose),
    /// `Skew_Time` from now.
    Skew(Whose),
    /// So many intervals of this node from now.
    Intervals(u32),
    /// `Active_Down_Interval` from the hand-over.
    DownSinceHandOver,
}

/// The master's interval that a time is computed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// There is none: this node's.
    Own,
    /// That of the master that was known before.
    Masters,
    /// That of the one who is heard.
    Theirs,
}

struct Row {
    /// The section, or that the module's documentation goes beyond it.
    source: &'static str,
    from: &'static [Situation],
    events: &'static [Event],
    guard: Guard,
    /// `None`: the same.
    to: Option<Situation>,
    actions: &'static [Action],
    timer: Timer,
}

const NEW_PRIORITY: u8 = 120;
const NEW_INTERVAL: Duration = Duration::from_secs(5);

const ANY_FAREWELL: &[Event] = &[Hears(TheMaster, Farewell), Hears(Another, Farewell)];
const ANY_LOWER: &[Event] = &[Hears(TheMaster, Lower), Hears(Another, Lower)];
const ANY_EQUAL_LOWER: &[Event] = &[Hears(TheMaster, EqualLower), Hears(Another, EqualLower)];
const ANY_EQUAL_HIGHER: &[Event] = &[Hears(TheMaster, EqualHigher), Hears(Another, EqualHigher)];
const ANY_HIGHER: &[Event] = &[Hears(TheMaster, Higher), Hears(Another, Higher)];

const fn row(
    source: &'static str,
    from: &'static [Situation],
    events: &'static [Event],
    guard: Guard,
    to: Option<Situation>,
    actions: &'static [Action],
    timer: Timer,
) -> Row {
    Row { source, from, events, guard, to, actions, timer }
}

#[rustfmt::skip]
const TABLE: &[Row] = &[
    // source, from, events, guard, to, actions, timer
    row("9568, 6.4.1", &[Initialize], &[Startup], Always, Some(Waits), &[], Start),
    row("9568, 6.4.1", &[Initialize], &[Shutdown, Early, Due, StoodStill], Always, None, &[], Off),
    row("9568, 6.4.1", &[Initialize], ANY_FAREWELL, Always, None, &[], Off),
    row("9568, 6.4.1", &[Initialize], ANY_LOWER, Always, None, &[], Off),
    row("9568, 6.4.1", &[Initialize], ANY_EQUAL_LOWER, Always, None, &[], Off),
    row("9568, 6.4.1", &[Initialize], ANY_EQUAL_HIGHER, Always, None, &[], Off),
    row("9568, 6.4.1", &[Initialize], ANY_HIGHER, Always, None, &[], Off),
    row("beyond", &[Initialize], &[HandOver, Claim, SameParameters, NewPriority, NewInterval], Always, None, &[], Off),
    row("beyond", &[Initialize], &[Bury], Always, None, &[Advertise(0)], Off),

    row("9568, 6.4.2", BACKUPS, &[Startup, Early], Always, None, &[], Kept),
    row("9568, 6.4.2", &[Waits, Follows, Unsucceeded, HasHandedOver], &[Shutdown], Always, Some(Initialize), &[], Off),
    row("beyond", &[HandingOver], &[Shutdown], Always, Some(Initialize), &[Release], Off),
    row("9568, 6.4.2", &[Waits, Follows, Unsucceeded, HasHandedOver], &[Due, StoodStill], Always, Some(Master), &[Advertise(PRIORITY), Acquire], Intervals(1)),
    row("beyond", &[HandingOver], &[Due, StoodStill], Always, Some(Unsucceeded), &[Release], DownSinceHandOver),
    row("9568, 6.4.2", &[Waits], ANY_FAREWELL, Always, None, &[], Skew(Theirs)),
    row("9568, 6.4.2", &[Follows, HasHandedOver], &[Hears(TheMaster, Farewell)], Always, None, &[], Skew(Masters)),
    row("beyond", &[Follows, HasHandedOver], &[Hears(Another, Farewell)], Always, None, &[], Kept),
    row("beyond", &[HandingOver, Unsucceeded], ANY_FAREWELL, Always, None, &[], Kept),
    row("9568, 6.4.2", &[Waits, Follows], ANY_LOWER, Preempts, None, &[], Kept),
    row("9568, 6.4.2", &[Waits, Follows], ANY_LOWER, LetsAlone, Some(Follows), &[], Down(Theirs)),
    row("9568, 6.4.2", &[Waits, Follows], ANY_EQUAL_LOWER, Always, Some(Follows), &[], Down(Theirs)),
    row("9568, 6.4.2", &[Waits, Follows], ANY_EQUAL_HIGHER, Always, Some(Follows), &[], Down(Theirs)),
    row("9568, 6.4.2", &[Waits, Follows], ANY_HIGHER, Always, Some(Follows), &[], Down(Theirs)),
    row("beyond", &[HandingOver], ANY_LOWER, Always, Some(HasHandedOver), &[Release], Down(Theirs)),
    row("beyond", &[HandingOver], ANY_EQUAL_LOWER, Always, Some(HasHandedOver), &[Release], Down(Theirs)),
    row("beyond", &[HandingOver], ANY_EQUAL_HIGHER, Always, Some(HasHandedOver), &[Release], Down(Theirs)),
    row("beyond", &[HandingOver], ANY_HIGHER, Always, Some(HasHandedOver), &[Release], Down(Theirs)),
    row("beyond", &[Unsucceeded, HasHandedOver], ANY_LOWER, Always, Some(HasHandedOver), &[], Down(Theirs)),
    row("9568, 6.4.2", &[Unsucceeded, HasHandedOver], ANY_EQUAL_LOWER, Always, Some(HasHandedOver), &[], Down(Theirs)),
    row("9568, 6.4.2", &[Unsucceeded, HasHandedOver], ANY_EQUAL_HIGHER, Always, Some(HasHandedOver), &[], Down(Theirs)),
    row("9568, 6.4.2", &[Unsucceeded, HasHandedOver], ANY_HIGHER, Always, Some(HasHandedOver), &[], Down(Theirs)),
    row("beyond", BACKUPS, &[HandOver, SameParameters, NewPriority, NewInterval], Always, None, &[], Kept),
    row("beyond", BACKUPS, &[Claim], Always, Some(Master), &[Advertise(PRIORITY), Acquire], Intervals(1)),
    row("beyond", &[Waits], &[Bury], Always, None, &[Advertise(0)], Kept),
    row("beyond", &[Follows], &[Bury], Always, None, &[], Kept),
    row("beyond", YIELDING, &[Bury], Always, None, &[], Kept),

    row("9568, 6.4.3", &[Master], &[Startup, Early], Always, None, &[], Kept),
    row("9568, 6.4.3", &[Master], &[Shutdown], Always, Some(Initialize), &[Advertise(0), Release], Off),
    row("9568, 6.4.3", &[Master], &[Due], Always, None, &[Advertise(PRIORITY)], Intervals(1)),
    row("9568, 6.4.3", &[Master], ANY_FAREWELL, Always, None, &[Advertise(PRIORITY)], Intervals(1)),
    row("9568, 6.4.3", &[Master], ANY_HIGHER, Always, Some(Follows), &[Release], Down(Theirs)),
    row("9568, 6.4.3", &[Master], ANY_EQUAL_HIGHER, Always, Some(Follows), &[Release], Down(Theirs)),
    row("9568, 6.4.3", &[Master], ANY_EQUAL_LOWER, Always, None, &[Advertise(PRIORITY), Announce], Intervals(1)),
    row("9568, 6.4.3", &[Master], ANY_LOWER, Always, None, &[Advertise(PRIORITY), Announce], Intervals(1)),
    row("beyond", &[Master], &[StoodStill], Always, Some(Waits), &[Release], Down(Own)),
    row("beyond", &[Master], &[HandOver], Always, Some(HandingOver), &[Advertise(0)], Intervals(2)),
    row("beyond", &[Master], &[Claim, Bury, SameParameters], Always, None, &[], Kept),
    row("beyond", &[Master], &[NewPriority], Always, None, &[Advertise(NEW_PRIORITY)], Intervals(1)),
    row("beyond", &[Master], &[NewInterval], Always, None, &[Advertise(PRIORITY)], Intervals(1)),
];

/// Everything that makes a difference.
#[derive(Debug, Clone, Copy)]
struct Case {
    situation: Situation,
    event: Event,
    preempt: Preempt,
    initial_state: InitialState,
    version: VrrpVersion,
}

fn events() -> Vec<Event> {
    let mut events = vec![
        Startup,
        Shutdown,
        HandOver,
        Claim,
        Bury,
        Early,
        Due,
        StoodStill,
        SameParameters,
        NewPriority,
        NewInterval,
    ];
    for who in [TheMaster, Another] {
        events.extend([Farewell, Lower, EqualLower, EqualHigher, Higher].map(|what| Hears(who, what)));
    }
    events
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for situation in SITUATIONS {
        for event in events() {
            for preempt in [AtOnce, Delayed, Never] {
                for initial_state in [InitialState::Backup, InitialState::Master] {
                    for version in [VrrpVersion::V2, VrrpVersion::V3] {
                        cases.push(Case { situation, event, preempt, initial_state, version });
                    }
                }
            }
        }
    }
    cases
}

impl Row {
    fn is_for(&self, case: Case) -> bool {
        let guard = match self.guard {
            Always => true,
            Preempts => case.preempt == AtOnce,
            LetsAlone => case.preempt != AtOnce,
        };
        guard && self.from.contains(&case.situation) && self.events.contains(&case.event)
    }
}

impl Case {
    fn parameters(self) -> Parameters {
        Parameters {
            version: self.version,
            preempt: self.preempt != Never,
            preempt_delay: if self.preempt == Delayed { 10 * INTERVAL } else { Duration::ZERO },
            initial_state: self.initial_state,
            ..parameters()
        }
    }

    /// Where a version allows it, no two nodes have the same interval.
    fn interval(self, whose: Whose) -> Duration {
        match (self.version, whose) {
            (VrrpVersion::V2, _) | (VrrpVersion::V3, Own) => INTERVAL,
            (VrrpVersion::V3, Masters) => 3 * INTERVAL,
            (VrrpVersion::V3, Theirs) => 2 * INTERVAL,
        }
    }

    /// The address speaks against what the priority says, so that the priority has to decide.
    fn address(self, who: Who) -> IpAddr {
        let is_above = !matches!(self.event, Hears(_, EqualLower | Higher));
        address(match (who, is_above) {
            (TheMaster, false) => 1,
            (Another, false) => 2,
            (TheMaster, true) => 8,
            (Another, true) => 9,
        })
    }

    /// An instance in this situation, and since when.
    fn instance(self) -> (Instance, Instant) {
        let start = Instant::now();
        let mut instance = Instance::new(self.parameters());
        let the_master =
            |priority| Heard { source: self.address(TheMaster), priority, interval: self.interval(Masters) };
        if self.situation != Initialize {
            instance.startup(start);
        }
        if matches!(self.situation, Master | HandingOver | Unsucceeded | HasHandedOver) {
            instance.claim(start);
        }
        if matches!(self.situation, HandingOver | Unsucceeded | HasHandedOver) {
            instance.hand_over(start);
        }
        let mut since = start;
        match self.situation {
            Follows => drop(instance.on_advertisement(the_master(200), start)),
            HasHandedOver => drop(instance.on_advertisement(the_master(50), start)),
            Unsucceeded => {
                since = start + 2 * INTERVAL;
                instance.on_time(since);
            }
            Initialize | Waits | HandingOver | Master => {}
        }
        (instance, since)
    }

    fn time(self, instance: &Instance, since: Instant) -> Instant {
        match self.event {
            Due => instance.next_deadline().unwrap_or(since),
            StoodStill => since + 100 * INTERVAL,
            _ => since + INTERVAL / 4,
        }
    }

    fn heard(self, who: Who, what: What) -> Heard {
        let priority = match what {
            Farewell => 0,
            Lower => PRIORITY - 1,
            EqualLower | EqualHigher => PRIORITY,
            Higher => PRIORITY + 1,
        };
        Heard { source: self.address(who), priority, interval: self.interval(Theirs) }
    }

    fn run(self, instance: &mut Instance, now: Instant) -> Vec<Action> {
        let parameters = self.parameters();
        match self.event {
            Startup => instance.startup(now),
            Shutdown => instance.shutdown(),
            HandOver => instance.hand_over(now),
            Claim => instance.claim(now),
            Bury => instance.bury(),
            Early | Due | StoodStill => instance.on_time(now),
            SameParameters => instance.set_parameters(parameters, now),
            NewPriority => instance.set_parameters(Parameters { priority: NEW_PRIORITY, ..parameters }, now),
            NewInterval => instance.set_parameters(Parameters { interval: NEW_INTERVAL, ..parameters }, now),
            Hears(who, what) => instance.on_advertisement(self.heard(who, what), now),
        }
    }

    fn deadline(self, timer: Timer, before: Option<Instant>, since: Instant, now: Instant) -> Option<Instant> {
        let own = if self.event == NewInterval { NEW_INTERVAL } else { INTERVAL };
        Some(match (timer, self.initial_state) {
            (Off, _) => return None,
            (Kept, _) => return before,
            (Start, InitialState::Backup) => now + down(self.version, PRIORITY, own),
            (Start, InitialState::Master) => now + own + skew(self.version, PRIORITY, own),
            (Down(whose), _) => now + down(self.version, PRIORITY, self.interval(whose)),
            (Skew(whose), _) => now + skew(self.version, PRIORITY, self.interval(whose)),
            (Intervals(times), _) => now + own * times,
            (DownSinceHandOver, _) => since + down(self.version, PRIORITY, own),
        })
    }

    /// Who is the master in the eyes of an instance in this situation.
    fn master(self, to: Situation, timer: Timer) -> Option<IpAddr> {
        match (to, self.event) {
            (Follows | HasHandedOver, Hears(who, _)) if timer == Down(Theirs) => Some(self.address(who)),
            (Follows | HasHandedOver, _) => Some(self.address(TheMaster)),
            _ => None,
        }
    }
}

#[test]
fn every_event_leads_from_every_state_to_what_the_table_says() {
    for case in cases() {
        let rows: Vec<_> = TABLE.iter().filter(|row| row.is_for(case)).collect();
        let [row] = rows[..] else { panic!("{} rows for {case:?}", rows.len()) };

        let (mut instance, since) = case.instance();
        let before = instance.next_deadline();
        let now = case.time(&instance, since);
        let actions = case.run(&mut instance, now);

        let why = format!("{case:?} (RFC {})", row.source);
        let to = row.to.unwrap_or(case.situation);
        let (state, holds) = match to {
            Initialize => (State::Initialize, false),
            Waits | Follows | Unsucceeded | HasHandedOver => (State::Backup, false),
            HandingOver => (State::Backup, true),
            Master => (State::Master, true),
        };
        assert_eq!(instance.state(), state, "{why}");
        assert_eq!(instance.holds_addresses(), holds, "{why}");
        assert_eq!(instance.master().map(|master| master.source), case.master(to, row.timer), "{why}");
        assert_eq!(actions, row.actions, "{why}");
        assert_eq!(instance.next_deadline(), case.deadline(row.timer, before, since, now), "{why}");
    }
}

#[test]
fn every_row_of_the_table_is_for_something() {
    let cases = cases();
    for row in TABLE {
        for from in row.from {
            for event in row.events {
                let is_used = |case: &Case| row.is_for(*case) && case.situation == *from && case.event == *event;
                assert!(cases.iter().any(is_used), "{}: {from:?}, {event:?}", row.source);
            }
        }
    }
}
