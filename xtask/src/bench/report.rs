// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Outcomes as a table and as a JSON document.

use core::fmt::Write;

use serde::Serialize;

use super::measure::{Measured, Outcome, Unit};
use super::network;

#[derive(Debug, Serialize)]
pub(super) struct Document<'a> {
    /// What it was measured on: values of two machines cannot be compared, ratios can with care.
    pub(super) processor: Option<String>,
    pub(super) processors: usize,
    /// Of TCP; it decides how fast a connection within one machine is too.
    pub(super) congestion_control: Option<String>,
    pub(super) quick: bool,
    pub(super) comparisons: &'a [Outcome],
    reached: bool,
}

pub(super) fn document(outcomes: &[Outcome], quick: bool) -> Document<'_> {
    Document {
        processor: processor(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        congestion_control: network::congestion_control(),
        quick,
        comparisons: outcomes,
        reached: outcomes.iter().all(Outcome::is_reached),
    }
}

/// The name the kernel has for the first processor, where it has one.
fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// What it was measured on, in a line.
pub(super) fn machine(document: &Document<'_>) -> String {
    let processor = document.processor.as_deref().unwrap_or("unknown processor");
    let tcp = document.congestion_control.as_deref().unwrap_or("an unknown congestion control");
    let quick = if document.quick { " · quick: to see that it works, not to judge by" } else { "" };
    format!("{processor} · {} processors · TCP with {tcp}{quick}", document.processors)
}

/// What it was measured on, and one line per contender, below its comparison.
pub(super) fn table(document: &Document<'_>) -> String {
    let mut text = format!("{}\n", machine(document));
    for outcome in document.comparisons {
        let _ = writeln!(text, "{}  ({} rounds)", outcome.name, outcome.rounds);
        let _ = writeln!(text, "  {:24} {:>12}  {:>7} {:>15}  {:>7}", "", "median", "ratio", "quartiles", "goal");
        for (index, measured) in outcome.contenders.iter().enumerate() {
            let name = measured.name;
            let value = value(outcome.unit, measured.value.median);
            let line = if index == 0 {
                format!("  {name:24} {value:>12}  baseline")
            } else {
                format!("  {name:24} {value:>12}  {}", judged(measured))
            };
            let _ = writeln!(text, "{line}");
        }
    }
    text.truncate(text.trim_end().len());
    text
}

fn judged(measured: &Measured) -> String {
    let ratio = &measured.ratio;
    let quartiles = format!("{:.2} to {:.2}", ratio.quartile_low, ratio.quartile_high);
    let goal = measured.goal.map_or(String::new(), |goal| goal.to_string());
    let verdict = match measured.reached {
        None if measured.goal.is_some() => "not judged: too much noise",
        None => "",
        Some(true) => "reached",
        Some(false) => "MISSED",
    };
    format!("{:>7.2} {quartiles:>15}  {goal:>7}  {verdict}", ratio.median).trim_end().to_owned()
}

pub(super) fn value(unit: Unit, value: f64) -> String {
    match unit {
        Unit::BytesPerSecond => format!("{:.0} MiB/s", value / f64::from(1u32 << 20)),
        Unit::RecordsPerSecond => format!("{:.1} M/s", value / 1e6),
        Unit::SecondsPerGigabyte => format!("{value:.3} s/GB"),
        Unit::Bytes => format!("{:.1} MiB", value / f64::from(1u32 << 20)),
        Unit::Milliseconds => format!("{value:.1} ms"),
        Unit::Microseconds => format!("{value:.0} µs"),
        Unit::Percent => format!("{value:.1} %"),
        Unit::Count => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::bench::{Comparison, Contender, Goal};

    fn outcome(goal: f64) -> Outcome {
        let mebibytes = f64::from(1u32 << 20);
        let comparison = Comparison {
            name: "codec/test".into(),
            unit: Unit::BytesPerSecond,
            baseline: Contender::new("read", None, move || Ok(4.0 * mebibytes)),
            contenders: vec![Contender::new("decode", Some(Goal::AtLeast(goal)), move || Ok(3.0 * mebibytes))],
        };
        super::super::measure::compare(comparison, 1).unwrap()
    }

    #[test]
    fn the_table_says_who_missed_what() {
        let outcomes = [outcome(0.5), outcome(0.8)];
        let document = document(&outcomes, false);
        let text = table(&document);
        let (first, text) = text.split_once('\n').unwrap();
        assert_eq!(first, machine(&document));
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[0], "codec/test (1 rounds)");
        assert_eq!(lines[2], "read 4 MiB/s baseline");
        assert_eq!(lines[3], "decode 3 MiB/s 0.75 0.75 to 0.75 ≥ 0.50 reached");
        assert_eq!(lines[7], "decode 3 MiB/s 0.75 0.75 to 0.75 ≥ 0.80 MISSED");
    }

    #[test]
    fn the_document_has_values_ratios_and_goals() {
        let outcomes = [outcome(0.8)];
        let document = serde_json::to_value(document(&outcomes, true)).unwrap();
        let decode = &document["comparisons"][0]["contenders"][1];
        assert_eq!(decode["value"]["median"], 3.0 * 1048576.0);
        assert_eq!(decode["ratio"]["median"], 0.75);
        assert_eq!(decode["goal"]["at_least"], 0.8);
        assert_eq!((&decode["reached"], &document["reached"]), (&false.into(), &false.into()));
        assert_eq!(document["comparisons"][0]["unit"], "bytes_per_second");
    }
}
