// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The timeline of one migration as SVG: a lane of phases per device, and bytes over time below.

use core::fmt::Write;

use super::super::event::Phase;
use super::escape;

/// Width of the drawing area, in SVG units.
const WIDTH: f64 = 720.0;
/// Space for the device names.
const MARGIN: f64 = 150.0;
const LANE: f64 = 22.0;
const PLOT: f64 = 110.0;

/// Known phases, each with its CSS class; anything else is drawn neutral.
const CLASSES: [(&str, &str); 14] = [
    ("RUNNING", "run"),
    ("RUNNING_P2P", "p2p"),
    ("PRE_COPY", "pre"),
    ("PRE_COPY_P2P", "prep2p"),
    ("STOP", "stop"),
    ("STOP_COPY", "copy"),
    ("RESUMING", "resume"),
    ("commit", "commit"),
    ("ERROR", "error"),
    ("pre-copy", "pre"),
    ("switchover", "prep2p"),
    ("stop-copy", "copy"),
    ("load", "resume"),
    ("done", "run"),
];

/// A longer name of a device is shown by its end, which is where names differ.
const NAME_CHARS: usize = 22;

/// `phases` of one migration, in time order per device.
pub(super) fn render(title: &str, phases: &[&Phase]) -> String {
    let mut devices: Vec<&str> = Vec::new();
    for phase in phases {
        if !devices.contains(&phase.device.as_str()) {
            devices.push(&phase.device);
        }
    }
    let end_ms = phases.iter().map(|phase| phase.at_ms).fold(0.0, f64::max).max(1e-3);
    let bytes_max = phases.iter().map(|phase| phase.bytes).max().unwrap_or(0).max(1);
    let lanes = devices.iter().fold(0.0, |height, _| height + LANE);
    let height = lanes + PLOT + 34.0;
    let mut svg = String::new();
    let _ = write!(
        svg,
        "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {} {height}\" role=\"img\">",
        escape(title),
        MARGIN + WIDTH + 20.0
    );
    let mut top = 0.0;
    for device in &devices {
        lane(&mut svg, device, phases, end_ms, top);
        top += LANE;
    }
    axes(&mut svg, lanes + 8.0, end_ms, bytes_max);
    for (index, device) in devices.iter().enumerate() {
        curve(&mut svg, device, phases, end_ms, bytes_max, lanes + 8.0, index);
    }
    svg.push_str("</svg></figure>\n");
    svg
}

fn x(at_ms: f64, end_ms: f64) -> f64 {
    MARGIN + WIDTH * (at_ms / end_ms).clamp(0.0, 1.0)
}

fn lane(svg: &mut String, device: &str, phases: &[&Phase], end_ms: f64, top: f64) {
    let own: Vec<_> = phases.iter().filter(|phase| phase.device == device).collect();
    let hidden = device.chars().count().saturating_sub(NAME_CHARS);
    let shown: String = device.chars().skip(hidden).collect();
    let mark = if hidden > 0 { "…" } else { "" };
    let _ = write!(svg, "<text x=\"0\" y=\"{}\">{mark}{}</text>", top + 14.0, escape(&shown));
    let ends = own.iter().skip(1).map(|phase| phase.at_ms).chain([end_ms]);
    for (phase, until_ms) in own.iter().zip(ends) {
        let (left, right) = (x(phase.at_ms, end_ms), x(until_ms, end_ms));
        let class = CLASSES.iter().find(|(name, _)| *name == phase.phase).map_or("other", |(_, class)| class);
        let _ = write!(
            svg,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{}\"><title>{} · {:.2} to {until_ms:.2} ms · {} bytes</title></rect>",
            (right - left).max(1.5),
            LANE - 4.0,
            escape(&phase.phase),
            phase.at_ms,
            phase.bytes
        );
    }
}

fn axes(svg: &mut String, top: f64, end_ms: f64, bytes_max: u64) {
    let bottom = top + PLOT;
    let right = MARGIN + WIDTH;
    let _ = write!(
        svg,
        "<path class=\"axis\" d=\"M{MARGIN} {top}V{bottom}H{right}\"/><text class=\"right\" x=\"{}\" y=\"{}\">{bytes_max} bytes</text><text class=\"right\" x=\"{}\" y=\"{bottom}\">0</text><text x=\"{MARGIN}\" y=\"{}\">0 ms</text><text class=\"right\" x=\"{right}\" y=\"{}\">{end_ms:.2} ms</text>",
        MARGIN - 6.0,
        top + 10.0,
        MARGIN - 6.0,
        bottom + 16.0,
        bottom + 16.0
    );
}

fn curve(svg: &mut String, device: &str, phases: &[&Phase], end_ms: f64, bytes_max: u64, top: f64, index: usize) {
    let mut points = String::new();
    for phase in phases.iter().filter(|phase| phase.device == device) {
        let y = top + PLOT * (1.0 - share(phase.bytes, bytes_max));
        let _ = write!(points, "{:.1},{y:.1} ", x(phase.at_ms, end_ms));
    }
    let _ = write!(svg, "<polyline class=\"curve c{}\" points=\"{points}\"/>", index % 4);
}

/// `part` of `whole`, from 0 to 1; thousandths are enough for a drawing.
fn share(part: u64, whole: u64) -> f64 {
    let thousandths = u128::from(part).saturating_mul(1000).checked_div(u128::from(whole)).unwrap_or(0);
    f64::from(u32::try_from(thousandths).unwrap_or(1000)) / 1000.0
}
