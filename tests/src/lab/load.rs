//! HTTP requests from the client, counted by the backend that answered. The work is done by `lab-agent load`.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{ChildStdout, Command},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::process::Process;

/// What to ask for, how, and how often.
#[derive(Clone, Debug)]
pub struct Load {
    /// An `http` URL with an IP address.
    pub url: String,
    /// How many requests are under way at a time.
    pub connections: usize,
    /// When to stop.
    pub limit: Limit,
    /// Requests per second of all connections together; `None`: each request follows the answer to the one before.
    pub rate: Option<u32>,
    /// Send all requests of a connection over the same TCP connection, not each over its own.
    pub keep_alive: bool,
    /// How long after its answer a TCP connection is closed that is not kept for another request.
    pub hold: Duration,
}

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    Requests(u64),
    Duration(Duration),
    /// When it is told to: see [`RunningLoad::finish`].
    None,
}

impl Load {
    /// As fast as eight connections go, each request over a TCP connection of its own.
    pub fn new(url: impl Into<String>, limit: Limit) -> Self {
        Self { url: url.into(), connections: 8, limit, rate: None, keep_alive: false, hold: Duration::ZERO }
    }

    pub(super) fn add_arguments(&self, command: &mut Command) {
        command.args(["load", "--progress", "--url", &self.url]).args(["--connections", &self.connections.to_string()]);
        match self.limit {
            Limit::Requests(requests) => {
                command.args(["--requests", &requests.to_string()]);
            }
            Limit::Duration(duration) => {
                command.args(["--duration", &format!("{}ms", duration.as_millis())]);
            }
            Limit::None => {}
        }
        if let Some(rate) = self.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        if self.keep_alive {
            command.arg("--keep-alive");
        }
        if !self.hold.is_zero() {
            command.args(["--hold", &format!("{}ms", self.hold.as_millis())]);
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Requests that are done, answered or not.
    pub requests: u64,
    /// Those without a proper answer: no connection, no answer in time, or another status than 200.
    pub failures: u64,
    /// Answers by the backend's name.
    pub by_backend: BTreeMap<String, u64>,
    /// Failures by what went wrong.
    pub errors: BTreeMap<String, u64>,
    /// The longest time from connecting to the end of the answer, in milliseconds.
    pub max_latency_ms: f64,
}

impl LoadReport {
    /// Fails, with the reasons, unless there were requests and each was answered.
    pub fn ensure_all_answered(&self) -> Result<()> {
        ensure!(self.requests > 0, "no request was made");
        ensure!(self.failures == 0, "{} of {} requests failed: {:?}", self.failures, self.requests, self.errors);
        Ok(())
    }
}

/// A load under way.
#[derive(Debug)]
pub struct RunningLoad {
    process: Process,
    latest: Arc<Mutex<LoadReport>>,
    reader: JoinHandle<Result<()>>,
}

impl RunningLoad {
    pub(super) fn new(mut process: Process) -> Result<Self> {
        let stdout = process.take_stdout().context("the load's output is a pipe")?;
        let latest = Arc::default();
        let reader = {
            let latest = Arc::clone(&latest);
            thread::spawn(move || read_reports(stdout, &latest))
        };
        Ok(Self { process, latest, reader })
    }

    /// The counts up to now; at most half a second old.
    pub fn latest(&self) -> LoadReport {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it has come to its limit.
    pub fn is_finished(&self) -> bool {
        self.reader.is_finished()
    }

    /// Tells it to start no more requests, and waits for those under way.
    pub fn finish(mut self) -> Result<LoadReport> {
        if !self.is_finished() {
            // It may end by itself at this very moment.
            let _ = self.process.kill(Signal::SIGTERM);
        }
        self.wait()
    }

    /// Waits for it to come to its limit.
    pub fn wait(self) -> Result<LoadReport> {
        let Self { mut process, latest, reader } = self;
        reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let status = process.wait(Duration::from_secs(1))?;
        ensure!(status.success(), "the load client: {status}\n{}", process.log()?);
        let report = latest.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(report.clone())
    }
}

/// Each line is a report; the last one is final.
fn read_reports(stdout: ChildStdout, latest: &Mutex<LoadReport>) -> Result<()> {
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read the load client's report")?;
        let report = serde_json::from_str(&line).with_context(|| format!("report {line:?}"))?;
        *latest.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
    Ok(())
}
