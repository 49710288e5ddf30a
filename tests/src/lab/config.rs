//! The configuration that the lab's `lbd` gets by default: a service for each way to a backend without NAT; and one with it.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    balancer::Balancer,
    topology::{Node, virtual_ipv4, virtual_ipv6},
    vrrp::{Instance, VirtualAddress},
};

/// How the balancer hands a packet to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// With a new destination MAC.
    L2Dsr,
    /// In an outer IP header of the backend address's family.
    Ipip,
    /// In UDP and GUE, in an outer IP header of the backend address's family.
    Gue,
    /// With the backend's address as its destination. The backend answers by way of the balancer.
    Nat,
    /// With an address of the balancer as its source, too.
    FullNat,
}

impl fmt::Display for Forwarding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::L2Dsr => "l2-dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::Nat => "nat",
            Self::FullNat => "full-nat",
        })
    }
}

/// Which of a node's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// A TCP service on port 80, checked by HTTP.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: &'static str,
    pub virtual_ip: IpAddr,
    pub forwarding: Forwarding,
    /// The family of the backends' addresses.
    pub backends: Family,
    /// How new connections get their backends, if not by the hash of the flow and the weights.
    pub scheduler: Option<&'static str>,
}

impl Service {
    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.virtual_ip, 80)
    }

    /// What clients ask for.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address())
    }
}

/// The services of [`default_config`].
pub fn services() -> Vec<Service> {
    let (v4, v6) = (|index| IpAddr::V4(virtual_ipv4(index)), |index| IpAddr::V6(virtual_ipv6(index)));
    [
        ("web-l2", v4(0), Forwarding::L2Dsr, Family::V4),
        ("web-ipip", v4(1), Forwarding::Ipip, Family::V4),
        ("web6-l2", v6(0), Forwarding::L2Dsr, Family::V6),
        ("web6-ipip", v6(1), Forwarding::Ipip, Family::V6),
        ("web-4in6", v4(2), Forwarding::Ipip, Family::V6),
        ("web-6in4", v6(2), Forwarding::Ipip, Family::V4),
    ]
    .map(|(name, virtual_ip, forwarding, backends)| Service { name, virtual_ip, forwarding, backends, scheduler: None })
    .into()
}

/// A service that translates addresses, and chooses the backend with the fewest connections for its weight. Its connections are known to
/// one balancer only, so it is none of [`services`], which labs with several have, too.
pub fn nat_service() -> Service {
    Service {
        name: "web-nat",
        virtual_ip: virtual_ipv4(3).into(),
        forwarding: Forwarding::FullNat,
        backends: Family::V4,
        scheduler: Some("least-connections"),
    }
}

/// [`default_config`], and [`nat_service`].
pub fn config_with_nat(balancer: Balancer<'_>) -> String {
    let mut config = default_config(balancer);
    write_service(&mut config, &nat_service(), balancer).expect("a String takes all");
    config
}

/// The weight of the backend of that number, from 0: 5, 3, 2, 5, 3, 2 and so on.
pub fn weight(backend: usize) -> u32 {
    [5, 3, 2][backend % 3]
}

/// The key under which all balancers of a lab choose backends: they agree on every flow.
const HASH_KEY: &str = "6c62272e07bb014262b821756295c58d";

/// The time between adverts of [`virtual_routers`].
const INTERVAL: Duration = Duration::from_millis(100);

/// The `[node]` table of a balancer, and its interface: what any configuration begins with.
pub fn node_config(balancer: Balancer<'_>) -> String {
    node_config_with(balancer, "")
}

/// [`node_config`], with more lines in the `[node]` table.
pub fn node_config_with(balancer: Balancer<'_>, keys: &str) -> String {
    let paths = balancer.paths();
    let hash_key = if balancer.has_peers() { format!("hash_key = \"{HASH_KEY}\"\n") } else { String::new() };
    format!(
        r#"[node]
name = "{}"
socket = "{}"
pins = "{}"
state = "{}"
{hash_key}{keys}
[[interface]]
name = "eth0"
xdp = "native"
"#,
        paths.node(),
        paths.socket().display(),
        paths.pins().display(),
        paths.state().display()
    )
}

/// How long a balancer of [`default_config`] that comes back waits until it takes over: for its first health checks. Without all its
/// backends it would send flows elsewhere than the others do.
const PREEMPT_DELAY: Duration = Duration::from_secs(1);

/// [`node_config`], and all [`services`] with all backends, weighted by [`weight`]. A balancer that is alone has the virtual IPs on
/// its interface; with others it is a part of [`virtual_routers`].
pub fn default_config(balancer: Balancer<'_>) -> String {
    let mut config = node_config(balancer);
    if balancer.has_peers() {
        for router in virtual_routers(balancer.number()) {
            config += "\n";
            config += &Instance { preempt_delay: PREEMPT_DELAY, ..router }.to_toml();
        }
    }
    for service in services() {
        write_service(&mut config, &service, balancer).expect("a String takes all");
    }
    config
}

/// The port of [`echo_service`].
pub const ECHO: u16 = 7;

/// A UDP service on the first virtual IPv4 address, to be probed: its backends are to have an echo (see
/// [`super::Lab::start_udp_echo`]), and count as healthy.
pub fn echo_service(backends: &[Node]) -> String {
    let mut config = format!(
        r#"
[[service]]
name = "echo"
address = "{}"
protocol = "udp"
forwarding = "l2-dsr"
"#,
        SocketAddr::from((virtual_ipv4(0), ECHO))
    );
    for backend in backends {
        let section =
            format!("\n  [[service.backend]]\n  name = \"{}\"\n  address = \"{}\"\n", backend.name(), backend.ipv4());
        config += &section;
    }
    config
}

/// The part of the balancer of that number, from 0, in holding the virtual IPs of [`services`]: one instance for each address family,
/// which change state together. The first balancer has the highest priority.
pub fn virtual_routers(balancer: usize) -> [Instance; 2] {
    let addresses = |is_v4: bool| {
        let of_family = services().into_iter().map(|service| service.virtual_ip).filter(|ip| ip.is_ipv4() == is_v4);
        of_family.map(VirtualAddress::on_the_switch).collect()
    };
    [("vip4", 51, true), ("vip6", 61, false)].map(|(name, router_id, is_v4)| Instance {
        priority: [150, 100, 50][balancer],
        interval: INTERVAL,
        sync_group: Some("vips".to_owned()),
        ..Instance::new(name, router_id, addresses(is_v4))
    })
}

fn write_service(config: &mut String, service: &Service, balancer: Balancer<'_>) -> fmt::Result {
    let announce = if balancer.has_peers() { "" } else { "announce = true\n" };
    let algorithm = service.scheduler.map_or(String::new(), |scheduler| format!("algorithm = {scheduler:?}\n"));
    write!(
        config,
        r#"
[[service]]
name = "{}"
address = "{}"
protocol = "tcp"
forwarding = "{}"
{announce}{algorithm}
  [service.health]
  type = "http"
  path = "/healthz"
  interval = "200ms"
  timeout = "500ms"
  rise = 1
  fall = 2
"#,
        service.name,
        service.address(),
        service.forwarding
    )?;
    for (number, backend) in balancer.backends().iter().enumerate() {
        let address = match service.backends {
            Family::V4 => IpAddr::V4(backend.ipv4()),
            Family::V6 => IpAddr::V6(backend.ipv6()),
        };
        write!(
            config,
            r#"
  [[service.backend]]
  name = "{}"
  address = "{address}"
  weight = {}
"#,
            backend.name(),
            weight(number)
        )?;
    }
    Ok(())
}
