//! The result as a picture: latency and throughput over time, or latency over throughput.
//!
//! Promises: an SVG of one file, readable on a white page at the width of a README.

use std::path::Path;

use plotters::coord::combinators::IntoLogRange as _;
use plotters::prelude::*;
use serde_json::Value;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const SIZE: (u32, u32) = (900, 560);
const SWEEP_SIZE: (u32, u32) = (900, 440);
const FONT: &str = "sans-serif";
const BLUE_LINE: RGBColor = RGBColor(31, 119, 180);
const ORANGE_LINE: RGBColor = RGBColor(255, 127, 14);
const RED_LINE: RGBColor = RGBColor(214, 39, 40);
const GREEN_LINE: RGBColor = RGBColor(44, 130, 44);

/// A named line of points.
struct Line {
    name: &'static str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Draws the result of a run.
pub(crate) fn draw(file: &Path, result: &Value) -> Outcome {
    let title = title(result);
    match result["sweep"].as_array() {
        Some(points) => draw_sweep(file, &title, points),
        None => draw_run(file, &title, result),
    }
}

fn title(result: &Value) -> String {
    let settings = &result["settings"];
    format!(
        "{}: {}-byte records, batches of {} bytes, {} partitions, {} connections, acks={}, rate {}",
        result["mode"].as_str().unwrap_or_default(),
        settings["record_size"],
        settings["batch_size"],
        settings["partitions"],
        settings["connections"],
        settings["acks"].as_str().unwrap_or_default(),
        match &settings["sweep"] {
            Value::Null => settings["rate"].to_string().replace('"', ""),
            _ => "swept".to_owned(),
        },
    )
}

/// The part of a result whose latency is the one to look at.
fn main_side(result: &Value) -> &Value {
    let sides = ["end_to_end", "produce", "consume"].map(|side| &result[side]);
    sides
        .into_iter()
        .find(|side| !side.is_null())
        .unwrap_or(&Value::Null)
}

fn rows(side: &Value, x: &str, y: &str, scale: f64) -> Vec<(f64, f64)> {
    let rows = side["series"].as_array().into_iter().flatten();
    rows.filter_map(|row| Some((row[x].as_f64()?, row[y].as_f64()? / scale)))
        .collect()
}

fn draw_run(file: &Path, title: &str, result: &Value) -> Outcome {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(title, (FONT, 15))?;
    let (upper, lower) = root.split_vertically(300);
    let side = main_side(result);
    let line = |name, color, y| Line {
        name,
        color,
        points: rows(side, "second", y, 1e3),
    };
    let latency = [
        line("max", RED_LINE, "max_us"),
        line("p99", ORANGE_LINE, "p99_us"),
        line("p50", BLUE_LINE, "p50_us"),
    ];
    draw_log(&upper, "seconds", "latency, ms", &latency)?;
    let mut throughput = Vec::new();
    for (key, name, color) in [
        ("produce", "produced", BLUE_LINE),
        ("consume", "consumed", GREEN_LINE),
    ] {
        if !result[key].is_null() {
            let points = rows(&result[key], "second", "records", 1e3);
            throughput.push(Line {
                name,
                color,
                points,
            });
        }
    }
    draw_linear(&lower, "seconds", "thousand records/s", &throughput)?;
    root.present()?;
    Ok(())
}

fn draw_sweep(file: &Path, title: &str, points: &[Value]) -> Outcome {
    let root = SVGBackend::new(file, SWEEP_SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let root = root.titled(title, (FONT, 15))?;
    let line = |name, color, quantile: &str| {
        let at = |point: &Value| {
            let rate = point["produce"]["records_per_second"].as_f64()?;
            let us = main_side(point)["latency_us"][quantile].as_f64()?;
            Some((rate / 1e3, us / 1e3))
        };
        Line {
            name,
            color,
            points: points.iter().filter_map(at).collect(),
        }
    };
    let lines = [
        line("max", RED_LINE, "max"),
        line("p99.9", GREEN_LINE, "p99_9"),
        line("p99", ORANGE_LINE, "p99"),
        line("p50", BLUE_LINE, "p50"),
    ];
    draw_log(&root, "thousand records/s", "latency, ms", &lines)?;
    root.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn x_end(lines: &[Line]) -> f64 {
    let x = lines.iter().flat_map(|line| &line.points).map(|(x, _)| *x);
    x.fold(1e-9, f64::max)
}

fn draw_log(area: &Area<'_>, x: &str, y: &str, lines: &[Line]) -> Outcome {
    let values = || {
        let points = lines.iter().flat_map(|line| &line.points);
        points.map(|(_, y)| *y).filter(|y| *y > 0.0)
    };
    let low = values().fold(f64::INFINITY, f64::min).clamp(1e-3, 1e6) / 2.0;
    let high = values().fold(low, f64::max) * 2.0;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..x_end(lines), (low..high).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc(y)
        .label_style((FONT, 13))
        .light_line_style(RGBColor(240, 240, 240))
        .x_label_formatter(&|x| format!("{x}"))
        .y_label_formatter(&|y| tick(*y))
        .draw()?;
    for line in lines {
        let points = line.points.iter().copied().filter(|(_, y)| *y > 0.0);
        let color = line.color;
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
        let points = line.points.iter().filter(|(_, y)| *y > 0.0);
        chart.draw_series(points.map(|at| Circle::new(*at, 2, color.filled())))?;
    }
    legend(&mut chart)
}

fn draw_linear(area: &Area<'_>, x: &str, y: &str, lines: &[Line]) -> Outcome {
    let values = lines.iter().flat_map(|line| &line.points).map(|(_, y)| *y);
    let high = values.fold(1e-9, f64::max) * 1.15;
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..x_end(lines), 0.0..high)?;
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc(y)
        .label_style((FONT, 13))
        .light_line_style(RGBColor(240, 240, 240))
        .x_label_formatter(&|x| format!("{x}"))
        .y_label_formatter(&|y| tick(*y))
        .draw()?;
    for line in lines {
        let color = line.color;
        chart
            .draw_series(LineSeries::new(line.points.clone(), color.stroke_width(2)))?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    legend(&mut chart)
}

fn legend<'a, X, Y>(chart: &mut ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, Y>>) -> Outcome
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .label_font((FONT, 13))
        .draw()?;
    Ok(())
}

/// A figure of an axis without needless digits.
fn tick(value: f64) -> String {
    match value {
        v if v >= 10.0 => format!("{v:.0}"),
        v if v >= 1.0 => format!("{v:.1}"),
        v => format!("{v:.3}"),
    }
}
