//! What the API shows.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{
    instance::State,
    priority::{Reading, Standing, describe},
    router::{Change, Member, Now, Router, Status},
};
use crate::config::Authentication;

/// The VRRP process of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VrrpView {
    /// Version of the program.
    pub version: String,
    /// The node's name.
    pub node: String,
    /// The process that speaks.
    pub pid: u32,
    /// How long it runs.
    pub uptime: Duration,
    /// Its real-time priority; absent where it may not have one.
    pub realtime: Option<i32>,
    /// The instances, in the order of the configuration.
    pub instances: Vec<InstanceView>,
    /// Packets that no instance of this node is for, by reason.
    pub strays: BTreeMap<String, u64>,
    /// What is not as it should be, in words for the operator.
    pub problems: Vec<String>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Its name.
    pub name: String,
    /// The interface.
    pub interface: String,
    /// The virtual router id.
    pub router_id: u8,
    /// The version of the protocol: 2 or 3.
    pub version: u8,
    /// What it is.
    pub state: Status,
    /// Why it takes no part.
    pub reason: Option<String>,
    /// Since when, in time since the Unix epoch; absent before the first change.
    pub since: Option<Duration>,
    /// The priority that it advertises, tracking included.
    pub priority: u8,
    /// The configured priority.
    pub configured_priority: u8,
    /// The priority that an operator gave it while it runs.
    pub override_priority: Option<u8>,
    /// The source of its advertisements.
    pub source: Option<IpAddr>,
    /// The master: this node itself, or the one that it hears.
    pub master: Option<MasterView>,
    /// Whether it has handed over on request, and takes nothing back while its successor lives.
    pub yields: bool,
    /// The virtual addresses, with prefix lengths.
    pub addresses: Vec<String>,
    /// Whether they are on this node.
    pub holds_addresses: bool,
    /// The instances that change state together.
    pub sync_group: Option<String>,
    /// `pass`, `hmac-sha256`, or absent.
    pub authentication: Option<String>,
    /// Whether it takes over from a living master of lower priority.
    pub preempt: bool,
    /// Its timers.
    pub timers: TimersView,
    /// What it watches.
    pub tracks: Vec<TrackView>,
    /// What it has counted.
    pub counters: CountersView,
    /// Its last changes of state, the newest last.
    pub history: Vec<Change>,
}

/// A master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MasterView {
    /// The source of its advertisements.
    pub address: IpAddr,
    /// Its priority.
    pub priority: u8,
    /// Whether it is this node.
    pub here: bool,
}

/// Timers, as they are with the master's interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimersView {
    /// Between advertisements of this node.
    pub interval: Duration,
    /// Between advertisements of the master.
    pub master_interval: Duration,
    /// `Skew_Time`.
    pub skew: Duration,
    /// So long the master may be silent.
    pub master_down: Duration,
    /// Until the next of: an advertisement, the end of patience.
    pub next: Option<Duration>,
}

/// Something that the priority depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrackView {
    /// What it is.
    pub what: String,
    /// Its weight; absent: without it the instance takes no part.
    pub weight: Option<i16>,
    /// `good`, `bad`, `unknown`, or the number in a file.
    pub reading: String,
}

/// Counters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CountersView {
    /// Advertisements sent.
    pub sent: u64,
    /// Advertisements taken in.
    pub received: u64,
    /// Farewells (priority 0) sent.
    pub farewells_sent: u64,
    /// Farewells taken in.
    pub farewells_received: u64,
    /// How often it became master.
    pub became_master: u64,
    /// Taken in although they name other addresses than this node's.
    pub other_addresses: u64,
    /// Discarded packets by reason.
    pub discarded: BTreeMap<String, u64>,
    /// The source of the last discarded packet, and the reason.
    pub last_discarded: Option<(IpAddr, String)>,
}

/// What an operator changes of an instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstancePatch {
    /// The priority from now on; `null`: the configured one again. It has to be there.
    #[serde(deserialize_with = "Option::deserialize")]
    pub priority: Option<u8>,
}

/// All instances of a router.
pub(super) fn instances(router: &Router, now: Now) -> Vec<InstanceView> {
    router.members().iter().map(|member| instance(member, now)).collect()
}

