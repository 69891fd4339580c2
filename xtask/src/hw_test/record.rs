// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What became of a suite process: the events put together, and the rules of what counts as success.
//!
//! **Invariant:** nothing that was planned disappears. A test whose end was not seen failed; a test that was never
//! started is a skip with the reason; a suite that ended in any other way than by saying so is itself a failed test.

use std::collections::HashMap;

use serde::Serialize;

use super::event::{Event, Facts, Group, Outcome, PROTOCOL, Phase, TestId};

/// One finished test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Record {
    /// The area.
    pub group: Group,
    /// The name within it.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed or was skipped.
    pub reason: Option<String>,
    /// Observations.
    pub details: Vec<String>,
    /// Wall time in milliseconds.
    pub duration_ms: f64,
    /// Its timelines.
    pub phases: Vec<Phase>,
    /// What the process wrote beside its events while the test ran; kept for failures only.
    pub output: Vec<String>,
}

/// How the suite process ended, as its parent saw it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Ending {
    /// It exited by itself with this status, in words, and whether that is the one of a completed suite.
    Exited {
        /// True for the exit codes a completed suite uses.
        orderly: bool,
        /// For people: `exit code 101`, `signal 11`.
        status: String,
    },
    /// It was killed by the parent.
    Killed {
        /// For people: `no sign of life for 30 s`.
        why: String,
    },
}

/// One suite process and all it reported.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// Tells the runs of a report apart: `mtty`, `plain STOP_COPY`.
    pub label: String,
    /// Where it ran; absent if it never came so far.
    pub facts: Option<Facts>,
    /// In the order they ran, or, if several ran at a time, in which they were planned.
    pub tests: Vec<Record>,
    /// From the first event to the last, in milliseconds.
    pub duration_ms: f64,
    #[serde(skip)]
    planned: Vec<TestId>,
    #[serde(skip)]
    current: Option<Current>,
    #[serde(skip)]
    closing: Option<(usize, usize, usize)>,
    #[serde(skip)]
    noise: Vec<String>,
}

/// Number of tests by outcome.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub(crate) struct Counts {
    /// Every check held.
    pub passed: usize,
    /// At least one did not.
    pub failed: usize,
    /// Not run, for a reason.
    pub skipped: usize,
}

#[derive(Clone, Debug)]
struct Current {
    id: TestId,
    phases: Vec<Phase>,
    output: Vec<String>,
}

/// Lines of foreign output kept per test; the last ones tell what happened.
const OUTPUT_LINES_MAX: usize = 40;

impl Counts {
    /// Counts `outcome`.
    pub(crate) fn add(&mut self, outcome: Outcome) {
        let field = match outcome {
            Outcome::Passed => &mut self.passed,
            Outcome::Failed => &mut self.failed,
            Outcome::Skipped => &mut self.skipped,
        };
        *field = field.saturating_add(1);
    }

    /// Of `tests`.
    pub(crate) fn of<'a>(tests: impl IntoIterator<Item = &'a Record>) -> Self {
        let mut counts = Self::default();
        for test in tests {
            counts.add(test.outcome);
        }
        counts
    }

    /// Tests of any outcome.
    pub(crate) fn total(self) -> usize {
        self.passed.saturating_add(self.failed).saturating_add(self.skipped)
    }

    /// Something ran, and everything that ran passed.
    pub(crate) fn is_success(self) -> bool {
        self.passed > 0 && self.failed == 0
    }
}

