//! Reading the section, and what all such sections together may use.

use std::{collections::HashMap, net::IpAddr, ops::RangeInclusive, str::FromStr as _, time::Duration};

use super::{
    Algorithm, DrainTimeout, Forwarding, OnDeath, OnFull, Protocol, Service, Tracking, default_drain_timeout,
    loop_problem, uncounted,
};
use crate::config::{
    MAX_BACKENDS,
    affinity::Affinity,
    backend::Backend,
    error::Problem,
    health::HealthCheck,
    interface::{Interface, interface_name},
    nat::Nat,
    quic::Quic,
    table::{Place, Table, Taken},
    text,
};

const IDLE_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(2);
const SLOW_STARTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(1);

impl Service {
    /// Reads a table, and adds it to the tally of those read before.
    pub(in crate::config) fn read<'a>(
        mut table: Table<'a>,
        interfaces: &[Interface],
        tally: &mut Tally<'a>,
    ) -> Option<Self> {
        table.require(&[
            ("name", r#""crm-web""#),
            ("address", r#""192.168.1.10:80""#),
            ("protocol", r#""tcp""#),
            ("forwarding", r#""l2-dsr""#),
        ]);
        let name = table.text("name", |text| text::name(text, "_.:-"));
        if let Some(name) = &name {
            table.rename(name);
        }
        let start = table.start();
        let protocol = table.word("protocol");
        let address = table.text("address", |text| service_address(text, protocol));
        check_port(&table, address, protocol);
        let algorithm = table.word("algorithm").unwrap_or_default();
        let forwarding = table.word("forwarding");
        let source_prefix = read_source_prefix(&mut table, algorithm, address.map(|(address, _)| address));
        let affinity = table
            .table("affinity", "[service.affinity]", "affinity")
            .map(|affinity| Affinity::read(affinity, address.map(|(address, _)| address)));
        let one_packet = read_one_packet(&mut table, protocol, forwarding, algorithm);
        let on_full = read_on_full(&mut table, protocol);
        let gue_port = read_gue_port(&mut table, forwarding);
        let announce = read_announce(&mut table, interfaces);
        let slots = read_slots(&mut table);
        let health = table
            .table("health", "[service.health]", "health check")
            .and_then(|health| HealthCheck::read(health, address.map(|(_, port)| port)));
        let tracking = read_tracking(&mut table, forwarding, algorithm, one_packet);
        let on_death = table.word("on_death").unwrap_or_default();
        let idle_timeout = table.text("idle_timeout", text::duration(IDLE_TIMEOUTS));
        let drain_timeout = table
            .text("drain_timeout", DrainTimeout::from_str)
            .map_or_else(default_drain_timeout, |DrainTimeout(timeout)| timeout);
        let slow_start = table.text("slow_start", text::duration(SLOW_STARTS));
        let quic = read_quic(&mut table, protocol, forwarding);
        let nat = read_nat(&mut table, forwarding, protocol);
        if let Some(name) = name.as_ref().filter(|_| forwarding.is_some_and(Forwarding::translates)) {
            let key = if table.has("nat") { "nat" } else { "forwarding" };
            tally.translating.insert(name.clone(), table.place(key));
        }
        check_slow_start(&table, algorithm);
        if quic.is_some() && algorithm.counts_connections() {
            table.reject("algorithm", uncounted(&format!("algorithm = \"{algorithm}\"")));
        }
        check_latency(&table, algorithm, forwarding);
        check_on_death(&table, tracking, on_death);
        let backends = table.tables("backend", "[[service.backend]]", "backend");
        tally.add_service(&table, name.as_ref(), address.zip(protocol));
        tally.add_to_group(&table, name.as_ref(), address.map(|(address, _)| address), affinity.as_ref());
        if let (Some(_), Some((address, _))) = (&announce, address) {
            tally.announced.entry(address).or_default().push(table.place("announce"));
        }
        // What is wrong with the section is reported already, and not for each backend again.
        let knows_server_ids = table.has("quic") == quic.is_some();
        table.finish();

        let mut service = match (name, address, protocol, forwarding) {
            (Some(name), Some((address, port)), Some(protocol), Some(forwarding)) => Some(Self {
                name,
                address,
                port,
                protocol,
                algorithm,
                source_prefix,
                affinity,
                one_packet,
                on_full,
                forwarding,
                gue_port,
                announce,
                slots,
                health,
                tracking,
                on_death,
                idle_timeout,
                drain_timeout,
                slow_start,
                quic,
                nat,
                backends: Vec::with_capacity(backends.len()),
            }),
            _ => None,
        };
        for mut table in backends {
            tally.add_backend(&table);
            let backend = Backend::read(&mut table);
            if let Some(backend) = &backend {
                tally.backend_addresses.push((backend.address, table.place("address")));
            }
            if let (Some(service), Some(backend)) = (&mut service, backend) {
                service.read_backend(&table, backend, knows_server_ids);
            }
            table.finish();
        }
        if let Some(service) = &service {
            tally.add_pages(&start, service);
        }
        service
    }

    fn read_backend(&mut self, table: &Table<'_>, mut backend: Backend, knows_server_ids: bool) {
        if !table.has("name") {
            backend.name = self.default_name(&backend);
        }
        let server_id = if knows_server_ids && table.has("server_id") == backend.server_id.is_some() {
            self.check_server_id(&backend)
        } else {
            Ok(())
        };
        if let Err(problem) = self.check_limit(&backend) {
            table.reject("max_connections", problem);
        }
        if let Err(problem) = self.check_backend_address(&backend) {
            table.reject("address", problem);
        } else if let Err(problem) = self.check_backend_name(&backend) {
            table.reject("name", problem);
        } else if let Err(problem) = server_id {
            table.reject("server_id", problem);
        } else {
            self.backends.push(backend);
        }
    }
}

/// Which flows are remembered: where addresses are translated, all.
/// `forwarding` is unknown if it could not be read.
fn read_tracking(
    table: &mut Table<'_>,
    forwarding: Option<Forwarding>,
    algorithm: Algorithm,
    one_packet: bool,
) -> Tracking {
    let tracking = table.word("tracking");
    let translating = forwarding.filter(|forwarding| forwarding.translates());
    if one_packet && translating.is_none() {
        if let Some(other) = tracking.filter(|tracking| *tracking != Tracking::Never) {
            let what = format!("tracking = \"{other}\" does not go with one_packet: no flow is remembered");
            table.reject("tracking", Problem::new(what, "remove it"));
        }
        return Tracking::Never;
    }
    let reason = match translating {
        Some(forwarding) => format!("forwarding = \"{forwarding}\": replies are known by their flows"),
        None if algorithm.is_scheduler() => {
            format!("algorithm = \"{algorithm}\": only the flow table knows whose a flow is")
        }
        None if table.has("affinity") => "[service.affinity]: only the flow table knows which flows are new".to_owned(),
        None => return tracking.unwrap_or_default(),
    };
    if let Some(other) = tracking.filter(|tracking| *tracking != Tracking::Always) {
        let what = format!("tracking = \"{other}\" does not go with {reason}");
        table.reject("tracking", Problem::new(what, "remove it: each flow is remembered"));
    }
    Tracking::Always
}

/// Reads `one_packet`. `protocol` and `forwarding` are unknown if they could not be read.
fn read_one_packet(
    table: &mut Table<'_>,
    protocol: Option<Protocol>,
    forwarding: Option<Forwarding>,
    algorithm: Algorithm,
) -> bool {
    if !table.flag("one_packet").unwrap_or(false) {
        return false;
    }
    let translates = forwarding.is_none_or(Forwarding::translates);
    let (what, help) = if protocol == Some(Protocol::Tcp) {
        ("one_packet does not apply to TCP, whose segments belong together", "remove it, or write protocol = \"udp\"")
    } else if table.has("quic") {
        (
            "one_packet does not go with [service.quic]: the packets of a connection belong together",
            "remove one of them",
        )
    } else if table.has("affinity") {
        (
            "one_packet does not go with [service.affinity]: each datagram gets a backend of its own",
            "remove one of them",
        )
    } else if algorithm == Algorithm::LeastResponseTime {
        (
            "one_packet does not go with algorithm = \"least-response-time\": without flows there is nothing to measure",
            "write another algorithm, such as \"weighted-round-robin\"",
        )
    } else if algorithm == Algorithm::LeastConnections && !translates {
        (
            "one_packet does not go with algorithm = \"least-connections\": without flows there is nothing to count",
            "write another algorithm, such as \"weighted-round-robin\", or forwarding = \"full-nat\"",
        )
    } else {
        return true;
    };
    table.reject("one_packet", Problem::new(what, help));
    // What else is said of the service is judged as if it were not there.
    false
}

/// Reads `[service.nat]`. `forwarding` and `protocol` are unknown if they could not be read.
fn read_nat(table: &mut Table<'_>, forwarding: Option<Forwarding>, protocol: Option<Protocol>) -> Nat {
    let nat = table.table("nat", "[service.nat]", "translation").map(|table| Nat::read(table, protocol));
    let reject = |what: &str, help: &str| table.reject("nat", Problem::new(what, help));
    match (&nat, forwarding) {
        (Some(_), Some(other)) if !other.translates() => reject(
            &format!("[service.nat] does not apply to forwarding = \"{other}\""),
            "remove it, or write forwarding = \"full-nat\"",
        ),
        (Some(nat), Some(Forwarding::Nat)) if !nat.sources.is_empty() || nat.ports.is_some() => reject(
            "sources and ports do not apply to forwarding = \"nat\", which keeps the client's",
            "remove them, or write forwarding = \"full-nat\"",
        ),
        _ => {}
    }
    nat.unwrap_or_default()
}

/// What the services read so far have used up.
#[derive(Default)]
pub(in crate::config) struct Tally<'a> {
    names: Taken<String>,
    addresses: Taken<(IpAddr, u16, Protocol)>,
    /// The addresses that are announced, and where the file says so.
    announced: HashMap<IpAddr, Vec<Place<'a>>>,
    /// The virtual IPs, with the first service that has each.
    virtual_addresses: HashMap<IpAddr, String>,
    /// The addresses of all backends, and where the file says so.
    backend_addresses: Vec<(IpAddr, Place<'a>)>,
    /// The services that translate addresses, by name, and where the file says so.
    translating: HashMap<String, Place<'a>>,
    /// The groups of affinity for clients of each family: how many bits of their addresses count, and the service that says so.
    groups: HashMap<(String, bool), (u8, String)>,
    /// Of the slot array.
    pages: u32,
    backends: usize,
}

impl<'a> Tally<'a> {
    /// The names of all services.
    pub(in crate::config) fn names(&self) -> Vec<&str> {
        self.names.texts()
    }

    /// The places that have `address` announced.
    pub(in crate::config) fn announcing(&self, address: IpAddr) -> &[Place<'a>] {
        self.announced.get(&address).map_or(&[], Vec::as_slice)
    }

    /// Where the file says that a service translates addresses.
    pub(in crate::config) fn translating(&self, service: &str) -> Option<&Place<'a>> {
        self.translating.get(service)
    }

    /// Reports the backends that have a virtual IP of this node, once all services are read.
    pub(in crate::config) fn refuse_loops(&self) {
        for (address, place) in &self.backend_addresses {
            if let Some(service) = self.virtual_addresses.get(address) {
                place.reject(loop_problem(*address, service).of("address"));
            }
        }
    }

    fn add_service(&mut self, table: &Table<'_>, name: Option<&String>, key: Option<((IpAddr, u16), Protocol)>) {
        if let Some(name) = name {
            table.unique("name", name.clone(), &mut self.names, "write another name");
        }
        if let Some(((address, port), protocol)) = key {
            let help = "write another address, port or protocol, or put the backends into one service";
            table.unique("address", (address, port, protocol), &mut self.addresses, help);
            self.virtual_addresses.entry(address).or_insert_with(|| name.cloned().unwrap_or_default());
        }
    }

    /// Slot tables and turns of all services have to find room in one array.
    fn add_pages(&mut self, start: &Place<'_>, service: &Service) {
        let (all, before, more) = (lb_common::layout::SLOT_CHUNKS, self.pages, crate::schedule::pages(service));
        self.pages += more;
        if before <= all && self.pages > all {
            start.reject(Problem::new(
                format!(
                    "there is no room for its slots and turns: it takes {more} of {all} pages of memory, and the services above take {before}"
                ),
                "remove this one and those below, move them to another node, or write a smaller slots where it is large",
            ));
        }
    }

    /// Services of a group know a client by the same bits of its address.
    fn add_to_group(
        &mut self,
        table: &Table<'_>,
        name: Option<&String>,
        address: Option<IpAddr>,
        affinity: Option<&Affinity>,
    ) {
        let (Some(name), Some(address), Some(affinity)) = (name, address, affinity) else { return };
        let Some(group) = &affinity.group else { return };
        let prefix = affinity.prefix_of(address.is_ipv4());
        let key = (group.clone(), address.is_ipv4());
        let (first, other) = self.groups.entry(key).or_insert_with(|| (prefix, name.clone()));
        if *first != prefix {
            let problem = Problem::new(
                format!("the affinity group {group:?} has prefix {prefix} here, and {first} in service {other:?}"),
                "write the same prefix in all services of a group: they know a client by it",
            );
            table.reject("affinity", problem);
        }
    }

    fn add_backend(&mut self, table: &Table<'_>) {
        self.backends += 1;
        if self.backends == MAX_BACKENDS + 1 {
            table.reject_table(Problem::new(
                format!("there are more than {MAX_BACKENDS} backends in all"),
                "remove this one and those below, or move them to another node",
            ));
        }
    }
}

/// Reports a port where there is none.
fn check_port(table: &Table<'_>, address: Option<(IpAddr, u16)>, protocol: Option<Protocol>) {
    let Some((address, port)) = address.filter(|(_, port)| *port != 0 && protocol == Some(Protocol::Icmp)) else {
        return;
    };
    let alone = if address.is_ipv4() { address.to_string() } else { format!("[{address}]") };
    table.reject(
        "address",
        Problem::new(
            format!("port {port} does not apply to ICMP, which has no ports"),
            format!("write the address alone, as in {alone:?}, or protocol = \"tcp\" or \"udp\""),
        ),
    );
}

/// Reads an address and a port, which ICMP has not; `*` and 0 are all ports. `protocol` is unknown if it could not be
/// read.
fn service_address(text: &str, protocol: Option<Protocol>) -> Result<(IpAddr, u16), Problem> {
    let needs_port = protocol.is_some_and(|protocol| protocol != Protocol::Icmp);
    let wrong = |what: &str| {
        let help = if protocol == Some(Protocol::Icmp) {
            "write the address alone, as in \"192.168.1.10\" or \"2001:db8::1\""
        } else {
            "write address and port, as in \"192.168.1.10:80\" or \"[2001:db8::1]:80\", with * as the port for all ports"
        };
        Problem::new(format!("{text:?} {what}"), help)
    };
    let (address, port) = text::address_and_port(text).ok_or_else(|| wrong("is not an IP address and port"))?;
    let port = match port {
        // Its last group may have been meant as a port.
        None if needs_port && address.is_ipv6() && !text.starts_with('[') => {
            return Err(wrong("is an IPv6 address without brackets"));
        }
        None if needs_port => return Err(wrong("has no port")),
        None | Some("*") => 0,
        Some(digits) => text::port(digits).ok_or_else(|| wrong("has a port that is not a number from 0 to 65535"))?,
    };
    Ok((text::reachable_address(address)?, port))
}

/// Reports an `on_death` that would change nothing. Where connection ids name backends, flows have theirs without being
/// tracked.
fn check_on_death(table: &Table<'_>, tracking: Tracking, on_death: OnDeath) {
    let (why, help) = if on_death != OnDeath::Reschedule && tracking == Tracking::Never && !table.has("quic") {
        if table.has("one_packet") {
            ("with one_packet: no flow is remembered", "remove it")
        } else {
            ("with tracking = \"never\": no flow is remembered", "remove it, or write another tracking")
        }
    } else if on_death == OnDeath::Keep && !table.has("health") {
        ("without [service.health]: nothing says that a backend is dead", "remove it, or add the section")
    } else {
        return;
    };
    table.reject("on_death", Problem::new(format!("on_death = \"{on_death}\" has no effect {why}"), help));
}

/// Reads `gue_port`. `forwarding` is unknown if it could not be read.
fn read_gue_port(table: &mut Table<'_>, forwarding: Option<Forwarding>) -> Option<u16> {
    let port = table.number("gue_port", 1..=u16::MAX);
    if let Some(other) = forwarding.filter(|forwarding| *forwarding != Forwarding::Gue)
        && port.is_some()
    {
        table.reject(
            "gue_port",
            Problem::new(
                format!("gue_port applies only with forwarding = \"gue\", and the service has {other}"),
                "remove it, or write forwarding = \"gue\"",
            ),
        );
    }
    port
}

/// Reads `source_prefix`, of an address of the service's family.
fn read_source_prefix(table: &mut Table<'_>, algorithm: Algorithm, address: Option<IpAddr>) -> Option<u8> {
    let longest = if address.is_some_and(|address| address.is_ipv4()) { 32 } else { 128 };
    let prefix = table.number("source_prefix", 1..=longest)?;
    if algorithm != Algorithm::SourceHash {
        let problem = Problem::new(
            format!("source_prefix has no effect with algorithm = \"{algorithm}\""),
            "remove it, or write algorithm = \"source-hash\"",
        );
        table.reject("source_prefix", problem);
    }
    Some(prefix)
}

fn read_on_full(table: &mut Table<'_>, protocol: Option<Protocol>) -> OnFull {
    let on_full = table.word("on_full").unwrap_or_default();
    if let Some(other) = protocol.filter(|protocol| *protocol != Protocol::Tcp && on_full == OnFull::Reset) {
        let what = format!("on_full = \"reset\" does not apply to {}", other.title());
        let problem = Problem::new(what, "remove it, or write \"drop\"");
        table.reject("on_full", problem);
    }
    on_full
}

/// Reports a `slow_start` that would change nothing.
fn check_slow_start(table: &Table<'_>, algorithm: Algorithm) {
    if table.has("slow_start") && algorithm == Algorithm::RoundRobin {
        table.reject(
            "slow_start",
            Problem::new(
                "slow_start has no effect with algorithm = \"round-robin\": each backend has as many turns as the others",
                "remove it, or write algorithm = \"weighted-round-robin\"",
            ),
        );
    }
}

/// Reports an algorithm that goes by latencies where nothing measures them. `forwarding` is unknown if it could not be read.
fn check_latency(table: &Table<'_>, algorithm: Algorithm, forwarding: Option<Forwarding>) {
    let Some(direct) = forwarding.filter(|forwarding| !forwarding.translates()) else { return };
    if algorithm == Algorithm::LeastResponseTime && !table.has("health") {
        table.reject(
            "algorithm",
            Problem::new(
                format!(
                    "algorithm = \"{algorithm}\" with forwarding = \"{direct}\" needs a health check: replies do not pass here, so \
                     only its probes say how fast a backend is"
                ),
                "add [service.health], or write algorithm = \"least-connections\"",
            ),
        );
    }
}

fn read_quic(table: &mut Table<'_>, protocol: Option<Protocol>, forwarding: Option<Forwarding>) -> Option<Quic> {
    let quic = table.table("quic", "[service.quic]", "QUIC").and_then(Quic::read);
    if let Some(forwarding) = forwarding.filter(|forwarding| table.has("quic") && forwarding.translates()) {
        let what = format!(
            "[service.quic] does not apply to forwarding = \"{forwarding}\": replies are known by their addresses and ports, and not \
             by connection ids"
        );
        let help = "remove it, or write forwarding = \"l2-dsr\", \"ipip\" or \"gue\"";
        table.reject("quic", Problem::new(what, help));
        return None;
    }
    if let Some(other) = protocol.filter(|protocol| *protocol != Protocol::Udp && table.has("quic")) {
        let what = format!("[service.quic] does not apply to {}", other.title());
        table.reject("quic", Problem::new(what, "remove it, or write protocol = \"udp\""));
        return None;
    }
    quic
}

fn read_slots(table: &mut Table<'_>) -> Option<u32> {
    let slots: u32 = table.number("slots", 1024..=65_536)?;
    if !slots.is_power_of_two() {
        table.reject(
            "slots",
            Problem::new(
                format!("slots {slots} is not a power of two"),
                format!("write {} or {}", slots.next_power_of_two() / 2, slots.next_power_of_two()),
            ),
        );
    }
    Some(slots)
}

/// Reads `announce` and `interface`, which together name the interface that gets the virtual IP.
fn read_announce(table: &mut Table<'_>, interfaces: &[Interface]) -> Option<String> {
    let announce = table.flag("announce");
    let interface = table.text("interface", interface_name);
    // A value that could not be read is reported already.
    if table.has("announce") && announce.is_none() || table.has("interface") && interface.is_none() {
        return None;
    }
    let (key, problem) = match (announce.unwrap_or(false), interface, interfaces) {
        (false, None, _) => return None,
        (true, Some(name), _) if interfaces.iter().any(|interface| interface.name == name) => {
            return Some(name);
        }
        (true, None, [only]) => return Some(only.name.clone()),
        (false, Some(_), _) => (
            "interface",
            Problem::new("interface applies only with announce = true", "add announce = true, or remove it"),
        ),
        (true, Some(name), _) => (
            "interface",
            Problem::new(
                format!("interface {name:?} is not configured"),
                format!("add an [[interface]] with name = {name:?}, or write the name of one"),
            ),
        ),
        (true, None, []) => {
            ("announce", Problem::new("announce needs an interface, and none is configured", "add an [[interface]]"))
        }
        (true, None, [first, ..]) => (
            "announce",
            Problem::new(
                "announce does not say on which interface",
                format!("add interface = {:?}, or another [[interface]]", first.name),
            ),
        ),
    };
    table.reject(key, problem);
    None
}
