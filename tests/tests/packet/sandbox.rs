//! Where the program under test is loaded: a network namespace and a folder of pins, of which nothing is left behind.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::maps::MapData;
use lb_common::layout;
use lb_tests::lab::{bpffs, require_root, unique_name};
use nix::{
    sched::{CloneFlags, CpuSet, sched_getcpu, sched_setaffinity, unshare},
    unistd::Pid,
};

/// The folder of the maps' pins; it goes when the test ends, however that happens.
pub(crate) struct Sandbox(PathBuf);

impl Sandbox {
    /// Takes this thread to a network namespace that ends with it, and lets it stay on its CPU, since each takes turns of its own;
    /// `None`, and a loud notice, without root.
    pub(crate) fn enter() -> Option<Self> {
        if !require_root() {
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNET).expect("root may create a network namespace");
        stay_on_this_cpu().expect("a thread may stay where it is");
        bpffs::ensure_mounted().expect("bpffs can be mounted");
        Some(Self(PathBuf::from(bpffs::MOUNT).join(format!("lb-{}", unique_name("packet")))))
    }

    /// The folder.
    pub(crate) fn pins(&self) -> &Path {
        &self.0
    }

    /// Where the map `name` is pinned, or can be.
    pub(crate) fn pin(&self, name: &str) -> PathBuf {
        self.0.join(format!("v{}", layout::VERSION)).join(name)
    }

    /// A map that is pinned.
    pub(crate) fn map(&self, name: &str) -> MapData {
        MapData::from_pin(self.pin(name)).expect("the map is pinned")
    }
}

fn stay_on_this_cpu() -> nix::Result<()> {
    stay_on(sched_getcpu()?)
}

/// Lets the packets of this thread be processed by that CPU.
pub(crate) fn stay_on(cpu: usize) -> nix::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}
