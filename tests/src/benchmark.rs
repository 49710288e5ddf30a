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
    fn a_table_is_aligned_and_its_markdown_is_a_table() {
        let mut table = Table::new(1, &["case", "median"]);
        table.push(vec!["×".into(), "1.0 ms".into()]);
        assert_eq!(table.text(), "case  median\n×     1.0 ms\n");
        assert_eq!(table.markdown(), "| case | median |\n|---|--:|\n| × | 1.0 ms |\n");
    }
}
