//! The lab's network: nodes on one switch.
//!
//! ```text
//!  client .1      lb .2        b1 .11   b2 .12  …        10.77.0.0/24, fd77::/64
//!     │ eth0        │ eth0       │ eth0   │ eth0
//!  ┌──┴─────────────┴────────────┴────────┴─────┐
//!  │ client       lb (XDP_PASS)  b1       b2    │        the switch: a bridge, one port per node
//!  └────────────────────────────────────────────┘
//! ```
//!
//! There may be more balancers, connected as the first one is: `lb2` at .3 and `lb3` at .4.
//!
//! A backend may have a second link, straight to the balancer: `eth1` on both, in 10.78.0.0/24 and `fd78::/64`, with the same
//! host numbers.
//!
//! The client's MTU is 1500, all others are 1600: an encapsulated full-size packet fits. Backends hold all virtual IPs on `lo`, and
//! do not answer ARP or neighbour solicitations for them.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    netns::{self, Netns, set_sysctl},
    offload,
    paths::Paths,
    run::{run, run_with_input},
    xdp_pass,
};

/// The largest number of backends: their addresses end before the virtual IPs begin.
pub const MAX_BACKENDS: usize = 80;

/// The names of the balancers that a lab can have.
pub(super) const BALANCERS: [&str; 3] = ["lb", "lb2", "lb3"];

/// The largest number of balancers.
pub const MAX_BALANCERS: usize = BALANCERS.len();

/// How many virtual IPs of each family there are.
const VIRTUAL_IPS: u8 = 10;

const CLIENT_MTU: u32 = 1500;
const MTU: u32 = 1600;

/// The virtual IPv4 address of that number: 10.77.0.100 + `index`.
pub fn virtual_ipv4(index: u8) -> Ipv4Addr {
    debug_assert!(index < VIRTUAL_IPS);
    Ipv4Addr::new(10, 77, 0, 100 + index)
}

/// The virtual IPv6 address of that number: `fd77::100` + `index`.
pub fn virtual_ipv6(index: u8) -> Ipv6Addr {
    debug_assert!(index < VIRTUAL_IPS);
    Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100 + u16::from(index))
}

/// A hardware address as `ip` writes it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A host of the lab: a namespace with one interface, `eth0`.
#[derive(Clone, Debug)]
pub struct Node {
    name: String,
    role: Role,
    namespace: Netns,
    ipv4: Ipv4Addr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Balancer,
    Backend,
}

impl Node {
    fn new(paths: &Paths, name: &str, role: Role, host: u8) -> Self {
        Self { name: name.to_owned(), role, namespace: paths.namespace(name), ipv4: Ipv4Addr::new(10, 77, 0, host) }
    }

    /// `client`, `lb`, `lb2`, `b1` and so on.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address in 10.77.0.0/24.
    pub fn ipv4(&self) -> Ipv4Addr {
        self.ipv4
    }

    /// Its address in `fd77::/64`. It reads like the IPv4 address: the last group is its last byte, in decimal digits.
    pub fn ipv6(&self) -> Ipv6Addr {
        let host = self.ipv4.octets()[3];
        let digits = u16::from(host / 10) * 16 + u16::from(host % 10);
        Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, digits)
    }

    /// Its address in 10.78.0.0/24, if it is on a second link.
    pub fn second_ipv4(&self) -> Ipv4Addr {
        let [_, _, _, host] = self.ipv4.octets();
        Ipv4Addr::new(10, 78, 0, host)
    }

    /// Its address in `fd78::/64`, if it is on a second link.
    pub fn second_ipv6(&self) -> Ipv6Addr {
        let [.., host] = self.ipv6().segments();
        Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, host)
    }

    /// The hardware address of its `eth0`.
    pub fn mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.ipv4.octets();
        [0x02, 0, a, b, c, d]
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Netns {
        &self.namespace
    }

    /// A command to run on this node.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.namespace.command(program)
    }

    /// Runs `ip` with these arguments, separated by spaces, on this node; returns what it says.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let output = run(self.command("ip").args(arguments.split_whitespace()))?;
        Ok(String::from_utf8(output.stdout)?)
    }

    fn mtu(&self) -> u32 {
        match self.role {
            Role::Client => CLIENT_MTU,
            Role::Balancer | Role::Backend => MTU,
        }
    }
}

/// The client, the balancers, then the backends.
pub(super) fn nodes(paths: &Paths, balancers: usize, backends: usize) -> Result<Vec<Node>> {
    ensure!((1..=MAX_BALANCERS).contains(&balancers), "a lab has 1 to {MAX_BALANCERS} balancers, not {balancers}");
    ensure!((1..=MAX_BACKENDS).contains(&backends), "a lab has 1 to {MAX_BACKENDS} backends, not {backends}");
    let mut nodes = vec![Node::new(paths, "client", Role::Client, 1)];
    for (name, host) in BALANCERS.into_iter().zip(2..).take(balancers) {
        nodes.push(Node::new(paths, name, Role::Balancer, host));
    }
    for number in 1..=u8::try_from(backends)? {
        let name = format!("b{number}");
        nodes.push(Node::new(paths, &name, Role::Backend, 10 + number));
    }
    Ok(nodes)
}

