use std::time::{Duration, Instant};

use lb_common::{BackendId, BackendRow, Condition, FlowState, RowIndex};

use super::{census::Replies, service::Admin};
use crate::{
    config::{self, Endpoint, OnDeath},
    health::{Health, Report},
    schedule::{self, Fate, Rising},
};

/// How many entries of the flow table are in each [`FlowState`].
pub type FlowCounts = [u32; FlowState::ALL.len()];

/// A backend of one service.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub(super) spec: config::Backend,
    /// What tells it from the others of its service.
    pub(super) endpoint: Endpoint,
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
    /// The check that runs.
    pub(super) check: Option<config::HealthCheck>,
    /// Its flows that are in the flow table, as of the last census; `None` before the first that has counted them.
    pub(super) flows: Option<FlowCounts>,
    /// Since when it has had new flows without a break: where weights rise slowly, its own does from then on.
    pub(super) rising_since: Option<Instant>,
    /// Whether it has been there since its service began, and nothing is known of it yet.
    pub(super) is_one_of_the_first: bool,
    /// Since when no slot names it, if it is removed.
    pub(super) unnamed_since: Option<Instant>,
    /// Its packets so far and since when there were no more, where connection ids name it: its flows are not in the flow table
    /// then.
    pub(super) quiet: Option<(u64, Instant)>,
    /// Since when it was found to answer no connection, where addresses are translated.
    pub(super) unanswered_since: Option<Instant>,
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

/// How long a backend may seem to answer nothing before the operator is told.
const UNANSWERED: Duration = Duration::from_secs(5);

/// What decides about the flows that a backend has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground {
    pub(super) on_death: OnDeath,
    pub(super) now: Instant,
}

impl Backend {
    /// One of which nothing is known yet.
    pub(super) fn new(spec: config::Backend, endpoint: Endpoint, id: BackendId) -> Self {
        Self {
            spec,
            endpoint,
            standing: Standing::Member(Admin::Enabled),
            until: None,
            id,
            row: None,
            unresolved: None,
            report: None,
            health: Checked::By(Health::Unknown),
            check: None,
            flows: None,
            rising_since: None,
            is_one_of_the_first: false,
            unnamed_since: None,
            quiet: None,
            unanswered_since: None,
        }
    }

    /// Its health, as far as it is known: without a check it is well.
    pub(super) fn known_health(&self) -> Health {
        match self.health {
            Checked::Unchecked => Health::Up,
            Checked::By(health) => health,
        }
    }

    /// What it is called: one that was removed `name@address`, since by now the service may have another of its name.
    pub(super) fn shown_name(&self) -> String {
        let (name, endpoint) = (&self.spec.name, self.endpoint.to_string());
        match self.standing {
            Standing::Removed if *name != endpoint => format!("{name}@{endpoint}"),
            Standing::Removed | Standing::Member(_) => name.clone(),
        }
    }

    /// Takes note of whether it is to have new flows, and if it had none before, that this counts as their `beginning`. One that
    /// is to have none, and is well, goes on as it was for as long as `gets_flows` says that it gets some yet.
    pub(super) fn rise(&mut self, beginning: Instant, now: Instant, gets_flows: impl FnOnce() -> bool) {
        self.rising_since = match self.rising_since {
            since if self.is_usable() && self.spec.weight > 0 => since.or(Some(beginning)),
            Some(since) if self.is_alive() && !self.is_cut_off(now) && gets_flows() => Some(since),
            Some(_) | None => None,
        };
    }

    /// Takes note of how many packets have been sent to it, of flows that the flow table does not show.
    pub(super) fn count_packets(&mut self, packets: u64, now: Instant) {
        if self.quiet.is_none_or(|(before, _)| before != packets) {
            self.quiet = Some((packets, now));
        }
    }

    /// Whether it may have flows yet of those that the flow table does not show: when no packet of theirs has come for
    /// `idle_timeout`, they are over.
    pub(super) fn has_hidden_flows(&self, idle_timeout: Duration, now: Instant) -> bool {
        self.quiet.is_none_or(|(_, since)| now < since + idle_timeout)
    }

    /// Takes note of what a census has found of its replies.
    pub(super) fn count_replies(&mut self, replies: Replies, now: Instant) {
        self.unanswered_since = match self.unanswered_since {
            _ if replies.answered > 0 || replies.opening == 0 => None,
            None if replies.waiting > 0 => Some(now),
            since => since,
        };
    }

    /// Whether it has answered no connection for so long that nothing but a fault explains it.
    pub(super) fn is_unanswered(&self, now: Instant) -> bool {
        self.unanswered_since.is_some_and(|since| now >= since + UNANSWERED)
    }

    /// Whether it can take new flows.
    pub(super) fn is_usable(&self) -> bool {
        self.standing == Standing::Member(Admin::Enabled) && self.is_alive()
    }

    /// Whether packets that are sent to it arrive, as far as that is known.
    fn is_alive(&self) -> bool {
        self.row.is_some() && matches!(self.health, Checked::Unchecked | Checked::By(Health::Up))
    }

    /// Whether it serves the flows that it has, though it is to have no new ones.
    pub(super) fn is_last_resort(&self, now: Instant) -> bool {
        self.is_alive() && !self.is_cut_off(now)
    }

    /// Its part in the slots that nobody else can take.
    pub(super) fn last_resort(&self) -> schedule::Member {
        let weight = u32::from(self.spec.weight).max(1);
        schedule::Member { name: self.endpoint.to_string().into_bytes(), weight }
    }

    /// Whether it is not known yet, and will be in a moment, if it can take new flows.
    pub(super) fn is_undecided(&self) -> bool {
        let is_unknown = self.health == Checked::By(Health::Unknown) || self.row.is_none() && self.unresolved.is_none();
        self.standing == Standing::Member(Admin::Enabled) && self.spec.weight > 0 && is_unknown
    }

    /// Its part in the slot table.
    pub(super) fn member(&self, slow_start: Option<Duration>, now: Instant) -> schedule::Member {
        let weight = match self.rising(slow_start, now) {
            _ if !self.is_usable() => 0,
            Some(Rising { sixteenths, .. }) => sixteenths,
            None => self.spec.weight.into(),
        };
        schedule::Member { name: self.endpoint.to_string().into_bytes(), weight }
    }

    /// How much of its weight counts, where weights rise slowly.
    fn rising(&self, slow_start: Option<Duration>, now: Instant) -> Option<Rising> {
        let elapsed = now.saturating_duration_since(self.rising_since?);
        Some(schedule::slow_start(self.spec.weight, elapsed, slow_start?))
    }

    /// When its weight rises next.
    pub(super) fn next_rise(&self, slow_start: Option<Duration>, now: Instant) -> Option<Instant> {
        Some(self.rising_since? + self.rising(slow_start, now)?.next?)
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
