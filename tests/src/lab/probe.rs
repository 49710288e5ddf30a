//! Datagrams from the client at a steady pace, to see when an address answers, and who does. The work is done by `lab-agent probe`.

use std::{
    collections::BTreeMap,
    io::Read as _,
    net::SocketAddr,
    process::{ChildStdout, Command},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::process::Process;

/// Where to send datagrams, and how often. There has to be an echo: see [`super::Lab::start_udp_echo`].
#[derive(Clone, Debug)]
pub struct Probe {
    pub target: SocketAddr,
    /// The time between two datagrams.
    pub every: Duration,
    /// When to stop by itself; `None`: when it is told to.
    pub duration: Option<Duration>,
}

impl Probe {
    /// A datagram each millisecond, until it is told to stop.
    pub fn new(target: SocketAddr) -> Self {
        Self { target, every: Duration::from_millis(1), duration: None }
    }

    pub(super) fn add_arguments(&self, command: &mut Command) {
        let time = |duration: Duration| format!("{}us", duration.as_micros());
        command.args(["probe", "--target", &self.target.to_string(), "--every", &time(self.every)]);
        if let Some(duration) = self.duration {
            command.args(["--for", &time(duration)]);
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    pub sent: u64,
    /// Those that were answered.
    pub received: u64,
    /// Those that were not.
    pub lost: u64,
    /// Further answers to those that were answered already.
    pub duplicated: u64,
    /// Those that could not even be sent; they count as lost, too.
    pub unsent: u64,
    /// First answers, by the name of who gave them.
    pub by_node: BTreeMap<String, u64>,
    /// The longest gap, in milliseconds; 0 without one.
    pub longest_gap_ms: f64,
    /// The gaps of more than [`Gap::NOTABLE`], in their order.
    pub gaps: Vec<Gap>,
    /// The median time from sending to the first answer, in microseconds.
    pub round_trip_p50_us: f64,
    /// The 99th percentile of that.
    pub round_trip_p99_us: f64,
    /// The longest time between two sendings, in milliseconds: no gap is known more exactly.
    pub longest_pause_ms: f64,
}

/// A time without answers: from the sending of the first datagram that was lost to that of the next one that was not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// When it began: nanoseconds since 1970.
    pub start_ns: u64,
    pub length_ms: f64,
    /// How many datagrams were lost.
    pub lost: u64,
    /// Whether it had not ended when the probe did: its length is then the time to the last sending.
    pub is_open: bool,
}

impl Gap {
    /// Shorter gaps are not listed.
    pub const NOTABLE: Duration = Duration::from_millis(3);
}

/// A probe under way.
#[derive(Debug)]
pub struct RunningProbe {
    process: Process,
    stdout: ChildStdout,
}

impl RunningProbe {
    pub(super) fn new(mut process: Process) -> Result<Self> {
        let stdout = process.take_stdout().context("the probe's output is a pipe")?;
        Ok(Self { process, stdout })
    }

    /// Waits for the first answer.
    pub fn wait_until_answered(&mut self, timeout: Duration) -> Result<()> {
        self.process.wait_for_log("the first answer", timeout)?;
        Ok(())
    }

    /// Tells it to send no more, and waits for the answers that are on their way.
    pub fn finish(mut self) -> Result<ProbeReport> {
        // It may end by itself at this very moment.
        let _ = self.process.kill(Signal::SIGTERM);
        self.wait()
    }

    /// Waits for it to end by itself.
    pub fn wait(self) -> Result<ProbeReport> {
        let Self { mut process, mut stdout } = self;
        let mut report = String::new();
        stdout.read_to_string(&mut report).context("read the probe's report")?;
        let status = process.wait(Duration::from_secs(1))?;
        ensure!(status.success(), "the probe: {status}\n{}", process.log()?);
        serde_json::from_str(&report).with_context(|| format!("report {report:?}"))
    }
}
