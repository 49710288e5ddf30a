//! The task that keeps next hops up to date: it asks the kernel, and asks again when the kernel reports a change.

use std::{
    collections::{HashMap, HashSet},
    future::pending,
    net::IpAddr,
    time::Duration,
};

use futures_util::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

use super::{
    netlink::{self, Netlink},
    resolve::{Change, Gateways, NeighbourKey, Resolution, Route, Snapshot, Unresolved, is_news},
};

/// Changes come in crowds (an interface that goes up brings addresses, routes, neighbours): wait for the rest.
const SETTLE: Duration = Duration::from_millis(20);
/// Everything is asked again this often, in case a change was not reported.
const RECHECK: Duration = Duration::from_secs(10);
/// Between attempts to reach the kernel.
const RETRY: Duration = Duration::from_secs(1);
/// Reports that may wait for the receiver.
const BACKLOG: usize = 256;

/// Resolves the next hops of a set of targets, for as long as its handle lives.
#[derive(Debug)]
pub struct Resolver {
    wanted: watch::Receiver<Wanted>,
    reports: mpsc::Sender<(IpAddr, Resolution)>,
    snapshot: Snapshot,
    targets: HashMap<IpAddr, Target>,
    /// What has to be asked again: targets (their routes), and entries of the neighbour table.
    stale_targets: HashSet<IpAddr>,
    stale_neighbours: HashSet<NeighbourKey>,
}

/// Tells a [`Resolver`] what to resolve.
///
/// When it is dropped, the kernel is told to forget what was only kept fresh for us; then the channel of the
/// reports ends. Entries of a daemon that was killed stay; the next one goes on with those it needs.
#[derive(Debug)]
pub struct ResolverHandle {
    wanted: watch::Sender<Wanted>,
}

#[derive(Debug, Clone, Default)]
struct Wanted {
    targets: HashSet<IpAddr>,
    gateways: Gateways,
}

#[derive(Debug, Default)]
struct Target {
    route: Option<Result<Route, Unresolved>>,
    reported: Option<Resolution>,
}

impl ResolverHandle {
    /// Replaces the set of targets. Each new one is reported soon, and then whenever its next hop changes.
    pub fn set_targets(&self, targets: HashSet<IpAddr>) {
        self.wanted.send_modify(|wanted| wanted.targets = targets);
    }

    /// Replaces the fixed gateways.
    pub fn set_gateways(&self, gateways: Gateways) {
        self.wanted.send_modify(|wanted| wanted.gateways = gateways);
    }
}

impl Resolver {
    /// Starts a resolver on the current Tokio runtime, in the network namespace of its thread.
    /// Only differences are reported. The receiver must be read: reports that wait hold the resolver up.
    pub fn start(gateways: Gateways) -> (ResolverHandle, mpsc::Receiver<(IpAddr, Resolution)>) {
        let (wanted_sender, wanted) = watch::channel(Wanted { gateways, ..Wanted::default() });
        let (reports, receiver) = mpsc::channel(BACKLOG);
        let resolver = Self {
            wanted,
            reports,
            snapshot: Snapshot::default(),
            targets: HashMap::new(),
            stale_targets: HashSet::new(),
            stale_neighbours: HashSet::new(),
        };
        tokio::spawn(resolver.run());
        (ResolverHandle { wanted: wanted_sender }, receiver)
    }

    async fn run(mut self) {
        self.wanted.mark_changed();
        while let Err(error) = self.follow().await {
            if self.wanted.has_changed().is_err() {
                return;
            }
            log::warn!("next hops are not followed: {error}; trying again");
            sleep(RETRY).await;
        }
    }

