//! A VRRP speaker of a balancer: our own, or keepalived. What is asked of one is asked of the other.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;

use super::{
    balancer::Balancer,
    config::node_config,
    keepalived::Keepalived,
    process::{Identity, Process},
    run::wait_for,
    state::record,
    vrrp::{Instance, State, Transition},
};

/// How long it may take until it answers.
const START: Duration = Duration::from_secs(10);

/// Which program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ours,
    Keepalived,
}

impl Kind {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "lbd vrrp",
            Self::Keepalived => "keepalived",
        }
    }
}

/// A running speaker; it ends in order, with a farewell to its peers, on drop.
#[derive(Debug)]
pub enum Speaker<'lab> {
    Ours(LbdVrrp<'lab>),
    Keepalived(Keepalived),
}

/// `lbd vrrp` on a balancer.
#[derive(Debug)]
pub struct LbdVrrp<'lab> {
    balancer: Balancer<'lab>,
    process: Process,
}

/// `lbctl vrrp status`, as far as the lab reads it.
#[derive(Clone, Debug, Deserialize)]
pub struct VrrpStatus {
    /// The process that speaks.
    pub pid: u32,
    pub instances: Vec<InstanceStatus>,
    /// Packets that are for no instance, by reason.
    pub strays: BTreeMap<String, u64>,
    pub problems: Vec<String>,
}

/// One instance.
#[derive(Clone, Debug, Deserialize)]
pub struct InstanceStatus {
    pub name: String,
    pub state: String,
    /// Why it takes no part.
    pub reason: Option<String>,
    pub priority: u8,
    pub holds_addresses: bool,
    pub counters: Counters,
    /// The newest last.
    pub history: Vec<Change>,
}

/// What an instance has counted.
#[derive(Clone, Debug, Deserialize)]
pub struct Counters {
    pub sent: u64,
    pub received: u64,
    pub farewells_received: u64,
    pub became_master: u64,
    pub discarded: BTreeMap<String, u64>,
}

/// A change of state.
#[derive(Clone, Debug, Deserialize)]
pub struct Change {
    /// Since the Unix epoch.
    pub at: Duration,
    pub to: String,
    pub reason: String,
}

impl<'lab> Balancer<'lab> {
    /// Starts a speaker with these instances, and waits until it speaks.
    pub fn start_speaker(&self, kind: Kind, instances: &[Instance]) -> Result<Speaker<'lab>> {
        match kind {
            Kind::Keepalived => Ok(Speaker::Keepalived(self.spawn_keepalived(instances)?)),
            Kind::Ours => {
                let sections: Vec<_> = instances.iter().map(Instance::to_toml).collect();
                self.write_config(&format!("{}\n{}", node_config(*self), sections.join("\n")))?;
                Ok(Speaker::Ours(self.start_vrrp()?))
            }
        }
    }

    /// Starts `lbd vrrp` with the balancer's configuration, and waits until it answers.
    pub fn start_vrrp(&self) -> Result<LbdVrrp<'lab>> {
        let mut process = self.spawn_vrrp()?;
        let status = wait_for(&format!("an answer of lbd vrrp on {}", self.node().name()), START, || {
            process.ensure_running()?;
            let Ok(status) = self.vrrp_status() else { return Ok(None) };
            // The socket of an earlier one may still be answered.
            Ok(is_child(status.pid, process.id()).then_some(status))
        })?;
        record(&self.lab.paths, status.pid)?;
        Ok(LbdVrrp { balancer: *self, process })
    }

    /// What `lbctl vrrp status` says, whoever has started that `lbd vrrp`.
    pub fn vrrp_status(&self) -> Result<VrrpStatus> {
        self.lbctl_json(&["vrrp", "status"])
    }

    /// One instance of [`Balancer::vrrp_status`].
    pub fn vrrp_instance(&self, name: &str) -> Result<InstanceStatus> {
        let status = self.vrrp_status()?;
        let found = status.instances.into_iter().find(|instance| instance.name == name);
        found.with_context(|| format!("{} has no instance {name}", self.node().name()))
    }

    /// Waits until an instance of its `lbd vrrp` is in a state: `master`, `backup`, `fault`, `stopped`.
    pub fn wait_for_vrrp(&self, instance: &str, state: &str, timeout: Duration) -> Result<()> {
        let what = format!("{instance} to be {state} on {}", self.node().name());
        wait_for(&what, timeout, || {
            Ok(self.vrrp_instance(instance).is_ok_and(|found| found.state == state).then_some(()))
        })
    }

    /// Whether this address is on its `eth0` now.
    pub fn has_address(&self, address: &str) -> Result<bool> {
        let shown = super::run::run(self.node().command("ip").args(["-oneline", "address", "show", "dev", "eth0"]))?;
        Ok(String::from_utf8_lossy(&shown.stdout).contains(&format!(" {address}/")))
    }
}

