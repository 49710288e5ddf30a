//! Threads of the kernel that take packets in, one or more for each device, where by default a soft interrupt does so in the middle of
//! whatever runs. So what is done on one node of a lab can be told from what its neighbours do: what such a thread has run is what
//! became of the packets that came in by its device, until they were handed to the next device or to a socket.

use std::{collections::BTreeSet, fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{Lab, Node, netns::Netns, offload, run::run_with_input};
use crate::cpu;

/// The threads of one device.
#[derive(Clone, Debug)]
pub struct DeviceThreads(Vec<u32>);

impl DeviceThreads {
    /// What they have run until now.
    pub fn time(&self) -> Result<Duration> {
        self.0.iter().map(|thread| cpu::process(*thread)).sum()
    }
}

impl Lab {
    /// Gives each device of the lab threads, for as long as it is there; returns those of `lb`'s `eth0`, and those of all others.
    pub fn thread_devices(&self) -> Result<(DeviceThreads, DeviceThreads)> {
        let (balancers, others): (Vec<_>, Vec<_>) = self.nodes().iter().partition(|node| node.name() == "lb");
        let before = threads()?;
        let switch = self.paths.namespace("switch");
        self.nodes().iter().try_for_each(|node| thread(&switch, node.name()))?;
        others.into_iter().try_for_each(thread_node)?;
        let between = threads()?;
        balancers.into_iter().try_for_each(thread_node)?;
        let after = threads()?;
        let new = |before: &BTreeSet<u32>, after: &BTreeSet<u32>| {
            let new: Vec<_> = after.difference(before).copied().collect();
            ensure!(!new.is_empty(), "the kernel has made no threads for devices");
            Ok(DeviceThreads(new))
        };
        Ok((new(&between, &after)?, new(&before, &between)?))
    }
}

fn thread_node(node: &Node) -> Result<()> {
    thread(node.namespace(), "eth0")
}

fn thread(namespace: &Netns, device: &str) -> Result<()> {
    namespace.inside(|| offload::enable_gro(device))?;
    // Unlike elsewhere, here the machine's /sys will not do: it shows the machine's devices.
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name(), "tee"]).arg(format!("/sys/class/net/{device}/threaded"));
    run_with_input(&mut command, "1").map(drop)
}

/// Those of the devices of all namespaces.
fn threads() -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc").context("list the processes")? {
        let entry = entry?;
        if let Ok(pid) = entry.file_name().to_string_lossy().parse()
            && fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.starts_with("napi/"))
        {
            found.insert(pid);
        }
    }
    Ok(found)
}
