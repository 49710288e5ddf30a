//! How many files, and so connections, this process may have open.

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a process needs beside its connections.
const OTHERS: u64 = 100;

/// Sees to it that so many connections can be open.
pub(crate) fn allow(connections: u64) -> Result<()> {
    let needed = connections + OTHERS;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= needed {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed))
        .with_context(|| format!("raise the limit of open files from {soft} (at most {hard}) to {needed}"))
}
