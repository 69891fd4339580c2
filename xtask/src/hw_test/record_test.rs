// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

use super::*;

fn id(name: &str) -> TestId {
    TestId { group: Group::Arcs, name: name.into() }
}

fn begin(names: &[&str]) -> Run {
    let mut run = Run::new("r");
    let planned = names.iter().map(|name| id(name)).collect();
    run.event(Event::SuiteStarted { protocol: PROTOCOL, facts: Facts::default(), planned });
    run
}

fn start(run: &mut Run, name: &str) {
    run.event(Event::TestStarted { group: Group::Arcs, name: name.into() });
}

fn pass(run: &mut Run, name: &str) {
    start(run, name);
    run.event(Event::TestFinished {
        group: Group::Arcs,
        name: name.into(),
        outcome: Outcome::Passed,
        reason: None,
        details: vec![],
        duration_ms: 1.0,
    });
}

fn orderly() -> Ending {
    Ending::Exited { orderly: true, status: "exit code 0".into() }
}

fn outcomes(run: &Run) -> Vec<(&str, Outcome)> {
    run.tests.iter().map(|test| (test.name.as_str(), test.outcome)).collect()
}

fn reason<'a>(run: &'a Run, name: &str) -> &'a str {
    run.tests.iter().find(|test| test.name == name).unwrap().reason.as_deref().unwrap()
}

#[test]
fn a_complete_suite_is_a_success() {
    let mut run = begin(&["a", "b"]);
    pass(&mut run, "a");
    pass(&mut run, "b");
    run.event(Event::SuiteFinished { passed: 2, failed: 0, skipped: 0 });
    run.end(&orderly());
    assert_eq!(run.counts(), Counts { passed: 2, failed: 0, skipped: 0 });
    assert!(run.counts().is_success());
}

#[test]
fn nothing_ran_is_not_a_success() {
    assert!(!Counts::default().is_success());
    assert!(!Counts { passed: 0, failed: 0, skipped: 9 }.is_success());
    assert!(!Counts { passed: 9, failed: 1, skipped: 0 }.is_success());
}

#[test]
fn a_crash_fails_the_test_it_happened_in_and_skips_the_rest() {
    let mut run = begin(&["a", "b", "c"]);
    pass(&mut run, "a");
    start(&mut run, "b");
    run.output("thread panicked".into());
    run.end(&Ending::Exited { orderly: false, status: "signal 11".into() });
    assert_eq!(outcomes(&run), [("a", Outcome::Passed), ("b", Outcome::Failed), ("c", Outcome::Skipped)]);
    assert!(reason(&run, "b").contains("signal 11"));
    assert!(reason(&run, "c").contains("arcs: b"));
    assert_eq!(run.tests[1].output, ["thread panicked"]);
}

#[test]
fn a_hang_names_the_test() {
    let mut run = begin(&["a"]);
    start(&mut run, "a");
    run.end(&Ending::Killed { why: "no sign of life for 30 s".into() });
    assert!(reason(&run, "a").contains("no sign of life for 30 s"));
    assert!(!run.counts().is_success());
}

#[test]
fn an_end_between_two_tests_is_a_failure_of_the_suite() {
    let mut run = begin(&["a", "b"]);
    pass(&mut run, "a");
    run.end(&orderly());
    assert_eq!(outcomes(&run), [("a", Outcome::Passed), ("suite process", Outcome::Failed), ("b", Outcome::Skipped)]);
}

#[test]
fn a_suite_that_never_started_is_a_failure_with_its_output() {
    let mut run = Run::new("r");
    run.output("no such device".into());
    run.end(&Ending::Exited { orderly: false, status: "exit code 2".into() });
    assert_eq!(outcomes(&run), [("suite process", Outcome::Failed)]);
    assert_eq!(run.tests[0].output, ["no such device"]);
}

#[test]
fn a_bad_status_after_the_last_event_is_a_failure() {
    let mut run = begin(&["a"]);
    pass(&mut run, "a");
    run.event(Event::SuiteFinished { passed: 1, failed: 0, skipped: 0 });
    run.end(&Ending::Exited { orderly: false, status: "signal 6".into() });
    assert_eq!(run.counts(), Counts { passed: 1, failed: 1, skipped: 0 });
}

#[test]
fn lost_events_are_noticed() {
    let mut run = begin(&["a", "b"]);
    pass(&mut run, "a");
    run.event(Event::SuiteFinished { passed: 2, failed: 0, skipped: 0 });
    run.end(&orderly());
    assert!(reason(&run, "suite process").contains("events were lost"));
    assert_eq!(run.counts().failed, 1);
}

#[test]
fn a_test_overtaken_by_another_failed() {
    let mut run = begin(&["a", "b"]);
    start(&mut run, "a");
    pass(&mut run, "b");
    assert_eq!(outcomes(&run), [("a", Outcome::Failed), ("b", Outcome::Passed)]);
}

#[test]
fn another_protocol_is_refused() {
    let mut run = Run::new("r");
    run.event(Event::SuiteStarted { protocol: PROTOCOL + 1, facts: Facts::default(), planned: vec![] });
    assert_eq!(run.counts().failed, 1);
}

#[test]
fn output_is_bounded_and_keeps_the_end() {
    let mut run = begin(&["a"]);
    start(&mut run, "a");
    for line in 0..OUTPUT_LINES_MAX + 5 {
        run.output(line.to_string());
    }
    run.end(&Ending::Killed { why: "x".into() });
    assert_eq!(run.tests[0].output.len(), OUTPUT_LINES_MAX);
    assert_eq!(run.tests[0].output.last().unwrap(), &(OUTPUT_LINES_MAX + 4).to_string());
}

#[test]
fn tests_that_ended_in_any_order_are_put_into_the_planned_one() {
    let mut run = begin(&["a", "b", "c"]);
    for name in ["c", "extra", "a", "b"] {
        pass(&mut run, name);
    }
    run.sort(&["a", "b", "c"].map(id));
    let names: Vec<_> = run.tests.iter().map(|test| test.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "extra"]);
}
