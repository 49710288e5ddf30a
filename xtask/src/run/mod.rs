//! Runs the balancer: in a lab with real HTTP traffic, or on an interface of this machine.

mod failover;
mod moves;
mod shares;
mod table;

use std::{
    fs,
    io::{self, IsTerminal as _},
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use lb_tests::lab::{
    Lab, Limit, Load, LoadReport, Process, RunningLoad, Stats,
    config::{ECHO, Service, default_config, echo_service},
    topology::virtual_ipv4,
    unique_name,
};
use serde::Deserialize;

use self::{moves::Moves, table::Sample};
use crate::{
    cargo, interrupt,
    lab::{Balanced, services_of, suggestions},
    root,
    setup::{self, Level},
};

/// Requests to each service with `--once`.
const ONCE_REQUESTS: u64 = 2000;

/// Requests per second to each service, where it goes on until Ctrl-C: enough to see, and the machine stays usable.
const RATE: u32 = 200;

const BACKENDS: usize = 3;

/// How often the balancers are asked where the virtual IPs are.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Send some seconds of traffic, check every answer and every backend's share, and end. With several balancers: move the
    /// virtual IPs from one to the other, kill one, check what clients see, and end
    #[arg(long, conflicts_with_all = ["interface", "config"])]
    once: bool,
    /// How many balancers share the virtual IPs in the lab
    #[arg(long, default_value_t = 1, conflicts_with_all = ["interface", "config"])]
    nodes: usize,
    /// Balance on this interface of the machine, not in a lab
    #[arg(long, requires = "config")]
    interface: Option<String>,
    /// The balancer's configuration, for --interface
    #[arg(long, value_name = "FILE", requires = "interface")]
    config: Option<PathBuf>,
}

pub(crate) fn run(options: Options, prepared: bool) -> Result<()> {
    if let (Some(interface), Some(config)) = (options.interface, options.config) {
        return run_on(&interface, &config, prepared);
    }
    if !prepared {
        setup::ensure(Level::Run)?;
        cargo::build()?;
    }
    root::require()?;
    interrupt::catch()?;
    let lab = Lab::builder(&unique_name("run")).nodes(options.nodes).backends(BACKENDS).build()?;
    if options.nodes == 1 {
        let balanced = Balanced::start(lab)?;
        return if options.once { once(&balanced.lab) } else { live(&balanced) };
    }
    let _echoes = add_echoes(&lab)?;
    let mut balanced = Balanced::start(lab)?;
    if options.once { failover::once(&mut balanced) } else { live(&balanced) }
}

/// Gives all balancers a service that can be probed.
fn add_echoes(lab: &Lab) -> Result<Vec<Process>> {
    for balancer in lab.each_balancer() {
        balancer.write_config(&(default_config(balancer) + &echo_service(lab.backends())))?;
    }
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, ECHO));
    lab.backends().iter().map(|backend| lab.start_udp_echo(backend.name(), any)).collect()
}

/// Where that service is.
fn echo_address() -> SocketAddr {
    SocketAddr::from((virtual_ipv4(0), ECHO))
}

/// Becomes `lbd` on an interface of this machine.
fn run_on(interface: &str, config: &Path, prepared: bool) -> Result<()> {
    check_interface(interface, config)?;
    let binaries = if prepared {
        lb_tests::lab::binaries()?.with_file_name("release")
    } else {
        setup::ensure(Level::Run)?;
        cargo::build_release()?
    };
    root::require()?;
    let mut lbd = Command::new(binaries.join("lbd"));
    lbd.args(["run", "--config"]).arg(config);
    let error = lbd.exec();
    Err(error).with_context(|| format!("start {lbd:?}"))
}

/// The part of the configuration that matters here.
#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    interface: Vec<Interface>,
}

#[derive(Debug, Deserialize)]
struct Interface {
    name: String,
}

/// Fails unless the configuration names that interface, and the machine has it.
fn check_interface(interface: &str, config: &Path) -> Result<()> {
    let file = config.display();
    let text = fs::read_to_string(config).with_context(|| format!("read {file}"))?;
    let Config { interface: named } = toml::from_str(&text).with_context(|| format!("read {file}"))?;
    let named: Vec<_> = named.into_iter().map(|interface| interface.name).collect();
    ensure!(
        named.iter().any(|name| name == interface),
        "{file} does not name the interface {interface}: its [[interface]] tables name {named:?}"
    );
    ensure!(Path::new("/sys/class/net").join(interface).exists(), "this machine has no interface {interface}");
    Ok(())
}

