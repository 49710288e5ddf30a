//! The lab to play with.

use std::{
    env,
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use lb_tests::lab::{
    self, Balancer, Lab, Node, Paths, Process, Server, binaries,
    config::{Forwarding, Service, config_with_nat, nat_service, services, virtual_routers},
};

use crate::{
    cargo, root,
    setup::{self, Level},
};

/// How long the first health checks may take.
pub(crate) const HEALTHY: Duration = Duration::from_secs(10);

/// How long balancers may take to find out who is master: they need four advertisements.
const IN_ORDER: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Bring a lab up; it stays until `down`
    Up(Up),
    /// Take a lab down
    Down(Name),
    /// Run a shell on a node
    Shell(Shell),
    /// Run a command on a node
    Exec(Exec),
}

#[derive(Debug, Args)]
struct Up {
    /// How many balancers
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// How many backends
    #[arg(long, default_value_t = 3)]
    backends: usize,
    /// Have nginx answer on the backends
    #[arg(long)]
    nginx: bool,
    #[command(flatten)]
    lab: Name,
}

#[derive(Debug, Args)]
struct Shell {
    /// `client`, `lb`, `lb2`, `switch`, `b1` and so on
    node: String,
    #[command(flatten)]
    lab: Name,
}

#[derive(Debug, Args)]
struct Exec {
    /// `client`, `lb`, `lb2`, `switch`, `b1` and so on
    node: String,
    #[command(flatten)]
    lab: Name,
    /// The command and its arguments; on `lb` and `lb2`, `lbctl` talks to the node's own `lbd`
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Name {
    /// Which lab
    #[arg(long, default_value = "lab")]
    name: String,
}

pub(crate) fn run(options: Options, prepared: bool) -> Result<()> {
    match options.what {
        What::Up(options) => up(&options, prepared),
        What::Down(Name { name }) => down(&name),
        What::Shell(Shell { node, lab }) => {
            let shell = env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
            exec(&lab.name, &node, &[shell])
        }
        What::Exec(Exec { node, lab, command }) => exec(&lab.name, &node, &command),
    }
}

fn up(options: &Up, prepared: bool) -> Result<()> {
    if !prepared {
        setup::ensure(if options.nginx { Level::Test } else { Level::Run })?;
        cargo::build()?;
    }
    root::require()?;
    let server = if options.nginx { Server::Nginx } else { Server::Agent };
    let builder =
        Lab::builder(&options.lab.name).nodes(options.nodes).backends(options.backends).server(server).detached();
    let balanced = Balanced::start(builder.build()?)?;
    println!("\n{}\n", describe(&balanced.lab));
    println!("{}", suggestions(&balanced)?);
    let name = &options.lab.name;
    println!("Take it down with\n  cargo xtask lab down --name {name}");
    balanced.leave_running()
}

fn down(name: &str) -> Result<()> {
    root::require()?;
    let paths = existing(name)?;
    lab::teardown(&paths)?;
    println!("the lab {name} is down");
    Ok(())
}

/// Becomes the command.
fn exec(name: &str, node: &str, command: &[OsString]) -> Result<()> {
    root::require()?;
    let paths = existing(name)?;
    let namespace = paths.namespace(node);
    ensure!(namespace.exists(), "the lab {name} has no node {node}: it has {}", node_names(&paths)?);
    let old_path = env::var_os("PATH").unwrap_or_default();
    let path = [paths.bin(node), binaries()?].into_iter().chain(env::split_paths(&old_path));
    let [program, arguments @ ..] = command else {
        unreachable!("a command has a program");
    };
    let mut command: Command = namespace.command(program);
    command.args(arguments).env("PATH", env::join_paths(path)?);
    let error = command.exec();
    Err(error).with_context(|| format!("start {command:?}"))
}

fn existing(name: &str) -> Result<Paths> {
    let paths = Paths::new(name)?;
    ensure!(paths.dir().exists(), "there is no lab named {name}: bring one up with `cargo xtask lab up --name {name}`");
    Ok(paths)
}

fn node_names(paths: &Paths) -> Result<String> {
    let mut nodes: Vec<_> = paths
        .namespaces()?
        .iter()
        .filter_map(|namespace| Some(namespace.name().rsplit_once('-')?.1.to_owned()))
        .collect();
    nodes.sort();
    Ok(nodes.join(", "))
}

/// A lab with everything started: servers, decapsulation, and the balancers.
pub(crate) struct Balanced {
    // In the order in which they are to end.
    pub(crate) lbds: Vec<Process>,
    decaps: Vec<Process>,
    servers: Vec<Process>,
    pub(crate) lab: Lab,
}

impl Balanced {
    /// Starts everything, waits until all backends are healthy and the first balancer is master, and says how long that took.
    pub(crate) fn start(lab: Lab) -> Result<Self> {
        let started = Instant::now();
        if let [_] = lab.balancers() {
            lab.each_balancer().try_for_each(|balancer| balancer.write_config(&config_with_nat(balancer)))?;
        }
        let servers = lab.start_servers()?;
        let decaps = lab.start_decaps()?;
        let lbds = lab.each_balancer().map(|balancer| balancer.start_lbd()).collect::<Result<_>>()?;
        let balanced = Self { lbds, decaps, servers, lab };
        let lab = &balanced.lab;
        lab.each_balancer().try_for_each(|balancer| balancer.wait_until_healthy(HEALTHY))?;
        balanced.wait_for_order()?;
        println!(
            "the lab {} is up: network in {:.2} s, balancing after {:.2} s",
            lab.name(),
            lab.took().as_secs_f64(),
            (lab.took() + started.elapsed()).as_secs_f64()
        );
        Ok(balanced)
    }