    /// Follows the kernel and the handle until the handle is gone.
    async fn follow(&mut self) -> Result<(), netlink::Error> {
        let mut changes = netlink::changes()?;
        let netlink = Netlink::open()?;
        let mut recheck = interval(RECHECK);
        recheck.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due: Option<Instant> = None;
        loop {
            tokio::select! {
                wanted = self.wanted.changed() => {
                    if wanted.is_err() {
                        self.targets.clear();
                        return self.release_unused(&netlink, &HashSet::new()).await;
                    }
                    self.take_orders();
                    due = Some(Instant::now());
                }
                change = changes.next() => {
                    self.mark_stale(change.ok_or(netlink::Error::Closed)?);
                    if self.is_stale() {
                        due.get_or_insert_with(|| Instant::now() + SETTLE);
                    }
                }
                _ = recheck.tick() => {
                    self.mark_stale(Change::Everything);
                    due = Some(Instant::now());
                }
                () = until(due) => {
                    due = None;
                    self.refresh(&netlink).await?;
                    self.report().await;
                }
            }
        }
    }

    fn take_orders(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        self.targets.retain(|address, _| wanted.targets.contains(address));
        for address in wanted.targets {
            self.targets.entry(address).or_insert_with(|| {
                self.stale_targets.insert(address);
                Target::default()
            });
        }
        self.snapshot.gateways = wanted.gateways;
    }

    /// Notes whom of us a change concerns.
    fn mark_stale(&mut self, change: Change) {
        let targets = self.targets.keys().copied();
        match change {
            Change::Everything => self.stale_targets.extend(targets),
            Change::Route(prefix) => self.stale_targets.extend(targets.filter(|&target| prefix.contains(target))),
            Change::Neighbour(key) => {
                if self.snapshot.neighbours.contains_key(&key) {
                    self.stale_neighbours.insert(key);
                }
            }
        }
    }

    fn is_stale(&self) -> bool {
        !self.stale_targets.is_empty() || !self.stale_neighbours.is_empty()
    }

    /// Asks the kernel for what is stale or new. A notification only says *that* something changed: the answer
    /// to a question asked after it is never older than the notification.
    async fn refresh(&mut self, netlink: &Netlink) -> Result<(), netlink::Error> {
        if !self.stale_targets.is_empty() {
            self.snapshot.links = netlink.links().await?.into_iter().collect();
        }
        let stale_targets = std::mem::take(&mut self.stale_targets);
        for &address in &stale_targets {
            if let Some(target) = self.targets.get_mut(&address) {
                target.route = Some(netlink.route(address).await.or_else(for_one_target)?);
            }
        }

        let mut used = HashSet::new();
        for (address, target) in &self.targets {
            let Some(Ok(route)) = &target.route else {
                continue;
            };
            if let Some(key) = self.snapshot.neighbour_of(route) {
                used.insert(key);
                if stale_targets.contains(address) || !self.snapshot.neighbours.contains_key(&key) {
                    self.stale_neighbours.insert(key);
                }
            }
        }
        for key in std::mem::take(&mut self.stale_neighbours) {
            if used.contains(&key) {
                match netlink.keep(key).await {
                    Ok(entry) => drop(self.snapshot.neighbours.insert(key, entry)),
                    Err(error) if error.is_for_one_target() => log::warn!("{error}"),
                    Err(error) => return Err(error),
                }
            }
        }
        self.release_unused(netlink, &used).await
    }

    async fn release_unused(&mut self, netlink: &Netlink, used: &HashSet<NeighbourKey>) -> Result<(), netlink::Error> {
        let unused = self.snapshot.neighbours.keys().copied();
        for key in unused.filter(|key| !used.contains(key)).collect::<Vec<_>>() {
            netlink.release(key).await?;
            self.snapshot.neighbours.remove(&key);
        }
        Ok(())
    }

    async fn report(&mut self) {
        for (&address, target) in &mut self.targets {
            let Some(route) = &target.route else {
                continue;
            };
            let resolution = match route {
                Ok(route) => self.snapshot.resolve(route),
                Err(unresolved) => Err(unresolved.clone()),
            };
            if is_news(target.reported.as_ref(), &resolution) {
                target.reported = Some(resolution.clone());
                // Without a receiver nobody minds.
                let _ = self.reports.send((address, resolution)).await;
            }
        }
    }
}

/// What cannot be found out about one target is no reason to leave the others alone.
fn for_one_target(error: netlink::Error) -> Result<Result<Route, Unresolved>, netlink::Error> {
    if error.is_for_one_target() { Ok(Err(Unresolved::Lookup(error.to_string()))) } else { Err(error) }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}
