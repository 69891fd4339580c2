// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The table a person reads: groups and counts, then every failure with its detail and every skip with its reason.

use core::fmt::Write;
use std::collections::BTreeMap;

use super::super::event::{self, Facts, Group, Outcome};
use super::super::record::{Counts, Record, Run};
use super::Report;

/// Lines of foreign output shown below a failure; the files have more.
const OUTPUT_LINES_SHOWN: usize = 12;

/// Of so many tests skipped for one reason every name is shown; of more than that, a few.
const SKIPS_SHOWN_MAX: usize = 8;
const SKIPS_SHOWN: usize = 4;

struct Paint {
    color: bool,
}

impl Paint {
    fn on(&self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.into() }
    }

    fn count(&self, code: &str, width: usize, count: usize) -> String {
        let text = format!("{count:>width$}");
        if count == 0 { self.on("2", &text) } else { self.on(code, &text) }
    }
}

/// Everything below is written into a String, which cannot fail; hence the ignored results.
pub(super) fn render(report: &Report, color: bool) -> String {
    let paint = Paint { color };
    let mut text = String::new();
    for run in &report.runs {
        let _ = writeln!(text, "{}", paint.on("1", &run.label));
        if let Some(facts) = &run.facts {
            place(&mut text, facts);
        }
    }
    text.push('\n');
    groups(&mut text, report, &paint);
    failures(&mut text, report, &paint);
    skips(&mut text, report, &paint);
    verdict(&mut text, report, &paint);
    text
}

fn place(text: &mut String, facts: &Facts) {
    let what = if facts.simulated { "simulated driver, on kernel" } else { "kernel" };
    let _ = writeln!(text, "  {what} {} {}", facts.kernel, facts.machine);
    for device in &facts.devices {
        let _ = writeln!(
            text,
            "  {} · {} · {} · {} by {} · rules of {}",
            device.name, device.pci_id, device.capabilities, device.driver, device.access, device.profile
        );
    }
}

fn groups(text: &mut String, report: &Report, paint: &Paint) {
    let several = report.runs.len() > 1;
    let width = report.runs.iter().map(|run| run.label.chars().count()).max().unwrap_or(0).max(12);
    let _ = writeln!(text, "{}", paint.on("1", &format!("{:width$}  passed  failed  skipped     time", "group")));
    for group in Group::ALL {
        let tests = report.runs.iter().flat_map(|run| &run.tests).filter(|test| test.group == group);
        row(text, paint, width, group.name(), tests);
    }
    if several {
        let _ = writeln!(text, "{}", paint.on("1", &format!("{:width$}  passed  failed  skipped     time", "run")));
        for run in &report.runs {
            row(text, paint, width, &run.label, run.tests.iter());
        }
    }
}

fn row<'a>(
    text: &mut String,
    paint: &Paint,
    width: usize,
    name: &str,
    tests: impl Iterator<Item = &'a Record> + Clone,
) {
    let counts = Counts::of(tests.clone());
    if counts.total() == 0 {
        return;
    }
    let seconds: f64 = tests.map(|test| test.duration_ms).sum::<f64>() / 1e3;
    let _ = writeln!(
        text,
        "{name:width$}  {}  {}  {}  {seconds:>5.1} s",
        paint.count("32", 6, counts.passed),
        paint.count("31;1", 6, counts.failed),
        paint.count("33", 7, counts.skipped)
    );
}

fn failures(text: &mut String, report: &Report, paint: &Paint) {
    for (run, test) in with(report, Outcome::Failed) {
        let title = format!("failed  {}", event::row(&run.label, test.group, &test.name));
        let _ = writeln!(text, "\n{}", paint.on("31;1", &title));
        indent(text, test.reason.as_deref().unwrap_or("no reason given"), "  ");
        for detail in &test.details {
            indent(text, detail, "  · ");
        }
        let hidden = test.output.len().saturating_sub(OUTPUT_LINES_SHOWN);
        for line in test.output.iter().skip(hidden) {
            indent(text, line, "  | ");
        }
    }
}

fn indent(text: &mut String, lines: &str, margin: &str) {
    for line in lines.lines() {
        let _ = writeln!(text, "{margin}{line}");
    }
}

/// Skips of one reason stand together: forty arcs of a device without P2P are one fact.
fn skips(text: &mut String, report: &Report, paint: &Paint) {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (run, test) in with(report, Outcome::Skipped) {
        let reason = test.reason.as_deref().unwrap_or("no reason given");
        reasons.entry(reason).or_default().push(event::row(&run.label, test.group, &test.name));
    }
    if reasons.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{}", paint.on("33", "skipped"));
    for (reason, tests) in reasons {
        let _ = writeln!(text, "  {} × {reason}", tests.len());
        let hidden = if tests.len() > SKIPS_SHOWN_MAX { tests.len().saturating_sub(SKIPS_SHOWN) } else { 0 };
        for test in tests.iter().take(tests.len().saturating_sub(hidden)) {
            let _ = writeln!(text, "    {test}");
        }
        if hidden > 0 {
            let _ = writeln!(text, "    and {hidden} more, named in the report's files");
        }
    }
}

fn with(report: &Report, outcome: Outcome) -> impl Iterator<Item = (&Run, &Record)> {
    let pairs = report.runs.iter().flat_map(|run| run.tests.iter().map(move |test| (run, test)));
    pairs.filter(move |(_, test)| test.outcome == outcome)
}

fn verdict(text: &mut String, report: &Report, paint: &Paint) {
    let Counts { passed, failed, skipped } = report.counts;
    let word = if report.success { paint.on("32;1", "passed") } else { paint.on("31;1", "FAILED") };
    let _ = writeln!(
        text,
        "\nhw-test {}: {word} — {passed} passed, {failed} failed, {skipped} skipped in {:.1} s",
        report.target,
        report.duration_ms / 1e3
    );
    if report.counts.passed == 0 {
        let _ = writeln!(text, "Nothing was tested: that is no success.");
    } else if !report.success && failed == 0 {
        let _ = writeln!(text, "A run in which nothing passed is no success.");
    }
}

#[cfg(test)]
mod test {
    use crate::hw_test::report::test::sample;

    #[test]
    fn failures_and_skips_stand_with_their_reasons() {
        let text = sample().table(false);
        assert!(!text.contains('\u{1b}') || text.contains("'y'\u{1b}"), "no colour was asked for");
        for part in ["arcs               1       1        0", "expected <x> & 'y'", "kernel 6.12.57 hangs", "FAILED"] {
            assert!(text.contains(part), "{part:?} missing in\n{text}");
        }
    }
}
