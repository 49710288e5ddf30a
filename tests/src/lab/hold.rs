//! TCP connections that the client holds open for as long as a test lasts, to see whether any breaks. The work is done by
//! `lab-agent hold`, and on the backends by `lab-agent hold-server`.

use std::{
    collections::BTreeMap,
    fmt,
    io::{BufRead as _, BufReader},
    net::{Ipv6Addr, SocketAddr},
    process::{ChildStdout, Command},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::{Lab, START, paths::binary, process::Process, run::wait_for};

/// Which connections to hold. On each the client asks for a line again and again, and gets the backend's name.
#[derive(Clone, Debug)]
pub struct Hold {
    /// There has to be a server: see [`Lab::start_hold_server`].
    pub target: SocketAddr,
    /// How many; each third is of one [`HeldKind`]. One that breaks is replaced.
    pub connections: u32,
    /// The time from one question to the next on a chatty connection.
    pub chatty: Duration,
    /// The same on a slow one.
    pub slow: Duration,
    /// The same on an idle one.
    pub idle: Duration,
    /// How many more connections are opened each second, to be closed again within [`Hold::SHORT`].
    pub short_lived: u32,
    /// How many connections are opened in a second at most, short-lived ones apart.
    pub open_rate: u32,
}

impl Hold {
    /// An answer that takes longer is a stall: Linux sends a segment again after no less (`net.ipv4.tcp_rto_min_us`), so one
    /// was lost or late.
    pub const STALL: Duration = Duration::from_millis(200);

    /// A connection without an answer for so long is broken: five transmissions have not come through.
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// The longest time that a short-lived connection stays open.
    pub const SHORT: Duration = Duration::from_secs(2);

    /// So many connections, with a question each second, each third second, and each ninth.
    pub fn new(target: SocketAddr, connections: u32) -> Self {
        Self {
            target,
            connections,
            chatty: Duration::from_secs(1),
            slow: Duration::from_secs(3),
            idle: Duration::from_secs(9),
            short_lived: 50,
            open_rate: 1000,
        }
    }

    fn add_arguments(&self, command: &mut Command) {
        let Self { target, connections, chatty, slow, idle, short_lived, open_rate } = self;
        command.args(["hold", "--target", &target.to_string()]);
        for (name, number) in
            [("--connections", connections), ("--short-lived", short_lived), ("--open-rate", open_rate)]
        {
            command.args([name, &number.to_string()]);
        }
        for (name, time) in [("--chatty", chatty), ("--slow", slow), ("--idle", idle)] {
            command.args([name, &format!("{}ms", time.as_millis())]);
        }
    }
}

/// How often a connection is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldKind {
    Chatty,
    Slow,
    Idle,
    /// Closed by the client after two questions.
    ShortLived,
}

/// A line of `lab-agent hold`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldLine {
    /// Every 500 ms, and at the end.
    Counts(HoldCounts),
    /// At once.
    Broken(Broken),
}

/// What has come of the connections up to now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HoldCounts {
    /// The connections that are open and have answered, by backend; short-lived ones apart.
    pub open: BTreeMap<String, u64>,
    /// Short-lived ones that were opened, used, and closed without fault.
    pub short_lived: u64,
    /// Answers on all connections.
    pub answers: u64,
    /// Answers that took longer than [`Hold::STALL`].
    pub stalls: u64,
    /// The longest time until an answer, in milliseconds.
    pub slowest_ms: f64,
}

/// A connection that was not closed by the client, or could not be opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Broken {
    pub kind: HeldKind,
    /// Who answered the first question; `None` if nobody has.
    pub backend: Option<String>,
    /// The client's port.
    pub port: Option<u16>,
    /// When the client began to open it: milliseconds since 1970.
    pub opened_ms: u64,
    /// When the client noticed: milliseconds since 1970.
    pub broken_ms: u64,
    /// In words.
    pub cause: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, backend, port, opened_ms, broken_ms, cause } = self;
        let backend = backend.as_deref().unwrap_or("nobody yet");
        let port = port.map(|port| format!(", port {port}")).unwrap_or_default();
        let age = Duration::from_millis(broken_ms.saturating_sub(*opened_ms));
        write!(formatter, "{kind:?} connection with {backend}{port}, {age:?} old at {broken_ms}: {cause}")
    }
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct HoldReport {
    pub counts: HoldCounts,
    /// In the order in which the client noticed.
    pub broken: Vec<Broken>,
}

impl HoldReport {
    /// How many connections are open and have answered, short-lived ones apart.
    pub fn open(&self) -> u64 {
        self.counts.open.values().sum()
    }

    fn add(&mut self, line: HoldLine) {
        match line {
            HoldLine::Counts(counts) => self.counts = counts,
            HoldLine::Broken(broken) => self.broken.push(broken),
        }
    }
}

/// Connections that are being held.
#[derive(Debug)]
pub struct RunningHold {
    process: Process,
    latest: Arc<Mutex<HoldReport>>,
    reader: JoinHandle<Result<()>>,
}

impl RunningHold {
    fn new(mut process: Process) -> Result<Self> {
        let stdout = process.take_stdout().context("the client's output is a pipe")?;
        let latest = Arc::default();
        let reader = {
            let latest = Arc::clone(&latest);
            thread::spawn(move || read_lines(stdout, &latest))
        };
        Ok(Self { process, latest, reader })
    }

    /// What has come of them up to now; counts are at most half a second old.
    pub fn latest(&self) -> HoldReport {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until so many connections are open and have answered.
    pub fn wait_until_open(&self, connections: u32, timeout: Duration) -> Result<()> {
        wait_for(&format!("{connections} connections"), timeout, || {
            if self.reader.is_finished() {
                bail!("the client has ended: {}", self.process.log()?);
            }
            Ok((self.latest().open() >= u64::from(connections)).then_some(()))
        })
    }

    /// Lets go of all connections.
    pub fn finish(mut self) -> Result<HoldReport> {
        self.process.kill(Signal::SIGTERM)?;
        self.reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let status = self.process.wait(START)?;
        ensure!(status.success(), "the client that holds connections: {status}\n{}", self.process.log()?);
        let report = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(report.clone())
    }
}

fn read_lines(stdout: ChildStdout, latest: &Mutex<HoldReport>) -> Result<()> {
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read the client's report")?;
        let line = serde_json::from_str(&line).with_context(|| format!("report {line:?}"))?;
        latest.lock().unwrap_or_else(PoisonError::into_inner).add(line);
    }
    Ok(())
}

impl Lab {
    /// Starts a server on a backend that answers each line with the backend's name, and waits until it listens on that port of
    /// all addresses.
    pub fn start_hold_server(&self, backend: &str, port: u16) -> Result<Process> {
        let mut command = self.node(backend).command(binary("lab-agent")?);
        let listen = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        command.args(["hold-server", "--name", backend, "--listen", &listen.to_string()]);
        let mut server = self.spawn(&format!("{backend}-hold-server"), command)?;
        server.wait_for_log("listening on", START)?;
        Ok(server)
    }

    /// Starts to open connections from the client, and to hold them.
    pub fn start_hold(&self, hold: &Hold) -> Result<RunningHold> {
        let mut command = self.node("client").command(binary("lab-agent")?);
        hold.add_arguments(&mut command);
        RunningHold::new(self.spawn_with("hold", command, Some(std::process::Stdio::piped()))?)
    }
}
