// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Holding the simulator against the kernel: the same tests must end the same way on both.

use std::collections::BTreeMap;

use super::event::{Group, Outcome};
use super::record::{Record, Run};

/// The outcome and reason of every test, by what identifies it.
type Outcomes<'a> = BTreeMap<(Group, &'a str), (Outcome, Option<&'a str>)>;

/// A run of one passed test where both agree, and of one failed test for each outcome in which they differ.
pub(crate) fn compare(label: &str, real: &Run, simulated: &Run) -> Run {
    let (on_kernel, on_simulator) = (outcomes(real), outcomes(simulated));
    let mut run = Run::new(label);
    run.facts.clone_from(&simulated.facts);
    run.duration_ms = simulated.duration_ms;
    let names: std::collections::BTreeSet<_> = on_kernel.keys().chain(on_simulator.keys()).collect();
    for name in &names {
        let (kernel, simulator) = (on_kernel.get(name), on_simulator.get(name));
        if kernel.map(|(outcome, _)| outcome) != simulator.map(|(outcome, _)| outcome) {
            let reason = format!("kernel: {}; simulator: {}", words(kernel), words(simulator));
            run.tests.push(record(name.0, name.1, Outcome::Failed, reason));
        }
    }
    if run.tests.is_empty() && !names.is_empty() {
        let name = format!("the simulator ends all {} tests as the kernel does", names.len());
        run.tests.push(record(Group::Simulator, &name, Outcome::Passed, String::new()));
    }
    run
}

/// A run that says why nothing was compared.
pub(crate) fn skipped(label: &str, reason: &str) -> Run {
    let mut run = Run::new(label);
    run.tests.push(record(Group::Simulator, "the simulator against the kernel", Outcome::Skipped, reason.to_owned()));
    run
}

/// What is done with a QEMU is left out: on simulated devices another target does that.
fn outcomes(run: &Run) -> Outcomes<'_> {
    let tests = run.tests.iter().filter(|test| test.group != Group::Qemu);
    tests.map(|test| ((test.group, test.name.as_str()), (test.outcome, test.reason.as_deref()))).collect()
}

fn words(found: Option<&(Outcome, Option<&str>)>) -> String {
    match found {
        None => "not there".to_owned(),
        Some((Outcome::Passed, _)) => "passed".to_owned(),
        Some((Outcome::Failed, reason)) => format!("failed ({})", reason.unwrap_or("no reason given")),
        Some((Outcome::Skipped, reason)) => format!("skipped ({})", reason.unwrap_or("no reason given")),
    }
}

fn record(group: Group, name: &str, outcome: Outcome, reason: String) -> Record {
    Record {
        group,
        name: name.to_owned(),
        outcome,
        reason: (!reason.is_empty()).then_some(reason),
        details: Vec::new(),
        duration_ms: 0.0,
        phases: Vec::new(),
        output: Vec::new(),
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn run(tests: &[(&str, Outcome)]) -> Run {
        let mut run = Run::new("a run");
        run.tests = tests.iter().map(|(name, outcome)| record(Group::Arcs, name, *outcome, String::new())).collect();
        run
    }

    #[test]
    fn agreement_is_one_passed_test() {
        let tests = [("a", Outcome::Passed), ("b", Outcome::Skipped)];
        let compared = compare("label", &run(&tests), &run(&tests));
        assert!(compared.counts().is_success());
        assert_eq!(compared.tests.len(), 1);
    }

    #[test]
    fn every_difference_is_a_failure() {
        let real = run(&[("a", Outcome::Passed), ("b", Outcome::Skipped), ("c", Outcome::Passed)]);
        let simulated = run(&[("a", Outcome::Failed), ("b", Outcome::Passed), ("d", Outcome::Passed)]);
        let compared = compare("label", &real, &simulated);
        let names: Vec<&str> = compared.tests.iter().map(|test| test.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
        assert_eq!(compared.counts().failed, 4);
    }

    #[test]
    fn migrations_with_a_qemu_are_the_kernel_s_alone() {
        let mut real = run(&[("a", Outcome::Passed)]);
        let simulated = real.clone();
        real.tests.push(record(Group::Qemu, "b", Outcome::Passed, String::new()));
        assert!(compare("label", &real, &simulated).counts().is_success());
    }

    #[test]
    fn nothing_to_compare_is_no_success() {
        assert!(!compare("label", &run(&[]), &run(&[])).counts().is_success());
    }
}
