//! How many connections have broken, and how many entries of the flow table are in use, over time.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{coord::Shift, prelude::*};

use crate::measure::Run;

const SIZE: (u32, u32) = (960, 400);

const FONT: &str = "sans-serif";

/// Blue, vermilion and green, as the colour-blind can tell them apart.
const COLORS: [RGBColor; 3] = [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115)];

/// Points of a line: seconds, and a count.
type Line = Vec<(f64, f64)>;

/// Draws a panel for each of the two.
pub(crate) fn draw(path: &Path, runs: &[Run]) -> Result<()> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error + '_>> {
        area.fill(&WHITE)?;
        let (left, right) = area.split_horizontally(SIZE.0 / 2);
        draw_panel(&left, "broken connections", runs, broken)?;
        draw_panel(&right, "used entries of the flow table", runs, used)?;
        area.present()?;
        Ok(())
    };
    drawn().map_err(|error| anyhow!("draw {}: {error}", path.display()))
}

fn draw_panel<'a>(
    panel: &DrawingArea<SVGBackend<'a>, Shift>,
    caption: &str,
    runs: &[Run],
    line: impl Fn(&Run) -> Line,
) -> Result<(), Box<dyn std::error::Error + 'a>> {
    let lines: Vec<_> = runs.iter().map(|run| (run.tracking, line(run))).collect();
    let most = lines.iter().flat_map(|(_, line)| line).map(|(_, count)| *count).fold(1.0, f64::max);
    let end = runs.iter().map(end_of).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(panel)
        .caption(caption, (FONT, 19))
        .margin(12)
        .x_label_area_size(45)
        .y_label_area_size(65)
        .build_cartesian_2d(0.0..end, 0.0..most * 1.05)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("seconds since the first change")
        .x_label_formatter(&|seconds| format!("{seconds:.0}"))
        .y_label_formatter(&|count| format!("{count:.0}"))
        .label_style((FONT, 16))
        .draw()?;
    for ((tracking, line), color) in lines.into_iter().zip(COLORS) {
        chart
            .draw_series(LineSeries::new(line, color.stroke_width(2)))?
            .label(tracking)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .label_font((FONT, 16))
        .draw()?;
    Ok(())
}

fn end_of(run: &Run) -> f64 {
    run.used.last().map_or(0.0, |used| used.at_s)
}

/// When the use of the table was looked at: more points than that nobody could tell apart.
fn broken(run: &Run) -> Line {
    let until = |at_s: f64| run.broken_s.iter().filter(|broken_s| **broken_s <= at_s).count();
    run.used.iter().map(|used| (used.at_s, float(until(used.at_s)))).collect()
}

fn used(run: &Run) -> Line {
    run.used.iter().map(|used| (used.at_s, float(used.entries))).collect()
}

fn float(count: impl TryInto<u32>) -> f64 {
    f64::from(count.try_into().unwrap_or(u32::MAX))
}
