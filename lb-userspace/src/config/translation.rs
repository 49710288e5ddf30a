//! The rules between services that translate addresses and what else the node has: replies have to come back to the node that knows
//! their flows, and to nobody else on it.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use super::{
    Config, Node, Vrrp,
    error::Problem,
    nat::Ports,
    service::{Forwarding, Protocol, Service, Tally},
};

/// Reports the services whose replies would not be known as such.
pub(super) fn check(config: &Config, tally: &Tally<'_>) {
    let reject = |service: &Service, problem: Problem| {
        if let Some(place) = tally.translating(&service.name) {
            place.reject(problem);
        }
    };
    let holders = Holders::of(config);
    for service in &config.services {
        let sources = service.sources(&config.node);
        let problem = sources.iter().find_map(|source| {
            let of_backend = || source_of_backend(service, *source);
            of_backend()
                .or_else(|| holders.collision(service, *source))
                .or_else(|| holders.parted_source(service, *source))
        });
        if let Some(problem) = problem {
            reject(service, problem);
        }
    }
    for (service, problem) in holders.parted_services(config) {
        reject(service, problem);
    }
}

/// What is wrong with a source that is a backend.
fn source_of_backend(service: &Service, source: IpAddr) -> Option<Problem> {
    let backend = service.backends.iter().find(|backend| backend.address == source)?;
    let message = format!("source {source} is backend {:?}: it would keep its replies for itself", backend.name);
    Some(Problem::new(message, "write an address of this node, or one that VRRP brings to it"))
}

/// What may not work, and cannot be known from one node's file.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let holders = Holders::of(config);
    let mut firsts = BTreeMap::new();
    let mut warnings = BTreeMap::new();
    for (service, router) in holders.moved(config) {
        let (first, other) = *firsts.entry(service.address.is_ipv4()).or_insert((service, router));
        if !move_together(other, router) {
            warnings.entry(&router.name).or_insert_with(|| {
                format!(
                    "services {:?} and {:?} have forwarding = \"nat\", and their virtual IPs are in VRRP instances {:?} and {:?}, which \
                     may have different masters: the backends of each need a gateway that is an address of the same instance",
                    first.name, service.name, other.name, router.name
                )
            });
        }
    }
    warnings
        .into_values()
        .chain(config.services.iter().filter_map(|service| unused_sources(service, &config.node)))
        .collect()
}

/// The node's sources, where a service goes by them and they are not of its backends' family.
fn unused_sources(service: &Service, node: &Node) -> Option<String> {
    let goes_by_them = service.forwarding == Forwarding::FullNat && service.nat.sources.is_empty();
    if !goes_by_them || node.nat_sources.is_empty() {
        return None;
    }
    let has_source = |address: &IpAddr| node.nat_sources.iter().any(|source| source.is_ipv4() == address.is_ipv4());
    let backend = service.backends.iter().find(|backend| !has_source(&backend.address))?;
    let family = if backend.address.is_ipv4() { "IPv4" } else { "IPv6" };
    Some(format!(
        "service {:?}: [node] nat_sources has no {family} address, and backend {:?} needs one: its flows have the address of the \
         interface to it",
        service.name, backend.name
    ))
}

impl Service {
    /// What of this service the replies of flows would be taken for that have this source, with these ports, in words.
    pub fn takes_replies(&self, source: IpAddr, ports: Ports, protocol: Protocol) -> Option<String> {
        // Replies of ICMP echo are no requests.
        let is_met = self.address == source && self.protocol == protocol && protocol != Protocol::Icmp;
        match self.port {
            0 if is_met => Some(format!("all {protocol} ports of service {:?}", self.name)),
            port if is_met && ports.contains(port) => {
                Some(format!("port {port}/{protocol} of service {:?}", self.name))
            }
            _ => None,
        }
    }

