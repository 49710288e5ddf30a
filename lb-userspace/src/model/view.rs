//! What operators see of services and backends: the shapes of the API.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use lb_common::{FlowState, Traffic};
use serde::{Deserialize, Serialize};

use super::{
    backend::{Backend, Checked, FlowCounts, Standing},
    change::ENDLESS,
    core::Core,
    service::{Admin, ServiceState, Share},
};
use crate::{
    config::{Affinity, Algorithm, Endpoint, Forwarding, OnDeath, OnFull, Protocol, Tracking},
    health::Health,
    neighbour::{NextHop, Resolution},
};

/// A number of things: `1 flow`, `2 flows`.
pub fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// A service and its backends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// The virtual IP.
    pub address: IpAddr,
    /// The port; 0 is all ports.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// How new flows get their backends.
    pub algorithm: Algorithm,
    /// In how long that holds, if flows of before are not all known yet: until then new ones go by their slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begins_in: Option<Duration>,
    /// How clients stay with the server that they had before, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How many bits of the client's address count, with `source-hash`, if not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_prefix: Option<u8>,
    /// What becomes of new connections when all backends have as many as they may have, if any has a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_full: Option<OnFull>,
    /// Whether each datagram gets a backend of its own.
    #[serde(default)]
    pub one_packet: bool,
    /// How packets get to the backends.
    pub forwarding: Forwarding,
    /// Which flows are remembered.
    pub tracking: Tracking,
    /// What becomes of the flows of a backend that dies.
    #[serde(default)]
    pub on_death: OnDeath,
    /// How long a flow may be silent before it is over.
    #[serde(default)]
    pub idle_timeout: Duration,
    /// How long a backend that drains or was removed may keep its flows; absent if as long as they live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<Duration>,
    /// In how long the weight of a backend that comes up rises, if it does not have all of it at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<Duration>,
    /// The UDP port of the backends that packets are sent to, with `gue`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gue_port: Option<u16>,
    /// Size of its slot table.
    pub slots: u32,
    /// Whether live changes made it differ from the configuration file.
    pub changed: bool,
    /// Its index in the counters.
    pub id: u32,
    /// Packets for it that were sent to backends, and their bytes.
    pub packets: u64,
    /// Bytes of those packets, as IP packets from the client.
    pub bytes: u64,
    /// Its backends.
    pub backends: Vec<BackendView>,
}

/// A backend of a service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendView {
    /// Its name, unique in the service; of one that was removed its name and address, as in `web1@10.0.0.1`.
    pub name: String,
    /// Its address; with the port unique in the service, too.
    pub address: IpAddr,
    /// Its port, where ports are translated; otherwise 0: each flow keeps its own.
    #[serde(default)]
    pub port: u16,
    /// Its weight.
    pub weight: u16,
    /// In one word: `up`, or why it takes no flows: `disabled`, `draining`, `unresolved`, `down`, `checking`.
    pub state: BackendState,
    /// Whether the operator lets it have flows; absent once it is removed.
    pub admin: Option<Admin>,
    /// What stands in the way, in words for the operator.
    pub reason: Option<String>,
    /// Slots that it owns.
    pub slots: usize,
    /// Slots whose flows may still be its own, though they have another owner by now: they have to settle before it has no
    /// flow left that nobody knows of.
    pub slots_left: usize,
    /// Its flows that the flow table knows and that are not about to end, as of the last census; absent until one of this `lbd` has
    /// counted them.
    pub flows: Option<u64>,
    /// Its flows that the flow table knows and that are not about to end, as of now.
    #[serde(default)]
    pub active: u32,
    /// How long it takes to answer, where that decides and is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Duration>,
    /// How many it may have before new ones go elsewhere.
    #[serde(default)]
    pub max_connections: Option<u32>,
    /// Flows of which a FIN or RST was seen, as of then. The flow table knows them for two more minutes, in case that packets
    /// come again.
    pub closing: u64,
    /// Whether there may be flows besides, as packets for it still come: connection ids name it, and the flow table does not
    /// show those flows. Told of backends that are to have no new flows.
    pub hidden_flows: bool,
    /// How long it may keep its flows, if it drains or is removed and there is a limit.
    pub time_left: Option<Duration>,
    /// Where its packets are sent; absent while that is not known.
    pub next_hop: Option<NextHopView>,
    /// The last probe; absent without a check and before the first.
    pub probe: Option<ProbeView>,
    /// Its index in the counters.
    pub id: u32,
    /// Packets sent to it.
    pub packets: u64,
    /// Bytes of those packets, as IP packets from the client.
    pub bytes: u64,
}

/// What a backend can do, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// It takes flows (if its weight is not zero).
    Up,
    /// Its check says that it is down.
    Down,
    /// Its first check has not ended.
    Checking,
    /// Its next hop is not known.
    Unresolved,
    /// It gets no new flows, and keeps those that it has for a while.
    Draining,
    /// The service has it no more. It keeps the flows that it has for a while, and is gone then.
    Removed,
    /// The operator disabled it.
    Disabled,
}

