//! HTTP requests from the client for a benchmark: as little work as possible, and the time of each. It is done by `lab-agent ask`.

use std::{collections::BTreeMap, io::Read as _, net::SocketAddr, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Lab, paths::binary};

/// How long the requests may take until something must be wrong.
const TIMEOUT: Duration = Duration::from_mins(2);

/// What to ask for.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Whom to ask, in turn.
    pub targets: Vec<SocketAddr>,
    /// How many requests are under way at a time.
    pub at_once: u32,
    /// How many there are.
    pub requests: u32,
    /// Send all requests over the same connections, not each over its own.
    pub keep_alive: bool,
    /// Where the client is to run, if not on any CPU.
    pub cpu: Option<usize>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AskReport {
    /// Answers by the backend's name.
    pub by_backend: BTreeMap<String, u64>,
    /// Requests without an answer, by what went wrong.
    pub errors: BTreeMap<String, u64>,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// What the client's threads have run meanwhile, with what the kernel did in their name: nanoseconds.
    pub cpu_ns: f64,
    /// From connecting, or from the request where the connection is there, to the end of the answer: microseconds.
    pub p50_us: f64,
    /// The same.
    pub p99_us: f64,
}

impl AskReport {
    /// How many answers there were.
    pub fn answers(&self) -> u64 {
        self.by_backend.values().sum()
    }

    /// How many requests there were no answers to.
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl Lab {
    /// Makes all requests. Fails if none is answered.
    pub fn ask(&self, ask: &Ask) -> Result<AskReport> {
        let Ask { targets, at_once, requests, keep_alive, cpu } = ask;
        let mut command = self.node("client").command(binary("lab-agent")?);
        command.args(["ask", "--at-once", &at_once.to_string(), "--requests", &requests.to_string()]);
        for target in targets {
            command.args(["--target", &target.to_string()]);
        }
        if *keep_alive {
            command.arg("--keep-alive");
        }
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        let mut client = self.spawn_with("ask", command, Some(Stdio::piped()))?;
        let mut output = client.take_stdout().context("the client's output is a pipe")?;
        let status = client.wait(TIMEOUT)?;
        ensure!(status.success(), "the client: {status}\n{}", client.log()?);
        let mut said = String::new();
        output.read_to_string(&mut said)?;
        let report: AskReport = serde_json::from_str(&said).with_context(|| format!("report {said:?}"))?;
        let (answers, failures) = (report.answers(), report.failures());
        ensure!(answers + failures == u64::from(*requests), "{answers} answers and {failures} failures of {requests}");
        Ok(report)
    }
}
