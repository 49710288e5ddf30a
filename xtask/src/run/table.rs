//! What is shown of the traffic.

use comfy_table::{CellAlignment, Table, presets};
use lb_tests::lab::{Lab, LoadReport, Stats, config::Service};

use super::shares::{expected, to_f64};

/// All counts at one time.
pub(super) struct Sample<'a> {
    pub(super) rows: &'a [(&'a Service, LoadReport)],
    /// `None` if `lbd` does not answer.
    pub(super) stats: Option<&'a Stats>,
}

/// A line for each backend of each service. Failures are those of the service, in its first line.
pub(super) fn draw(sample: &Sample<'_>, lab: &Lab) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "service",
        "forwarding",
        "failures",
        "backend",
        "requests",
        "share",
        "weight",
        "packets",
        "state",
    ]);
    for column in [2, 4, 5, 6, 7] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for (service, report) in sample.rows {
        let answered = report.by_backend.values().sum();
        for (number, backend) in lab.backends().iter().enumerate() {
            let name = backend.name();
            let count = report.by_backend.get(name).copied().unwrap_or(0);
            let stats = sample.stats.and_then(|stats| stats.backend(service.name, name));
            let first = |text: String| if number == 0 { text } else { String::new() };
            table.add_row([
                first(service.name.to_owned()),
                first(service.forwarding.to_string()),
                first(report.failures.to_string()),
                name.to_owned(),
                count.to_string(),
                percent(count, answered),
                format!("{:.0} %", 100.0 * expected(lab.backends().len(), number)),
                stats.map_or("?".into(), |stats| stats.packets.to_string()),
                stats.map_or("?".into(), |stats| stats.state.clone()),
            ]);
        }
    }
    table.to_string()
}

/// All services together.
pub(super) fn line(rows: &[(&Service, LoadReport)]) -> String {
    let mut total = LoadReport::default();
    for (_, report) in rows {
        total.requests += report.requests;
        total.failures += report.failures;
        for (backend, count) in &report.by_backend {
            *total.by_backend.entry(backend.clone()).or_default() += count;
        }
    }
    let answered = total.by_backend.values().sum();
    let shares: Vec<_> =
        total.by_backend.iter().map(|(backend, &count)| format!("{backend} {}", percent(count, answered))).collect();
    let (requests, failures) = (total.requests, total.failures);
    format!("{requests} requests, {failures} failures: {}", shares.join(", "))
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    format!("{:.1} %", 100.0 * to_f64(part) / to_f64(whole))
}
