//! The process that watches the speaker. When the speaker dies or hangs, it takes the virtual addresses off at once, so that
//! no two nodes have them, and starts another one.
//!
//! It does nothing else, so that there is little that it could die of. If it does die, the speaker hands over and ends.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::{
        fd::{AsRawFd as _, BorrowedFd, OwnedFd},
        unix::{fs::OpenOptionsExt as _, net::UnixStream as StdUnixStream},
    },
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use hyper::Method;
use lb_common::VirtualRouter;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, Flock, FlockArg, fcntl},
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    net::UnixStream,
    process::{Child, Command},
    signal::unix::{Signal as Signals, SignalKind, signal},
    time::{Instant, sleep, timeout},
};

use super::{
    api,
    lifeline::Pulse,
    links::{Device, Links},
    realtime,
};
use crate::{api::Client, config::Config, dataplane::VirtualMacs};

/// How long a speaker may take until it says something.
const START: Duration = Duration::from_secs(5);
/// How long a watcher waits for its predecessor's speaker to be gone, beyond the two intervals in which that hands over.
const TAKE_OVER: Duration = Duration::from_secs(2);
/// A speaker that dies sooner than this is not started again at once.
const SOON: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Whatever has become of its file: an upgrade may have replaced it.
pub const THIS_PROGRAM: &str = "/proc/self/exe";
/// As lists of processes show it.
pub const PROGRAM_NAME: &str = "lbd";
/// The speaker's exit code for a configuration that is not valid.
pub const INVALID_CONFIGURATION: u8 = 3;

/// The lock that a node's watcher and its speaker hold, in the node's state folder; the watcher's process id stands in the file.
pub fn lock_path(state: &Path) -> PathBuf {
    state.join("vrrp.lock")
}

/// The watcher of the node with this state folder; `None` if neither it nor its speaker runs. While only the speaker does, which
/// then hands over, that process is gone.
pub fn running(state: &Path) -> Option<Pid> {
    let file = File::open(lock_path(state)).ok()?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut text = String::new();
            file.read_to_string(&mut text).ok()?;
            text.trim().parse().ok().map(Pid::from_raw)
        }
        Ok(_) | Err(_) => None,
    }
}

/// Has speakers speak, one after the other if need be, until it is told to stop.
pub async fn run(config_path: PathBuf) -> anyhow::Result<()> {
    // It may have been started by another name.
    prctl::set_name(c"lbd").context("cannot name this process")?;
    let mut config = Config::load(&config_path)?;
    let longest = config.vrrp.iter().map(|instance| instance.interval).max().unwrap_or_default();
    let lock = lock(&config.node.state, TAKE_OVER + 2 * longest).await?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let mut links = Links::open()?;
    realtime::enter();
    take_off(&mut links, &config)?;

    let mut bury = Vec::new();
    let mut pause = Duration::ZERO;
    loop {
        let started = Instant::now();
        let mut speaker = Speaker::start(&config_path, &bury, &lock)?;
        let end = tokio::select! {
            end = speaker.watch() => end,
            () = reload(&mut hangup, &config.node.socket) => unreachable!("it goes on for ever"),
            _ = terminate.recv() => return speaker.stop(&mut links, &config).await,
            _ = interrupt.recv() => return speaker.stop(&mut links, &config).await,
        };
        speaker.kill().await;
        bury = std::mem::take(&mut speaker.pulse.masters);
        // It may have been reloaded; one that has become invalid is the next speaker's concern.
        config = Config::load(&config_path).unwrap_or(config);
        take_off(&mut links, &config)?;
        match end {
            End::Done(status) if status.code() == Some(INVALID_CONFIGURATION.into()) => {
                bail!("the speaker finds {} invalid", config_path.display());
            }
            End::Done(status) => {
                log::error!("VRRP speaker ended ({status}); its addresses are off, another one starts");
            }
            End::Silent(patience) => {
                log::error!(
                    "VRRP speaker was silent for {patience:?}: killed, its addresses are off, another one starts"
                );
            }
        }
        pause = if started.elapsed() < SOON {
            (pause * 2).clamp(Duration::from_millis(50), LONGEST_PAUSE)
        } else {
            Duration::ZERO
        };
        tokio::select! {
            () = sleep(pause) => {}
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// How a speaker came to its end.
enum End {
    Done(ExitStatus),
    Silent(Duration),
}

struct Speaker {
    child: Child,
    lines: Lines<BufReader<UnixStream>>,
    pulse: Pulse,
}

impl Speaker {
    fn start(config: &Path, bury: &[String], lock: &Flock<File>) -> anyhow::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair().context("cannot make a pair of sockets")?;
        ours.set_nonblocking(true)?;
        let lock = lock.as_raw_fd();
        let mut command = Command::new(THIS_PROGRAM);
        command
            .arg0(PROGRAM_NAME)
            .arg("vrrp-speaker")
            .arg("--config")
            .arg(config)
            .args(bury.iter().flat_map(|name| ["--bury", name]))
            .args(["--lock", &lock.to_string()])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .kill_on_drop(true);
        // SAFETY: fcntl(2) is async-signal-safe, and the closure touches no memory but a number. The descriptor is open: who
        // holds the lock waits here.
        unsafe {
            command.pre_exec(move || set_close_on_exec(BorrowedFd::borrow_raw(lock), false));
        }
        let child = command.spawn().context("cannot start the VRRP speaker")?;
        let stream = UnixStream::from_std(ours)?;
        let pulse = Pulse { patience: START, masters: Vec::new() };
        Ok(Self { child, lines: BufReader::new(stream).lines(), pulse })
    }

    /// Waits for its end, or for a silence that is longer than it says it may be.
    async fn watch(&mut self) -> End {
        loop {
            let patience = self.pulse.patience;
            let said = tokio::select! {
                status = self.child.wait() => return End::Done(status.unwrap_or_default()),
                said = hear(&mut self.lines, patience) => said,
            };
            match said {
                Said::Line(line) => {
                    if let Ok(pulse) = serde_json::from_str(&line) {
                        self.pulse = pulse;
                    }
                }
                Said::Nothing => return End::Silent(patience),
                // It ends, or it has closed the connection and hangs.
                Said::End => match timeout(patience, self.child.wait()).await {
                    Ok(status) => return End::Done(status.unwrap_or_default()),
                    Err(_) => return End::Silent(patience),
                },
            }
        }
    }

    async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }

    /// Has it hand over, and waits until it has.
    async fn stop(mut self, links: &mut Links, config: &Config) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id() {
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM)?;
        }
        // It waits for its successors, at most two intervals, and an interval is 255 s at most.
        while let Ok(Ok(Some(_))) = timeout(self.pulse.patience, self.lines.next_line()).await {}
        match timeout(self.pulse.patience, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(status) => bail!("the VRRP speaker ended with {:?}", status?),
            Err(_) => {
                self.kill().await;
                take_off(links, config)?;
                bail!("the VRRP speaker hung when it was told to stop, and was killed")
            }
        }
    }
}

