// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The result of `hw-test` in its four forms: a table for people, JSON for programs, JUnit XML for build servers and
//! an HTML page with the timelines.

mod chart;
mod html;
mod junit;
mod table;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::record::{Counts, Run};

/// Everything one invocation found out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// `soft`, `vm` or `device ID`.
    pub target: String,
    /// The subset that was asked for, if any.
    pub filter: Option<String>,
    /// Something ran and everything that ran passed.
    pub success: bool,
    /// Over all runs.
    pub counts: Counts,
    /// Seconds since 1970 at the start.
    pub started_unix_s: u64,
    /// Wall time in milliseconds.
    pub duration_ms: f64,
    /// One per suite process.
    pub runs: Vec<Run>,
}

impl Report {
    /// Draws the sum. A run in which nothing passed is not a success unless a filter explains it.
    pub(crate) fn new(
        target: String,
        filter: Option<String>,
        started_unix_s: u64,
        duration_ms: f64,
        runs: Vec<Run>,
    ) -> Self {
        let counts = Counts::of(runs.iter().flat_map(|run| &run.tests));
        let idle = runs.iter().any(|run| run.counts().passed == 0);
        let success = counts.is_success() && (filter.is_some() || !idle);
        Self { target, filter, success, counts, started_unix_s, duration_ms, runs }
    }

    /// The table for people; `color` allows terminal colours.
    pub(crate) fn table(&self, color: bool) -> String {
        table::render(self, color)
    }

    /// One document.
    pub(crate) fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// Writes `report.json`, `junit.xml` and `report.html` into `folder`, creating it.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        fs::create_dir_all(folder)?;
        let json = self.json()?;
        let files = [("report.html", html::render(self)), ("junit.xml", junit::render(self)), ("report.json", json)];
        let mut written = Vec::new();
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text)?;
            written.push(path);
        }
        Ok(written)
    }
}

/// `text` with the five characters escaped that mean something in XML and HTML, and without the control characters
/// that XML 1.0 cannot express.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' | '\r' => escaped.push(character),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
pub(crate) mod test {
    use super::*;
    use crate::hw_test::event::{DeviceFacts, Event, Facts, Group, Outcome, PROTOCOL, Phase};
    use crate::hw_test::record::Ending;

    /// A report with a passed, a failed and a skipped test and a timeline, full of characters that need escaping.
    pub(crate) fn sample() -> Report {
        let mut run = Run::new("mtty <1>");
        let device = DeviceFacts { name: "a&b".into(), capabilities: "STOP_COPY|P2P".into(), ..DeviceFacts::default() };
        let facts = Facts { kernel: "6.12.117".into(), devices: vec![device], ..Facts::default() };
        run.event(Event::SuiteStarted { protocol: PROTOCOL, facts, planned: vec![] });
        let ends = [
            (Group::Arcs, "RUNNING -> STOP", Outcome::Passed, None),
            (Group::Arcs, "a \"b\" <c>", Outcome::Failed, Some("expected <x> & 'y'\u{1b}[0m\n]]> second line")),
            (Group::Illegal, "STOP_COPY -> PRE_COPY", Outcome::Skipped, Some("kernel 6.12.57 hangs")),
        ];
        for (group, name, outcome, reason) in ends {
            run.event(Event::TestStarted { group, name: name.into() });
            for (phase, at_ms, bytes) in [("PRE_COPY", 0.0, 0), ("STOP_COPY", 4.0, 24), ("STOP", 5.0, 60)] {
                let (migration, device) = ("one".into(), "<a> source".into());
                run.event(Event::Phase(Phase { migration, device, phase: phase.into(), at_ms, bytes }));
            }
            run.event(Event::TestFinished {
                group,
                name: name.into(),
                outcome,
                reason: reason.map(Into::into),
                details: vec!["detail <d>".into()],
                duration_ms: 12.5,
            });
        }
        run.event(Event::SuiteFinished { passed: 1, failed: 1, skipped: 1 });
        run.end(&Ending::Exited { orderly: true, status: "exit code 1".into() });
        Report::new("soft".into(), None, 1_700_000_000, 40.0, vec![run])
    }

    fn run_of(outcomes: &[Outcome]) -> Run {
        let mut run = Run::new("r");
        for (index, outcome) in outcomes.iter().enumerate() {
            let name = index.to_string();
            run.event(Event::TestStarted { group: Group::Arcs, name: name.clone() });
            let (group, outcome, reason, details) = (Group::Arcs, *outcome, None, vec![]);
            run.event(Event::TestFinished { group, name, outcome, reason, details, duration_ms: 0.0 });
        }
        run
    }

    #[test]
    fn success_needs_something_that_ran_in_every_run() {
        use Outcome::{Failed, Passed, Skipped};
        let check = |runs: &[&[Outcome]], filter: Option<&str>, expected| {
            let runs = runs.iter().map(|outcomes| run_of(outcomes)).collect();
            let report = Report::new("t".into(), filter.map(Into::into), 0, 0.0, runs);
            assert_eq!(report.success, expected);
        };
        check(&[&[Passed, Skipped]], None, true);
        check(&[&[Skipped]], None, false);
        check(&[&[Skipped]], Some("x"), false);
        check(&[], None, false);
        check(&[&[Passed], &[Skipped]], None, false);
        check(&[&[Passed], &[Skipped]], Some("x"), true);
        check(&[&[Passed], &[Passed, Failed]], None, false);
    }

    #[test]
    fn three_files_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let written = sample().write(&folder.path().join("deep/er")).unwrap();
        assert_eq!(written.len(), 3);
        for path in written {
            assert!(fs::metadata(path).unwrap().len() > 100);
        }
    }
}
