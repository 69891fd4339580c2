// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What libFuzzer says about a run, line by line.

/// How much of a panic's words is repeated: a value that is not what it should be may be very long.
const FAILURE_CHARACTERS_MAX: usize = 160;

/// What has been said so far.
#[derive(Debug, Default, Eq, PartialEq)]
pub(in crate::fuzz) struct Said {
    pub(super) runs: u64,
    pub(super) edges: u64,
    pub(super) corpus: u64,
    pub(super) peak_memory_mib: u64,
    /// How many edges there are to reach.
    pub(in crate::fuzz) counters: u64,
    /// What a panic said.
    panic: Option<String>,
    /// The panic's words follow.
    is_panicking: bool,
    /// What libFuzzer or the sanitizer said.
    error: Option<String>,
}

impl Said {
    /// Takes in a line.
    pub(super) fn line(&mut self, line: &str) {
        if core::mem::take(&mut self.is_panicking) && self.panic.is_none() {
            self.panic = Some(line.to_owned());
        } else if line.starts_with('#') {
            self.progress(line);
        } else if let Some((name, value)) = line.strip_prefix("stat::").and_then(|stat| stat.split_once(':')) {
            match (name, value.trim().parse()) {
                ("number_of_executed_units", Ok(runs)) => self.runs = runs,
                ("peak_rss_mb", Ok(peak)) => self.peak_memory_mib = peak,
                _ => {}
            }
        } else if let Some(counters) = line.strip_prefix("INFO: Loaded ").and_then(counters) {
            self.counters = counters;
        } else if line.contains(" panicked at ") {
            self.is_panicking = true;
        } else if let Some((_, error)) = line.split_once("ERROR: ") {
            self.error.get_or_insert_with(|| error.to_owned());
        }
    }

    /// `#1234 NEW    cov: 56 ft: 78 corp: 9/10b …`
    fn progress(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let runs = words.next().and_then(|word| word.strip_prefix('#')).and_then(|number| number.parse().ok());
        self.runs = runs.unwrap_or(self.runs);
        while let Some(word) = words.next() {
            match word {
                "cov:" => self.edges = words.next().and_then(|number| number.parse().ok()).unwrap_or(self.edges),
                "corp:" => {
                    let files = words.next().and_then(|files| files.split('/').next()?.parse().ok());
                    self.corpus = files.unwrap_or(self.corpus);
                }
                _ => {}
            }
        }
    }

    /// What went wrong, if something did, in so many characters as one can read; the log has all of it.
    pub(in crate::fuzz) fn failure(&self) -> String {
        let text = self.panic.as_deref().or(self.error.as_deref()).unwrap_or("it ended without saying why");
        match text.char_indices().nth(FAILURE_CHARACTERS_MAX) {
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
            None => text.to_owned(),
        }
    }
}

/// `1 modules   (21091 inline 8-bit counters): …`
fn counters(rest: &str) -> Option<u64> {
    rest.split_once('(')?.1.split_once(" inline 8-bit counters")?.0.parse().ok()
}

#[cfg(test)]
mod test {
    use super::*;

    fn said(text: &str) -> Said {
        let mut said = Said::default();
        text.lines().for_each(|line| said.line(line));
        said
    }

    #[test]
    fn progress_and_statistics_are_read() {
        let said = said(
            "INFO: Loaded 1 modules   (21091 inline 8-bit counters): 21091 [0x55d9dc8d8a00, 0x55d9dc8ddc63),
INFO: Loaded 1 PC tables (21091 PCs): 21091 [0x1,0x2),
INFO: seed corpus: files: 15 min: 22b max: 8366b total: 36764b rss: 44Mb
#35\tINITED cov: 2300 ft: 3705 corp: 15/36Kb exec/s: 0 rss: 54Mb
#1132\tREDUCE cov: 3283 ft: 8553 corp: 863/83Kb lim: 8366 exec/s: 0 rss: 80Mb L: 1/2 MS: 1 EraseBytes-
#1200\tDONE   cov: 3284 ft: 8554 corp: 864/83Kb lim: 8366 exec/s: 0 rss: 80Mb
stat::number_of_executed_units: 1201
stat::peak_rss_mb:              83",
        );
        let expected =
            Said { runs: 1201, edges: 3284, corpus: 864, peak_memory_mib: 83, counters: 21091, ..Said::default() };
        assert_eq!(said, expected);
        assert_eq!(said.failure(), "it ended without saying why");
    }

    #[test]
    fn the_words_of_a_panic_matter_most() {
        let panic = said(
            "thread '<unnamed>' (9041) panicked at src/testkit/check.rs:117:5:
split invariance, cut at [4]
==1== ERROR: libFuzzer: deadly signal",
        );
        assert_eq!(panic.failure(), "split invariance, cut at [4]");
        let long = said(&format!("thread 'a' panicked at b:1:1:\n{}", "é".repeat(1000)));
        assert_eq!(long.failure().chars().count(), FAILURE_CHARACTERS_MAX + 1);
    }

    #[test]
    fn without_a_panic_the_first_error_is_it() {
        let said = said("==1== ERROR: libFuzzer: timeout after 30 seconds\n==1==ERROR: other");
        assert_eq!(said.failure(), "libFuzzer: timeout after 30 seconds");
    }
}
