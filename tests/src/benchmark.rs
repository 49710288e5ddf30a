//! What benchmarks have in common: where their figures are from, and how they are shown.

use std::{
    fmt::{self, Write as _},
    fs,
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// How a benchmark is to show its results.
#[derive(Debug, clap::Args)]
pub struct Output {
    /// Write the results to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print Markdown tables
    #[arg(long)]
    markdown: bool,
    /// What cargo hands to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Output {
    /// The table in the form that is asked for.
    pub fn render(&self, table: &Table) -> String {
        if self.markdown { table.markdown() } else { table.text() }
    }

    /// Writes all results as JSON, where that is asked for.
    pub fn save(&self, results: &impl Serialize) -> Result<()> {
        let Some(path) = &self.json else { return Ok(()) };
        let json = serde_json::to_string_pretty(results)?;
        fs::write(path, json).with_context(|| format!("write {}", path.display()))?;
        println!("wrote {}", path.display());
        Ok(())
    }
}

/// The machine that the figures are of.
#[derive(Debug, Serialize)]
pub struct Machine {
    cpu: String,
    /// How many CPUs it has.
    pub cpus: usize,
    kernel: String,
}

impl Machine {
    /// The one that this runs on.
    pub fn this() -> Self {
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

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cpus, kernel } = self;
        write!(formatter, "{cpu}, {cpus} CPUs, Linux {kernel}")
    }
}

/// Figures of one thing, from the smallest to the largest. There is at least one.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Distribution(Vec<f64>);

impl Distribution {
    /// # Panics
    /// Without figures.
    pub fn new(mut figures: Vec<f64>) -> Self {
        assert!(!figures.is_empty(), "nothing was measured");
        figures.sort_by(f64::total_cmp);
        Self(figures)
    }

    /// The smallest figure that so many per cent of them do not exceed: the nearest rank.
    pub fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0[rank.saturating_sub(1)]
    }

    /// The smallest.
    pub fn min(&self) -> f64 {
        self.percentile(0)
    }

    /// The largest.
    pub fn max(&self) -> f64 {
        self.percentile(100)
    }

    /// All of them, the smallest first.
    pub fn figures(&self) -> &[f64] {
        &self.0
    }
}

/// What was measured of a contender in one turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Turn {
    /// How often a second.
    pub rate: f64,
    /// What each time cost.
    pub cost: f64,
}

/// How contenders compare that were measured in turn. A ratio, like a difference, is one of medians.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Standing {
    /// The median.
    pub rate: f64,
    /// The median.
    pub cost: f64,
    /// The least.
    pub min_cost: f64,
    /// The rate in ratio to the first contender's.
    pub rate_ratio: f64,
    /// What it costs more than the first contender.
    pub own_cost: f64,
}

impl Standing {
    /// That of each contender, by its turns. The first one does nothing: it is what the others are measured by.
    pub fn of_all(contenders: &[Vec<Turn>]) -> Vec<Self> {
        let mut standings: Vec<_> = contenders.iter().map(|turns| Self::alone(turns)).collect();
        let Some(Self { rate, cost, .. }) = standings.first().cloned() else { return standings };
        for standing in &mut standings {
            standing.rate_ratio = standing.rate / rate;
            standing.own_cost = standing.cost - cost;
        }
        standings
    }

    fn alone(turns: &[Turn]) -> Self {
        let rates = Distribution::new(turns.iter().map(|turn| turn.rate).collect());
        let costs = Distribution::new(turns.iter().map(|turn| turn.cost).collect());
        let (rate, cost, min_cost) = (rates.percentile(50), costs.percentile(50), costs.min());
        Self { rate, cost, min_cost, rate_ratio: 1.0, own_cost: 0.0 }
    }
}

/// A figure that is to be large or small enough.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Target {
    what: String,
    limit: Limit,
    found: f64,
    is_reached: bool,
}

/// What a figure is to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub enum Limit {
    /// No less.
    AtLeast(f64),
    /// No more.
    AtMost(f64),
}

impl Target {
    /// What was found of it.
    pub fn new(what: String, limit: Limit, found: f64) -> Self {
        let is_reached = match limit {
            Limit::AtLeast(least) => found >= least,
            Limit::AtMost(most) => found <= most,
        };
        Self { what, limit, found, is_reached }
    }

