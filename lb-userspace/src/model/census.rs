//! What the flow table says about services: which slots are settled, and which backends have flows.

use std::{
    collections::{HashMap, HashSet},
    mem,
    time::{Duration, Instant},
};

use lb_common::{BackendId, Service, ServiceId};

use super::{
    backend::{Backend, FlowCounts},
    core::Core,
    effect::Effect,
    service::ServiceState,
};
use crate::{
    config::{NatTimeouts, OnDeath, Protocol, Tracking},
    schedule,
};

/// A census of the flow table, as it is to be taken.
#[derive(Debug)]
pub struct Census {
    /// When it was asked for.
    pub started: Instant,
    /// The services.
    pub subjects: Vec<Subject>,
}

/// A service whose flows are counted.
#[derive(Debug)]
pub struct Subject {
    /// The service.
    pub service: Service,
    /// How long its flows live without a packet. Counted in steps of 34 s, up to 2 h 24 min.
    pub idle_timeout: Duration,
    /// Whether its backends have limits: then what only opens connections may not use them up for long.
    pub is_limited: bool,
    /// All that its flows may belong to.
    pub backends: Vec<BackendId>,
    /// How long its flows live otherwise, if they are translated.
    pub nat: Option<NatTimeouts>,
    /// What is found out about its slots, if there is something to find out.
    pub slots: Option<schedule::Census>,
}

/// What a census has found.
#[derive(Debug)]
pub struct Findings {
    /// The census, with what it has found out about slots.
    pub census: Census,
    /// Live entries of each backend that has any.
    pub flows: HashMap<BackendId, FlowCounts>,
    /// How many flows the flow table has evicted, or had no room for, since it was made.
    pub losses: u64,
    /// How many packets have been sent to the backends of [`Core::hidden`].
    pub packets: HashMap<BackendId, u64>,
    /// What was seen of the replies of backends that translated flows go to.
    pub replies: HashMap<BackendId, Replies>,
}

/// Whether a backend answers the connections whose addresses are translated: if its replies go another way, none is ever seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replies {
    /// Connections that were opened, and of which nothing has come back.
    pub opening: u32,
    /// Those of them that wait for longer than an answer takes.
    pub waiting: u32,
    /// Flows of which something has come back.
    pub answered: u32,
}

/// How long a packet may still act on what it read before: it is on its way for microseconds, so this is ample.
const IN_FLIGHT: Duration = Duration::from_millis(100);

impl Core {
    /// A census that begins now.
    pub fn census(&self, now: Instant) -> Census {
        let subject = |state: &ServiceState| Subject {
            service: state.live,
            idle_timeout: state.desired.spec.idle_timeout(),
            is_limited: state.desired.spec.has_limits(),
            backends: state.backends.iter().chain(&state.removed).map(|backend| backend.id).collect(),
            nat: state.nat_timeouts(),
            slots: state.mover.census_due().map(|_| state.mover.census(&state.pace(), now)),
        };
        Census { started: now, subjects: self.services.iter().map(subject).collect() }
    }

    /// The backends that are to have no new flows, and whose flows are not in the flow table, since connection ids name them:
    /// whether they have any left, only their packets say.
    pub fn hidden(&self) -> Vec<BackendId> {
        let hidden = |state: &ServiceState| {
            let backends = state.backends.iter().chain(&state.removed);
            backends.filter(|backend| state.hides_flows_of(backend)).map(|backend| backend.id).collect::<Vec<_>>()
        };
        self.services.iter().flat_map(hidden).collect()
    }

    /// From when on a census would have something to find out, if anything waits for one.
    pub fn census_due(&self) -> Option<Instant> {
        let movers = self.services.iter().filter_map(|state| state.mover.census_due());
        let removed = self.services.iter().flat_map(|state| &state.removed).filter_map(|backend| backend.unnamed_since);
        let freed = removed.chain(self.quarantine.values().copied()).map(|since| since + IN_FLIGHT);
        movers.chain(freed).min()
    }

