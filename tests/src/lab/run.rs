//! Short commands, and waiting for something to become true.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// Runs a command to its end; its exit status and what it said become the error.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {command:?}"))?;
    check(command, output)
}

/// [`run`], with `input` on its standard input.
pub(super) fn run_with_input(command: &mut Command, input: &str) -> Result<Output> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {command:?}"))?;
    let written = child.stdin.take().context("standard input is a pipe")?.write_all(input.as_bytes());
    let output = check(command, child.wait_with_output()?)?;
    written.with_context(|| format!("write to {command:?}"))?;
    Ok(output)
}

fn check(command: &Command, output: Output) -> Result<Output> {
    ensure!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

/// Asks until there is an answer, or an error; after `timeout` the error names `what` was waited for.
pub fn wait_for<T>(what: &str, timeout: Duration, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(answer) = ask().with_context(|| format!("waiting for {what}"))? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("no sign of {what} within {timeout:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}
