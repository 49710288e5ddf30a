//! The state machine of one virtual router on this node: pure, without clock or sockets of its own.
//!
//! RFC 9568, section 6.4, in the words of RFC 3768: its Active Router is the master here.
//!
//! ```text
//!                      ┌────────────┐
//!           ┌──────────┤ Initialize │<─────────┐
//!   startup │          └────────────┘          │ shutdown
//!           │             ^                    │
//!           ▼             │ shutdown           │
//!      ┌────────┐         │               ┌────┴───┐
//!      │        ├─────────┘               │        │
//!      │ Backup │   no master is heard    │ Master │
//!      │        ├────────────────────────>│        │
//!      │        │<────────────────────────┤        │
//!      └────────┘   a better one is heard,└────────┘
//!                   or this one hands over
//! ```
//!
//! Where it goes beyond the RFC:
//!
//! - A master that hands over keeps its addresses until it hears its successor, so that nobody asks in vain meanwhile
//!   ([`Instance::hand_over`]). It does not come back by preemption until the successor is gone.
//! - The farewell (priority 0) of a router that is not the master known here is ignored.
//! - A master whose process stood still for longer than others wait for it begins again as backup.
//! - A master answers advertisements of lower priority at most once in an interval, whoever sends how many.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::config::{InitialState, VrrpVersion};

#[cfg(test)]
mod tests;

/// What an instance goes by. Nothing of it is fixed: [`Instance::set_parameters`] changes it while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// Which version's timers.
    pub version: VrrpVersion,
    /// The priority as tracking has it now, 1 to 254.
    pub priority: u8,
    /// `Advertisement_Interval`.
    pub interval: Duration,
    /// `Preempt_Mode`.
    pub preempt: bool,
    /// How long a master of lower priority is let alone.
    pub preempt_delay: Duration,
    /// What it expects to be at the start.
    pub initial_state: InitialState,
    /// The source of this node's advertisements, by which equal priorities are told apart.
    pub source: IpAddr,
}

impl Parameters {
    /// `Skew_Time` for a master with this interval: the higher the priority, the sooner (RFC 9568, section 6.1;
    /// RFC 3768, section 6.1).
    pub fn skew_time(&self, master_interval: Duration) -> Duration {
        let unit = match self.version {
            VrrpVersion::V2 => Duration::from_secs(1),
            VrrpVersion::V3 => master_interval,
        };
        unit * (256 - u32::from(self.priority)) / 256
    }

    /// `Active_Down_Interval` for a master with this interval: so long it may be silent.
    pub fn master_down_interval(&self, master_interval: Duration) -> Duration {
        3 * master_interval + self.skew_time(master_interval)
    }

    /// Whether the other is the better master: by its priority, then by its address.
    fn yield_to(&self, heard: Heard) -> bool {
        (heard.priority, heard.source) > (self.priority, self.source)
    }
}

/// What an instance has heard from another router that calls itself master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The source of the advertisement.
    pub source: IpAddr,
    /// Its priority; 0 says farewell.
    pub priority: u8,
    /// Its interval.
    pub interval: Duration,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send an advertisement with this priority; 0 says farewell.
    Advertise(u8),
    /// Put the virtual addresses on the interface, and tell the link.
    Acquire,
    /// Tell the link again where the addresses are.
    Announce,
    /// Take the virtual addresses off.
    Release,
}

/// A state by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// It takes no part.
    Initialize,
    /// It waits for the master to go silent.
    Backup,
    /// The addresses are here.
    Master,
}

#[derive(Debug)]
enum Phase {
    Initialize,
    Backup(Backup),
    Master(Master),
}

#[derive(Debug)]
struct Backup {
    /// `Active_Down_Timer`.
    master_down: Instant,
    /// Who was heard last.
    master: Option<Heard>,
    /// From here on a master of lower priority is not let alone any more.
    preempt_from: Option<Instant>,
    /// It handed over, and does not take back what it gave away.
    yielding: bool,
    /// Its patience has ended, and it waits for its group.
    waits: bool,
    /// The addresses are still here, at the latest until then.
    holding: Option<Instant>,
}

#[derive(Debug)]
struct Master {
    /// `Adver_Timer`.
    advertise: Instant,
    /// From here on an advertisement of lower priority is answered again.
    assert_from: Instant,
}

/// One virtual router on this node.
#[derive(Debug)]
pub struct Instance {
    parameters: Parameters,
    phase: Phase,
}

impl Instance {
    /// One that takes no part yet.
    pub const fn new(parameters: Parameters) -> Self {
        Self { parameters, phase: Phase::Initialize }
    }

