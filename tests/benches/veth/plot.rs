//! The results as bars.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{coord::Shift, prelude::*};

use crate::{
    packets::{Flows, Network, PathResult},
    report::Report,
    tcp::{self, TcpResult},
};

const SIZE: (u32, u32) = (960, 560);

/// Room for the legend below the bars, in categories.
const LEGEND: f64 = 2.5;

const FONT: &str = "sans-serif";

/// Blue, vermilion and green, as the colour-blind can tell them apart.
const COLORS: [RGBColor; 3] = [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115)];

/// Bars of one colour: of each category there is at most one.
struct Series {
    name: &'static str,
    bars: Vec<(String, f64)>,
}

struct Panel {
    caption: &'static str,
    unit: &'static str,
    series: Vec<Series>,
}

/// Draws what there is of `veth-packets.svg` and `veth-tcp.svg`.
pub(crate) fn draw(folder: &Path, report: &Report) -> Result<()> {
    if !report.packets.is_empty() {
        draw_file(&folder.join("veth-packets.svg"), &packet_panels(&report.packets))?;
    }
    if !report.tcp.is_empty() {
        draw_file(&folder.join("veth-tcp.svg"), &tcp_panels(&report.tcp))?;
    }
    Ok(())
}

fn packet_panels(results: &[PathResult]) -> [Panel; 2] {
    let series = |network: Network, figure: fn(&PathResult) -> f64| {
        let bars = |flows: Flows| {
            let chosen = results.iter().filter(|result| result.network == network && result.flows == flows);
            chosen.map(|result| (result.path.clone(), figure(result))).collect()
        };
        Flows::ALL.into_iter().map(|flows| Series { name: flows.name(), bars: bars(flows) }).collect()
    };
    [
        Panel {
            caption: "own share of a packet",
            unit: "ns above the reflector, by the link",
            series: series(Network::Link, |result| result.standing.own_cost),
        },
        Panel {
            caption: "packets a second of one CPU",
            unit: "thousands, by the switch",
            series: series(Network::Switch, |result| result.standing.rate / 1e3),
        },
    ]
}

fn tcp_panels(results: &[TcpResult]) -> [Panel; 2] {
    let series = |name: &'static str, case: &str, figure: fn(&TcpResult) -> Option<f64>| {
        let chosen = results.iter().filter(|result| result.case == case);
        let bars = chosen.filter_map(|result| Some((result.contender.clone(), figure(result)?))).collect();
        Series { name, bars }
    };
    let p50 = |case: &'static str| series(case, case, |result| Some(result.p50_us));
    [
        Panel {
            caption: "CPU of a connection with one request",
            unit: "µs",
            series: vec![
                series("the balancer's node", tcp::BY_NODE, |result| result.node_us),
                series("all above direct", tcp::ONE_CONNECTION, |result| Some(result.standing.own_cost)),
            ],
        },
        Panel {
            caption: "time until the answer, p50",
            unit: "µs",
            series: vec![p50(tcp::ONE_CONNECTION), p50(tcp::ONE_REQUEST)],
        },
    ]
}

fn draw_file(path: &Path, panels: &[Panel; 2]) -> Result<()> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error + '_>> {
        area.fill(&WHITE)?;
        let (left, right) = area.split_horizontally(SIZE.0 / 2);
        for (area, panel) in [left, right].iter().zip(panels) {
            draw_panel(area, panel)?;
        }
        area.present()?;
        Ok(())
    };
    drawn().map_err(|error| anyhow!("draw {}: {error}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

fn draw_panel<'a>(
    area: &DrawingArea<SVGBackend<'a>, Shift>,
    panel: &Panel,
) -> Result<(), Box<dyn std::error::Error + 'a>> {
    let categories = panel.categories();
    let bars = || panel.series.iter().flat_map(|series| &series.bars).map(|(_, value)| *value);
    let (least, most) = (bars().fold(0.0, f64::min), bars().fold(1.0, f64::max));
    let last = place(categories.len()) - 1.0;
    let mut chart = ChartBuilder::on(area)
        .caption(panel.caption, (FONT, 19))
        .margin(12)
        .x_label_area_size(45)
        .y_label_area_size(115)
        .build_cartesian_2d(least * 1.1..most * 1.2, last + 0.5 + LEGEND..-0.5)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(panel.unit)
        .x_labels(6)
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_labels(2 * categories.len())
        .y_label_formatter(&|at| name_at(&categories, *at))
        .label_style((FONT, 15))
        .draw()?;
    let height = 0.8 / place(panel.series.len());
    for ((number, series), color) in panel.series.iter().enumerate().zip(COLORS) {
        let top = |category: &str| {
            let found = categories.iter().position(|name| *name == category).unwrap_or_default();
            place(found) - 0.4 + height * place(number)
        };
        let bar = |(category, value): &(String, f64)| {
            let top = top(category);
            Rectangle::new([(0.0, top), (*value, top + height)], color.filled())
        };
        chart
            .draw_series(series.bars.iter().map(bar))?
            .label(series.name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], color.filled()));
        let figure = |(category, value): &(String, f64)| {
            Text::new(format!("{value:.0}"), (value.max(0.0) + most * 0.01, top(category) + height / 8.0), (FONT, 12))
        };
        chart.draw_series(series.bars.iter().map(figure))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .label_font((FONT, 15))
        .draw()?;
    Ok(())
}

impl Panel {
    /// In the order in which they come up.
    fn categories(&self) -> Vec<&str> {
        let mut found = Vec::new();
        for (category, _) in self.series.iter().flat_map(|series| &series.bars) {
            if !found.contains(&category.as_str()) {
                found.push(category.as_str());
            }
        }
        found
    }
}

/// The category whose middle is there, if one's is.
fn name_at(categories: &[&str], at: f64) -> String {
    let found = categories.iter().enumerate().find(|(number, _)| (place(*number) - at).abs() < 1e-6);
    found.map_or_else(String::new, |(_, name)| (*name).to_owned())
}

fn place(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