impl BackendState {
    /// The word, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Checking => "checking",
            Self::Unresolved => "unresolved",
            Self::Draining => "draining",
            Self::Removed => "removed",
            Self::Disabled => "disabled",
        }
    }
}

/// Where a backend's packets are sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum NextHopView {
    /// Up the local stack.
    Local,
    /// Out of an interface.
    Via {
        /// The interface of the route.
        interface: String,
        /// The 802.1Q tag.
        vlan: Option<u16>,
        /// The MAC address of the next hop.
        mac: String,
        /// Largest IP packet in bytes.
        mtu: u16,
    },
}

/// What the last probe said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeView {
    /// Why it failed; absent if it succeeded.
    pub failure: Option<String>,
    /// How long the last one that succeeded took.
    pub latency: Option<Duration>,
    /// How many in a row ended like this one.
    pub streak: u32,
    /// When it ended.
    pub checked_at: SystemTime,
    /// Since when the backend's health is what it is.
    pub since: SystemTime,
}

impl Core {
    /// The service called `name` as it is; counters are left at zero.
    pub fn view_of(&self, name: &str, now: Instant) -> Option<ServiceView> {
        self.services.iter().find(|state| state.desired.spec.name == name).map(|state| self.view_service(state, now))
    }

    /// The services as they are; counters are left at zero.
    pub fn view(&self, now: Instant) -> Vec<ServiceView> {
        self.services.iter().map(|state| self.view_service(state, now)).collect()
    }

    /// The backends of which no reply passes here, where addresses are translated. In sentences.
    pub fn unanswered(&self, now: Instant) -> BTreeSet<String> {
        let backends =
            self.services.iter().flat_map(|state| state.backends.iter().map(move |backend| (state, backend)));
        let unanswered =
            backends.filter(|(_, backend)| backend.state() == BackendState::Up && backend.is_unanswered(now));
        let sentence = |(state, backend): (&ServiceState, &Backend)| {
            let spec = &state.desired.spec;
            let reason = no_replies(spec.forwarding, backend.check.is_some());
            format!("service {}: backend {}: {reason}", spec.name, backend.shown_name())
        };
        unanswered.map(sentence).collect()
    }

    fn view_service(&self, state: &ServiceState, now: Instant) -> ServiceView {
        let shares = state.shares();
        let share = |backend: &Backend| shares.get(&backend.id).copied().unwrap_or_default();
        let spec = &state.desired.spec;
        ServiceView {
            name: spec.name.clone(),
            address: spec.address,
            port: spec.port,
            protocol: spec.protocol,
            algorithm: spec.algorithm,
            affinity: spec.affinity.clone(),
            begins_in: state.begins().map(|begins| begins.saturating_duration_since(now)),
            source_prefix: spec.source_prefix,
            on_full: spec.has_limits().then_some(spec.on_full),
            one_packet: spec.one_packet,
            forwarding: spec.forwarding,
            tracking: spec.effective_tracking(),
            on_death: spec.on_death,
            idle_timeout: spec.idle_timeout(),
            drain_timeout: spec.drain_timeout,
            slow_start: spec.slow_start,
            gue_port: spec.gue_port(),
            slots: state.live.slot_mask + 1,
            changed: state.desired.is_changed(),
            id: state.live.id.get(),
            packets: 0,
            bytes: 0,
            backends: state
                .backends
                .iter()
                .chain(&state.removed)
                .map(|backend| BackendView {
                    hidden_flows: state.hides_flows_of(backend) && backend.has_hidden_flows(spec.idle_timeout(), now),
                    ..self.view_backend(backend, spec.forwarding, share(backend), now)
                })
                .collect(),
        }
    }

    fn view_backend(&self, backend: &Backend, forwarding: Forwarding, share: Share, now: Instant) -> BackendView {
        let probe = backend.report.as_ref().map(|report| ProbeView {
            failure: report.failure.as_ref().map(ToString::to_string),
            latency: report.latency,
            streak: report.streak,
            checked_at: report.checked_at,
            since: report.since,
        });
        let backend_state = backend.state();
        let reason = match backend_state {
            BackendState::Down => probe.as_ref().and_then(|probe| probe.failure.clone()),
            BackendState::Unresolved => {
                Some(backend.unresolved.clone().unwrap_or_else(|| "looking for the next hop".to_owned()))
            }
            BackendState::Up if backend.is_unanswered(now) => Some(no_replies(forwarding, backend.check.is_some())),
            BackendState::Up if backend.spec.weight == 0 => Some("weight 0".to_owned()),
            _ => None,
        };
        // Those of one that may keep none are others' already, or are reset.
        let flows = if backend.is_cut_off(now) { Some(FlowCounts::default()) } else { backend.flows };
        BackendView {
            name: backend.shown_name(),
            address: backend.spec.address,
            port: backend.endpoint.port,
            weight: backend.spec.weight,
            state: backend_state,
            admin: match backend.standing {
                Standing::Member(admin) => Some(admin),
                Standing::Removed => None,
            },
            reason,
            slots: share.owned,
            slots_left: share.left,
            flows: flows.map(live),
            active: 0,
            latency: None,
            max_connections: backend.spec.max_connections,
            closing: flows.map_or(0, closing),
            hidden_flows: false,
            time_left: backend
                .until
                .map(|until| until.saturating_duration_since(now))
                .filter(|left| *left < ENDLESS / 2),
            next_hop: self.next_hops.get(&backend.spec.address).and_then(view_next_hop),
            probe,
            id: backend.id.get(),
            packets: 0,
            bytes: 0,
        }
    }
}