    /// The state it is in.
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Initialize => State::Initialize,
            Phase::Backup(_) => State::Backup,
            Phase::Master(_) => State::Master,
        }
    }

    /// What it goes by.
    pub const fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The master that a backup hears.
    pub const fn master(&self) -> Option<Heard> {
        match &self.phase {
            Phase::Backup(backup) => backup.master,
            Phase::Initialize | Phase::Master(_) => None,
        }
    }

    /// Whether the addresses are here: those of a master, or of one that hands over.
    pub const fn holds_addresses(&self) -> bool {
        match &self.phase {
            Phase::Initialize => false,
            Phase::Backup(backup) => backup.holding.is_some(),
            Phase::Master(_) => true,
        }
    }

    /// When [`Instance::on_time`] has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Initialize => None,
            Phase::Backup(backup) => {
                Some(backup.holding.map_or(backup.master_down, |until| until.min(backup.master_down)))
            }
            Phase::Master(master) => Some(master.advertise),
        }
    }

    /// When a backup's patience with the master ends (`Active_Down_Timer`).
    pub const fn master_down(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Backup(backup) => Some(backup.master_down),
            Phase::Initialize | Phase::Master(_) => None,
        }
    }

    /// A backup whose patience has ended has some more, because its group does.
    pub fn wait_until(&mut self, later: Instant, now: Instant) {
        if let Phase::Backup(backup) = &mut self.phase
            && backup.master_down <= now
        {
            backup.master_down = later;
            backup.waits = true;
        }
    }

    /// Whether this is a backup that would be master if its group were not to be.
    pub const fn waits_for_group(&self) -> bool {
        matches!(&self.phase, Phase::Backup(backup) if backup.waits)
    }

    /// Whether this is a backup that has handed over, and takes nothing back while its successor lives.
    pub const fn is_yielding(&self) -> bool {
        matches!(&self.phase, Phase::Backup(backup) if backup.yielding)
    }

    /// Whether this is a master that the others have not heard for as long as they wait before one of them takes over.
    ///
    /// Whatever comes next, be it the time, a packet or a wish, then finds a backup.
    pub fn has_stood_still(&self, now: Instant) -> bool {
        let interval = self.parameters.interval;
        match &self.phase {
            // What they heard last was sent an interval before the next one was due.
            Phase::Master(master) => {
                now + interval >= master.advertise + self.parameters.master_down_interval(interval)
            }
            Phase::Initialize | Phase::Backup(_) => false,
        }
    }

    /// Begins again as backup after a standstill.
    fn wake(&mut self, now: Instant) -> Vec<Action> {
        if !self.has_stood_still(now) {
            return Vec::new();
        }
        let patience = self.parameters.master_down_interval(self.parameters.interval);
        self.phase = Phase::Backup(Backup::new(now + patience));
        vec![Action::Release]
    }

    /// Goes by other parameters from now on. A master tells the others at once.
    pub fn set_parameters(&mut self, parameters: Parameters, now: Instant) -> Vec<Action> {
        let woken = self.wake(now);
        let tells = self.parameters.priority != parameters.priority || self.parameters.interval != parameters.interval;
        self.parameters = parameters;
        match &mut self.phase {
            Phase::Master(master) if tells => {
                master.advertise = now + parameters.interval;
                vec![Action::Advertise(parameters.priority)]
            }
            _ => woken,
        }
    }

    /// Takes part (RFC 9568, section 6.4.1).
    pub fn startup(&mut self, now: Instant) -> Vec<Action> {
        if matches!(self.phase, Phase::Initialize) {
            let interval = self.parameters.interval;
            let patience = match self.parameters.initial_state {
                InitialState::Backup => self.parameters.master_down_interval(interval),
                InitialState::Master => interval + self.parameters.skew_time(interval),
            };
            self.phase = Phase::Backup(Backup::new(now + patience));
        }
        Vec::new()
    }

    /// Takes no part any more, at once. A master says farewell.
    pub fn shutdown(&mut self) -> Vec<Action> {
        let held = self.holds_addresses();
        let was_master = matches!(self.phase, Phase::Master(_));
        self.phase = Phase::Initialize;
        let farewell = was_master.then_some(Action::Advertise(0));
        farewell.into_iter().chain(held.then_some(Action::Release)).collect()
    }

    /// A master says farewell and becomes backup. Its addresses stay until a successor is heard, at most two intervals:
    /// every successor comes within one.
    pub fn hand_over(&mut self, now: Instant) -> Vec<Action> {
        let woken = self.wake(now);
        if !matches!(self.phase, Phase::Master(_)) {
            return woken;
        }
        let interval = self.parameters.interval;
        self.phase = Phase::Backup(Backup {
            yielding: true,
            holding: Some(now + 2 * interval),
            ..Backup::new(now + self.parameters.master_down_interval(interval))
        });
        vec![Action::Advertise(0)]
    }

    /// A master hands over because another one of its group is master no more. It does not come back before that one does.
    pub fn follow(&mut self, leader: &Self, now: Instant) -> Vec<Action> {
        let actions = self.hand_over(now);
        if let (Phase::Backup(backup), Phase::Backup(leader)) = (&mut self.phase, &leader.phase) {
            backup.yielding = leader.yielding;
        }
        actions
    }

    /// Says farewell in the name of an earlier life of this process, which died as master: unless there is a master since.
    pub fn bury(&self) -> Vec<Action> {
        match &self.phase {
            Phase::Initialize | Phase::Backup(Backup { master: None, yielding: false, .. }) => {
                vec![Action::Advertise(0)]
            }
            Phase::Backup(_) | Phase::Master(_) => Vec::new(),
        }
    }

    /// A backup becomes master now, because its group does.
    pub fn claim(&mut self, now: Instant) -> Vec<Action> {
        if matches!(self.phase, Phase::Backup(_)) { self.become_master(now) } else { Vec::new() }
    }

    /// Does what is due at `now`.
    pub fn on_time(&mut self, now: Instant) -> Vec<Action> {
        let woken = self.wake(now);
        if !woken.is_empty() {
            return woken;
        }
        match &mut self.phase {
            Phase::Backup(backup) if backup.holding.is_some_and(|until| until <= now) => {
                backup.holding = None;
                vec![Action::Release]
            }
            Phase::Backup(backup) if backup.master_down <= now => self.become_master(now),
            Phase::Initialize | Phase::Backup(_) => Vec::new(),
            Phase::Master(master) if now < master.advertise => Vec::new(),
            Phase::Master(master) => {
                let interval = self.parameters.interval;
                // From deadline to deadline, so that lateness does not add up; but never two at once.
                master.advertise = (master.advertise + interval).max(now + interval / 2);
                vec![Action::Advertise(self.parameters.priority)]
            }
        }
    }

    /// Takes in an advertisement that has passed all checks (RFC 9568, sections 6.4.2 and 6.4.3).
    pub fn on_advertisement(&mut self, heard: Heard, now: Instant) -> Vec<Action> {
        let woken = self.wake(now);
        match &mut self.phase {
            Phase::Initialize => Vec::new(),
            Phase::Backup(backup) => [woken, backup.hear(heard, &self.parameters, now)].concat(),
            Phase::Master(_) if self.parameters.yield_to(heard) => {
                let patience = self.parameters.master_down_interval(heard.interval);
                self.phase = Phase::Backup(Backup { master: Some(heard), ..Backup::new(now + patience) });
                vec![Action::Release]
            }
            Phase::Master(master) => {
                let Parameters { priority, interval, .. } = self.parameters;
                if now < master.assert_from {
                    return Vec::new();
                }
                master.assert_from = now + interval;
                master.advertise = now + interval;
                let advertise = Action::Advertise(priority);
                // Who is not leaving believed to be master: the link may believe that, too.
                if heard.priority == 0 { vec![advertise] } else { vec![advertise, Action::Announce] }
            }
        }
    }

    fn become_master(&mut self, now: Instant) -> Vec<Action> {
        let Parameters { priority, interval, .. } = self.parameters;
        self.phase = Phase::Master(Master { advertise: now + interval, assert_from: now });
        vec![Action::Advertise(priority), Action::Acquire]
    }
}