    /// Waits until the first balancer is master of all virtual IPs, and the others are its backups. One that is alone holds them
    /// by itself.
    pub(crate) fn wait_for_order(&self) -> Result<()> {
        for balancer in self.lab.each_balancer().filter(Balancer::has_peers) {
            let state = if balancer.number() == 0 { "master" } else { "backup" };
            for router in virtual_routers(balancer.number()) {
                balancer.wait_for_vrrp(&router.name, state, IN_ORDER)?;
            }
        }
        Ok(())
    }

    fn leave_running(self) -> Result<()> {
        let processes = self.lbds.into_iter().chain(self.decaps).chain(self.servers);
        self.lab.leave_running(processes)
    }
}

/// The services that [`Balanced::start`] has in this lab.
pub(crate) fn services_of(lab: &Lab) -> Vec<Service> {
    let nat = (lab.balancers().len() == 1).then(nat_service);
    services().into_iter().chain(nat).collect()
}

/// Who is where.
fn describe(lab: &Lab) -> String {
    let node = |node: &Node| format!("  {:<8} {:<12} {}", node.name(), node.ipv4(), node.ipv6());
    let service = |service: Service| {
        let how = match service.forwarding {
            Forwarding::L2Dsr => "new MAC, direct reply",
            Forwarding::Ipip => "IP in IP, direct reply",
            Forwarding::Gue => "IP in UDP, direct reply",
            Forwarding::Nat => "translated, reply by way of the balancer",
            Forwarding::FullNat => "both addresses translated, reply to the balancer",
        };
        format!("  {:<10} {:<20} {how}", service.name, service.url())
    };
    let lines: Vec<_> =
        lab.nodes().iter().map(node).chain([String::new()]).chain(services_of(lab).into_iter().map(service)).collect();
    lines.join("\n")
}

/// What to try in another terminal.
pub(crate) fn suggestions(balanced: &Balanced) -> Result<String> {
    let lab = &balanced.lab;
    let exec = format!("cargo xtask lab exec --name {}", lab.name());
    let last = lab.backends().len();
    let pid = balanced.servers[last - 1].id();
    let text = format!(
        "Try this in another terminal:
  {exec} client -- curl -s http://10.77.0.100/
  {exec} lb -- lbctl status
  {exec} lb -- lbctl backend drain b1 --service web-l2
  sudo kill {pid}   # b{last} stops answering; its health checks fail
"
    );
    match lab.balancers() {
        [first, second, ..] => Ok(text + "\n" + &failover_suggestions(lab, first.name(), second.name())?),
        _ => Ok(text),
    }
}

/// What to try with two balancers.
fn failover_suggestions(lab: &Lab, first: &str, second: &str) -> Result<String> {
    let exec = format!("cargo xtask lab exec --name {}", lab.name());
    let [router, _] = virtual_routers(0);
    let router = router.name;
    let speaker = lab.balancer(first).vrrp_status()?.pid;
    Ok(format!(
        "{first} is master, and {second} its backup:
  {exec} {first} -- lbctl vrrp status
  {exec} {second} -- lbctl vrrp status {router}
  {exec} {first} -- lbctl vrrp failover {router}   # hands over; the same on {second} hands back
  {exec} switch -- ip link set {first} down   # pulls the cable of {first}; `up` puts it back
  sudo kill -9 {speaker}   # the speaker of {first}: {second} takes over, until {first} has started another one
"
    ))
}
