//! Random changes of a service's backends. Pure: the same seed gives the same changes, at the same times.

use std::{collections::VecDeque, fmt, ops::Range, time::Duration};

use fastrand::Rng;

/// What happens to one backend, which is named by its number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Add {
        backend: usize,
        weight: u16,
    },
    Weight {
        backend: usize,
        weight: u16,
    },
    Drain {
        backend: usize,
    },
    Remove {
        backend: usize,
    },
    Disable {
        backend: usize,
    },
    Enable {
        backend: usize,
    },
    /// Its server dies.
    Crash {
        backend: usize,
    },
    /// Its server starts again.
    Recover {
        backend: usize,
    },
}

impl Change {
    /// Whom it concerns.
    pub fn backend(self) -> usize {
        match self {
            Self::Add { backend, .. }
            | Self::Weight { backend, .. }
            | Self::Drain { backend }
            | Self::Remove { backend }
            | Self::Disable { backend }
            | Self::Enable { backend }
            | Self::Crash { backend }
            | Self::Recover { backend } => backend,
        }
    }

    /// Whether it ends the connections of the backend.
    pub fn is_death(self) -> bool {
        matches!(self, Self::Disable { .. } | Self::Crash { .. })
    }
}

/// As `b1`, `b2` and so on.
impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("b{}", self.backend() + 1);
        match self {
            Self::Add { weight, .. } => write!(formatter, "add {name} with weight {weight}"),
            Self::Weight { weight, .. } => write!(formatter, "give {name} weight {weight}"),
            Self::Drain { .. } => write!(formatter, "drain {name}"),
            Self::Remove { .. } => write!(formatter, "remove {name}"),
            Self::Disable { .. } => write!(formatter, "disable {name}"),
            Self::Enable { .. } => write!(formatter, "enable {name}"),
            Self::Crash { .. } => write!(formatter, "crash {name}"),
            Self::Recover { .. } => write!(formatter, "recover {name}"),
        }
    }
}

/// One change, or several at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The time since the step before.
    pub after: Duration,
    /// Of different backends.
    pub changes: Vec<Change>,
}

/// The time from one step to the next, in milliseconds.
const PAUSE: Range<u64> = 50..450;

/// How long a backend is away that flaps, in milliseconds.
const FLAP: Range<u64> = 50..1000;

/// One in so many steps is two changes at once.
const AT_ONCE: u8 = 6;

const WEIGHTS: Range<u16> = 1..20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Absent,
    Serving,
    Draining,
    Disabled,
    Crashed,
}

/// Changes without end.
#[derive(Debug)]
pub struct Changes {
    random: Rng,
    backends: Vec<Place>,
    /// Whether backends may die.
    deaths: bool,
    /// No fewer than so many backends serve at any time.
    fewest: usize,
    next: VecDeque<Step>,
}

impl Changes {
    /// Of a service which has the first `present` of `backends` backends. Where `deaths` are not allowed, no change is one that a
    /// connection could not live through.
    pub fn new(seed: u64, backends: usize, present: usize, deaths: bool) -> Self {
        let place = |backend| if backend < present { Place::Serving } else { Place::Absent };
        Self {
            random: Rng::with_seed(seed),
            backends: (0..backends).map(place).collect(),
            deaths,
            fewest: (present / 2).max(1),
            next: VecDeque::new(),
        }
    }

    fn pause(&mut self, milliseconds: Range<u64>) -> Duration {
        Duration::from_millis(self.random.u64(milliseconds))
    }

    /// What happens to this backend next; `None`: nothing, for it is needed.
    fn change(&mut self, backend: usize) -> Option<Change> {
        let serving = self.backends.iter().filter(|place| **place == Place::Serving).count();
        let weight = self.random.u16(WEIGHTS);
        let can_die = self.deaths && self.random.u8(..4) == 0;
        let is_needed = serving <= self.fewest;
        Some(match (self.backends[backend], self.random.u8(..6)) {
            (Place::Absent, _) => Change::Add { backend, weight },
            (Place::Serving, 0 | 1) => Change::Weight { backend, weight },
            (Place::Serving, _) if is_needed => return None,
            (Place::Serving, 3) | (Place::Draining, 0) if can_die => Change::Disable { backend },
            (Place::Serving, 4) if can_die => Change::Crash { backend },
            (Place::Serving, 2) | (Place::Draining, 0..3) | (Place::Disabled, 0) => Change::Remove { backend },
            (Place::Serving, _) => Change::Drain { backend },
            (Place::Draining | Place::Disabled, _) => Change::Enable { backend },
            (Place::Crashed, _) => Change::Recover { backend },
        })
    }

    fn apply(&mut self, change: Change) {
        self.backends[change.backend()] = match change {
            Change::Weight { .. } => return,
            Change::Add { .. } | Change::Enable { .. } | Change::Recover { .. } => Place::Serving,
            Change::Drain { .. } => Place::Draining,
            Change::Remove { .. } => Place::Absent,
            Change::Disable { .. } => Place::Disabled,
            Change::Crash { .. } => Place::Crashed,
        };
    }

    /// A change of a backend that is not `but`.
    fn choose(&mut self, but: Option<usize>) -> Change {
        loop {
            let backend = self.random.usize(..self.backends.len());
            if Some(backend) != but
                && let Some(change) = self.change(backend)
            {
                self.apply(change);
                return change;
            }
        }
    }
}

impl Iterator for Changes {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if let Some(step) = self.next.pop_front() {
            return Some(step);
        }
        let after = self.pause(PAUSE);
        let change = self.choose(None);
        let mut changes = vec![change];
        match change {
            // Half of those that drain come back at once.
            Change::Drain { backend } if self.random.bool() => {
                let back = Change::Enable { backend };
                self.apply(back);
                let after = self.pause(FLAP);
                self.next.push_back(Step { after, changes: vec![back] });
            }
            _ if self.random.u8(..AT_ONCE) == 0 => changes.push(self.choose(Some(change.backend()))),
            _ => {}
        }
        Some(Step { after, changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(seed: u64, deaths: bool) -> Vec<Step> {
        Changes::new(seed, 8, 6, deaths).take(2000).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_changes_and_another_one_others() {
        assert_eq!(steps(1, true), steps(1, true));
        assert_ne!(steps(1, true), steps(2, true));
    }

    #[test]
    fn each_kind_of_change_occurs_and_deaths_only_where_they_may() {
        for deaths in [true, false] {
            let steps = steps(3, deaths);
            let mut words: Vec<_> = steps
                .iter()
                .flat_map(|step| &step.changes)
                .map(|change| change.to_string().split(' ').next().map(str::to_owned))
                .map(Option::unwrap_or_default)
                .collect();
            words.sort_unstable();
            words.dedup();
            let all = ["add", "crash", "disable", "drain", "enable", "give", "recover", "remove"];
            let expected = all.into_iter().filter(|word| deaths || !["crash", "disable", "recover"].contains(word));
            assert_eq!(words, expected.collect::<Vec<_>>());
            assert!(steps.iter().any(|step| step.changes.len() == 2));
            assert!(steps.iter().flat_map(|step| &step.changes).any(|change| change.is_death()) == deaths);
        }
    }

    #[test]
    fn enough_backends_serve_at_any_time() {
        let mut changes = Changes::new(4, 8, 6, true);
        for _ in 0..2000 {
            let _ = changes.next();
            assert!(changes.backends.iter().filter(|place| **place == Place::Serving).count() >= 3);
        }
    }
}
