//! What one slot does next.

use std::time::{Duration, Instant};

use lb_common::{BackendId, SlotWord};

use super::{Census, Fate, Pace};
use crate::config::Tracking;

/// What a slot's word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody owns the slot.
    Empty,
    /// All flows are the owner's.
    Stable,
    /// All flows are the owner's or in the flow table, and new ones are put there.
    Arming,
    /// Flows that are not in the flow table are the previous owner's, and all are put there.
    Moving,
    /// Flows that are not in the flow table are the owner's.
    Tracked,
}

impl State {
    pub(super) fn of(word: SlotWord) -> Self {
        match (word.look_up(), word.remember()) {
            _ if word.current() != word.previous() => Self::Moving,
            _ if word.current() == BackendId::NONE => Self::Empty,
            (false, _) => Self::Stable,
            (true, false) => Self::Tracked,
            (true, true) => Self::Arming,
        }
    }
}

fn arming(owner: BackendId) -> SlotWord {
    SlotWord::new(owner, owner, true, true)
}

fn moving(current: BackendId, previous: BackendId) -> SlotWord {
    SlotWord::new(current, previous, true, true)
}

fn tracked(owner: BackendId) -> SlotWord {
    SlotWord::new(owner, owner, true, false)
}

/// A packet on its way through the datapath may still hold the word before, and remember its flow by that. It is on its
/// way for microseconds, so this is ample.
const IN_FLIGHT: Duration = Duration::from_millis(100);

/// What is known when slots move.
pub(super) struct Ground<'a, F> {
    pub(super) pace: &'a Pace,
    pub(super) fate: F,
    pub(super) now: Instant,
    /// The flow table lost a flow, the last time.
    pub(super) lost: Option<Instant>,
    /// What a census of this table has found.
    pub(super) census: Option<&'a Census>,
}

impl<F: Fn(BackendId) -> Fate> Ground<'_, F> {
    /// The word of a slot that has nothing before it.
    pub(super) fn at_rest(&self, owner: BackendId) -> SlotWord {
        match self.pace.tracking {
            _ if owner == BackendId::NONE => SlotWord::EMPTY,
            Tracking::WhenNeeded | Tracking::Never => SlotWord::stable(owner),
            Tracking::Always => arming(owner),
        }
    }

    /// The word of a slot whose flows are `owner`'s but for some that are in the flow table.
    fn settled(&self, owner: BackendId) -> SlotWord {
        match self.pace.tracking {
            Tracking::WhenNeeded => tracked(owner),
            Tracking::Always => arming(owner),
            Tracking::Never => SlotWord::stable(owner),
        }
    }

    fn fate(&self, backend: BackendId) -> Fate {
        if backend == BackendId::NONE { Fate::Gone } else { (self.fate)(backend) }
    }

    /// Whether nothing is left of the flows of `backend`.
    fn is_over(&self, backend: BackendId) -> bool {
        match self.fate(backend) {
            Fate::Gone => true,
            Fate::Leaving { until: Some(until) } => until <= self.now,
            Fate::Leaving { until: None } | Fate::Serving | Fate::Held => false,
        }
    }

    /// Until when a backend that leaves has its flows.
    fn leaves(&self, backend: BackendId) -> Option<Instant> {
        match self.fate(backend) {
            Fate::Leaving { until } => until,
            Fate::Serving | Fate::Held | Fate::Gone => None,
        }
    }

    /// Who is to own the slot: where nobody is wanted, nobody could take it, and whoever is there keeps it.
    fn target(&self, word: SlotWord, wanted: BackendId) -> BackendId {
        if wanted != BackendId::NONE {
            return wanted;
        }
        let mut present = [word.current(), word.previous()].into_iter();
        present.find(|owner| self.fate(*owner) != Fate::Gone).unwrap_or(BackendId::NONE)
    }

    /// A move away from `owner`, which can wait while that serves.
    fn planned(&self, owner: BackendId, word: SlotWord) -> Next {
        if self.fate(owner) == Fate::Serving { Next::Claim(word) } else { Next::Become(word) }
    }
}

/// What a slot does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Its word becomes this.
    Become(SlotWord),
    /// Its word becomes this, if not too many slots have moved.
    Claim(SlotWord),
    /// It waits for time or news.
    Stay,
}

