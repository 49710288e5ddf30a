//! Cargo, run in the workspace by the one who builds.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// The folder of the workspace.
pub(crate) fn workspace() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// The cargo that runs this xtask.
pub(crate) fn command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Builds the project's binaries in the dev profile. Cargo shows its own progress.
pub(crate) fn build() -> Result<()> {
    run(command().args(["build", "--package", "lb-userspace", "--package", "lb-tests"]))
}

/// Builds `lbd` and `lbctl` in the release profile; returns the folder they are in.
pub(crate) fn build_release() -> Result<PathBuf> {
    run(command().args(["build", "--release", "--package", "lb-userspace"]))?;
    let dev = lb_tests::lab::binaries()?;
    Ok(dev.with_file_name("release"))
}

/// Runs a command with this process's input and output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
