// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What came of all targets.

use core::fmt::Write;

use serde::Serialize;

use super::process::{Finding, Fuzzed};
use super::shown;

#[derive(Debug, Serialize)]
pub(super) struct Document {
    /// The compiler, and whether with AddressSanitizer.
    pub(super) mode: String,
    /// How long each target was to run.
    pub(super) seconds: u32,
    pub(super) found: bool,
    pub(super) targets: Vec<Fuzzed>,
    /// Those whose turn had not come when the run was interrupted.
    pub(super) not_run: Vec<String>,
}

impl Document {
    /// One line per target; what was found, and who did not run, below.
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "{:32} {:>12} {:>7} {:>7} {:>10} {:>8}  found\n",
            "target", "runs", "edges", "corpus", "memory", "CPU"
        );
        for fuzzed in &self.targets {
            let cpu = fuzzed.cpu_seconds.map_or_else(|| "?".into(), |seconds| format!("{seconds:.0} s"));
            let found = match (&fuzzed.finding, fuzzed.was_interrupted) {
                (Some(_), _) => "YES",
                (None, true) => "interrupted",
                (None, false) => "nothing",
            };
            let Fuzzed { name, runs, edges, corpus, peak_memory_mib, .. } = fuzzed;
            let _ = writeln!(
                text,
                "{name:32} {runs:>12} {edges:>7} {corpus:>7} {peak_memory_mib:>6} MiB {cpu:>8}  {found}"
            );
        }
        for fuzzed in &self.targets {
            if let Some(finding) = &fuzzed.finding {
                let _ = write!(text, "\n{}: {}", fuzzed.name, described(finding));
            }
        }
        if !self.not_run.is_empty() {
            let _ = write!(text, "\nnot run: {}", self.not_run.join(", "));
        }
        text.truncate(text.trim_end().len());
        text
    }
}

fn described(finding: &Finding) -> String {
    let mut text = format!("{}\n", finding.what);
    if let Some(replay) = &finding.replay {
        let _ = writeln!(text, "  again with {replay}");
    }
    let _ = writeln!(text, "  log {}", shown(&finding.log));
    text
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn the_table_shows_what_was_found_and_how_to_find_it_again() {
        let fuzzed = |name: &str, finding| Fuzzed {
            name: name.into(),
            runs: 1234,
            edges: 56,
            corpus: 7,
            peak_memory_mib: 89,
            wall_seconds: 60.0,
            cpu_seconds: Some(30.4),
            was_interrupted: false,
            finding,
        };
        let finding = Finding {
            what: "split invariance, cut at [4]".into(),
            inputs: vec!["target/fuzz/findings/a/y/crash-1".into()],
            replay: Some("cargo xtask fuzz a/y --replay target/fuzz/findings/a/y/crash-1".into()),
            log: "target/fuzz/logs/a-y.log".into(),
        };
        let targets = vec![fuzzed("a/x", None), fuzzed("a/y", Some(finding))];
        let not_run = vec!["a/z".to_owned()];
        let document = Document { mode: String::new(), seconds: 60, found: true, targets, not_run };
        let table = document.table();
        let lines: Vec<String> =
            table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1], "a/x 1234 56 7 89 MiB 30 s nothing");
        assert_eq!(lines[2], "a/y 1234 56 7 89 MiB 30 s YES");
        assert_eq!(lines[4], "a/y: split invariance, cut at [4]");
        assert_eq!(lines[5], "again with cargo xtask fuzz a/y --replay target/fuzz/findings/a/y/crash-1");
        assert_eq!(lines.last().unwrap(), "not run: a/z");
        let json = serde_json::to_value(&document).unwrap();
        assert_eq!(json["targets"][1]["finding"]["inputs"][0], "target/fuzz/findings/a/y/crash-1");
    }
}
