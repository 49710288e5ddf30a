//! The process that speaks VRRP: one loop that feeds events to the [`Router`] and carries out its effects.
//!
//! It is single-threaded, and has real-time priority where it is allowed to: late advertisements cost mastership. What
//! can be slow (scripts, files, the daemon) is watched by tasks, which send reports.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::poll_fn,
    net::IpAddr,
    os::fd::BorrowedFd,
    path::PathBuf,
    task::Poll,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use nix::sys::{prctl, signal::Signal};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep_until},
};

use super::{
    api::{self, Request},
    firewall,
    lifeline::Lifeline,
    links::{self, AnnounceSocket, LinkChange, Links},
    notify::notify,
    place::Places,
    realtime,
    router::{Effect, Now, Router, WishError},
    socket::{AdvertSocket, Received},
    tracks::{TrackReport, Tracks},
    view::{self, VrrpView, now},
    watcher::set_close_on_exec,
};
use crate::{
    api::{Refusal, Reply},
    config::{Config, Tracked, Vrrp},
};

/// How often the leases of addresses are renewed.
const RENEWAL: Duration = Duration::from_secs(1);
/// How many requests and reports may wait for the loop.
const QUEUE: usize = 256;
/// How many changes of links are looked at together.
const LINK_BATCH: usize = 64;

/// What the speaker is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// Instances that an earlier speaker left as master when it died.
    pub bury: Vec<String>,
    /// The descriptor of the watcher's lock, which this process holds as long as it lives.
    pub lock: Option<i32>,
}

struct Speaker {
    options: Options,
    config: Config,
    started: Instant,
    realtime: Option<i32>,
    router: Router,
    /// For advertisements, by interface and family.
    sockets: HashMap<(u32, bool), AdvertSocket>,
    places: Places,
    tracks: Tracks,
    reports: mpsc::Receiver<TrackReport>,
    /// For configurations that only have to be adopted yet.
    next: mpsc::Sender<(Box<Config>, Reply<()>)>,
    lifeline: Lifeline,
    /// What could not be done lately.
    problems: BTreeSet<String>,
}

/// Speaks until it is told to stop, or nobody watches it any more.
pub async fn run(options: Options) -> anyhow::Result<()> {
    if let Some(lock) = options.lock {
        // The operator's programs live as long as they like.
        // SAFETY: the watcher has handed it over, and nobody closes it.
        set_close_on_exec(unsafe { BorrowedFd::borrow_raw(lock) }, true).context("no lock from the watcher")?;
    }
    prctl::set_name(c"lbd").context("cannot name this process")?;
    let config = Config::load(&options.config)?;
    let realtime = realtime::enter();
    let links = Links::open()?;
    let announcer = AnnounceSocket::open().context("cannot open a packet socket (CAP_NET_RAW is needed)")?;
    let mut changes = links::changes()?.ready_chunks(LINK_BATCH);
    let (requests_sender, mut requests) = mpsc::channel(QUEUE);
    api::start(&config.node.socket, requests_sender)?;
    let (next_sender, mut next) = mpsc::channel(1);
    let router = Router::new(config.vrrp.clone());
    let (tracks, reports) = watch(&config, &router);
    let mut speaker = Speaker {
        router,
        next: next_sender,
        sockets: HashMap::new(),
        places: Places::new(links, announcer, &config.node.pins),
        lifeline: Lifeline::open(),
        started: Instant::now(),
        problems: BTreeSet::new(),
        options,
        config,
        realtime,
        tracks,
        reports,
    };
    speaker.places.sweep(&speaker.router)?;
    firewall::guard(&speaker.config.vrrp).await?;
    speaker.refresh_links(None);
    speaker.lifeline.set_instances(&speaker.config.vrrp);
    let buried = speaker.router.bury(&speaker.options.bury.clone(), now());
    speaker.perform(buried);
    log::info!("{} VRRP instances; real-time priority: {}", speaker.router.members().len(), realtime.is_some());

    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut renewal = interval(RENEWAL);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut received = Vec::new();
    while !speaker.router.is_stopped() {
        let deadline = speaker.router.next_deadline().into_iter().chain(speaker.places.next_deadline()).min();
        let wait = async {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // What comes seldom first: whoever floods this node with packets is not to keep it from anything. Packets and timers
            // have their turn after each of these.
            biased;
            () = speaker.lifeline.hold() => speaker.stop(None),
            _ = terminate.recv() => speaker.stop(Some(Signal::SIGTERM)),
            _ = interrupt.recv() => speaker.stop(Some(Signal::SIGINT)),
            _ = renewal.tick() => speaker.renew(),
            changes = changes.next() => {
                speaker.on_link_changes(&changes.context("the kernel's reports of interfaces have ended")?);
            }
            Some(report) = speaker.reports.recv() => speaker.on_report(report),
            Some(request) = requests.recv() => speaker.answer(request),
            Some((config, reply)) = next.recv() => drop(reply.send(speaker.adopt(*config))),
            () = wait => {}
            () = receive(&speaker.sockets, &mut received) => {}
        }
        speaker.catch_up(&mut received);
    }
    speaker.lifeline.take_leave();
    speaker.places.end()?;
    firewall::guard(&[]).await?;
    log::info!("VRRP has ended");
    Ok(())
}