impl Backend {
    fn state(&self) -> BackendState {
        match (self.standing, &self.row, self.health) {
            (Standing::Removed, ..) => BackendState::Removed,
            (Standing::Member(Admin::Disabled), ..) => BackendState::Disabled,
            (_, _, Checked::By(Health::Down)) => BackendState::Down,
            (_, None, _) => BackendState::Unresolved,
            (Standing::Member(Admin::Draining), ..) => BackendState::Draining,
            (_, _, Checked::By(Health::Unknown)) => BackendState::Checking,
            (Standing::Member(Admin::Enabled), ..) => BackendState::Up,
        }
    }
}

/// Why a backend may seem to answer nothing.
fn no_replies(forwarding: Forwarding, is_checked: bool) -> String {
    let seen = if is_checked {
        "no connection is answered, though its check succeeds: its replies do not pass here"
    } else {
        "no connection is answered: it does not run, or its replies do not pass here"
    };
    let question = match forwarding {
        Forwarding::FullNat => "does it send what is for its sources to this node?",
        _ => "is this node its gateway?",
    };
    format!("{seen}; {question}")
}

fn live(flows: FlowCounts) -> u64 {
    flows.iter().map(|flows| u64::from(*flows)).sum::<u64>() - closing(flows)
}

fn closing(flows: FlowCounts) -> u64 {
    flows[FlowState::Closing as usize].into()
}

impl ServiceView {
    /// What becomes of new connections, if no backend is there to take them, in words for the operator.
    pub fn outage(&self) -> Option<String> {
        let owners: Vec<&BackendView> = self.backends.iter().filter(|backend| backend.slots > 0).collect();
        if owners.is_empty() {
            return Some("no backend takes flows, its packets are dropped".to_owned());
        }
        if self.backends.iter().any(BackendView::takes_new_flows) {
            return None;
        }
        let serves = |backend: &&&BackendView| {
            matches!(backend.state, BackendState::Up | BackendState::Draining | BackendState::Removed)
        };
        let list = |texts: Vec<String>| texts.join(", ");
        let serving: Vec<&BackendView> = owners.iter().filter(serves).copied().collect();
        if serving.is_empty() {
            let dead = owners.iter().map(|backend| format!("{} is {}", backend.name, backend.state.name())).collect();
            return Some(format!("no backend can take new connections, and they fail: {}", list(dead)));
        }
        let end = if serving.iter().all(|backend| backend.time_left.is_some()) {
            "; after that the service has none"
        } else {
            ""
        };
        let takers = serving.into_iter().map(BackendView::last_resort).collect();
        Some(format!("no other backend can take new connections: they go on to {}{end}", list(takers)))
    }

    /// Fills in the counters.
    pub fn set_traffic(&mut self, traffic: Traffic) {
        Traffic { packets: self.packets, bytes: self.bytes } = traffic;
    }
}

impl BackendView {
    /// Whether it is one of those that take new flows. Where there is none, others may go on to get them: see
    /// [`ServiceView::outage`].
    pub fn takes_new_flows(&self) -> bool {
        self.state == BackendState::Up && self.weight > 0
    }

    /// Under which word it is counted: its state, unless it is well and takes no new flows all the same.
    pub const fn summary(&self) -> &'static str {
        match self.state {
            BackendState::Up if self.weight == 0 => "with weight 0",
            state => state.name(),
        }
    }

    /// Whether `name` means it: its name, its address, or the name that it had before it was removed.
    pub fn is_called(&self, name: &str) -> bool {
        let before = self.name.split_once('@').map(|(before, _)| before);
        let is_at = |other: Endpoint| other.address == self.address && (other.port == 0 || other.port == self.port);
        name == self.name || before == Some(name) || name.parse().is_ok_and(is_at)
    }

    /// Why it is to take no new flows, and for how long it does nevertheless.
    fn last_resort(&self) -> String {
        let why = if self.state == BackendState::Up { "weight 0" } else { self.state.name() };
        let time = self.time_left.map_or(String::new(), |left| {
            format!(" for another {}", humantime::format_duration(Duration::from_secs(left.as_secs())))
        });
        format!("{} ({why}){time}", self.name)
    }

    /// Fills in the counters.
    pub fn set_traffic(&mut self, traffic: Traffic) {
        Traffic { packets: self.packets, bytes: self.bytes } = traffic;
    }
}

fn view_next_hop(resolution: &Resolution) -> Option<NextHopView> {
    Some(match resolution.as_ref().ok()? {
        NextHop::Local => NextHopView::Local,
        NextHop::Via(egress) => NextHopView::Via {
            interface: egress.interface.clone(),
            vlan: egress.vlan,
            mac: egress.destination_mac.map(|byte| format!("{byte:02x}")).join(":"),
            mtu: egress.mtu,
        },
    })
}
