//! Becoming root. What is built, is built by the user; what touches the kernel runs through `sudo`.

use std::{env, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result};

/// What keeps the caller's environment; `sudo` may be set up to drop even these.
const SUDO: [&str; 3] = ["sudo", "-E", "--preserve-env=PATH,CI,LB_LONG,RUST_BACKTRACE"];

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Goes on as root: returns if this process is root, else starts over through `sudo`, with all set-up and building done.
pub(crate) fn require() -> Result<()> {
    if is_root() {
        return Ok(());
    }
    let [sudo, options @ ..] = SUDO;
    let error =
        Command::new(sudo).args(options).arg(env::current_exe()?).arg("--prepared").args(env::args_os().skip(1)).exec();
    Err(error).context("this needs root, and sudo cannot be started: run it as root")
}

/// Arguments for cargo that make tests and benchmarks run as root, while cargo itself stays with the user.
pub(crate) fn cargo_runner() -> Vec<String> {
    if is_root() {
        return Vec::new();
    }
    vec!["--config".to_owned(), format!("target.'cfg(unix)'.runner = {SUDO:?}")]
}
