//! The load of the most loaded backend over time, in a picture.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::simulation::Run;

const SIZE: (u32, u32) = (960, 400);

const FONT: &str = "sans-serif";

/// Blue, orange, vermilion, green and purple, as the colour-blind can tell them apart.
const COLORS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
];

/// Draws a line for each algorithm, with a thousand backends of equal weights.
pub(crate) fn draw(path: &Path, runs: &[Run]) -> Result<()> {
    let runs: Vec<&Run> = runs.iter().filter(|run| run.backends == 1000 && run.weights.len() == 1).collect();
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error + '_>> {
        area.fill(&WHITE)?;
        let points = || runs.iter().flat_map(|run| &run.imbalances);
        let most = points().map(|(_, imbalance)| *imbalance).fold(1.0, f64::max);
        let [begin, end] =
            [f64::min, f64::max].map(|pick| points().map(|(at, _)| *at).reduce(pick).unwrap_or_default());
        let mut chart = ChartBuilder::on(&area)
            .caption("connections of the most loaded of 1,000 backends, over the mean", (FONT, 19))
            .margin(12)
            .x_label_area_size(45)
            .y_label_area_size(65)
            .build_cartesian_2d(begin..end, 1.0..most + 0.2)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("time, in mean holding times")
            .x_label_formatter(&|time| format!("{time:.0}"))
            .y_label_formatter(&|imbalance| format!("{imbalance:.1}"))
            .label_style((FONT, 16))
            .draw()?;
        for (run, color) in runs.iter().zip(COLORS) {
            chart
                .draw_series(LineSeries::new(run.imbalances.iter().copied(), color.stroke_width(2)))?
                .label(run.algorithm.to_string())
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE)
            .label_font((FONT, 16))
            .draw()?;
        area.present()?;
        Ok(())
    };
    drawn().map_err(|error| anyhow!("draw {}: {error}", path.display()))
}
