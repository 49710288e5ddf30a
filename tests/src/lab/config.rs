//! The configuration that the lab's `lbd` gets by default: a service for each way to a backend without NAT.

use std::{
    fmt::{self, Write as _},
    net::{IpAddr, SocketAddr},
};

use super::{
    paths::Paths,
    topology::{Node, virtual_ipv4, virtual_ipv6},
};

/// How the balancer hands a packet to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// With a new destination MAC.
    L2Dsr,
    /// In an outer IP header of the backend address's family.
    Ipip,
}

impl fmt::Display for Forwarding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::L2Dsr => "l2-dsr",
            Self::Ipip => "ipip",
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
    .map(|(name, virtual_ip, forwarding, backends)| Service { name, virtual_ip, forwarding, backends })
    .into()
}

/// The weight of the backend of that number, from 0: 5, 3, 2, 5, 3, 2 and so on.
pub fn weight(backend: usize) -> u32 {
    [5, 3, 2][backend % 3]
}

/// The `[node]` table of the lab's balancer, and its interface: what any configuration begins with.
pub fn node_config(paths: &Paths) -> String {
    format!(
        r#"[node]
name = "lb"
socket = "{}"
pins = "{}"
state = "{}"

[[interface]]
name = "eth0"
xdp = "native"
"#,
        paths.socket().display(),
        paths.pins().display(),
        paths.state().display()
    )
}

/// [`node_config`], and all [`services`] with all of `backends`, weighted by [`weight`].
pub fn default_config(paths: &Paths, backends: &[Node]) -> String {
    let mut config = node_config(paths);
    for service in services() {
        write_service(&mut config, &service, backends).expect("a String takes all");
    }
    config
}

fn write_service(config: &mut String, service: &Service, backends: &[Node]) -> fmt::Result {
    write!(
        config,
        r#"
[[service]]
name = "{}"
address = "{}"
protocol = "tcp"
forwarding = "{}"
announce = true

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
    for (number, backend) in backends.iter().enumerate() {
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
