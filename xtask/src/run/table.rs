//! What is shown of the traffic.

use comfy_table::{CellAlignment, Table, presets};
use lb_tests::lab::{Lab, LoadReport, Stats, config::Service};

use super::shares::{expected, to_f64};

/// All counts at one time.
pub(super) struct Sample<'a> {
    pub(super) rows: &'a [(&'a Service, LoadReport)],
    /// Of each balancer whose `lbd` answers.
    pub(super) stats: &'a [Stats],
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
        "by its weight",
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
            let stats: Vec<_> = sample.stats.iter().filter_map(|stats| stats.backend(service.name, name)).collect();
            let known = |text: String| if stats.is_empty() { "?".to_owned() } else { text };
            let packets: u64 = stats.iter().map(|stats| stats.packets).sum();
            let mut states: Vec<_> = stats.iter().map(|stats| stats.state.as_str()).collect();
            states.dedup();
            let first = |text: String| if number == 0 { text } else { String::new() };
            table.add_row([
                first(service.name.to_owned()),
                first(service.forwarding.to_string()),
                first(report.failures.to_string()),
                name.to_owned(),
                count.to_string(),
                percent(count, answered),
                match service.scheduler {
                    // Who has which share depends on who has how many connections, or is how fast, at each moment.
                    Some(scheduler) => first(format!("– ({scheduler})")),
                    None => format!("{:.0} %", 100.0 * expected(lab.backends().len(), number)),
                },
                known(packets.to_string()),
                known(states.join(", ")),
            ]);
        }
    }
    table.to_string()
}

/// All services together, in a line, and what went wrong.
pub(super) fn line(rows: &[(&Service, LoadReport)]) -> String {
    let total = total(rows.iter().map(|(_, report)| report));
    let answered = total.by_backend.values().sum();
    let shares: Vec<_> =
        total.by_backend.iter().map(|(backend, &count)| format!("{backend} {}", percent(count, answered))).collect();
    let (requests, failures) = (total.requests, total.failures);
    let reasons: Vec<_> = total.errors.iter().map(|(error, count)| format!("; {count} × {error}")).collect();
    format!("{requests} requests, {failures} failures: {}{}", shares.join(", "), reasons.concat())
}

/// All services together.
pub(super) fn total<'a>(reports: impl IntoIterator<Item = &'a LoadReport>) -> LoadReport {
    let mut total = LoadReport::default();
    for report in reports {
        total.requests += report.requests;
        total.failures += report.failures;
        total.max_latency_ms = total.max_latency_ms.max(report.max_latency_ms);
        for (all, counts) in [(&mut total.by_backend, &report.by_backend), (&mut total.errors, &report.errors)] {
            for (key, count) in counts {
                *all.entry(key.clone()).or_default() += count;
            }
        }
    }
    total
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    format!("{:.1} %", 100.0 * to_f64(part) / to_f64(whole))
}
