//! The connection between the speaker and who watches it: a socket that is the speaker's standard input.
//!
//! The speaker writes a line at every beat, and at every change: which instances are master, and for how long it may be silent.
//! When the lines stop, it hangs; when the connection ends, one of the two is dead.

use std::{
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    time::Duration,
};

use nix::sys::{
    socket::{AddressFamily, SockaddrLike as _, UnixAddr, getsockname},
    stat::fstat,
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::UnixStream,
    time::{Interval, MissedTickBehavior, interval},
};

use super::{instance::State, router::Router};
use crate::config::Vrrp;

/// In quarters of an interval; with the grace that the watcher gives, it is two intervals. Others take over three intervals and
/// their skew after the last advertisement, which the speaker sent at most one interval before it came to a standstill: the
/// addresses are gone before.
const PATIENCE: u32 = 7;
/// How often it beats in its time of patience.
const BEATS: u32 = 7;
/// No process can be relied on to come to its turn sooner.
const LEAST_PATIENCE: Duration = Duration::from_millis(30);
const MOST_PATIENCE: Duration = Duration::from_secs(2);
/// Where no address is held.
const BACKUP_PATIENCE: Duration = Duration::from_millis(500);
/// For taking away devices and the firewall's table at the end.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

/// What the speaker says of itself. An empty line says that nothing has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pulse {
    /// How long it may be silent.
    pub(super) patience: Duration,
    /// The instances that are master.
    pub(super) masters: Vec<String>,
}

/// The speaker's end.
#[derive(Debug)]
pub(super) struct Lifeline {
    /// `None` without a watcher.
    stream: Option<UnixStream>,
    beat: Interval,
    /// How long a master may be silent.
    master_patience: Duration,
    pulse: Pulse,
    /// Whether addresses are here: those of masters, and of instances that hand over.
    holds: bool,
}

impl Lifeline {
    /// Takes standard input, if it is a Unix socket. The watcher is patient until it hears of the instances.
    pub(super) fn open() -> Self {
        let stream = watcher();
        if stream.is_none() {
            log::warn!("nobody watches this process: if it dies, its addresses stay until their leases end");
        }
        let patience = MOST_PATIENCE;
        let pulse = Pulse { patience, masters: Vec::new() };
        Self { stream, beat: beat(patience), master_patience: patience, pulse, holds: false }
    }

    /// From now on it beats as the shortest interval of the instances demands.
    pub(super) fn set_instances(&mut self, instances: &[Vrrp]) {
        self.set_patience(patience(instances));
    }

    /// Nothing is on this node any more: what is left to do may take its time.
    pub(super) fn take_leave(&mut self) {
        self.set_patience(LAST_PATIENCE);
    }

    fn set_patience(&mut self, patience: Duration) {
        self.master_patience = patience;
        self.pulse.patience = self.patience();
        self.beat = beat(patience);
        self.say_all();
    }

    /// Where nothing is held, a standstill of the machine is more likely than a hang, and does no harm.
    fn patience(&self) -> Duration {
        if self.holds { self.master_patience } else { self.master_patience.max(BACKUP_PATIENCE) }
    }

    /// Says which instances are master, if that has changed.
    pub(super) fn tell(&mut self, router: &Router) {
        let is_master = |name: &str| self.pulse.masters.iter().any(|master| master == name);
        let masters = router.members().iter().filter(|member| member.instance().state() == State::Master);
        let holds = router.members().iter().any(|member| member.instance().holds_addresses());
        if holds == self.holds
            && masters.clone().count() == self.pulse.masters.len()
            && masters.clone().all(|member| is_master(&member.config().name))
        {
            return;
        }
        self.pulse.masters = masters.map(|member| member.config().name.clone()).collect();
        self.holds = holds;
        self.pulse.patience = self.patience();
        self.say_all();
    }

    /// Beats until the connection ends. Without one it beats for ever.
    pub(super) async fn hold(&mut self) {
        loop {
            let Some(stream) = &self.stream else { return std::future::pending().await };
            tokio::select! {
                _ = self.beat.tick() => self.write(b"\n"),
                () = end(stream) => {
                    self.stream = None;
                    return;
                }
            }
        }
    }

    fn say_all(&mut self) {
        let mut line = serde_json::to_vec(&self.pulse).unwrap_or_default();
        line.push(b'\n');
        self.write(&line);
    }

    /// A watcher that does not read, or is gone, is no reason to stop here.
    fn write(&self, line: &[u8]) {
        if let Some(stream) = &self.stream {
            let _ = stream.try_write(line);
        }
    }
}

/// Waits for the end of the connection.
async fn end(stream: &UnixStream) {
    loop {
        // The watcher says nothing: what can be read is the end.
        if stream.readable().await.is_err() {
            return;
        }
        match stream.try_read(&mut [0; 64]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

fn watcher() -> Option<UnixStream> {
    let stdin = std::io::stdin();
    let descriptor = stdin.as_fd();
    fstat(descriptor).ok()?;
    let address: UnixAddr = getsockname(std::os::fd::AsRawFd::as_raw_fd(&descriptor)).ok()?;
    if address.family() != Some(AddressFamily::Unix) {
        return None;
    }
    let owned: OwnedFd = descriptor.try_clone_to_owned().ok()?;
    let stream = StdUnixStream::from(owned);
    stream.set_nonblocking(true).ok()?;
    UnixStream::from_std(stream).ok()
}

fn patience(instances: &[Vrrp]) -> Duration {
    let shortest = instances.iter().map(|instance| instance.interval).min().unwrap_or(MOST_PATIENCE);
    (shortest * PATIENCE / 4).clamp(LEAST_PATIENCE, MOST_PATIENCE)
}

fn beat(patience: Duration) -> Interval {
    let mut beat = interval(patience / BEATS);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}
