//! Who holds an address, moment by moment: one thread in each balancer's namespace looks each millisecond.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Result;
use lb_tests::lab::{Lab, Netns};
use nix::ifaddrs::getifaddrs;

/// Looks until [`Holders::finish`].
pub(crate) struct Holders {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Vec<Look>>>>,
}

/// Whether the address was there at that time.
type Look = (Instant, bool);

/// For how long at a stretch nobody had the address, and more than one node had it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spans {
    pub(crate) longest_absence: Duration,
    pub(crate) longest_overlap: Duration,
}

impl Holders {
    pub(crate) fn watch(lab: &Lab, address: IpAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watch = |namespace: &Netns| {
            let (stop, namespace) = (stop.clone(), namespace.clone());
            thread::spawn(move || namespace.inside(|| look(&stop, address)))
        };
        let threads = lab.balancers().iter().map(|node| watch(node.namespace())).collect();
        Self { stop, threads }
    }

    pub(crate) fn finish(self) -> Result<Spans> {
        self.stop.store(true, Ordering::Relaxed);
        let mut looks = Vec::new();
        let nodes = self.threads.len();
        for (node, thread) in self.threads.into_iter().enumerate() {
            let seen = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            looks.extend(seen.into_iter().map(|(at, there)| (at, node, there)));
        }
        looks.sort_by_key(|(at, ..)| *at);
        Ok(spans(&looks, nodes))
    }
}

fn look(stop: &AtomicBool, address: IpAddr) -> Result<Vec<Look>> {
    let mut looks = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let there = getifaddrs()?.any(|interface| {
            let Some(storage) = interface.address else { return false };
            let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
            let v6 = storage.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip()));
            v4.or(v6) == Some(address)
        });
        looks.push((Instant::now(), there));
        thread::sleep(Duration::from_millis(1));
    }
    Ok(looks)
}

/// Of `nodes` nodes, from when each has been looked at.
fn spans(looks: &[(Instant, usize, bool)], nodes: usize) -> Spans {
    let mut spans = Spans::default();
    let mut holders = std::collections::BTreeMap::new();
    let (mut absent_since, mut shared_since) = (None, None);
    for &(at, node, there) in looks {
        holders.insert(node, there);
        if holders.len() < nodes {
            continue;
        }
        let count = holders.values().filter(|there| **there).count();
        for (since, longest, holds) in [
            (&mut absent_since, &mut spans.longest_absence, count == 0),
            (&mut shared_since, &mut spans.longest_overlap, count > 1),
        ] {
            if holds {
                *longest = (*longest).max(at - *since.get_or_insert(at));
            } else {
                *since = None;
            }
        }
    }
    spans
}
