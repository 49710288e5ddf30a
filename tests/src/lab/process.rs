//! Long-running processes of a lab: each is ended by its own pid, and none outlives its owner.

use std::{
    fmt,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    mem,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use super::{netns::Netns, run::wait_for};

/// How long a process may take to end after SIGTERM; then it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// A running process; ended (SIGTERM, after two seconds SIGKILL) and reaped on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    label: String,
    log: PathBuf,
    /// Where this process's own output starts in a log that others have written before.
    log_start: u64,
}

/// Whether a process ends when the thread that started it does, however that comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lifetime {
    Owner,
    Detached,
}

impl Process {
    /// Starts `command` with its errors, and its output unless `stdout` says otherwise, appended to `log`.
    pub(super) fn spawn(
        label: &str,
        mut command: Command,
        log: PathBuf,
        stdout: Option<Stdio>,
        lifetime: Lifetime,
    ) -> Result<Self> {
        let file =
            File::options().create(true).append(true).open(&log).with_context(|| format!("open {}", log.display()))?;
        let log_start = file.metadata()?.len();
        command
            .stdin(Stdio::null())
            .stdout(match stdout {
                Some(stdout) => stdout,
                None => file.try_clone()?.into(),
            })
            .stderr(file)
            // Out of the terminal's group: Ctrl-C is for the owner, which then ends its processes in order.
            .process_group(0);
        if lifetime == Lifetime::Owner {
            // SAFETY: prctl(2) is async-signal-safe, and the closure touches no memory.
            unsafe {
                command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
            }
        }
        let child = command.spawn().with_context(|| format!("start {label}: {command:?}"))?;
        Ok(Self { child, label: label.to_owned(), log, log_start })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written, unless that was taken elsewhere.
    pub fn log(&self) -> Result<String> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.log_start))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Where it writes to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Sends a signal; fails if the process has ended.
    pub fn kill(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has ended already: {status}", self.label);
        }
        kill(pid(&self.child)?, signal).with_context(|| format!("send {signal} to {}", self.label))
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        wait_for(&format!("the end of {}", self.label), timeout, || Ok(self.child.try_wait()?))
    }

    /// Waits for a line of the log that contains `needle`, and returns it. Fails, with the log, if the process ends first.
    pub fn wait_for_log(&mut self, needle: &str, timeout: Duration) -> Result<String> {
        let what = format!("{needle:?} in {}", self.log.display());
        wait_for(&what, timeout, || {
            // The status first: a process may write the line and end.
            let ended = self.child.try_wait()?;
            let log = self.log()?;
            match (log.lines().find(|line| line.contains(needle)), ended) {
                (Some(line), _) => Ok(Some(line.to_owned())),
                (None, None) => Ok(None),
                (None, Some(status)) => bail!("{} has ended: {status}\n{log}", self.label),
            }
        })
    }

    /// Fails, with the log, if the process has ended.
    pub fn ensure_running(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended: {status}\n{}", self.label, self.log()?),
        }
    }

    /// Ends it as on drop, and returns how it ended.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.end()
    }

    /// Lets it run on after this value is gone.
    pub(super) fn leave_running(self) {
        mem::forget(self);
    }

    pub(super) fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    fn end(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        kill(pid(&self.child)?, Signal::SIGTERM)?;
        if let Ok(status) = self.wait(GRACE) {
            return Ok(status);
        }
        self.child.kill()?;
        Ok(self.child.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("end {}: {error:#}", self.label);
        }
    }
}

/// Whether a process was ended by this signal.
pub fn ended_by(status: ExitStatus, signal: Signal) -> bool {
    status.signal() == Some(signal as i32)
}

fn pid(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(child.id().try_into()?))
}

/// A process by pid and start time: another one that gets the same pid later is a different one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pid: Pid,
    /// In clock ticks since the machine started: field 22 of /proc/PID/stat.
    started: u64,
}

impl Identity {
    /// The process of that id, or `None` if there is none or it has ended.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Field 2 is the command in parentheses, and may contain anything.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?;
        if matches!(state, "Z" | "X") {
            return None;
        }
        Some(Self { pid: Pid::from_raw(pid.try_into().ok()?), started: fields.nth(18)?.parse().ok()? })
    }

    /// Each `lbd` that runs in a namespace, whoever started it.
    pub(super) fn lbds_in(namespace: &Netns) -> Result<Vec<Self>> {
        let is_lbd = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "lbd\n");
        Ok(namespace.processes()?.into_iter().filter(is_lbd).filter_map(Self::of).collect())
    }

    /// The ids of the processes that a process has started.
    pub(super) fn children(pid: u32) -> Result<Vec<u32>> {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        Ok(children.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>()?)
    }

    /// Sends a signal; one that has ended needs none.
    pub(super) fn kill(self, signal: Signal) -> Result<()> {
        match kill(self.pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => bail!("send {signal} to {}: {error}", self.pid),
        }
    }

    pub(super) fn is_alive(self) -> bool {
        u32::try_from(self.pid.as_raw()).is_ok_and(|pid| Self::of(pid) == Some(self))
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.pid, self.started)
    }
}

impl FromStr for Identity {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (pid, started) =
            text.trim().split_once(' ').with_context(|| format!("expected \"PID START-TIME\", found {text:?}"))?;
        Ok(Self { pid: Pid::from_raw(pid.parse()?), started: started.parse()? })
    }
}

/// Ends processes that need not be children of this one.
pub(super) fn end_all(mut processes: Vec<Identity>) -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let deadline = Instant::now() + GRACE;
        processes.retain(|process| process.is_alive());
        processes.iter().try_for_each(|process| process.kill(signal))?;
        while !processes.is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
            processes.retain(|process| process.is_alive());
        }
    }
    if !processes.is_empty() {
        bail!("still running after SIGKILL: {processes:?}");
    }
    Ok(())
}
