//! `[[vrrp]]`: this node's part in virtual routers (RFC 9568, RFC 3768).

mod address;
mod announcement;
mod authentication;
mod command;
mod instances;
mod track;

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Serialize;

pub use self::address::VirtualAddress;
pub use self::announcement::Announcement;
pub use self::authentication::Authentication;
pub use self::command::{Command, Notify};
pub(super) use self::instances::read;
pub use self::track::{Track, Tracked};

use self::instances::Used;

use super::error::Problem;
use super::interface::interface_name;
use super::table::Table;
use super::text;
use super::word::Word;

/// One VRRP instance: this node's part in one virtual router of one address family.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Vrrp {
    /// Its name, unique on the node.
    pub name: String,
    /// The interface that advertisements and virtual addresses are on.
    pub interface: String,
    /// The virtual router identifier (VRID), 1 to 255; unique per interface and address family.
    pub router_id: u8,
    /// The version of the protocol.
    pub version: VrrpVersion,
    /// This node's priority, 1 to 254.
    pub priority: u8,
    /// The time between advertisements: in version 3 hundredths of a second from 10 ms to 40.95 s, in version 2 whole
    /// seconds from 1 s to 255 s.
    pub interval: Duration,
    /// The virtual addresses, at least one, all of one family.
    pub addresses: Vec<VirtualAddress>,
    /// Whether to expect to be master at the start.
    pub initial_state: InitialState,
    /// Whether to take over from a living master of lower priority.
    pub preempt: bool,
    /// How long a master of lower priority is let alone before that.
    pub preempt_delay: Duration,
    /// The other nodes, where advertisements are sent by unicast; empty for multicast.
    pub unicast_peers: Vec<IpAddr>,
    /// The source of advertisements. Without one it is the first address of the interface, in IPv6 its link-local one.
    pub source: Option<IpAddr>,
    /// Whether this host itself takes packets to the virtual addresses (`Accept_Mode`): what no service takes.
    pub accept: bool,
    /// Whether the virtual addresses have the virtual router's MAC address, on a macvlan device of their own.
    pub virtual_mac: bool,
    /// The checksum of version 3 over IPv4 as it is sent; both are accepted.
    pub checksum: ChecksumHabit,
    /// How advertisements are authenticated.
    pub authentication: Option<Authentication>,
    /// The instances that change state together have the same word here.
    pub sync_group: Option<String>,
    /// How the link is told where the addresses are.
    pub announcement: Announcement,
    /// The programs that are told of changes of state.
    pub notify: Notify,
    /// What the priority depends on.
    pub tracks: Vec<Track>,
}

impl Vrrp {
    /// Whether its addresses, and so its advertisements, are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.addresses.iter().any(|entry| entry.address.is_ipv4())
    }

    const DEFAULT_PRIORITY: u8 = 100;
    const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

    /// Reads a table, by the rules within it. `services` are the names of the services that can be tracked.
    fn read(table: &mut Table<'_>, used: &mut Used, services: &[&str]) -> Option<Self> {
        table.require(&[
            ("name", r#""VI_1""#),
            ("interface", r#""eth0""#),
            ("router_id", "51"),
            ("addresses", r#"["192.168.1.10/24"]"#),
        ]);
        let name = table.text("name", |text| text::name(text, "_.:-"));
        if let Some(name) = &name {
            table.rename(name);
            table.unique("name", name.clone(), &mut used.names, "write another name");
        }
        let interface = table.text("interface", interface_name);
        let router_id = table.number("router_id", 1..=u8::MAX);
        let addresses = address::read_virtual(table, &mut used.addresses);
        let source = address::read_source(table, addresses.as_deref());
        let unicast_peers = address::read_peers(table, addresses.as_deref(), source);

        let version = read_version(table, addresses.as_deref());
        let interval = read_interval(table, version);
        let checksum = read_checksum(table, version, addresses.as_deref());
        let authentication = table
            .table("authentication", "[vrrp.authentication]", "authentication")
            .and_then(|table| Authentication::read(table, version));

        let priority = table.number_unless("priority", 1..=254, priority_fault).unwrap_or(Self::DEFAULT_PRIORITY);
        let (initial_state, preempt, preempt_delay) = read_succession(table);
        let accept = table.flag("accept").unwrap_or(true);
        let virtual_mac = read_virtual_mac(table, &unicast_peers);
        let sync_group = table.text("sync_group", |text| text::name(text, "_.:-"));
        let announcement = table
            .table("announcement", "[vrrp.announcement]", "announcement")
            .map_or_else(Announcement::default, Announcement::read);
        let notify = Notify::read(table);
        let tracks = table
            .tables("track", "[[vrrp.track]]", "track")
            .into_iter()
            .filter_map(|table| Track::read(table, interface.as_deref(), services))
            .collect();
        Some(Self {
            name: name?,
            interface: interface?,
            router_id: router_id?,
            version: version?,
            priority,
            interval: interval.unwrap_or(Self::DEFAULT_INTERVAL),
            addresses: addresses?,
            initial_state,
            preempt,
            preempt_delay,
            unicast_peers,
            source,
            accept,
            virtual_mac,
            checksum,
            authentication,
            sync_group,
            announcement,
            notify,
            tracks,
        })
    }
}

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
pub enum VrrpVersion {
    /// RFC 3768: IPv4 only, whole seconds.
    #[serde(rename = "2")]
    V2,
    /// RFC 9568.
    #[default]
    #[serde(rename = "3")]
    V3,
}

impl VrrpVersion {
    /// Its number.
    pub const fn number(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }

    /// The intervals that an advertisement has room for.
    const fn intervals(self) -> RangeInclusive<Duration> {
        match self {
            Self::V2 => Duration::from_secs(1)..=Duration::from_secs(255),
            Self::V3 => Duration::from_millis(10)..=Duration::from_millis(40_950),
        }
    }

    /// The unit that an advertisement counts them in.
    const fn interval_unit(self) -> Duration {
        match self {
            Self::V2 => Duration::from_secs(1),
            Self::V3 => Duration::from_millis(10),
        }
    }
}

impl fmt::Display for VrrpVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::V2 => "2",
            Self::V3 => "3",
        })
    }
}

