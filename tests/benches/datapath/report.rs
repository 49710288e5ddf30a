//! Showing the results.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use serde::Serialize;

use crate::{cases::Case, measure::Sample};

/// One measured case.
#[derive(Serialize)]
pub(crate) struct CaseResult {
    name: String,
    unit: &'static str,
    median: f64,
    min: f64,
    /// This case's median over that of the floors of the same run.
    ratio: BTreeMap<&'static str, f64>,
}

impl CaseResult {
    /// The results of cases that ran in turn: the first two are the floors, which are shown for the first group.
    pub(crate) fn of_group(number: usize, cases: &[Case], samples: &[Sample]) -> Vec<Self> {
        let [noop, encap, ..] = samples else { return Vec::new() };
        let (noop, encap) = (median(noop), median(encap));
        let shown = if number == 0 { 0 } else { 2 };
        cases
            .iter()
            .zip(samples)
            .skip(shown)
            .map(|(case, sample)| {
                let ratio = BTreeMap::from([("noop", median(sample) / noop), ("encap", median(sample) / encap)]);
                Self { ratio, ..Self::alone(&case.name, "ns/packet", sample) }
            })
            .collect()
    }

    /// A result that is compared with nothing.
    pub(crate) fn alone(name: &str, unit: &'static str, sample: &[f64]) -> Self {
        let min = sample.iter().copied().fold(f64::INFINITY, f64::min);
        Self { name: name.to_owned(), unit, median: median(sample), min, ratio: BTreeMap::new() }
    }
}

fn median(sample: &[f64]) -> f64 {
    let mut sorted = sample.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The machine that the figures are of.
#[derive(Serialize)]
pub(crate) struct Machine {
    cpu: String,
    pub(crate) cpus: usize,
    kernel: String,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: model.map_or("unknown", |(_, model)| model).to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
        }
    }
}

/// All results of a run.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    cases: Vec<CaseResult>,
}

impl Report {
    pub(crate) fn new(machine: Machine, cases: Vec<CaseResult>) -> Self {
        Self { machine, cases }
    }

    pub(crate) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    pub(crate) fn table(&self) -> String {
        let mut text = self.title();
        for [name, median, min, encap, noop] in self.rows() {
            let _ = write!(text, "\n{name:50} {median:>12} {min:>12} {encap:>9} {noop:>9}");
        }
        text
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = self.title();
        text.push('\n');
        for (number, row) in self.rows().into_iter().enumerate() {
            let _ = write!(text, "\n| {} |", row.join(" | "));
            if number == 0 {
                text.push_str("\n|---|--:|--:|--:|--:|");
            }
        }
        text
    }

    fn title(&self) -> String {
        let Machine { cpu, cpus, kernel } = &self.machine;
        format!("{cpu}, {cpus} CPUs, Linux {kernel}")
    }

    fn rows(&self) -> Vec<[String; 5]> {
        let header = ["case", "median", "minimum", "× encap", "× noop"].map(str::to_owned);
        let ratio =
            |case: &CaseResult, floor| case.ratio.get(floor).map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let row = |case: &CaseResult| {
            let unit = case.unit.split('/').next().unwrap_or_default();
            [
                case.name.clone(),
                format!("{:.1} {unit}", case.median),
                format!("{:.1} {unit}", case.min),
                ratio(case, "encap"),
                ratio(case, "noop"),
            ]
        };
        std::iter::once(header).chain(self.cases.iter().map(row)).collect()
    }
}