/// Waits for a packet on any of the sockets.
async fn receive(sockets: &HashMap<(u32, bool), AdvertSocket>, received: &mut Vec<Received>) {
    poll_fn(|context| {
        for socket in sockets.values() {
            match socket.poll_receive(context, received) {
                Poll::Ready(Ok(())) => return Poll::Ready(()),
                // The interface goes down; what comes of that is told by netlink.
                Poll::Ready(Err(error)) => log::debug!("cannot receive advertisements: {error}"),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    })
    .await;
}

fn watch(config: &Config, router: &Router) -> (Tracks, mpsc::Receiver<TrackReport>) {
    let (sender, reports) = mpsc::channel(QUEUE);
    (Tracks::start(router, &config.node.socket, &sender), reports)
}

impl Speaker {
    /// Takes in all packets that have come, and only then does what is due: after a standstill the news comes first.
    fn catch_up(&mut self, received: &mut Vec<Received>) {
        for socket in self.sockets.values() {
            socket.drain(received);
        }
        for received in received.drain(..) {
            let effects = self.router.on_packet(received.packet(), now());
            self.perform(effects);
        }
        let now = now();
        self.places.on_time(now.instant);
        let effects = self.router.on_time(now);
        self.perform(effects);
    }

    /// Carries out effects: addresses first, because a predecessor drops them as soon as it hears the advertisement; then
    /// advertisements, which other nodes wait for; then the rest.
    fn perform(&mut self, mut effects: Vec<Effect>) {
        effects.sort_by_key(|effect| match effect {
            Effect::Acquire(_) | Effect::Release(_) => 0,
            Effect::Send { .. } => 1,
            Effect::Announce(..) | Effect::Changed(..) => 2,
        });
        for effect in effects {
            if let Err(error) = self.perform_one(effect) {
                log::error!("{error:#}");
                self.problems.insert(format!("{error:#}"));
            }
        }
        self.lifeline.tell(&self.router);
    }

    fn perform_one(&mut self, effect: Effect) -> anyhow::Result<()> {
        match effect {
            Effect::Send { instance, source, destination, payload } => {
                self.send(instance, source, destination, &payload);
                Ok(())
            }
            Effect::Acquire(index) => self.places.acquire(&self.router.members()[index]),
            Effect::Announce(index, times) => self.places.announce(&self.router.members()[index], times),
            Effect::Release(index) => self.places.release(&self.router.members()[index], Instant::now()),
            Effect::Changed(index, change) => {
                let config = self.router.members()[index].config();
                let (from, to) = (change.from.name(), change.to.name());
                log::info!("{}: {from} -> {to}, priority {}: {}", config.name, change.priority, change.reason);
                notify(config, &change);
                Ok(())
            }
        }
    }

    /// An advertisement that cannot be sent is one that is lost: the next one follows.
    fn send(&mut self, instance: usize, source: IpAddr, destination: IpAddr, payload: &[u8]) {
        let member = &self.router.members()[instance];
        let own = member.link().and_then(|link| self.sockets.get(&(link.ifindex, source.is_ipv4())));
        let Some(socket) = self.places.sender(member).or(own) else { return };
        if let Err(error) = socket.send(source, destination, payload) {
            log::debug!("{}: cannot send an advertisement to {destination}: {error}", member.config().name);
        }
    }

    fn on_link_changes(&mut self, changes: &[LinkChange]) {
        let known: Vec<(String, Option<u32>)> = self.interfaces();
        let concerns = |name: &str, ifindex: Option<u32>| {
            changes.iter().any(|change| match change {
                LinkChange::Interface { name: changed, ifindex: index } => changed == name || Some(*index) == ifindex,
                LinkChange::Addresses { ifindex: index } => Some(*index) == ifindex,
                LinkChange::Everything => true,
            })
        };
        for (name, ifindex) in known {
            if concerns(&name, ifindex) {
                self.refresh_links(Some(&name));
            }
        }
    }

    /// The interfaces that matter, with their index where it is known.
    fn interfaces(&self) -> Vec<(String, Option<u32>)> {
        let mut interfaces = BTreeMap::new();
        for member in self.router.members() {
            let config = member.config();
            for track in &config.tracks {
                if let Tracked::Interface { name } = &track.what {
                    interfaces.entry(name.clone()).or_insert(None);
                }
            }
            interfaces.insert(config.interface.clone(), member.link().map(|link| link.ifindex));
        }
        interfaces.into_iter().collect()
    }

    /// Tells the router how an interface is now, or all of them.
    fn refresh_links(&mut self, only: Option<&str>) {
        for (name, _) in self.interfaces() {
            if only.is_some_and(|only| only != name) {
                continue;
            }
            let link = match self.places.link(&name) {
                Ok(link) => link,
                Err(error) => {
                    log::error!("{error}");
                    continue;
                }
            };
            if !self.router.is_news(&name, link.as_ref()) {
                continue;
            }
            let effects = self.router.on_link(&name, link.as_ref(), now());
            self.open_sockets();
            self.prepare_places();
            self.perform(effects);
        }
    }

    /// Has a socket for each interface and family that an instance uses, and no other.
    fn open_sockets(&mut self) {
        let wanted: BTreeMap<(u32, bool), String> = self
            .router
            .members()
            .iter()
            .filter_map(|member| {
                let config = member.config();
                Some(((member.link()?.ifindex, config.is_ipv4()), config.interface.clone()))
            })
            .collect();
        self.sockets.retain(|key, _| wanted.contains_key(key));
        for ((ifindex, ipv4), interface) in wanted {
            if self.sockets.contains_key(&(ifindex, ipv4)) {
                continue;
            }
            match AdvertSocket::open(&interface, ifindex, ipv4, true) {
                Ok(socket) => drop(self.sockets.insert((ifindex, ipv4), socket)),
                Err(error) => {
                    let problem = format!("cannot open a socket for advertisements on {interface}: {error}");
                    log::error!("{problem}");
                    self.problems.insert(problem);
                }
            }
        }
    }

    fn prepare_places(&mut self) {
        for member in self.router.members() {
            if let Err(error) = self.places.prepare(member) {
                log::error!("{error:#}");
                self.problems.insert(format!("{error:#}"));
            }
        }
    }

    fn on_report(&mut self, report: TrackReport) {
        let TrackReport { instance, track, reading } = report;
        let effects = self.router.on_reading(instance, track, reading, now());
        self.perform(effects);
    }

    /// Once in a while: leases, and what nobody reports.
    fn renew(&mut self) {
        // The kernel does not say when a program is detached.
        let watches = |config: &Vrrp| config.tracks.iter().any(|track| track.what == Tracked::Datapath);
        if self.config.vrrp.iter().any(watches) {
            self.refresh_links(None);
        }
        if let Err(error) = self.places.renew(&self.router) {
            log::error!("{error:#}");
        }
    }

    /// Hands over, and ends when that is done.
    fn stop(&mut self, signal: Option<Signal>) {
        match signal {
            Some(signal) => log::info!("{signal}: handing over"),
            None => log::warn!("nobody watches this process any more: handing over"),
        }
        let effects = self.router.stop(now());
        self.perform(effects);
    }

    /// An answer that nobody waits for any more is dropped.
    fn answer(&mut self, request: Request) {
        match request {
            Request::Status(reply) => drop(reply.send(Ok(self.status()))),
            Request::FailOver(name, reply) => {
                let effects = self.router.fail_over(&name, now());
                drop(reply.send(self.wish(effects)));
            }
            Request::Priority(name, priority, reply) => {
                let effects = self.router.set_priority(&name, priority, now());
                drop(reply.send(self.wish(effects)));
            }
            Request::Reload(reply) => self.reload(reply),
        }
    }

    fn wish(&mut self, effects: Result<Vec<Effect>, WishError>) -> Result<(), Refusal> {
        let effects = effects.map_err(|error| match error {
            WishError::NoInstance { .. } => Refusal::NotFound(error.to_string()),
            WishError::NotMaster { .. } => Refusal::Invalid(error.to_string()),
        })?;
        self.perform(effects);
        Ok(())
    }

    fn status(&self) -> VrrpView {
        let now: Now = now();
        let mut problems = view::problems(&self.router, now);
        problems.extend(self.problems.iter().cloned());
        if self.realtime.is_none() && !self.router.members().is_empty() {
            problems.push("no real-time priority (CAP_SYS_NICE): a busy node may advertise late".to_owned());
        }
        let strays = self.router.strays().iter().map(|(reason, count)| ((*reason).to_owned(), *count));
        VrrpView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.config.node.name.clone(),
            pid: std::process::id(),
            uptime: self.started.elapsed(),
            realtime: self.realtime,
            instances: view::instances(&self.router, now),
            strays: strays.collect(),
            problems,
        }
    }

    /// Reads the configuration again. An invalid one changes nothing, nor does one that the firewall cannot follow. Because the
    /// firewall takes its time, what follows is done when the new configuration comes back.
    fn reload(&self, reply: Reply<()>) {
        let next = match Config::load(&self.options.config) {
            Ok(next) => next,
            Err(error) => {
                let refusal = Refusal::Configuration(format!("{:#}", anyhow::Error::from(error)));
                return drop(reply.send(Err(refusal)));
            }
        };
        let adopt = self.next.clone();
        tokio::spawn(async move {
            match firewall::guard(&next.vrrp).await {
                // The loop is gone at the very end only.
                Ok(()) => drop(adopt.send((Box::new(next), reply)).await),
                Err(error) => drop(reply.send(Err(Refusal::Failed(error.to_string())))),
            }
        });
    }

    /// Goes by another configuration from now on.
    fn adopt(&mut self, next: Config) -> Result<(), Refusal> {
        if self.router.is_stopping() {
            return Err(Refusal::Failed("VRRP is stopping".to_owned()));
        }
        self.problems.clear();
        let effects = self.router.retire(&next.vrrp, now());
        self.perform(effects);
        let effects = self.router.reconfigure(next.vrrp.clone(), now());
        self.lifeline.set_instances(&next.vrrp);
        self.config = next;
        (self.tracks, self.reports) = watch(&self.config, &self.router);
        self.perform(effects);
        self.refresh_links(None);
        let failed = |error: anyhow::Error| Refusal::Failed(format!("{error:#}"));
        self.places.sweep(&self.router).map_err(failed)?;
        log::info!("reloaded {}", self.options.config.display());
        Ok(())
    }
}
