//! Where the virtual IPs are, and how long they were nowhere, told whenever that changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use lb_tests::lab::{Lab, Probe, ProbeReport, RunningProbe, config::virtual_routers};

use super::echo_address;

/// How long a probe goes on where nothing changes: it remembers every datagram.
const PROBE: Duration = Duration::from_secs(60);

/// Follows the balancers' states, and probes a virtual IP all the time.
pub(super) struct Moves<'lab> {
    lab: &'lab Lab,
    /// Since 1970, as all times of changes.
    started: Duration,
    probe: RunningProbe,
    probing_since: Instant,
    /// When the last change was that was told, by balancer and instance.
    told: BTreeMap<(String, String), Duration>,
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
            told: BTreeMap::new(),
            silent: BTreeSet::new(),
        };
        // What has led to the present is no news.
        moves.changes();
        Ok(moves)
    }

    /// A line for each change since the last time.
    pub(super) fn look(&mut self) -> Result<Vec<String>> {
        let mut changes = self.changes();
        if changes.is_empty() && self.probing_since.elapsed() < PROBE {
            return Ok(Vec::new());
        }
        if let Some(gap) = describe_gap(&self.next_probe()?) {
            match changes.iter_mut().rfind(|change| change.ends_gap) {
                Some(change) => change.what += &format!(", {gap}"),
                None => changes.push(Change { at: now(), what: gap, ends_gap: false }),
            }
        }
        let line = |change: Change| {
            let at = change.at.saturating_sub(self.started).as_secs_f64();
            format!("{at:>6.1} s  {}", change.what)
        };
        Ok(changes.into_iter().map(line).collect())
    }

    /// What has changed and was not told yet, the earliest first.
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
                let told = self.told.entry((node.to_owned(), instance.name.clone())).or_default();
                let since = *told;
                for change in instance.history.into_iter().filter(|change| change.at > since) {
                    *told = change.at;
                    let ends_gap = change.to == "master" && instance.name == *probed;
                    let what = format!("{}: {node} is {}", instance.name, change.to);
                    changes.push(Change { at: change.at, what, ends_gap });
                }
            }
        }
        changes.sort_by_key(|change| change.at);
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
