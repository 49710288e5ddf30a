//! Showing the results.

use std::collections::BTreeMap;

use lb_tests::benchmark::{Distribution, Machine, Table};
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
        let sample = Distribution::new(sample.to_vec());
        let (median, min) = (sample.percentile(50), sample.min());
        Self { name: name.to_owned(), unit, median, min, ratio: BTreeMap::new() }
    }
}

fn median(sample: &[f64]) -> f64 {
    Distribution::new(sample.to_vec()).percentile(50)
}

/// All results of a run.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) cases: Vec<CaseResult>,
}

impl Report {
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new(1, &["case", "median", "minimum", "× encap", "× noop"]);
        for case in &self.cases {
            let ratio = |floor| case.ratio.get(floor).map_or(String::new(), |ratio| format!("{ratio:.2}"));
            let unit = case.unit.split('/').next().unwrap_or_default();
            table.push(vec![
                case.name.clone(),
                format!("{:.1} {unit}", case.median),
                format!("{:.1} {unit}", case.min),
                ratio("encap"),
                ratio("noop"),
            ]);
        }
        table
    }
}
