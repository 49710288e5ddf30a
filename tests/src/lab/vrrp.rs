//! VRRP instances for both speakers, ours and keepalived, out of one description; and how a speaker's states are told.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

/// One node's part in one virtual router.
#[derive(Clone, Debug)]
pub struct Instance {
    pub name: String,
    pub interface: String,
    /// The VRID.
    pub router_id: u8,
    pub version: Version,
    pub priority: u8,
    /// The time between adverts: in version 2 whole seconds.
    pub interval: Duration,
    /// Of one family.
    pub addresses: Vec<VirtualAddress>,
    /// What it expects to be when it starts.
    pub state: InitialState,
    /// Whether it takes over from a living master of lower priority. Keepalived ignores a `false` where `state` is master.
    pub preempt: bool,
    /// How long it waits with that; nothing without it.
    pub preempt_delay: Duration,
    /// The other nodes, for adverts by unicast; empty for multicast.
    pub unicast_peers: Vec<IpAddr>,
    /// The source of adverts; `None`: the first address of the interface, in IPv6 its link-local one.
    pub source: Option<IpAddr>,
    /// In version 2: a password of up to eight characters.
    pub password: Option<String>,
    /// The instances that change state together have the same word here.
    pub sync_group: Option<String>,
    /// What its priority depends on; in a sync group, with keepalived, only what has no weight.
    pub tracks: Vec<Track>,
}

/// Something that the priority of an instance depends on.
#[derive(Clone, Debug)]
pub struct Track {
    pub what: Tracked,
    /// What it does to the priority. `None`: the instance takes no part while it fails.
    pub weight: Option<i16>,
}

/// What can be tracked by both speakers.
#[derive(Clone, Debug)]
pub enum Tracked {
    /// The number in a file, by which the weight is multiplied; without a weight, other numbers than zero are a failure.
    File(PathBuf),
    /// A program, which is run each second and fails by its exit status. A negative weight counts while it fails.
    Script(PathBuf),
}

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V2,
    V3,
}

/// What an instance expects to be when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialState {
    Backup,
    Master,
}

/// A virtual IP with the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtualAddress {
    pub ip: IpAddr,
    pub prefix_length: u8,
}

impl VirtualAddress {
    /// With the prefix of the lab's network.
    pub fn on_the_switch(ip: IpAddr) -> Self {
        Self { ip, prefix_length: if ip.is_ipv4() { 24 } else { 64 } }
    }
}

impl fmt::Display for VirtualAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.ip, self.prefix_length)
    }
}

impl Instance {
    /// On `eth0`, of version 3, with priority 100 and an advert each second; it starts as backup, and preempts.
    pub fn new(name: &str, router_id: u8, addresses: Vec<VirtualAddress>) -> Self {
        Self {
            name: name.to_owned(),
            interface: "eth0".to_owned(),
            router_id,
            version: Version::V3,
            priority: 100,
            interval: Duration::from_secs(1),
            addresses,
            state: InitialState::Backup,
            preempt: true,
            preempt_delay: Duration::ZERO,
            unicast_peers: Vec::new(),
            source: None,
            password: None,
            sync_group: None,
            tracks: Vec::new(),
        }
    }

    /// How long it waits for an advert until it takes the master for gone: three intervals and the skew (RFC 9568, section 6.1).
    pub fn master_down_interval(&self) -> Duration {
        self.interval * 3 + self.skew_time()
    }

    /// How long it waits after a farewell of the master (RFC 9568, section 6.1).
    pub fn skew_time(&self) -> Duration {
        self.interval * (256 - u32::from(self.priority)) / 256
    }

