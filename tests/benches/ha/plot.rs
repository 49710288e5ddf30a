//! Which part of the gaps is not longer than so many milliseconds.

use std::{path::Path, time::Duration};

use anyhow::{Result, anyhow};
use lb_tests::lab::Kind;
use plotters::{coord::Shift, prelude::*};

use crate::{failover::Failover, pair::Fault};

const SIZE: (u32, u32) = (960, 400);

/// A panel for each.
const INTERVALS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(10)];

const FONT: &str = "sans-serif";

/// Draws the distributions of [`Fault::Kill`].
pub(crate) fn draw(path: &Path, failovers: &[Failover]) -> Result<()> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = || -> Result<(), Box<dyn std::error::Error + '_>> {
        area.fill(&WHITE)?;
        for (panel, interval) in area.split_evenly((1, INTERVALS.len())).iter().zip(INTERVALS) {
            let killed: Vec<_> = failovers
                .iter()
                .filter(|failover| failover.fault == Fault::Kill && failover.interval == interval)
                .collect();
            draw_panel(panel, interval, &killed)?;
        }
        area.present()?;
        Ok(())
    };
    drawn().map_err(|error| anyhow!("draw {}: {error}", path.display()))
}

fn draw_panel<'a>(
    panel: &DrawingArea<SVGBackend<'a>, Shift>,
    interval: Duration,
    killed: &[&Failover],
) -> Result<(), Box<dyn std::error::Error + 'a>> {
    let bound = killed.iter().map(|failover| failover.bound_ms).fold(0.0, f64::max);
    let shortest = killed.iter().map(|failover| failover.gaps_ms.min()).fold(bound, f64::min);
    let longest = killed.iter().map(|failover| failover.gaps_ms.max()).fold(bound, f64::max);
    let margin = (bound - shortest) * 0.2;
    // One that takes a hundred times as long would leave no room for the others.
    let (from, to) = ((shortest - margin).max(0.0), longest.min(bound * 2.0) + margin);
    let caption = format!("the master dies, an advertisement each {} ms", interval.as_millis());
    let mut chart = ChartBuilder::on(panel)
        .caption(caption, (FONT, 19))
        .margin(12)
        .x_label_area_size(45)
        .y_label_area_size(50)
        .build_cartesian_2d(from..to, 0.0..100.0)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc("gap in ms")
        .x_label_formatter(&|milliseconds| format!("{milliseconds:.0}"))
        .y_desc("% of the trials")
        .y_label_formatter(&|share| format!("{share:.0}"))
        .label_style((FONT, 16))
        .draw()?;
    chart
        .draw_series([PathElement::new([(bound, 0.0), (bound, 100.0)], BLACK.stroke_width(1))])?
        .label("the protocol's bound")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK));
    for failover in killed {
        let color = if failover.speaker == Kind::Ours.name() { RGBColor(0, 114, 178) } else { RGBColor(213, 94, 0) };
        chart
            .draw_series(LineSeries::new(steps(failover.gaps_ms.figures(), from, to), color.stroke_width(2)))?
            .label(failover.speaker)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .label_font((FONT, 16))
        .draw()?;
    Ok(())
}

/// The corners of the empirical distribution function between two gaps, in per cent.
fn steps(sorted: &[f64], from: f64, to: f64) -> Vec<(f64, f64)> {
    let trials = u32::try_from(sorted.len()).expect("trials are a u16");
    let share = |count: u32| f64::from(count) / f64::from(trials) * 100.0;
    let mut corners = vec![(from, 0.0)];
    let mut reached = 0.0;
    for (count, figure) in (1..).zip(sorted).take_while(|(_, figure)| **figure <= to) {
        corners.extend([(*figure, reached), (*figure, share(count))]);
        reached = share(count);
    }
    corners.push((to, reached));
    corners
}