    /// A row for each.
    pub fn table(targets: &[Self]) -> Table {
        let mut table = Table::new(1, &["to be reached", "limit", "found", "reached"]);
        for Self { what, limit, found, is_reached } in targets {
            let limit = match limit {
                Limit::AtLeast(least) => format!("≥ {least}"),
                Limit::AtMost(most) => format!("≤ {most}"),
            };
            let reached = if *is_reached { "yes" } else { "no" };
            table.push(vec![what.clone(), limit, format!("{found:.3}"), reached.to_owned()]);
        }
        table
    }
}

/// Rows below a header. The first columns are text, all others are figures.
#[derive(Debug)]
pub struct Table {
    text_columns: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// One without rows.
    pub fn new(text_columns: usize, header: &[&str]) -> Self {
        Self { text_columns, rows: vec![header.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    /// Adds a row, with as many cells as the header has.
    pub fn push(&mut self, row: Vec<String>) {
        debug_assert_eq!(row.len(), self.rows[0].len());
        self.rows.push(row);
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let columns = 0..self.rows[0].len();
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<_> = columns.map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = if column < self.text_columns {
                    write!(text, "{cell:width$}  ")
                } else {
                    write!(text, "{cell:>width$}  ")
                };
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    /// In Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if number == 0 {
                let figures = row.len() - self.text_columns;
                let _ = writeln!(text, "|{}{}", "---|".repeat(self.text_columns), "--:|".repeat(figures));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_figure_of_the_nearest_rank() {
        let hundred = Distribution::new((1..=100).rev().map(f64::from).collect());
        let found = [0, 1, 50, 90, 99, 100].map(|percent| hundred.percentile(percent).to_string());
        assert_eq!(found, ["1", "1", "50", "90", "99", "100"]);
        let three = Distribution::new(vec![3.0, 1.0, 2.0]);
        assert_eq!([50, 90, 99].map(|percent| three.percentile(percent).to_string()), ["2", "3", "3"]);
    }

    #[test]
    fn what_a_contender_costs_is_what_it_takes_more_than_the_first_one() {
        let turns = |turns: [(f64, f64); 3]| turns.map(|(rate, cost)| Turn { rate, cost }).to_vec();
        let contenders = [turns([(8.0, 1.0), (2.0, 9.0), (4.0, 3.0)]), turns([(2.0, 5.0), (2.0, 8.0), (1.0, 4.0)])];
        let [first, second] = Standing::of_all(&contenders).try_into().expect("one for each");
        assert_eq!(first, Standing { rate: 4.0, cost: 3.0, min_cost: 1.0, rate_ratio: 1.0, own_cost: 0.0 });
        assert_eq!(second, Standing { rate: 2.0, cost: 5.0, min_cost: 4.0, rate_ratio: 0.5, own_cost: 2.0 });
    }

    #[test]
    fn a_target_is_reached_at_its_limit_and_no_further() {
        let targets = [(Limit::AtLeast(0.85), 0.85), (Limit::AtLeast(0.85), 0.84), (Limit::AtMost(0.2), 0.2)];
        let target = |(limit, found)| Target::new("rate".into(), limit, found);
        let targets = [targets.map(target).to_vec(), vec![target((Limit::AtMost(0.2), f64::NAN))]].concat();
        let rows = "rate | ≥ 0.85 | 0.850 | yes |\n| rate | ≥ 0.85 | 0.840 | no |\n| rate | ≤ 0.2 | 0.200 | yes |\n| rate | ≤ 0.2 | NaN | no |\n";
        let table = Target::table(&targets).markdown();
        assert!(table.ends_with(rows), "{table}");
    }

    #[test]
    fn a_table_is_aligned_and_its_markdown_is_a_table() {
        let mut table = Table::new(1, &["case", "median"]);
        table.push(vec!["×".into(), "1.0 ms".into()]);
        assert_eq!(table.text(), "case  median\n×     1.0 ms\n");
        assert_eq!(table.markdown(), "| case | median |\n|---|--:|\n| × | 1.0 ms |\n");
    }
}