    /// The sources that its flows have, as far as the file says: of the families of its backends, its own, else the node's.
    fn sources(&self, node: &Node) -> Vec<IpAddr> {
        if self.forwarding != Forwarding::FullNat {
            return Vec::new();
        }
        let of_family = |is_ipv4: bool| {
            let is_needed = self.backends.iter().any(|backend| backend.address.is_ipv4() == is_ipv4);
            let of = |sources: &[IpAddr]| -> Vec<IpAddr> {
                sources.iter().copied().filter(|source| is_needed && source.is_ipv4() == is_ipv4).collect()
            };
            let own = of(&self.nat.sources);
            if own.is_empty() { of(&node.nat_sources) } else { own }
        };
        [true, false].into_iter().flat_map(of_family).collect()
    }
}

/// What has an address on the node.
struct Holders<'a> {
    services: HashMap<IpAddr, Vec<&'a Service>>,
    routers: HashMap<IpAddr, &'a Vrrp>,
}

impl<'a> Holders<'a> {
    fn of(config: &'a Config) -> Self {
        let mut services = HashMap::<_, Vec<_>>::new();
        for service in &config.services {
            services.entry(service.address).or_default().push(service);
        }
        let addresses = |vrrp: &'a Vrrp| vrrp.addresses.iter().map(move |entry| (entry.address, vrrp));
        Self { services, routers: config.vrrp.iter().flat_map(addresses).collect() }
    }

    /// What is wrong with a source where a service is, too, whose requests its replies would be.
    fn collision(&self, service: &Service, source: IpAddr) -> Option<Problem> {
        let ports = service.nat.ports.unwrap_or_default();
        let others = self.services.get(&source)?;
        let taken = others.iter().find_map(|other| other.takes_replies(source, ports, service.protocol))?;
        let message =
            format!("source {source} with ports {ports} meets {taken}: replies would be taken for its requests");
        Some(Problem::new(message, "write another source, or ports in [service.nat] without those of services there"))
    }

    /// What is wrong with a source that VRRP moves, and that may be on another node than the virtual IP.
    fn parted_source(&self, service: &Service, source: IpAddr) -> Option<Problem> {
        let [own, other] = [service.address, source].map(|address| self.routers.get(&address));
        let (own, other) = own.zip(other).filter(|(own, other)| !move_together(own, other))?;
        let message = format!(
            "source {source} is in VRRP instance {:?}, and the virtual IP in {:?}: they may have different masters, and replies go to \
             that of the source",
            other.name, own.name
        );
        Some(Problem::new(
            message,
            "put both into one instance or one sync_group, or write a source that does not move",
        ))
    }

    /// The services with `nat` whose virtual IPs VRRP moves, and by which instance.
    fn moved(&self, config: &'a Config) -> impl Iterator<Item = (&'a Service, &'a Vrrp)> {
        let services = config.services.iter().filter(|service| service.forwarding == Forwarding::Nat);
        services.filter_map(|service| Some((service, *self.routers.get(&service.address)?)))
    }

    /// Those that share a backend with another one, and may have another master: the backend has one gateway.
    fn parted_services(&self, config: &'a Config) -> Vec<(&'a Service, Problem)> {
        let mut firsts = HashMap::new();
        let mut parted = Vec::new();
        for (service, router) in self.moved(config) {
            for backend in &service.backends {
                let (first, other): (&Service, &Vrrp) = *firsts.entry(backend.address).or_insert((service, router));
                if move_together(other, router) {
                    continue;
                }
                let message = format!(
                    "{} is a backend of {:?}, too, whose virtual IP is in VRRP instance {:?}, and this one's is in {:?}: they may have \
                     different masters, and with nat all replies of a backend pass the node that is its gateway",
                    backend.address, first.name, other.name, router.name
                );
                let help = "put both virtual IPs and the gateway into one instance or one sync_group, or write forwarding = \
                            \"full-nat\"";
                parted.push((service, Problem::new(message, help)));
                break;
            }
        }
        parted
    }
}

/// Whether both have the same master at all times.
fn move_together(one: &Vrrp, other: &Vrrp) -> bool {
    one.name == other.name || one.sync_group.is_some() && one.sync_group == other.sync_group
}
