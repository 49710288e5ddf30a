//! Where the virtual IPs are, and how long they were nowhere, told whenever that changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use lb_tests::lab::{Lab, Probe, ProbeReport, RunningProbe, config::virtual_routers};

use super::echo_address;

/// How long a probe goes on where nothing changes: it remembers every datagram.
const PROBE: Duration = Duration::from_mins(1);

/// How old the last change has to be for the gap around it to be over.
const SETTLED: Duration = Duration::from_millis(700);

/// Follows the balancers' states, and probes a virtual IP all the time.
pub(super) struct Moves<'lab> {
    lab: &'lab Lab,
    /// Since 1970, as all times of changes.
    started: Duration,
    probe: RunningProbe,
    probing_since: Instant,
    /// When the last known change was, by balancer and instance.
    known: BTreeMap<(String, String), Duration>,
    /// What is to be told when its gap is known.
    pending: Vec<Change>,
    /// The balancers whose `lbd vrrp` does not answer.
    silent: BTreeSet<String>,
}

struct Change {
    at: Duration,
    what: String,
    /// Whether the virtual IP that is probed has come to a balancer by it.
    ends_gap: bool,
}

impl<'lab> Moves<'lab> {
    pub(super) fn start(lab: &'lab Lab) -> Result<Self> {
        let mut moves = Self {
            lab,
            started: now(),
            probe: start_probe(lab)?,
            probing_since: Instant::now(),
            known: BTreeMap::new(),
            pending: Vec::new(),
            silent: BTreeSet::new(),
        };
        // What has led to the present is no news.
        moves.changes();
        Ok(moves)
    }

    /// A line for each change that has not been told yet, the earliest first.
    pub(super) fn look(&mut self) -> Result<Vec<String>> {
        let changes = self.changes();
        self.pending.extend(changes);
        self.pending.sort_by_key(|change| change.at);
        let is_due = match self.pending.last() {
            Some(last) => now().saturating_sub(last.at) >= SETTLED,
            None => self.probing_since.elapsed() >= PROBE,
        };
        if !is_due {
            return Ok(Vec::new());
        }
        let mut changes = std::mem::take(&mut self.pending);
        if let Some(gap) = describe_gap(&self.next_probe()?) {
            match changes.iter_mut().rfind(|change| change.ends_gap) {
                Some(change) => change.what.extend([", ", &gap]),
                None => changes.push(Change { at: now(), what: gap, ends_gap: false }),
            }
        }
        let line = |change: Change| {
            let at = change.at.saturating_sub(self.started).as_secs_f64();
            format!("{at:>6.1} s  {}", change.what)
        };
        Ok(changes.into_iter().map(line).collect())
    }

    /// What has changed since the last time.
    fn changes(&mut self) -> Vec<Change> {
        let probed = &virtual_routers(0)[0].name;
        let mut changes = Vec::new();
        for balancer in self.lab.each_balancer() {
            let node = balancer.node().name();
            let Ok(status) = balancer.vrrp_status() else {
                if self.silent.insert(node.to_owned()) {
                    let what = format!("{node}: lbd vrrp does not answer");
                    changes.push(Change { at: now(), what, ends_gap: false });
                }
                continue;
            };
            self.silent.remove(node);
            for instance in status.instances {
                let known = self.known.entry((node.to_owned(), instance.name.clone())).or_default();
                let since = *known;
                for change in instance.history.into_iter().filter(|change| change.at > since) {
                    *known = change.at;
                    let ends_gap = change.to == "master" && instance.name == *probed;
                    let what = format!("{}: {node} is {}", instance.name, change.to);
                    changes.push(Change { at: change.at, what, ends_gap });
                }
            }
        }
        changes
    }

    /// Ends the probe, and starts the next one before.
    fn next_probe(&mut self) -> Result<ProbeReport> {
        let next = start_probe(self.lab)?;
        self.probing_since = Instant::now();
        std::mem::replace(&mut self.probe, next).finish()
    }
}

fn start_probe(lab: &Lab) -> Result<RunningProbe> {
    lab.start_probe(&Probe::new(echo_address()))
}

fn describe_gap(report: &ProbeReport) -> Option<String> {
    let longest = report.gaps.iter().max_by(|one, other| one.length_ms.total_cmp(&other.length_ms))?;
    let length = longest.length_ms;
    Some(if longest.is_open { format!("no answer for {length:.0} ms yet") } else { format!("a gap of {length:.0} ms") })
}

fn now() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}
