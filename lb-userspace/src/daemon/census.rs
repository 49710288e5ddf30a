//! Sweeping the flow table beside the loop: it takes milliseconds, and packets and requests do not wait for it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use aya::maps::MapError;
use lb_common::BackendId;
use tokio::{task::JoinHandle, time::sleep_until};

use super::{Daemon, flows::losses, views::nat_problems};
use crate::{
    dataplane::{FlowTable, NatTable, NatUsage, Sweep, Words, sweep},
    model::{Census, Findings},
};

/// How long there is between two censuses, at least: so long, and so many times as long as one takes.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_PER_CENSUS: u32 = 10;
/// Without anything to find out about slots, the table is swept for flows that are over, this often.
const CLEANING: Duration = Duration::from_secs(10);
/// The same, where there are translated flows: their places are freed by sweeps alone.
const NAT_CLEANING: Duration = Duration::from_secs(2);

/// Sees to it that the flow table is swept.
#[derive(Debug)]
pub(super) struct CensusTaker {
    started: Instant,
    running: Option<JoinHandle<(Census, Sweep)>>,
    /// When the last one ended, and how long it took; `None` before the first.
    last: Option<(Instant, Duration)>,
    /// How many entries of the flow table there were at the end of the last one; `None` before the first.
    pub(super) flows: Option<u64>,
    /// How many connections were miscounted, and have been counted right.
    pub(super) drift: u64,
    /// Whether there is a table of translated flows.
    sweeps_nat: bool,
    /// How that was used at the end of the last one.
    pub(super) nat: Option<NatUsage>,
    /// What was not as it should be with translation, and has been logged.
    told: BTreeSet<String>,
}

/// It is time for a census, or one has ended.
pub(super) enum News {
    Due,
    Ended(Census, Box<Sweep>),
}

impl CensusTaker {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            running: None,
            last: None,
            flows: None,
            drift: 0,
            sweeps_nat: false,
            nat: None,
            told: BTreeSet::new(),
        }
    }

    /// Waits until there is news. `due` is from when on a census has something to find out.
    pub(super) async fn next(&mut self, due: Option<Instant>) -> News {
        if let Some(running) = &mut self.running {
            let (census, found) = running.await.expect("a sweep does not panic");
            self.running = None;
            self.last = Some((Instant::now(), self.started.elapsed()));
            self.flows = Some(found.entries);
            return News::Ended(census, Box::new(found));
        }
        // The first one at once: until then nobody knows which backends have flows.
        if let Some((ended, took)) = self.last {
            let pause = PAUSE.max(took * PAUSE_PER_CENSUS);
            let cleaning = ended + pause.max(if self.sweeps_nat { NAT_CLEANING } else { CLEANING });
            let due = due.map_or(cleaning, |due| due.max(ended + pause).min(cleaning));
            sleep_until(due.into()).await;
        }
        News::Due
    }

    /// Lets what a running sweep finds count for nothing.
    pub(super) fn discard(&mut self) {
        self.running = None;
    }

    fn start(&mut self, mut census: Census, table: Arc<FlowTable>, nat: Option<Arc<NatTable>>, words: Arc<Words>) {
        self.started = Instant::now();
        self.sweeps_nat = nat.is_some();
        self.running = Some(tokio::task::spawn_blocking(move || {
            let found = sweep(&table, nat.as_deref(), &words, &mut census.subjects);
            (census, found)
        }));
    }
}

impl Daemon {
    /// The packets of backends whose flows are not in the flow table.
    fn packets(&self) -> Result<HashMap<BackendId, u64>, MapError> {
        let maps = &self.executor.dataplane.maps;
        self.core.hidden().into_iter().map(|id| Ok((id, maps.backend_traffic(id)?.packets))).collect()
    }

    /// Makes good what connections were miscounted.
    fn correct(&mut self, drift: &[(BackendId, i64)]) {
        let connections = self.executor.dataplane.maps.connections();
        for (backend, more) in drift {
            log::info!("{}: {more:+} connections, by a recount of all flows", self.core.name_of(*backend));
            connections.correct(*backend, *more);
            self.census.drift += more.unsigned_abs();
        }
    }

    /// Logs what has become wrong with translation, and what is right again.
    fn tell_nat_problems(&mut self) {
        let problems = nat_problems(&self.core);
        for problem in problems.difference(&self.census.told) {
            log::warn!("{problem}");
        }
        for problem in self.census.told.difference(&problems) {
            log::info!("this is over: {problem}");
        }
        self.census.told = problems;
    }

    pub(super) async fn take_census(&mut self, news: News) {
        match news {
            News::Due => {
                let census = self.core.census(Instant::now());
                self.census.start(
                    census,
                    self.flow_tables.table(),
                    self.executor.dataplane.nat.table(),
                    self.executor.dataplane.maps.words(),
                );
            }
            News::Ended(census, found) => {
                let Sweep { flows, drift, nat, .. } = *found;
                let replies = nat.as_ref().map_or_else(HashMap::new, |usage| usage.replies.clone());
                self.census.nat = nat;
                self.correct(&drift);
                match losses(&self.executor.dataplane.maps, &self.flow_tables)
                    .and_then(|losses| Ok((losses, self.packets()?)))
                {
                    Ok((losses, packets)) => {
                        let effects =
                            self.core.on_census(Findings { census, flows, losses, packets, replies }, Instant::now());
                        self.carry_out(effects).await;
                        self.tell_nat_problems();
                    }
                    // Without them a slot could settle too early: rather not now.
                    Err(error) => log::error!("cannot read the counters: {error}"),
                }
            }
        }
    }
}