fn is_child(pid: u32, parent: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the command in parentheses: the state, then the parent.
    stat.rsplit_once(')').and_then(|(_, fields)| fields.split_ascii_whitespace().nth(1)) == Some(&parent.to_string())
}

impl LbdVrrp<'_> {
    /// The process that watches the speaker.
    pub fn watcher(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The process id of the speaker.
    pub fn speaker(&self) -> Result<Pid> {
        Ok(Pid::from_raw(self.balancer.vrrp_status()?.pid.cast_signed()))
    }

    /// Sends a signal to the speaker alone.
    pub fn signal_speaker(&self, signal: Signal) -> Result<()> {
        kill(self.speaker()?, signal).with_context(|| format!("send {signal} to the speaker"))
    }

    /// Ends all of it at once, as a crash of the machine does: it takes no address off, and tells nobody.
    pub fn crash(mut self) -> Result<()> {
        // Its watcher may be about to start another one.
        let speaker = wait_for("a speaker", START, || Ok(self.speaker().ok()))?;
        // The one would act on the other's end.
        self.process.kill(Signal::SIGSTOP)?;
        kill(speaker, Signal::SIGKILL).context("kill the speaker")?;
        self.process.kill(Signal::SIGKILL)?;
        self.process.wait(START)?;
        // Whoever inherits it from the watcher may take a second or two to reap it.
        let speaker = u32::try_from(speaker.as_raw())?;
        wait_for("the end of the speaker", START, || Ok(Identity::of(speaker).is_none().then_some(())))
    }
}

impl Speaker<'_> {
    /// Which program it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Ours(_) => Kind::Ours,
            Self::Keepalived(_) => Kind::Keepalived,
        }
    }

    /// Its first process, which has started the one that speaks, and ends it when it is told to end.
    pub fn process(&mut self) -> &mut Process {
        match self {
            Self::Ours(ours) => ours.watcher(),
            Self::Keepalived(keepalived) => keepalived.process(),
        }
    }

    /// The state of an instance, if it has told any.
    pub fn state(&self, instance: &str) -> Result<Option<State>> {
        match self {
            Self::Keepalived(keepalived) => keepalived.state(instance),
            Self::Ours(ours) => Ok(state(&ours.balancer.vrrp_instance(instance)?.state)),
        }
    }

    /// Waits until an instance is in a state.
    pub fn wait_for_state(&mut self, instance: &str, wanted: State, timeout: Duration) -> Result<()> {
        match self {
            Self::Keepalived(keepalived) => keepalived.wait_for_state(instance, wanted, timeout),
            Self::Ours(ours) => wait_for(&format!("{instance} to be {wanted:?}"), timeout, || {
                ours.process.ensure_running()?;
                // Its watcher may be about to start another speaker.
                let found = ours.balancer.vrrp_instance(instance).ok();
                Ok(found.is_some_and(|found| state(&found.state) == Some(wanted)).then_some(()))
            }),
        }
    }

    /// The changes of state up to now, the earliest first; of ours, those of the present process.
    pub fn transitions(&self) -> Result<Vec<Transition>> {
        let ours = match self {
            Self::Keepalived(keepalived) => return keepalived.transitions(),
            Self::Ours(ours) => ours.balancer.vrrp_status()?,
        };
        let mut transitions = Vec::new();
        for instance in ours.instances {
            transitions.extend(instance.history.into_iter().filter_map(|change| {
                Some(Transition {
                    at: SystemTime::UNIX_EPOCH + change.at,
                    instance: instance.name.clone(),
                    state: state(&change.to)?,
                })
            }));
        }
        transitions.sort_by_key(|transition| transition.at);
        Ok(transitions)
    }

    /// Ends it in order, for which it has the time it needs: a master of ours waits two intervals for its successor.
    pub fn stop(self) -> Result<()> {
        let kind = self.kind();
        let mut process = match self {
            Self::Keepalived(keepalived) => keepalived.into_process(),
            Self::Ours(ours) => ours.process,
        };
        process.kill(Signal::SIGTERM)?;
        let status = process.wait(START)?;
        ensure!(status.success(), "{}: {status}", kind.name());
        Ok(())
    }

    /// Ends all of it at once, as a crash of the machine does.
    pub fn crash(self) -> Result<()> {
        match self {
            Self::Keepalived(keepalived) => keepalived.crash(),
            Self::Ours(ours) => ours.crash(),
        }
    }
}

fn state(word: &str) -> Option<State> {
    match word {
        "master" => Some(State::Master),
        "backup" => Some(State::Backup),
        "fault" => Some(State::Fault),
        "stopped" => Some(State::Stop),
        _ => None,
    }
}
