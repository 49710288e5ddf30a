//! `[[vrrp]]`: this node's part in virtual routers (RFC 9568, RFC 3768).

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use serde::{Serialize, Serializer};

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
}

/// A virtual address with its prefix length, as on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualAddress {
    /// The address.
    pub address: IpAddr,
    /// The length of the prefix, in bits: 1 to 32, or to 128.
    pub prefix_length: u8,
}

impl fmt::Display for VirtualAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix_length)
    }
}

impl Serialize for VirtualAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
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

/// How advertisements are authenticated. Secrets are neither printed nor serialized.
#[derive(Clone, PartialEq, Eq)]
pub enum Authentication {
    /// Version 2: a password in clear text, padded with zeros (RFC 2338, section 5.3.6, type 1).
    Password([u8; 8]),
    /// Version 3, between our own nodes: HMAC-SHA-256 under this key, with replay protection.
    Hmac([u8; 32]),
}

impl Authentication {
    /// The word for it in the configuration.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Password(_) => "pass",
            Self::Hmac(_) => "hmac-sha256",
        }
    }
}

impl fmt::Debug for Authentication {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (hidden)", self.name())
    }
}

impl Serialize for Authentication {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// How the link is told where the addresses are: gratuitous ARP, unsolicited neighbour advertisements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Announcement {
    /// How many frames each address gets at once on taking over.
    pub repeat: u8,
    /// After this time they are sent once more; zero: they are not.
    pub delay: Duration,
    /// A master sends one frame for each address this often; zero: never.
    pub refresh: Duration,
}

impl Default for Announcement {
    fn default() -> Self {
        Self { repeat: 3, delay: Duration::from_secs(1), refresh: Duration::from_mins(1) }
    }
}

/// A program and its arguments. It is run as it stands, without a shell.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Command {
    /// The program's absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// The programs that are told of changes of state.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Notify {
    /// At each change, with keepalived's arguments behind its own: `INSTANCE`, the name, `MASTER`, `BACKUP`, `FAULT` or
    /// `STOP`, and the priority.
    pub any: Option<Command>,
    /// On becoming master.
    pub master: Option<Command>,
    /// On becoming backup.
    pub backup: Option<Command>,
    /// When a track without weight fails.
    pub fault: Option<Command>,
    /// At the end.
    pub stop: Option<Command>,
}

/// Something that the priority depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Track {
    /// What is watched.
    pub what: Tracked,
    /// What it does to the priority: a negative weight is added while it fails, a positive one while it holds. `None`:
    /// while it fails, the instance takes no part at all (state fault).
    ///
    /// For a file the weight is multiplied by the number in it; `None` is a fault unless that number is zero.
    pub weight: Option<i16>,
}

/// What can be watched.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Tracked {
    /// The interface is there, and up.
    Interface {
        /// Its name.
        name: String,
    },
    /// The service has at least this many backends that take flows, as the running daemon says.
    Service {
        /// Its name.
        name: String,
        /// How many.
        min_backends: u16,
    },
    /// The program ends with 0.
    Script {
        /// The program.
        command: Command,
        /// From start to start.
        interval: Duration,
        /// It is killed after this time, and has failed.
        timeout: Duration,
        /// Successes in a row until it counts as good.
        rise: u16,
        /// Failures in a row until it counts as failed.
        fall: u16,
    },
    /// The number in a file; a file that is missing or empty is a zero.
    File {
        /// Its path.
        path: PathBuf,
    },
    /// The balancer's program is attached to the instance's interface, and the daemon answers.
    Datapath,
}