/// Creates the namespaces and connects them.
pub(super) fn wire(paths: &Paths, nodes: &[Node]) -> Result<()> {
    let switch = paths.namespace("switch");
    netns::create(nodes.iter().map(Node::namespace).chain([&switch]))?;

    // Settings come before the devices, which take them over when they appear.
    on_each(nodes, |node| set_sysctls(node.role))?;
    switch
        .inside(|| {
            set_sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
            set_sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
            ip(&switch_script(nodes))?;
            for node in nodes {
                offload::disable(&node.name)?;
            }
            Ok(())
        })
        .context("set the switch up")?;
    on_each(nodes, |node| {
        ip(&node_script(node))?;
        offload::disable("eth0")
    })?;
    // Last: it takes offloads away from a balancer's end, where they could not be turned off any more.
    let balancers = nodes.iter().filter(|node| node.role == Role::Balancer);
    switch
        .inside(|| balancers.into_iter().try_for_each(|node| xdp_pass::attach(&node.name, &paths.xdp_pass_pin())))
        .context("prepare the balancers' ports")
}

/// Connects the balancer with a backend by a link of their own.
pub(super) fn add_link(balancer: &Node, backend: &Node) -> Result<()> {
    let peer = backend.namespace.name();
    let device = format!("link add eth1 mtu {MTU} type veth peer name eth1 mtu {MTU} netns {peer}");
    balancer.namespace.inside(|| ip(&device))?;
    on_each(&[balancer.clone(), backend.clone()], |node| {
        let addresses = format!(
            "address add {}/24 dev eth1\naddress add {}/64 dev eth1 nodad\nlink set eth1 up",
            node.second_ipv4(),
            node.second_ipv6()
        );
        ip(&addresses)?;
        offload::disable("eth1")
    })
}

fn switch_script(nodes: &[Node]) -> String {
    let mut lines = vec![format!("link add br0 mtu {MTU} type bridge stp_state 0 mcast_snooping 0")];
    for node in nodes {
        let (port, namespace) = (&node.name, node.namespace.name());
        let mac = mac_text(node.mac());
        let mtu = node.mtu();
        lines.push(format!(
            "link add {port} mtu {MTU} type veth peer name eth0 address {mac} mtu {mtu} netns {namespace}"
        ));
        lines.push(format!("link set {port} master br0 up"));
    }
    lines.push("link set br0 up".to_owned());
    lines.join("\n")
}

fn node_script(node: &Node) -> String {
    let mut lines = vec![
        "link set lo up".to_owned(),
        format!("address add {}/24 dev eth0", node.ipv4()),
        format!("address add {}/64 dev eth0 nodad", node.ipv6()),
    ];
    if node.role == Role::Backend {
        for index in 0..VIRTUAL_IPS {
            lines.push(format!("address add {}/32 dev lo", virtual_ipv4(index)));
            lines.push(format!("address add {}/128 dev lo nodad", virtual_ipv6(index)));
        }
    }
    lines.push("link set eth0 up".to_owned());
    lines.join("\n")
}

fn set_sysctls(role: Role) -> Result<()> {
    for devices in ["all", "default"] {
        set_sysctl(&format!("net/ipv6/conf/{devices}/accept_dad"), "0")?;
        set_sysctl(&format!("net/ipv6/conf/{devices}/accept_ra"), "0")?;
        // A kernel tunnel would deliver the client's packets where its route does not point.
        set_sysctl(&format!("net/ipv4/conf/{devices}/rp_filter"), "0")?;
    }
    match role {
        // Every request is a new connection: ports must come back faster than in a minute.
        Role::Client => {
            set_sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
            set_sysctl("net/ipv4/tcp_tw_reuse", "1")
        }
        Role::Balancer => Ok(()),
        // The virtual IPs on `lo` are the balancer's on the wire.
        Role::Backend => {
            set_sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
            set_sysctl("net/ipv4/conf/all/arp_announce", "2")
        }
    }
}

/// Runs `ip` commands in the calling thread's network namespace.
fn ip(script: &str) -> Result<()> {
    run_with_input(Command::new("ip").args(["-batch", "-"]), script)?;
    Ok(())
}

/// Does the same in all nodes at once.
fn on_each(nodes: &[Node], work: impl Fn(&Node) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    let mut failures = Vec::new();
    thread::scope(|scope| {
        let threads: Vec<_> =
            nodes.iter().map(|node| scope.spawn(move || node.namespace.inside(|| work(node)))).collect();
        for thread in threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failures.push(format!("{error:#}")),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    ensure!(failures.is_empty(), "set the nodes up: {}", failures.join("\n"));
    Ok(())
}
