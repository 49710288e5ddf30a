//! What the tests of several files need.

use std::{
    net::SocketAddr,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::lab::{Builder, Lab, Process, ServiceStats, binary, run, topology::virtual_ipv4, unique_name, wait_for};
use nix::sys::signal::Signal;

use crate::config;

/// What takes milliseconds on an idle machine may take this long on a busy one.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Whether tests are to try more often than in the fast tier.
pub(crate) fn is_long() -> bool {
    std::env::var_os("LB_LONG").is_some_and(|long| long == "1")
}

/// Where [`config::Service::web`] is.
pub(crate) fn web() -> SocketAddr {
    SocketAddr::from((virtual_ipv4(0), 80))
}

/// A lab in which everything runs and all backends are healthy.
pub(crate) struct Balanced {
    // In the order in which they are to end.
    pub(crate) lbd: Process,
    _decaps: Vec<Process>,
    pub(crate) servers: Vec<Process>,
    pub(crate) lab: Lab,
}

impl Balanced {
    /// With the lab's own services.
    pub(crate) fn start(builder: Builder) -> Result<Self> {
        Self::in_lab(builder.build()?)
    }

    /// The same, with a service that translates addresses.
    pub(crate) fn with_nat(builder: Builder) -> Result<Self> {
        let lab = builder.build()?;
        lab.each_balancer()
            .try_for_each(|balancer| balancer.write_config(&lb_tests::lab::config::config_with_nat(balancer)))?;
        Self::in_lab(lab)
    }

    /// Starts everything in a lab, with the configuration that it has.
    fn in_lab(lab: Lab) -> Result<Self> {
        let servers = lab.start_servers()?;
        let decaps = lab.start_decaps()?;
        let lbd = lab.start_lbd()?;
        lab.wait_until_healthy(SOON)?;
        Ok(Self { lbd, _decaps: decaps, servers, lab })
    }

    /// With the one service `web`, of `backends` backends.
    pub(crate) fn web(name: &str, backends: usize) -> Result<Self> {
        let lab = Lab::builder(&unique_name(name)).backends(backends).build()?;
        let services = [config::Service::web(lab.backends())];
        Self::with(lab, &services)
    }

    /// With the one service `web`, of `backends` backends, whose slots move at once.
    pub(crate) fn untracked(name: &str, backends: usize) -> Result<Self> {
        let lab = Lab::builder(&unique_name(name)).backends(backends).build()?;
        let services = [config::Service::web(lab.backends()).untracked()];
        Self::with(lab, &services)
    }

    /// With these services, all of them without encapsulation.
    pub(crate) fn with(lab: Lab, services: &[config::Service]) -> Result<Self> {
        lab.write_config(&config::file(&lab, services))?;
        let servers = lab.start_servers()?;
        let lbd = lab.start_lbd()?;
        lab.wait_until_healthy(SOON)?;
        Ok(Self::of(lab, servers, lbd))
    }

    /// Of what was started one by one.
    pub(crate) fn of(lab: Lab, servers: Vec<Process>, lbd: Process) -> Self {
        Self { lbd, _decaps: Vec::new(), servers, lab }
    }

    /// Ends `lbd` by SIGKILL, and does not start it again.
    pub(crate) fn kill_lbd(&mut self) -> Result<()> {
        self.lbd.kill(Signal::SIGKILL)?;
        self.lbd.wait(SOON)?;
        Ok(())
    }

    /// Starts `lbd` again after it has ended.
    pub(crate) fn start_lbd(&mut self) -> Result<()> {
        self.lbd = self.lab.start_lbd()?;
        Ok(())
    }
}

/// Runs `lbctl`, which has to succeed; returns what it said.
pub(crate) fn lbctl(lab: &Lab, arguments: &[&str]) -> Result<String> {
    let output = lab.lbctl(arguments)?;
    ensure!(output.status.success(), "lbctl {}: {}", arguments.join(" "), describe(&output));
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs `lbctl`, which has to fail with that exit code; returns its message.
pub(crate) fn refused(lab: &Lab, arguments: &[&str], code: i32) -> Result<String> {
    let output = lab.lbctl(arguments)?;
    ensure!(output.status.code() == Some(code), "lbctl {}: {}", arguments.join(" "), describe(&output));
    ensure!(output.stdout.is_empty(), "lbctl {} has failed and says: {}", arguments.join(" "), describe(&output));
    Ok(String::from_utf8(output.stderr)?)
}

fn describe(output: &Output) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

/// Runs `lbd` with these arguments to its end, on the balancer.
pub(crate) fn lbd(lab: &Lab, arguments: &[&str]) -> Result<Output> {
    let mut command = lab.node("lb").command(binary("lbd")?);
    command.args(arguments).output().with_context(|| format!("start {command:?}"))
}

/// `lbd unload` with the lab's configuration.
pub(crate) fn unload(lab: &Lab) -> Result<Output> {
    let config = lab.paths().config();
    lbd(lab, &["unload", "--config", config.to_str().context("a path in ASCII")?])
}

/// One service as it is now.
pub(crate) fn service(lab: &Lab, name: &str) -> Result<ServiceStats> {
    let stats = lab.stats()?;
    stats.service(name).cloned().with_context(|| format!("there is no service {name}: {stats:?}"))
}

/// Waits until a backend is in a state.
pub(crate) fn wait_for_state(lab: &Lab, service: &str, backend: &str, state: &str) -> Result<()> {
    wait_for(&format!("{service}/{backend} {state}"), SOON, || {
        let stats = lab.stats()?;
        let found = stats.backend(service, backend).with_context(|| format!("{service} has no {backend}"))?;
        Ok((found.state == state).then_some(()))
    })
}

/// Fails unless each backend has the slots that the weights say, to within one, and nobody else has any.
pub(crate) fn ensure_shares(service: &ServiceStats, weights: &[(&str, u32)]) -> Result<()> {
    let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
    let weight_of = |name: &str| weights.iter().find(|(found, _)| *found == name).map_or(0, |(_, weight)| *weight);
    for (name, _) in weights {
        ensure!(service.backends.iter().any(|backend| backend.name == *name), "{name} is missing: {service:?}");
    }
    for backend in &service.backends {
        let weight = weight_of(&backend.name);
        let right = f64::from(service.slots) * f64::from(weight) / f64::from(total.max(1));
        let slots = f64::from(backend.slots);
        let fits = if weight == 0 { backend.slots == 0 } else { (slots - right).abs() <= 1.0 };
        ensure!(fits, "{} has {slots} slots, where its weight says {right:.1}: {service:?}", backend.name);
    }
    let given: u32 = service.backends.iter().map(|backend| backend.slots).sum();
    let expected = if total == 0 { 0 } else { service.slots };
    ensure!(given == expected, "{given} of {} slots have an owner: {service:?}", service.slots);
    Ok(())
}

/// Waits until the backends of a service have the slots that the weights say: slots whose flows are remembered take a
/// handshake's time to move.
pub(crate) fn wait_for_shares(lab: &Lab, name: &str, weights: &[(&str, u32)]) -> Result<()> {
    wait_for(&format!("{name} shared as {weights:?}"), SOON, || {
        Ok(ensure_shares(&service(lab, name)?, weights).is_ok().then_some(()))
    })
}

/// Waits until requests have been made: `more` than up to now.
pub(crate) fn wait_for_requests(load: &lb_tests::lab::RunningLoad, more: u64) -> Result<()> {
    let start = load.latest().requests;
    wait_for(&format!("{more} more requests"), SOON, || {
        if load.is_finished() {
            bail!("the load has ended: {:?}", load.latest());
        }
        Ok((load.latest().requests >= start + more).then_some(()))
    })
}

/// What `ip` says on a node.
pub(crate) fn ip(lab: &Lab, node: &str, arguments: &[&str]) -> Result<String> {
    let mut command: Command = lab.node(node).command("ip");
    let output = run(command.args(arguments))?;
    Ok(String::from_utf8(output.stdout)?)
}
