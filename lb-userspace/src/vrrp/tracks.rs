//! Watches what the priorities depend on, apart from interfaces: scripts, files, and the daemon on this node.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    launch::launch,
    priority::{Reading, describe},
    router::Router,
};
use crate::{
    api::Client,
    config::{self, Tracked},
};

/// How often files and the daemon are looked at.
const POLL: Duration = Duration::from_millis(500);
/// So long the daemon may be silent: a restart, or an upgrade, is no failure, since packets go on meanwhile.
const DAEMON_PATIENCE: Duration = Duration::from_secs(10);

/// What the daemon says of itself to who decides whether this node is fit (`GET /v1/fitness`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fitness {
    /// How many backends of each service take flows.
    pub backends: BTreeMap<String, usize>,
}

/// What has become of track number `track` of instance number `instance`.
#[derive(Debug, Clone, Copy)]
pub struct TrackReport {
    pub instance: usize,
    pub track: usize,
    pub reading: Reading,
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Tracks(#[expect(dead_code, reason = "held, because the tasks end with it")] JoinSet<()>);

impl Tracks {
    /// Starts to watch what these instances track, and reports what is not as it is known already. `socket` is the daemon's.
    pub fn start(router: &Router, socket: &Path, reports: &mpsc::Sender<TrackReport>) -> Self {
        let mut tasks = JoinSet::new();
        let mut daemon = None;
        for (instance, member) in router.members().iter().enumerate() {
            for (track, watched) in member.config().tracks.iter().enumerate() {
                let report = Reporter { instance, track, reports: reports.clone(), last: member.reading(track) };
                match &watched.what {
                    // By netlink, see `links.rs`.
                    Tracked::Interface { .. } => {}
                    Tracked::File { path } => drop(tasks.spawn(watch_file(path.clone(), report))),
                    Tracked::Script { command, interval, timeout, rise, fall } => {
                        let script = Script {
                            name: describe(&watched.what),
                            command: command.clone(),
                            interval: *interval,
                            timeout: *timeout,
                            rise: *rise,
                            fall: *fall,
                        };
                        tasks.spawn(script.watch(report));
                    }
                    what @ (Tracked::Service { .. } | Tracked::Datapath) => {
                        let fitness = daemon.get_or_insert_with(|| ask_daemon(&mut tasks, socket)).clone();
                        tasks.spawn(watch_daemon(what.clone(), fitness, report));
                    }
                }
            }
        }
        Self(tasks)
    }
}

/// Says what is new of one track.
struct Reporter {
    instance: usize,
    track: usize,
    reports: mpsc::Sender<TrackReport>,
    last: Reading,
}

impl Reporter {
    async fn say(&mut self, reading: Reading) {
        if reading != self.last {
            self.last = reading;
            let Self { instance, track, .. } = *self;
            // Nobody listens at the very end.
            let _ = self.reports.send(TrackReport { instance, track, reading }).await;
        }
    }
}

async fn watch_file(path: PathBuf, mut report: Reporter) {
    let mut ticks = ticks(POLL);
    loop {
        ticks.tick().await;
        let number = match tokio::fs::read_to_string(&path).await {
            Ok(text) if text.trim().is_empty() => Ok(0),
            Ok(text) => text.trim().parse().map_err(|_| "is not a whole number".to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error.to_string()),
        };
        match number {
            Ok(number) => report.say(Reading::Number(number)).await,
            // What it said before goes on to hold; nothing said so far is a zero.
            Err(error) => {
                log::warn!("tracked file {}: {error}", path.display());
                if report.last == Reading::Unknown {
                    report.say(Reading::Number(0)).await;
                }
            }
        }
    }
}

/// A program that is run again and again.
struct Script {
    name: String,
    command: config::Command,
    interval: Duration,
    timeout: Duration,
    rise: u16,
    fall: u16,
}

impl Script {
    async fn watch(self, mut report: Reporter) {
        let mut ticks = ticks(self.interval);
        let mut streak = (true, 0_u16);
        loop {
            ticks.tick().await;
            let good = self.succeeds().await;
            streak = if streak.0 == good { (good, streak.1.saturating_add(1)) } else { (good, 1) };
            let enough = if good { self.rise } else { self.fall };
            // The first result decides at once.
            if streak.1 >= enough || report.last == Reading::Unknown {
                report.say(if good { Reading::Good } else { Reading::Bad }).await;
            }
        }
    }

    async fn succeeds(&self) -> bool {
        let mut script = match launch(&self.command, &[]).await {
            Ok(script) => script,
            Err(error) => {
                log::warn!("{}: cannot start it: {error}", self.name);
                return false;
            }
        };
        let Ok(status) = timeout(self.timeout, script.wait()).await else {
            log::warn!("{}: killed after {:?}", self.name, self.timeout);
            script.kill().await;
            return false;
        };
        status.is_ok_and(|status| status.success())
    }
}

/// What the daemon said last; `None` if it has been silent for too long.
type LastFitness = watch::Receiver<Option<Result<Fitness, ()>>>;

/// Asks the daemon, again and again.
fn ask_daemon(tasks: &mut JoinSet<()>, socket: &Path) -> LastFitness {
    let (sender, receiver) = watch::channel(None);
    let client = Client::new(socket);
    tasks.spawn(async move {
        let mut ticks = ticks(POLL);
        let mut heard = Instant::now();
        loop {
            ticks.tick().await;
            if let Ok(Ok(fitness)) = timeout(POLL, client.get::<Fitness>("/v1/fitness")).await {
                heard = Instant::now();
                sender.send_replace(Some(Ok(fitness)));
            } else if heard.elapsed() >= DAEMON_PATIENCE {
                sender.send_replace(Some(Err(())));
            }
        }
    });
    receiver
}

async fn watch_daemon(what: Tracked, mut fitness: LastFitness, mut report: Reporter) {
    while fitness.changed().await.is_ok() {
        let reading = match (&what, &*fitness.borrow_and_update()) {
            (_, None) => continue,
            (_, Some(Err(()))) => Reading::Bad,
            (Tracked::Service { name, min_backends }, Some(Ok(fitness))) => {
                let backends = fitness.backends.get(name).copied().unwrap_or(0);
                if backends >= usize::from(*min_backends) { Reading::Good } else { Reading::Bad }
            }
            (_, Some(Ok(_))) => Reading::Good,
        };
        report.say(reading).await;
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