impl Backup {
    const fn new(master_down: Instant) -> Self {
        Self { master_down, master: None, preempt_from: None, yielding: false, waits: false, holding: None }
    }

    fn hear(&mut self, heard: Heard, parameters: &Parameters, now: Instant) -> Vec<Action> {
        if heard.priority == 0 {
            let is_master = match self.master {
                Some(master) => master.source == heard.source,
                // One that hands over is not the first to come forward again.
                None => !self.yielding,
            };
            if is_master {
                let interval = self.master.map_or(heard.interval, |master| master.interval);
                self.master_down = now + parameters.skew_time(interval);
            }
            return Vec::new();
        }
        if heard.priority < parameters.priority && !self.lets_alone(parameters, now) {
            return Vec::new();
        }
        self.master = Some(heard);
        self.waits = false;
        self.master_down = now + parameters.master_down_interval(heard.interval);
        if heard.priority >= parameters.priority {
            self.preempt_from = None;
        }
        self.holding.take().map(|_| Action::Release).into_iter().collect()
    }

    /// Whether a master of lower priority stays.
    fn lets_alone(&mut self, parameters: &Parameters, now: Instant) -> bool {
        if !parameters.preempt || self.yielding {
            return true;
        }
        let from = *self.preempt_from.get_or_insert(now + parameters.preempt_delay);
        now < from
    }
}
