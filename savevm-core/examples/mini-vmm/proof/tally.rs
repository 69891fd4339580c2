// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What all runs came to.

use core::fmt;
use std::collections::BTreeMap;

use super::cut::Who;
use super::run::Report;
use crate::Outcome;

/// All runs so far.
#[derive(Default)]
pub(super) struct Tally {
    whole: u64,
    pub(super) failed: u64,
    /// Attempts that were cut, by the phase they were in.
    cuts: BTreeMap<String, u64>,
    predicted_ms: Vec<f64>,
    downtime_ms: Vec<f64>,
}

impl Tally {
    /// Counts a run, and puts it into words.
    pub(super) fn add(&mut self, outcome: Outcome<Report>) -> String {
        let report = match outcome {
            Ok(report) => report,
            Err(error) => {
                self.failed += 1;
                return format!("FAILED: {error}");
            }
        };
        self.whole += 1;
        let mut text = String::new();
        for (who, phase) in report.cuts {
            let what = match who {
                Who::Source => "cancelled",
                Who::Target => "target killed",
            };
            text += &format!("{what} in {phase}, ");
            *self.cuts.entry(phase).or_default() += 1;
        }
        self.predicted_ms.push(report.predicted_ms);
        self.downtime_ms.push(report.downtime_ms);
        let (predicted, took) = (report.predicted_ms, report.downtime_ms);
        text + &format!("moved whole, {took:.1} ms of downtime, {predicted:.1} predicted")
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count: u64 = self.cuts.values().sum();
        let phases: Vec<String> = self.cuts.iter().map(|(phase, count)| format!("{phase} {count}")).collect();
        write!(f, "{} runs whole, {} failed", self.whole, self.failed)?;
        if count > 0 {
            write!(f, "; {count} attempts cut ({})", phases.join(", "))?;
        }
        if self.whole == 0 {
            return Ok(());
        }
        let (took, took_max) = middle_and_most(&self.downtime_ms);
        let (predicted, predicted_max) = middle_and_most(&self.predicted_ms);
        write!(
            f,
            "; downtime {took:.1} ms, at most {took_max:.1}; predicted {predicted:.1}, at most {predicted_max:.1}"
        )
    }
}

fn middle_and_most(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    (at(sorted.len() / 2), at(sorted.len().saturating_sub(1)))
}
