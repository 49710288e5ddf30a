use std::time::{Duration, Instant};

use lb_common::{BackendId, BackendRow, Condition, FlowState, RowIndex};

use super::service::Admin;
use crate::{
    config::{self, OnDeath},
    health::{Health, Report},
    schedule::{self, Fate},
};

/// How many entries of the flow table are in each [`FlowState`].
pub type FlowCounts = [u32; FlowState::ALL.len()];

/// A backend of one service.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub(super) spec: config::Backend,
    pub(super) standing: Standing,
    /// Until when it may keep its flows, if it drains or is removed; `None` is until they end.
    pub(super) until: Option<Instant>,
    pub(super) id: BackendId,
    /// Its row in the datapath: with one, its next hop is known.
    pub(super) row: Option<(RowIndex, BackendRow)>,
    /// Why it has no row.
    pub(super) unresolved: Option<String>,
    /// What the last probe said; `None` before the first, and without a check.
    pub(super) report: Option<Report<BackendId>>,
    pub(super) health: Checked,
    /// Its flows that are in the flow table, as of the last census.
    pub(super) flows: FlowCounts,
    /// Since when it takes flows, where its weight rises slowly from then on.
    pub(super) rising_since: Option<Instant>,
    /// Since when no slot names it, if it is removed.
    pub(super) unnamed_since: Option<Instant>,
}

/// What is wanted of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is one of the service's.
    Member(Admin),
    /// The service has it no more; it keeps the flows that it has for a while.
    Removed,
}

/// What is known of a backend's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    /// The service has no check: the backend counts as healthy.
    Unchecked,
    /// By its check.
    By(Health),
}

/// What decides about the flows that a backend has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground {
    pub(super) on_death: OnDeath,
    pub(super) now: Instant,
}

impl Backend {
    /// One of which nothing is known yet.
    pub(super) fn new(spec: config::Backend, id: BackendId) -> Self {
        Self {
            spec,
            standing: Standing::Member(Admin::Enabled),
            until: None,
            id,
            row: None,
            unresolved: None,
            report: None,
            health: Checked::By(Health::Unknown),
            flows: FlowCounts::default(),
            rising_since: None,
            unnamed_since: None,
        }
    }

    /// Its health, as far as it is known: without a check it is well.
    pub(super) fn known_health(&self) -> Health {
        match self.health {
            Checked::Unchecked => Health::Up,
            Checked::By(health) => health,
        }
    }

    /// Takes note of when it begins to take flows, and when it ends.
    pub(super) fn rise(&mut self, now: Instant) {
        self.rising_since = if self.is_usable() { self.rising_since.or(Some(now)) } else { None };
    }

    /// Whether it can take new flows.
    pub(super) fn is_usable(&self) -> bool {
        self.standing == Standing::Member(Admin::Enabled) && self.is_alive()
    }

    /// Whether packets that are sent to it arrive, as far as that is known.
    fn is_alive(&self) -> bool {
        self.row.is_some() && matches!(self.health, Checked::Unchecked | Checked::By(Health::Up))
    }

    /// Whether it is not known yet, and will be in a moment, if it can take new flows.
    pub(super) fn is_undecided(&self) -> bool {
        let is_unknown = self.health == Checked::By(Health::Unknown) || self.row.is_none() && self.unresolved.is_none();
        self.standing == Standing::Member(Admin::Enabled) && self.spec.weight > 0 && is_unknown
    }

    /// Its part in the slot table.
    pub(super) fn member(&self, slow_start: Option<Duration>, now: Instant) -> schedule::Member {
        let weight = match (slow_start, self.rising_since) {
            (Some(duration), Some(since)) => schedule::risen(self.spec.weight, now.duration_since(since), duration),
            _ => self.spec.weight,
        };
        schedule::Member {
            name: self.spec.address.to_string().into_bytes(),
            weight: if self.is_usable() { weight } else { 0 },
        }
    }

    /// What becomes of the flows that it has.
    pub(super) fn fate(&self, ground: Ground) -> Fate {
        if self.row.is_none() {
            return Fate::Gone;
        }
        if self.is_cut_off(ground.now) {
            return if ground.on_death == OnDeath::Reset { Fate::Held } else { Fate::Gone };
        }
        if self.health == Checked::By(Health::Down) {
            return if ground.on_death == OnDeath::Reschedule { Fate::Gone } else { Fate::Held };
        }
        match self.standing {
            Standing::Member(Admin::Enabled) if self.spec.weight > 0 => Fate::Serving,
            Standing::Member(_) | Standing::Removed => Fate::Leaving { until: self.until },
        }
    }

    /// What the datapath does with packets of its flows.
    pub(super) fn condition(&self, ground: Ground) -> Condition {
        let is_down = self.health == Checked::By(Health::Down);
        match ground.on_death {
            OnDeath::Reschedule | OnDeath::Keep if self.is_cut_off(ground.now) => Condition::RESCHEDULE,
            OnDeath::Reset if self.is_cut_off(ground.now) || is_down => Condition::RESET,
            OnDeath::Reschedule if is_down => Condition::RESCHEDULE,
            _ => Condition::SERVING,
        }
    }

    /// Whether the operator does not let it have packets, or not any longer.
    pub(super) fn is_cut_off(&self, now: Instant) -> bool {
        self.standing == Standing::Member(Admin::Disabled) || self.until.is_some_and(|until| until <= now)
    }
}