/// What has come from the speaker.
enum Said {
    Line(String),
    /// For longer than it says it may be silent.
    Nothing,
    End,
}

/// Waits for the next line. Being late oneself is no silence of the other: what it has said meanwhile counts.
async fn hear(lines: &mut Lines<BufReader<UnixStream>>, patience: Duration) -> Said {
    for patience in [patience, patience / 5] {
        match timeout(patience, lines.next_line()).await {
            Ok(Ok(Some(line))) => return Said::Line(line),
            Ok(Ok(None) | Err(_)) => return Said::End,
            Err(_) => {}
        }
    }
    Said::Nothing
}

/// Takes all addresses of these instances off this node, and has the datapath take frames to none of their virtual MAC addresses.
/// What cannot be taken off keeps nothing else from it; the first such error is returned.
///
/// Addresses that have left the configuration meanwhile go with their lease.
fn take_off(links: &mut Links, config: &Config) -> anyhow::Result<()> {
    let mut result = Ok(());
    for (ifindex, address) in links.ours()? {
        if config.vrrp.iter().any(|instance| instance.addresses.contains(&address)) {
            log::warn!("taking {address} off interface {ifindex}");
            let taken = links.take(Device { ifindex, virtual_mac: false }, &[address]);
            result = result.and(taken.map_err(anyhow::Error::from));
        }
    }
    let datapath = VirtualMacs::new(&config.node.pins);
    for instance in config.vrrp.iter().filter(|instance| instance.virtual_mac) {
        let cleared = datapath.set(VirtualRouter { ipv6: !instance.is_ipv4(), id: instance.router_id }, None);
        result = result.and(cleared.map(drop).map_err(anyhow::Error::from));
    }
    result
}

/// Has the speaker read the configuration again at each SIGHUP.
async fn reload(hangup: &mut Signals, daemon: &Path) {
    let client = Client::new(&api::socket(daemon));
    while hangup.recv().await.is_some() {
        if let Err(error) = client.send::<()>(Method::POST, "/v1/reload", &()).await {
            log::error!("reload: {error}");
        }
    }
    std::future::pending::<()>().await;
}

/// Whether the programs that this process becomes or starts inherit a descriptor.
pub(super) fn set_close_on_exec(descriptor: BorrowedFd<'_>, closes: bool) -> io::Result<()> {
    let flags = if closes { FdFlag::FD_CLOEXEC } else { FdFlag::empty() };
    fcntl(descriptor, FcntlArg::F_SETFD(flags))?;
    Ok(())
}

async fn lock(state: &Path, patience: Duration) -> anyhow::Result<Flock<File>> {
    std::fs::create_dir_all(state).with_context(|| format!("cannot create {}", state.display()))?;
    let path = lock_path(state);
    let deadline = Instant::now() + patience;
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0)?;
                lock.seek(SeekFrom::Start(0))?;
                writeln!(lock, "{}", std::process::id())?;
                return Ok(lock);
            }
            Err((_, Errno::EWOULDBLOCK)) if Instant::now() < deadline => sleep(Duration::from_millis(20)).await,
            Err((_, Errno::EWOULDBLOCK)) => bail!(
                "another lbd vrrp runs on {}; stop it, or give this one its own state and socket in [node]",
                state.display()
            ),
            Err((_, errno)) => return Err(errno).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}
