//! Moves the slots of one service from owner to owner, and no living flow with them (docs/ARCHITECTURE.md, "Just enough
//! tracking").
//!
//! ```text
//!              another owner is wanted            a handshake later
//!   ┌────────┐ ─────────────────────> ┌────────┐ ─────────────────> ┌────────┐
//!   │ stable │                        │ arming │                    │ moving │
//!   └────────┘ <──┐                   └────────┘                    └────────┘
//!                 │ a census finds no     │ the old owner after all     │ every flow of the previous owner
//!                 │ flow of others        v                             │ is in the table, or over
//!                 │                   ┌─────────┐                       │
//!                 └────────────────── │ tracked │ <─────────────────────┘
//!                                     └─────────┘
//! ```
//!
//! [`rules`] says what one slot does next. [`SlotMover`] does it to all slots, within a [`Bound`], and says when to come
//! back. It takes three kinds of news: who is wanted ([`SlotMover::set_wanted`]), what has become of backends (the `fate`
//! in [`SlotMover::advance`]), and what is in the flow table ([`SlotMover::on_loss`], [`SlotMover::on_census`]).

mod bound;
mod census;
mod report;
mod rules;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use lb_common::{BackendId, SlotWord};

use self::bound::Bound;
use self::rules::{Ground, Next, State};
use crate::config::Tracking;

pub use self::census::Census;
pub use self::report::{Group, Report};

/// What becomes of the flows that a backend has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It takes them.
    Serving,
    /// It takes them until then, or until they end by themselves, and is to have no others.
    Leaving {
        /// Flows that it still has by then are given to others.
        until: Option<Instant>,
    },
    /// It takes none, and its flows are nobody else's.
    Held,
    /// It takes none, and its flows are given to others.
    Gone,
}

/// How long the steps of a move take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// For how long the first packet of a flow may be sent again; zero for protocols without first packets.
    pub handshake: Duration,
    /// How long a flow may be silent before it is over.
    pub idle: Duration,
    /// How much is remembered.
    pub tracking: Tracking,
}

/// The slots of one service, on their way to the owners that are wanted.
#[derive(Debug, Clone)]
pub struct SlotMover {
    slots: Vec<Slot>,
    bound: Bound,
    /// The clock of the slots began.
    epoch: Instant,
    /// The flow table lost a flow, the last time.
    lost: Option<Instant>,
    /// A slot with flows began to remember them, the last time.
    armed: Option<Instant>,
    /// Where the next round begins, so that no slot waits forever for others that always come first.
    first: u32,
    /// Slots that the bound held back in the last round.
    waiting: u32,
    deadline: Option<Instant>,
    census_due: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    word: SlotWord,
    wanted: BackendId,
    /// When it got into its state, and its previous owner.
    since: Tick,
}

impl Slot {
    fn enter(&mut self, word: SlotWord, now: Tick) {
        // Whose the flows are that nobody remembered does not change with the owner of new ones.
        let goes_on = [self.word, word].iter().all(|word| State::of(*word) == State::Moving);
        if !goes_on {
            self.since = now;
        }
        self.word = word;
    }
}

/// A time in ticks since the epoch of a [`SlotMover`], rounded up: what takes some time takes no less. It lasts 13 years.
#[derive(Debug, Clone, Copy)]
struct Tick(u32);

const TICK: Duration = Duration::from_millis(100);