/// What an instance expects to be when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum InitialState {
    /// Backup: it waits until the master is down.
    #[default]
    Backup,
    /// Master: it waits for one advertisement only.
    Master,
}

impl fmt::Display for InitialState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Backup => "backup",
            Self::Master => "master",
        })
    }
}

impl Word for InitialState {
    const ALL: &'static [Self] = &[Self::Backup, Self::Master];
}

/// What the checksum of version 3 over IPv4 covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChecksumHabit {
    /// The pseudo-header, too, as keepalived sends it since 2017.
    #[default]
    PseudoHeader,
    /// The message only.
    Message,
}

impl fmt::Display for ChecksumHabit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::PseudoHeader => "pseudo-header",
            Self::Message => "message",
        })
    }
}

impl Word for ChecksumHabit {
    const ALL: &'static [Self] = &[Self::PseudoHeader, Self::Message];
}

/// Whether the virtual addresses are IPv6; not if none could be read.
fn is_ipv6(addresses: Option<&[VirtualAddress]>) -> bool {
    addresses.is_some_and(|addresses| addresses.iter().any(|address| address.address.is_ipv6()))
}

/// Reads the version. There is none only if the value is wrong.
fn read_version(table: &mut Table<'_>, addresses: Option<&[VirtualAddress]>) -> Option<VrrpVersion> {
    let version = match table.number("version", 2..=3) {
        Some(2) => VrrpVersion::V2,
        Some(_) => VrrpVersion::V3,
        None if table.has("version") => return None,
        None => VrrpVersion::default(),
    };
    if version == VrrpVersion::V2 && is_ipv6(addresses) {
        table.reject("version", Problem::new("version 2 has no IPv6", "write version = 3"));
    }
    Some(version)
}

/// Reads an interval that `version` can put into an advertisement.
fn read_interval(table: &mut Table<'_>, version: Option<VrrpVersion>) -> Option<Duration> {
    let Some(version) = version else {
        // Which intervals there are is open.
        return table.text("interval", text::duration(Duration::from_millis(10)..=Duration::from_secs(255)));
    };
    table.text("interval", |text| {
        let interval = text::duration(version.intervals())(text)?;
        let unit = version.interval_unit();
        let excess = Duration::from_nanos_u128(interval.as_nanos() % unit.as_nanos());
        if excess.is_zero() {
            return Ok(interval);
        }
        let lower = interval.saturating_sub(excess);
        let [unit, lower, upper] = [unit, lower, lower + unit].map(humantime::format_duration);
        Err(Problem::new(
            format!("{text:?} is not a multiple of {unit}, which version {version} counts in"),
            format!("write \"{lower}\" or \"{upper}\""),
        ))
    })
}

/// Reads what the checksum covers, where that is not the same everywhere.
fn read_checksum(
    table: &mut Table<'_>,
    version: Option<VrrpVersion>,
    addresses: Option<&[VirtualAddress]>,
) -> ChecksumHabit {
    let checksum = table.word("checksum").unwrap_or_default();
    if table.has("checksum") && (version == Some(VrrpVersion::V2) || is_ipv6(addresses)) {
        table.reject(
            "checksum",
            Problem::new(
                "checksum applies only to version 3 over IPv4",
                "remove it: version 2 has one kind of checksum, and so has IPv6",
            ),
        );
    }
    checksum
}

/// What is wrong with the priorities that the protocol has another use for.
fn priority_fault(priority: i64) -> Option<Problem> {
    let meaning = match priority {
        0 => "0 means that the sender gives up",
        255 => "255 means that the sender owns the addresses, and virtual addresses belong to nobody",
        _ => return None,
    };
    Some(Problem::new(meaning, "write a whole number from 1 to 254"))
}

/// Reads who is master when: `state`, `preempt` and `preempt_delay`.
fn read_succession(table: &mut Table<'_>) -> (InitialState, bool, Duration) {
    let initial_state = table.word("state").unwrap_or_default();
    let preempt = table.flag("preempt").unwrap_or(true);
    let delays = Duration::ZERO..=Duration::from_secs(1000);
    let preempt_delay = table.text("preempt_delay", text::duration(delays)).unwrap_or_default();
    if !preempt && initial_state == InitialState::Master {
        table.reject(
            "state",
            Problem::new(
                "state \"master\" does not go with preempt = false, which leaves a living master alone",
                "write state = \"backup\", or remove preempt = false",
            ),
        );
    }
    if !preempt && table.has("preempt_delay") {
        table.reject(
            "preempt_delay",
            Problem::new("preempt_delay applies only with preempt = true", "remove it, or preempt = false"),
        );
    }
    (initial_state, preempt, preempt_delay)
}

/// Reads whether there is a virtual MAC address, which only multicast can move.
fn read_virtual_mac(table: &mut Table<'_>, unicast_peers: &[IpAddr]) -> bool {
    let virtual_mac = table.flag("virtual_mac").unwrap_or(false);
    if virtual_mac && !unicast_peers.is_empty() {
        table.reject(
            "virtual_mac",
            Problem::new(
                "virtual_mac does not go with unicast_peers: only multicast moves a MAC address in the switches",
                "remove virtual_mac or unicast_peers",
            ),
        );
    }
    virtual_mac
}