    /// Takes in what a census has found.
    pub fn on_census(&mut self, findings: Findings, now: Instant) -> Vec<Effect> {
        let Findings { census: Census { started, subjects }, flows, losses, packets, replies } = findings;
        let has_lost = mem::replace(&mut self.losses, losses) < losses;
        // Of a backend that has come since the census began it has found nothing out.
        let counted: HashSet<BackendId> = subjects.iter().flat_map(|subject| &subject.backends).copied().collect();
        let mut slots: HashMap<ServiceId, schedule::Census> =
            subjects.into_iter().filter_map(|subject| Some((subject.service.id, subject.slots?))).collect();
        let mut effects = Vec::new();
        let mut over = Vec::new();
        for state in &mut self.services {
            // What the table knows of flows from before counts for nothing where it is not asked.
            let is_asked = state.desired.spec.tracking != Tracking::Never;
            for backend in state.backends.iter_mut().chain(&mut state.removed) {
                if counted.contains(&backend.id) {
                    let flows = flows.get(&backend.id).filter(|_| is_asked);
                    backend.flows = Some(flows.copied().unwrap_or_default());
                    backend.count_replies(replies.get(&backend.id).copied().unwrap_or_default(), now);
                }
                match packets.get(&backend.id) {
                    Some(packets) => backend.count_packets(*packets, now),
                    None => backend.quiet = None,
                }
            }
            if has_lost {
                state.mover.on_loss(now);
            }
            if let Some(slots) = slots.remove(&state.live.id) {
                effects.extend(state.on_census(&slots, now));
            }
            let service = state.live.id;
            over.extend(state.take_over_backends(started, now).into_iter().map(|backend| (service, backend)));
        }
        if !over.is_empty() {
            for (service, backend) in &over {
                self.remove_backend(*service, backend, now, &mut effects);
            }
            self.refresh_shared(&mut effects);
            effects.push(Effect::Persist);
        }
        let is_free = |id: &BackendId, since: Instant| since + IN_FLIGHT <= started && !flows.contains_key(id);
        let free: Vec<BackendId> =
            self.quarantine.iter().filter(|(id, since)| is_free(id, **since)).map(|(id, _)| *id).collect();
        for id in free {
            self.quarantine.remove(&id);
            self.backend_ids.give_back(id.get(), now);
        }
        effects
    }
}

impl Core {
    /// What the slots of the service called `name` do.
    pub fn slots_of(&self, name: &str, now: Instant) -> Option<schedule::Report> {
        let state = self.services.iter().find(|state| state.desired.spec.name == name)?;
        let fates = state.fates(now);
        Some(state.mover.report(&state.pace(), |id| fates.of(id)))
    }
}

impl ServiceState {
    /// How long translated flows may be silent, if addresses are translated.
    fn nat_timeouts(&self) -> Option<NatTimeouts> {
        let spec = &self.desired.spec;
        let timeouts = spec.nat.timeouts;
        // Each datagram is as good as the others: those without a reply have no more time.
        let unreplied = if spec.protocol == Protocol::Icmp { timeouts.icmp } else { timeouts.unreplied };
        let unreplied = if spec.one_packet { unreplied.min(spec.idle_timeout()) } else { unreplied };
        spec.forwarding.translates().then_some(NatTimeouts { unreplied, ..timeouts })
    }

    fn on_census(&mut self, census: &schedule::Census, now: Instant) -> Option<Effect> {
        let (pace, fates) = (self.pace(), self.fates(now));
        let words = self.mover.on_census(census, &pace, |id| fates.of(id), now);
        self.store_moved(words, now)
    }

    /// Takes out the removed backends that no slot names, where no flow is remembered.
    pub(super) fn take_forgotten(&mut self) -> Vec<Backend> {
        let (mover, tracking) = (&self.mover, self.desired.spec.tracking);
        self.removed.extract_if(.., |backend| tracking == Tracking::Never && mover.naming(backend.id) == 0).collect()
    }

    /// Takes out the removed backends that have no flow any more, by a census that began at `started`.
    fn take_over_backends(&mut self, started: Instant, now: Instant) -> Vec<Backend> {
        let (mover, on_death) = (&self.mover, self.desired.spec.on_death);
        let idle_timeout = self.desired.spec.idle_timeout();
        let names_servers = self.live.quic.is_in_use();
        self.removed
            .extract_if(.., |backend| {
                if mover.naming(backend.id) > 0 {
                    backend.unnamed_since = None;
                    return false;
                }
                let since = *backend.unnamed_since.get_or_insert(now);
                let has_no_flow = backend.flows == Some(FlowCounts::default())
                    && !(names_servers && backend.has_hidden_flows(idle_timeout, now))
                    && since + IN_FLIGHT <= started;
                // What its flows need of it is only that they are reset.
                let is_needed = on_death == OnDeath::Reset;
                has_no_flow || backend.is_cut_off(now) && !is_needed
            })
            .collect()
    }
}