impl Tick {
    fn of(time: Instant, epoch: Instant) -> Self {
        let ticks = time.saturating_duration_since(epoch).as_nanos().div_ceil(TICK.as_nanos());
        Self(u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    fn instant(self, epoch: Instant) -> Instant {
        epoch + TICK * self.0
    }
}

impl SlotMover {
    /// A new table of `slots` slots, a power of two: nobody owns them.
    pub fn new(slots: u32, now: Instant) -> Self {
        Self::take_over(vec![SlotWord::EMPTY; slots as usize], now)
    }

    /// A table that an earlier daemon left. What its slots were waiting for is not known, so they wait anew.
    pub fn take_over(words: Vec<SlotWord>, now: Instant) -> Self {
        let has_flows = words.iter().any(|word| *word != SlotWord::EMPTY);
        Self {
            armed: has_flows.then_some(now),
            slots: words.into_iter().map(|word| Slot { word, wanted: word.current(), since: Tick(0) }).collect(),
            bound: Bound::new(now),
            epoch: now,
            lost: None,
            first: 0,
            waiting: 0,
            deadline: None,
            census_due: None,
        }
    }

    /// The same in a larger table of `slots` slots, a power of two: each flow finds the word that it had. A census of the
    /// smaller table says nothing about it.
    ///
    /// # Panics
    ///
    /// If it would be smaller.
    #[must_use]
    pub fn grown(&self, slots: u32) -> Self {
        assert!(slots >= self.count(), "a table of {} slots cannot grow to {slots}", self.count());
        Self { slots: self.slots.iter().copied().cycle().take(slots as usize).collect(), first: 0, ..self.clone() }
    }

    /// The words as they are to stand in the datapath.
    pub fn words(&self) -> impl ExactSizeIterator<Item = SlotWord> {
        self.slots.iter().map(|slot| slot.word)
    }

    /// How many slots name `backend`, as the owner or as the previous one.
    pub fn naming(&self, backend: BackendId) -> usize {
        self.words().filter(|word| word.current() == backend || word.previous() == backend).count()
    }

    /// Sets who is to own each slot: backends that serve, or [`BackendId::NONE`] where there is none, as for the slots
    /// behind the end of `wanted`. [`SlotMover::advance`] does something about it.
    pub fn set_wanted(&mut self, wanted: impl IntoIterator<Item = BackendId>) {
        let wanted = wanted.into_iter().chain(std::iter::repeat(BackendId::NONE));
        for (slot, wanted) in self.slots.iter_mut().zip(wanted) {
            slot.wanted = wanted;
        }
    }

    /// Takes in that the flow table had to give up a flow, or had no room for one: slots that move wait for as long as a
    /// flow may be silent, from then on.
    pub fn on_loss(&mut self, at: Instant) {
        self.lost = self.lost.max(Some(at));
    }

    /// Lets each slot move once more, however many have moved of late: what is wanted now is somebody's decision, and no
    /// consequence of weights or backends that come and go.
    pub fn do_not_wait(&mut self, now: Instant) {
        self.bound = Bound::new(now);
    }

    /// Does what is due, and returns the words to store, by slot. To be called after each change of what is wanted, of
    /// `pace` or of a fate, and at [`SlotMover::next_deadline`].
    ///
    /// Slots that are about to move ask for the `fate` of their backends, so that should be quick. The wanted ones are
    /// [`Fate::Serving`].
    pub fn advance(&mut self, pace: &Pace, fate: impl Fn(BackendId) -> Fate, now: Instant) -> Vec<(u32, SlotWord)> {
        self.round(&Ground { pace, fate, now, lost: self.lost, census: None })
    }

    /// Takes in what a census has found, and returns the words to store, by slot: slots of which every flow is in the table
    /// give up their previous owner, and those without flows of others need no look-ups any more.
    pub fn on_census(
        &mut self,
        census: &Census,
        pace: &Pace,
        fate: impl Fn(BackendId) -> Fate,
        now: Instant,
    ) -> Vec<(u32, SlotWord)> {
        let census = Some(census).filter(|census| census.slots() == self.count());
        self.round(&Ground { pace, fate, now, lost: self.lost, census })
    }

    /// Where all slots remember: since when they do so, and no flow has been given up. That slots move meanwhile is no matter. `None` if
    /// there were no flows before.
    pub fn remembers_since(&self) -> Option<Instant> {
        self.armed.map(|armed| self.lost.map_or(armed, |lost| lost.max(armed)))
    }

    /// When [`SlotMover::advance`] has something to do next, if nothing happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// From when on a census would have something to find out. One that has found flows that do not end makes the next
    /// one due at once, so it is for the caller to pause in between.
    pub fn census_due(&self) -> Option<Instant> {
        self.census_due
    }

    /// A census of the flow table that begins now, for [`SlotMover::on_census`].
    pub fn census(&self, pace: &Pace, now: Instant) -> Census {
        let settles = |slot: &Slot| match State::of(slot.word) {
            State::Moving => self.idle_deadline(slot, pace) <= now,
            // A flow may have been put there after the sweep had come by that let the slot settle.
            State::Tracked => true,
            State::Empty | State::Stable | State::Arming => false,
        };
        Census::new(now, self.slots.iter().map(|slot| (slot.word.current(), settles(slot))))
    }

    /// What the slots do.
    pub fn report(&self, pace: &Pace, fate: impl Fn(BackendId) -> Fate) -> Report {
        let mut report = Report::new(self.waiting);
        for slot in &self.slots {
            let since = slot.since.instant(self.epoch);
            let (current, previous) = (slot.word.current(), slot.word.previous());
            match State::of(slot.word) {
                State::Empty => report.empty += 1,
                State::Stable => report.stable += 1,
                State::Tracked => report.tracked += 1,
                State::Arming if [current, BackendId::NONE].contains(&slot.wanted) => report.tracked += 1,
                State::Arming => report.add_arming(slot.wanted, current, since, since + pace.handshake),
                State::Moving => {
                    report.restarted = report.restarted.max(self.lost.filter(|lost| *lost > since));
                    let idle = self.idle_deadline(slot, pace);
                    let until = match fate(previous) {
                        Fate::Leaving { until: Some(until) } => until.min(idle),
                        _ => idle,
                    };
                    report.add_moving(current, previous, since, until);
                }
            }
        }
        report
    }

    fn idle_deadline(&self, slot: &Slot, pace: &Pace) -> Instant {
        rules::idle_deadline(slot.since.instant(self.epoch), self.lost, pace)
    }

    fn count(&self) -> u32 {
        u32::try_from(self.slots.len()).expect("tables have at most 2^16 slots")
    }

    fn round<F: Fn(BackendId) -> Fate>(&mut self, ground: &Ground<'_, F>) -> Vec<(u32, SlotWord)> {
        let count = self.count();
        let now = Tick::of(ground.now, self.epoch);
        let free = self.bound.free(count, ground.now);
        let (mut moved, mut held_back) = (0, None);
        let mut stores = Vec::new();
        (self.waiting, self.deadline, self.census_due) = (0, None, None);
        for index in (self.first..count).chain(0..self.first) {
            let slot = &mut self.slots[index as usize];
            if slot.word == ground.at_rest(slot.wanted) {
                continue;
            }
            let before = slot.word;
            loop {
                match rules::next(index, slot.word, slot.wanted, slot.since.instant(self.epoch), ground) {
                    Next::Become(word) => slot.enter(word, now),
                    Next::Claim(word) if moved < free => {
                        moved += 1;
                        slot.enter(word, now);
                    }
                    Next::Claim(_) => {
                        self.waiting += 1;
                        held_back.get_or_insert(index);
                        break;
                    }
                    Next::Stay => break,
                }
            }
            if slot.word != before {
                stores.push((index, slot.word));
            }
            if before != SlotWord::EMPTY && !before.remember() && slot.word.remember() {
                self.armed = Some(ground.now);
            }
            let dues = rules::dues(slot.word, slot.wanted, slot.since.instant(self.epoch), ground);
            self.deadline = earliest(self.deadline, dues.advance);
            self.census_due = earliest(self.census_due, dues.census);
        }
        self.bound.take(moved, count, ground.now);
        if let Some(index) = held_back {
            self.first = index;
            self.deadline = earliest(self.deadline, Some(self.bound.next(self.waiting, count)));
        }
        stores
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