/// What the slot with this index and word does next. To be asked again until it stays.
pub(super) fn next<F: Fn(BackendId) -> Fate>(
    index: u32,
    word: SlotWord,
    wanted: BackendId,
    since: Instant,
    ground: &Ground<'_, F>,
) -> Next {
    let target = ground.target(word, wanted);
    let next = match State::of(word) {
        _ if target == BackendId::NONE => Next::Become(SlotWord::EMPTY),
        State::Empty => Next::Become(ground.settled(target)),
        // Where nothing is remembered, nothing is to be waited for.
        _ if ground.pace.tracking == Tracking::Never => Next::Become(SlotWord::stable(target)),
        state @ (State::Stable | State::Arming | State::Tracked) if word.current() == target => {
            rest(index, state, target, since, ground)
        }
        state @ (State::Stable | State::Arming | State::Tracked) => leave(state, word, target, since, ground),
        State::Moving => carry_on(index, word, target, since, ground),
    };
    if next == Next::Become(word) { Next::Stay } else { next }
}

/// A slot with the right owner, and no other one.
fn rest<F: Fn(BackendId) -> Fate>(
    index: u32,
    state: State,
    owner: BackendId,
    since: Instant,
    ground: &Ground<'_, F>,
) -> Next {
    match (ground.pace.tracking, state) {
        (Tracking::WhenNeeded, State::Stable) => Next::Stay,
        (Tracking::WhenNeeded, State::Tracked) if is_alone(index, since, ground) => {
            Next::Become(SlotWord::stable(owner))
        }
        _ => Next::Become(ground.settled(owner)),
    }
}

/// Whether a census has found that all flows of a tracked slot are its owner's.
fn is_alone<F>(index: u32, since: Instant, ground: &Ground<'_, F>) -> bool {
    ground.census.is_some_and(|census| since + IN_FLIGHT <= census.started() && census.agrees(index))
}

/// A slot that is to get another owner.
fn leave<F: Fn(BackendId) -> Fate>(
    state: State,
    word: SlotWord,
    target: BackendId,
    since: Instant,
    ground: &Ground<'_, F>,
) -> Next {
    let owner = word.current();
    if ground.is_over(owner) {
        return Next::Become(ground.settled(target));
    }
    if ground.fate(owner) == Fate::Held {
        return Next::Become(moving(target, owner));
    }
    let always = ground.pace.tracking == Tracking::Always;
    match state {
        State::Arming if ground.now < since + ground.pace.handshake => Next::Stay,
        // Where slots are armed for good, a move begins here.
        State::Arming if always => ground.planned(owner, moving(target, owner)),
        State::Arming => Next::Become(moving(target, owner)),
        _ if always => Next::Become(arming(owner)),
        _ => ground.planned(owner, arming(owner)),
    }
}

/// A slot that moves already.
fn carry_on<F: Fn(BackendId) -> Fate>(
    index: u32,
    word: SlotWord,
    target: BackendId,
    since: Instant,
    ground: &Ground<'_, F>,
) -> Next {
    let (current, previous) = (word.current(), word.previous());
    if target == previous {
        // All that is on others is in the table.
        return Next::Become(ground.settled(previous));
    }
    if ground.is_over(previous) {
        let heir = if ground.is_over(current) { target } else { current };
        return Next::Become(ground.settled(heir));
    }
    let confirmed = ground.census.is_some_and(|census| {
        census.confirmed(index) && idle_deadline(since, ground.lost, ground.pace) <= census.started()
    });
    if confirmed {
        return Next::Become(ground.settled(current));
    }
    if target == current { Next::Stay } else { ground.planned(current, moving(target, previous)) }
}

/// When each flow that was there before the slot moved has either sent something, and is in the flow table, or is over.
pub(super) fn idle_deadline(since: Instant, lost: Option<Instant>, pace: &Pace) -> Instant {
    lost.map_or(since, |lost| lost.max(since)) + pace.idle
}

/// When a slot that stays as it is has to be looked at again.
#[derive(Debug, Default)]
pub(super) struct Dues {
    /// Because of the time alone.
    pub(super) advance: Option<Instant>,
    /// Because a census that begins then may find something out.
    pub(super) census: Option<Instant>,
}

pub(super) fn dues<F: Fn(BackendId) -> Fate>(
    word: SlotWord,
    wanted: BackendId,
    since: Instant,
    ground: &Ground<'_, F>,
) -> Dues {
    match State::of(word) {
        State::Empty | State::Stable => Dues::default(),
        State::Tracked => Dues { advance: None, census: Some(since + IN_FLIGHT) },
        State::Arming if ground.target(word, wanted) == word.current() => Dues::default(),
        State::Arming => {
            // One that is armed already waits for the bound.
            let armed = Some(since + ground.pace.handshake).filter(|armed| *armed > ground.now);
            let until = ground.leaves(word.current());
            Dues { advance: armed.into_iter().chain(until).min(), census: None }
        }
        State::Moving => Dues {
            advance: ground.leaves(word.previous()),
            census: Some(idle_deadline(since, ground.lost, ground.pace)),
        },
    }
}