/// The traffic to one service.
struct Traffic {
    service: Service,
    load: RunningLoad,
}

fn start_traffic(lab: &Lab, limit: Limit, rate: Option<u32>) -> Result<Vec<Traffic>> {
    let start = |service: Service| {
        let load = Load { connections: 4, rate, ..Load::new(service.url(), limit) };
        let load = lab.start_load(&load)?;
        Ok(Traffic { service, load })
    };
    services_of(lab).into_iter().map(start).collect()
}

fn reports(traffic: &[Traffic]) -> Vec<(&Service, LoadReport)> {
    traffic.iter().map(|Traffic { service, load }| (service, load.latest())).collect()
}

fn once(lab: &Lab) -> Result<()> {
    println!(
        "sending {ONCE_REQUESTS} requests to each of {} services, each over a new connection",
        services_of(lab).len()
    );
    let started = Instant::now();
    let traffic = start_traffic(lab, Limit::Requests(ONCE_REQUESTS), None)?;
    while !traffic.iter().all(|traffic| traffic.load.is_finished()) {
        ensure!(!interrupt::came(), "interrupted");
        thread::sleep(Duration::from_millis(20));
    }
    let took = started.elapsed();
    let mut reports = Vec::new();
    for Traffic { service, load } in traffic {
        reports.push((service, load.wait()?));
    }
    let stats = [lab.stats()?];
    let rows: Vec<_> = reports.iter().map(|(service, report)| (service, report.clone())).collect();
    println!("{}", table::draw(&Sample { rows: &rows, stats: &stats }, lab));

    let mut problems = Vec::new();
    for (service, report) in &reports {
        if let Err(error) = report.ensure_all_answered() {
            problems.push(format!("{}: {error:#}", service.name));
        }
        problems.extend(shares::judge(service, report, lab.backends()));
    }
    let requests: u64 = reports.iter().map(|(_, report)| report.requests).sum();
    if !problems.is_empty() {
        bail!("{requests} requests in {took:.1?}:\n  {}", problems.join("\n  "));
    }
    println!("{requests} requests in {took:.1?}: all answered, and shares are what weights and algorithms say");
    Ok(())
}

/// Until Ctrl-C.
fn live(balanced: &Balanced) -> Result<()> {
    let lab = &balanced.lab;
    println!("\n{}\nCtrl-C ends it.\n", suggestions(balanced)?);
    let traffic = start_traffic(lab, Limit::None, Some(RATE))?;
    let on_terminal = io::stdout().is_terminal();
    let picture = if on_terminal {
        ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{msg}")?)
    } else {
        ProgressBar::hidden()
    };
    let mut moves = if lab.balancers().len() > 1 { Some(Moves::start(lab)?) } else { None };
    let mut looked = Instant::now();
    let started = Instant::now();
    let mut second = 0;
    while !interrupt::came() {
        thread::sleep(Duration::from_millis(100));
        if let Some(moves) = &mut moves
            && looked.elapsed() >= LOOK
        {
            looked = Instant::now();
            for line in moves.look()? {
                // Also where there is no picture.
                picture.suspend(|| println!("{line}"));
            }
        }
        if started.elapsed().as_secs() <= second {
            continue;
        }
        second = started.elapsed().as_secs();
        if let Some(ended) = traffic.iter().find(|traffic| traffic.load.is_finished()) {
            bail!("the client of {} has ended", ended.service.name);
        }
        let rows = reports(&traffic);
        if on_terminal {
            // Someone may be restarting one `lbd` just now.
            let stats: Vec<Stats> = lab.each_balancer().filter_map(|balancer| balancer.stats().ok()).collect();
            let sample = Sample { rows: &rows, stats: &stats };
            picture.set_message(table::draw(&sample, lab));
        } else {
            println!("{second:>4} s  {}", table::line(&rows));
        }
    }
    picture.finish();
    println!("\n{}", table::line(&reports(&traffic)));
    println!("taking the lab down");
    Ok(())
}