impl Run {
    /// A run that has not said anything yet.
    pub(crate) fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            facts: None,
            tests: Vec::new(),
            duration_ms: 0.0,
            planned: Vec::new(),
            current: None,
            closing: None,
            noise: Vec::new(),
        }
    }

    /// How many tests the suite announced.
    pub(crate) fn planned(&self) -> usize {
        self.planned.len()
    }

    /// By outcome.
    pub(crate) fn counts(&self) -> Counts {
        Counts::of(&self.tests)
    }

    /// Puts the tests, which ended in any order, into this one; what is not in it comes last.
    pub(crate) fn sort(&mut self, order: &[TestId]) {
        let places: HashMap<_, _> =
            order.iter().enumerate().map(|(place, id)| ((id.group, &*id.name), place)).collect();
        self.tests.sort_by_key(|test| places.get(&(test.group, &*test.name)).copied().unwrap_or(usize::MAX));
    }

    /// Takes the next event in.
    pub(crate) fn event(&mut self, event: Event) {
        match event {
            Event::SuiteStarted { protocol, facts, planned } => {
                if protocol != PROTOCOL {
                    self.complain(format!(
                        "the suite speaks event protocol {protocol}, this command {PROTOCOL}: build both from one tree"
                    ));
                }
                self.facts = Some(facts);
                self.planned = planned;
                self.noise.clear();
            }
            Event::TestStarted { group, name } => {
                self.lose_current("the suite started another test before this one ended");
                self.current = Some(Current { id: TestId { group, name }, phases: Vec::new(), output: Vec::new() });
            }
            Event::Phase(phase) => {
                if let Some(current) = &mut self.current {
                    current.phases.push(phase);
                }
            }
            Event::TestFinished { group, name, outcome, reason, details, duration_ms } => {
                self.finished(TestId { group, name }, outcome, reason, details, duration_ms);
            }
            Event::SuiteFinished { passed, failed, skipped } => self.closing = Some((passed, failed, skipped)),
        }
    }

    /// Takes in a line that is not an event.
    pub(crate) fn output(&mut self, line: String) {
        let output = match &mut self.current {
            Some(current) => &mut current.output,
            None => &mut self.noise,
        };
        if output.len() >= OUTPUT_LINES_MAX {
            output.remove(0);
        }
        output.push(line);
    }

    /// Draws the conclusions once the process is gone.
    pub(crate) fn end(&mut self, ending: &Ending) {
        let complete = self.closing.is_some() && self.current.is_none();
        let story = match ending {
            Ending::Exited { status, .. } => format!("the suite process ended with {status}"),
            Ending::Killed { why } => format!("the suite process was killed: {why}"),
        };
        let lost = self.current.as_ref().map(|current| current.id.clone());
        self.lose_current(&format!("{story} during this test"));
        self.check_counts();
        let orderly = matches!(ending, Ending::Exited { orderly: true, .. });
        if lost.is_none() && !(complete && orderly) {
            self.complain(if complete {
                format!("{story} after its last test")
            } else {
                format!("{story} before its end")
            });
        }
        self.skip_unstarted(&match lost {
            Some(id) => format!("not run: {story} in \"{id}\""),
            None => format!("not run: {story}"),
        });
    }

    fn finished(
        &mut self,
        id: TestId,
        outcome: Outcome,
        reason: Option<String>,
        details: Vec<String>,
        duration_ms: f64,
    ) {
        let current = match self.current.take() {
            Some(current) if current.id == id => current,
            other => {
                self.current = other;
                self.lose_current("another test ended instead of this one");
                Current { id, phases: Vec::new(), output: Vec::new() }
            }
        };
        let output = if outcome == Outcome::Failed { current.output } else { Vec::new() };
        let TestId { group, name } = current.id;
        self.tests.push(Record { group, name, outcome, reason, details, duration_ms, phases: current.phases, output });
    }

    fn lose_current(&mut self, reason: &str) {
        if let Some(current) = self.current.take() {
            self.tests.push(Record {
                group: current.id.group,
                name: current.id.name,
                outcome: Outcome::Failed,
                reason: Some(reason.into()),
                details: Vec::new(),
                duration_ms: 0.0,
                phases: current.phases,
                output: current.output,
            });
        }
    }

    fn check_counts(&mut self) {
        let Some((passed, failed, skipped)) = self.closing else { return };
        let said = Counts { passed, failed, skipped };
        let seen = self.counts();
        if said != seen {
            self.complain(format!(
                "the suite counted {passed} passed, {failed} failed, {skipped} skipped, but {} passed, {} failed, {} skipped arrived: events were lost",
                seen.passed, seen.failed, seen.skipped
            ));
        }
    }

    fn complain(&mut self, reason: String) {
        self.tests.push(Record {
            group: Group::Suite,
            name: "suite process".into(),
            outcome: Outcome::Failed,
            reason: Some(reason),
            details: Vec::new(),
            duration_ms: 0.0,
            phases: Vec::new(),
            output: core::mem::take(&mut self.noise),
        });
    }

    fn skip_unstarted(&mut self, reason: &str) {
        let mut seen: HashMap<TestId, usize> = HashMap::new();
        for test in &self.tests {
            let count = seen.entry(TestId { group: test.group, name: test.name.clone() }).or_default();
            *count = count.saturating_add(1);
        }
        for id in core::mem::take(&mut self.planned) {
            if seen.contains_key(&id) {
                continue;
            }
            self.tests.push(Record {
                group: id.group,
                name: id.name,
                outcome: Outcome::Skipped,
                reason: Some(reason.into()),
                details: Vec::new(),
                duration_ms: 0.0,
                phases: Vec::new(),
                output: Vec::new(),
            });
        }
    }
}

#[cfg(test)]
#[path = "record_test.rs"]
mod test;