fn instance(member: &Member, now: Now) -> InstanceView {
    let (config, instance) = (member.config(), member.instance());
    let parameters = instance.parameters();
    let master_interval = instance.master().map_or(config.interval, |master| master.interval);
    let counters = member.counters();
    InstanceView {
        name: config.name.clone(),
        interface: config.interface.clone(),
        router_id: config.router_id,
        version: config.version.number(),
        state: member.status(),
        reason: match member.standing() {
            Standing::Unfit(reason) | Standing::Unclear(reason) => Some(reason.clone()),
            Standing::Fit(_) => None,
        },
        since: member.history().last().map(|change| change.at),
        priority: parameters.priority,
        configured_priority: config.priority,
        override_priority: member.override_priority(),
        source: member.source(),
        master: match instance.state() {
            State::Initialize => None,
            State::Backup if instance.waits_for_group() => None,
            State::Backup => instance.master().map(|master| MasterView {
                address: master.source,
                priority: master.priority,
                here: false,
            }),
            State::Master => {
                member.source().map(|address| MasterView { address, priority: parameters.priority, here: true })
            }
        },
        yields: instance.is_yielding(),
        addresses: config.addresses.iter().map(ToString::to_string).collect(),
        holds_addresses: instance.holds_addresses(),
        sync_group: config.sync_group.clone(),
        authentication: config.authentication.as_ref().map(Authentication::name).map(str::to_owned),
        preempt: config.preempt,
        timers: TimersView {
            interval: config.interval,
            master_interval,
            skew: parameters.skew_time(master_interval),
            master_down: parameters.master_down_interval(master_interval),
            next: instance.next_deadline().map(|deadline| deadline.saturating_duration_since(now.instant)),
        },
        tracks: member
            .readings()
            .map(|(track, reading)| TrackView {
                what: describe(&track.what),
                weight: track.weight,
                reading: match reading {
                    Reading::Unknown => "unknown".to_owned(),
                    Reading::Good => "good".to_owned(),
                    Reading::Bad => "bad".to_owned(),
                    Reading::Number(number) => number.to_string(),
                },
            })
            .collect(),
        counters: CountersView {
            sent: counters.sent,
            received: counters.received,
            farewells_sent: counters.farewells_sent,
            farewells_received: counters.farewells_received,
            became_master: counters.became_master,
            other_addresses: counters.other_addresses,
            discarded: counters.discarded.iter().map(|(discard, count)| (discard.name().to_owned(), *count)).collect(),
            last_discarded: counters.last_discarded.map(|(source, discard)| (source, discard.name().to_owned())),
        },
        history: member.history().cloned().collect(),
    }
}

/// What has not happened for this time is no problem any more.
const RECENT: Duration = Duration::from_mins(1);

/// What an operator should look at.
pub(super) fn problems(router: &Router, now: Now) -> Vec<String> {
    let mut problems = Vec::new();
    for member in router.members() {
        let (name, counters) = (&member.config().name, member.counters());
        if let Standing::Unfit(reason) = member.standing() {
            problems.push(format!("{name}: takes no part: {reason}"));
        }
        if member.instance().waits_for_group() {
            problems.push(format!(
                "{name}: hears no master, and waits because others of its sync group do: are they the same on all nodes?"
            ));
        }
        if let Some(link) = member.link() {
            let foreign = member.config().addresses.iter().filter(|entry| link.addresses.contains(&entry.address));
            problems.extend(foreign.map(|entry| {
                let interface = &member.config().interface;
                format!(
                    "{name}: {} is on {interface}, and was not put there by VRRP: this node answers for it whoever is master; \
                     ip address delete {entry} dev {interface}",
                    entry.address
                )
            }));
        }
        if let Some(master) = member.instance().master()
            && master.interval != member.config().interval
        {
            let (theirs, ours) = (master.interval, member.config().interval);
            problems.push(format!(
                "{name}: {} advertises every {theirs:?}, and this node is to every {ours:?}",
                master.source
            ));
        }
        if counters.other_addresses > 0 {
            problems.push(format!("{name}: another node advertises other addresses for this router id"));
        }
        if let Some((source, discard)) = counters.last_discarded
            && now.unix.saturating_sub(counters.last_discarded_at) < RECENT
        {
            let total: u64 = counters.discarded.values().sum();
            problems.push(format!("{name}: {total} packets discarded, the last from {source}: {}", discard.name()));
        }
    }
    problems
}

/// The time now, by both clocks.
pub(super) fn now() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Now { instant: std::time::Instant::now(), unix }
}
