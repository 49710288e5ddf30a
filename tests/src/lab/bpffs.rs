//! The file system that pins live in. Fresh machines often have only its empty mount point.

use std::fs::File;

use anyhow::{Context as _, Result};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Where bpffs belongs.
pub const MOUNT: &str = "/sys/fs/bpf";

/// Mounts bpffs if it is not there; `true` if it had to be mounted. Needs root.
pub fn ensure_mounted() -> Result<bool> {
    if is_mounted() {
        return Ok(false);
    }
    let mount_point = File::open(MOUNT).with_context(|| format!("open {MOUNT}"))?;
    // Labs come up side by side: the second must not mount over the first.
    let _lock = Flock::lock(mount_point, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("lock {MOUNT}"))?;
    if is_mounted() {
        return Ok(false);
    }
    mount(Some("bpf"), MOUNT, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount bpffs at {MOUNT}"))?;
    Ok(true)
}

/// Whether bpffs is mounted at [`MOUNT`].
pub fn is_mounted() -> bool {
    statfs(MOUNT).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}