    /// Its `[[vrrp]]` table.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        self.write_toml(&mut text).expect("a String takes all");
        text
    }

    fn write_toml(&self, to: &mut String) -> fmt::Result {
        writeln!(to, "[[vrrp]]\nname = {:?}\ninterface = {:?}", self.name, self.interface)?;
        writeln!(to, "router_id = {}\nversion = {}", self.router_id, self.version.number())?;
        writeln!(to, "priority = {}\ninterval = \"{}ms\"", self.priority, self.interval.as_millis())?;
        writeln!(to, "addresses = {:?}", texts(&self.addresses))?;
        if self.state == InitialState::Master {
            writeln!(to, "state = \"master\"")?;
        }
        if !self.preempt {
            writeln!(to, "preempt = false")?;
        }
        if !self.preempt_delay.is_zero() {
            writeln!(to, "preempt_delay = \"{}ms\"", self.preempt_delay.as_millis())?;
        }
        if !self.unicast_peers.is_empty() {
            writeln!(to, "unicast_peers = {:?}", texts(&self.unicast_peers))?;
        }
        if let Some(source) = self.source {
            writeln!(to, "source = \"{source}\"")?;
        }
        if let Some(group) = &self.sync_group {
            writeln!(to, "sync_group = {group:?}")?;
        }
        if let Some(password) = &self.password {
            writeln!(to, "\n  [vrrp.authentication]\n  type = \"pass\"\n  password = {password:?}")?;
        }
        for Track { what, weight } in &self.tracks {
            let (kind, key, path) = match what {
                Tracked::File(path) => ("file", "path", path),
                Tracked::Script(path) => ("script", "command", path),
            };
            writeln!(to, "\n  [[vrrp.track]]\n  type = \"{kind}\"\n  {key} = \"{}\"", path.display())?;
            if let Some(weight) = weight {
                writeln!(to, "  weight = {weight}")?;
            }
        }
        Ok(())
    }

    /// Its `vrrp_instance` block for keepalived, and before it the blocks of what it tracks.
    pub(super) fn write_keepalived(&self, to: &mut String) -> fmt::Result {
        for (number, track) in self.tracks.iter().enumerate() {
            let name = self.track_name(number);
            match &track.what {
                Tracked::File(path) => writeln!(to, "track_file {name} {{\n    file {}\n}}", path.display())?,
                Tracked::Script(path) => {
                    writeln!(to, "vrrp_script {name} {{\n    script {}\n    interval 1\n}}", path.display())?;
                }
            }
        }
        writeln!(to, "vrrp_instance {} {{\n    interface {}", self.name, self.interface)?;
        writeln!(to, "    version {}\n    virtual_router_id {}", self.version.number(), self.router_id)?;
        writeln!(to, "    priority {}\n    advert_int {}", self.priority, self.interval.as_secs_f64())?;
        let state = match self.state {
            InitialState::Backup => "BACKUP",
            InitialState::Master => "MASTER",
        };
        writeln!(to, "    state {state}")?;
        if !self.preempt {
            writeln!(to, "    nopreempt")?;
        }
        if !self.preempt_delay.is_zero() {
            writeln!(to, "    preempt_delay {}", self.preempt_delay.as_secs_f64())?;
        }
        if let Some(source) = self.source {
            let word = if self.unicast_peers.is_empty() { "mcast_src_ip" } else { "unicast_src_ip" };
            writeln!(to, "    {word} {source}")?;
        }
        if !self.unicast_peers.is_empty() {
            writeln!(to, "    unicast_peer {{\n        {}\n    }}", texts(&self.unicast_peers).join("\n        "))?;
        }
        if let Some(password) = &self.password {
            writeln!(to, "    authentication {{\n        auth_type PASS\n        auth_pass {password}\n    }}")?;
        }
        for (number, Track { what, weight }) in self.tracks.iter().enumerate() {
            let kind = match what {
                Tracked::File(_) => "track_file",
                Tracked::Script(_) => "track_script",
            };
            // Zero is keepalived's word for none.
            let weight = weight.unwrap_or_default();
            writeln!(to, "    {kind} {{\n        {} weight {weight}\n    }}", self.track_name(number))?;
        }
        let addresses = texts(&self.addresses).join("\n        ");
        writeln!(to, "    virtual_ipaddress {{\n        {addresses}\n    }}\n}}")
    }

    /// What keepalived calls a track.
    fn track_name(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }
}

fn texts(values: &[impl ToString]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

impl Version {
    fn number(self) -> u8 {
        match self {
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }
}

/// The state of an instance, as a speaker tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Master,
    Backup,
    Fault,
    /// It has ended in order.
    Stop,
}

/// An instance has come to a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// When that was told: up to some milliseconds after it has happened.
    pub at: SystemTime,
    pub instance: String,
    pub state: State,
}
