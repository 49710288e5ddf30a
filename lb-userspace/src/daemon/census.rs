//! Sweeping the flow table beside the loop: it takes milliseconds, and packets and requests do not wait for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{task::JoinHandle, time::sleep_until};

use super::Daemon;
use crate::{
    dataplane::{FlowTable, Sweep, Words, sweep},
    model::{Census, Findings},
};

/// How long there is between two censuses, at least.
const PAUSE: Duration = Duration::from_secs(1);
/// Without anything to find out about slots, the table is swept for flows that are over, this often.
const CLEANING: Duration = Duration::from_secs(10);

/// Sees to it that the flow table is swept.
#[derive(Debug)]
pub(super) struct CensusTaker {
    running: Option<JoinHandle<(Census, Sweep)>>,
    ended: Instant,
    /// How many flows there were at the end of the last one.
    pub(super) flows: u64,
}

/// It is time for a census, or one has ended.
pub(super) enum News {
    Due,
    Ended(Census, Sweep),
}

impl CensusTaker {
    pub(super) fn new() -> Self {
        Self { running: None, ended: Instant::now(), flows: 0 }
    }

    /// Waits until there is news. `due` is from when on a census has something to find out.
    pub(super) async fn next(&mut self, due: Option<Instant>) -> News {
        if let Some(running) = &mut self.running {
            let (census, found) = running.await.expect("a sweep does not panic");
            self.running = None;
            self.ended = Instant::now();
            self.flows = found.flows.values().flatten().map(|flows| u64::from(*flows)).sum();
            return News::Ended(census, found);
        }
        let cleaning = self.ended + CLEANING;
        let due = due.map_or(cleaning, |due| due.max(self.ended + PAUSE).min(cleaning));
        sleep_until(due.into()).await;
        News::Due
    }

    fn start(&mut self, mut census: Census, table: Arc<FlowTable>, words: Arc<Words>) {
        self.running = Some(tokio::task::spawn_blocking(move || {
            let found = sweep(&table, &words, &mut census.subjects);
            (census, found)
        }));
    }
}

impl Daemon {
    pub(super) async fn take_census(&mut self, news: News) {
        match news {
            News::Due => {
                let census = self.core.census(Instant::now());
                self.census.start(census, self.flow_tables.table(), self.executor.dataplane.maps.words());
            }
            News::Ended(census, Sweep { flows, .. }) => match self.losses() {
                Ok(losses) => {
                    let effects = self.core.on_census(Findings { census, flows, losses }, Instant::now());
                    self.carry_out(effects).await;
                }
                // Without it a slot could settle too early: rather not now.
                Err(error) => log::error!("cannot read the counters of the flow table: {error}"),
            },
        }
    }
}
