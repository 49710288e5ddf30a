//! Sweeps of a flow table, and its resize.

use std::{fs, path::PathBuf, process, time::Instant};

use anyhow::{Context as _, Result, ensure};
use lb_common::{
    BackendId, FlowHash, FlowState, HashKey, RowIndex, Service, ServiceId,
    flow_table::{BucketBits, Inserted, idle_ticks},
    layout,
};
use lb_userspace::{
    dataplane::{Dataplane, FlowTable, Opened, flow_time, sweep},
    model::Subject,
};

use crate::CaseResult;

const IDLE_SECONDS: u64 = 900;
const SAMPLES: usize = 30;

pub(crate) fn run() -> Result<Vec<CaseResult>> {
    let pins = Pins::new();
    let mut dataplane = Dataplane::load(&pins.0, HashKey::default(), layout::AFFINITY_CLIENTS, None)?;
    let (mut tables, _) = dataplane.open_flow_tables(bits(17)?, idle_ticks(IDLE_SECONDS))?;
    let words = dataplane.maps.words();
    words.store_row(backend(), RowIndex(1));
    let mut subjects = [subject()?];
    let mut cases = Vec::new();
    for (flows, name) in [(0, "empty"), (524_288, "524,288-flows"), (943_718, "943,718-flows")] {
        fill(&tables.table(), flows);
        let sweeps = (0..SAMPLES).map(|_| time(|| sweep(&tables.table(), None, &words, &mut subjects)).1);
        cases.push(CaseResult::new(format!("sweep/1,048,576-entries/{name}"), sweeps.collect()));
    }
    tables.table().clear();
    fill(&tables.table(), 524_288);
    let mut resizes = Vec::new();
    for size in [18, 17].repeat(SAMPLES / 3) {
        let size = bits(size)?;
        let (opened, time) = time(|| tables.resize(size, idle_ticks(IDLE_SECONDS)));
        let opened = opened?;
        ensure!(matches!(opened, Opened::Resized { copied: 524_288, .. }), "{opened:?}");
        resizes.push(time);
    }
    cases.push(CaseResult::new("resize/1-to-2-million-entries-and-back/524,288-flows", resizes));
    Ok(cases)
}

fn bits(bits: u32) -> Result<BucketBits> {
    BucketBits::new(bits).context("that is a size")
}

fn backend() -> BackendId {
    BackendId::truncate(1)
}

fn subject() -> Result<Subject> {
    let id = ServiceId::new(1).context("1 is an id")?;
    let service = Service { id, slot_mask: 1023, ..Service::default() };
    let idle_timeout = std::time::Duration::from_secs(IDLE_SECONDS);
    Ok(Subject { service, idle_timeout, is_limited: false, backends: vec![backend()], nat: None, slots: None })
}

/// Lets the table hold so many flows.
fn fill(table: &FlowTable, flows: usize) {
    let mut random = fastrand::Rng::with_seed(7);
    let (now, idle) = (flow_time(), idle_ticks(IDLE_SECONDS));
    table.clear();
    let mut inserted = 0;
    while inserted < flows {
        let hash = FlowHash(random.u64(..));
        if table.insert(hash, backend(), FlowState::Established, now, idle) == (Inserted::New { evicted: false }) {
            inserted += 1;
        }
    }
}

/// What came of it, and how many milliseconds it took.
fn time<T>(what: impl FnOnce() -> T) -> (T, f64) {
    let started = Instant::now();
    let outcome = what();
    (outcome, started.elapsed().as_secs_f64() * 1e3)
}

/// A folder of pins of our own, removed at the end.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Self {
        Self(format!("/sys/fs/bpf/lb-bench-{}-daemon", process::id()).into())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
