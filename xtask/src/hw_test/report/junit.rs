// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! JUnit XML, as build servers read it: one `testsuite` per run and group.

use core::fmt::Write;

use super::super::event::{Group, Outcome};
use super::super::record::{Counts, Record, Run};
use super::{Report, escape};

/// The whole document.
pub(super) fn render(report: &Report) -> String {
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    open(&mut xml, "testsuites", &format!("hw-test {}", report.target), report.counts, report.duration_ms);
    for run in &report.runs {
        for group in Group::ALL {
            suite(&mut xml, report, run, group);
        }
    }
    xml.push_str("</testsuites>\n");
    xml
}

fn suite(xml: &mut String, report: &Report, run: &Run, group: Group) {
    let tests: Vec<_> = run.tests.iter().filter(|test| test.group == group).collect();
    if tests.is_empty() {
        return;
    }
    let duration_ms = tests.iter().map(|test| test.duration_ms).sum();
    let name = format!("{}.{}.{group}", report.target, run.label);
    open(xml, "testsuite", &name, Counts::of(tests.iter().copied()), duration_ms);
    for test in tests {
        case(xml, &name, test);
    }
    xml.push_str("</testsuite>\n");
}

fn open(xml: &mut String, element: &str, name: &str, counts: Counts, duration_ms: f64) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        xml,
        "<{element} name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\" time=\"{:.3}\">",
        attribute(name),
        counts.total(),
        counts.failed,
        counts.skipped,
        duration_ms / 1e3
    );
}

fn case(xml: &mut String, suite: &str, test: &Record) {
    let _ = write!(
        xml,
        "<testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\">",
        attribute(suite),
        attribute(&test.name),
        test.duration_ms / 1e3
    );
    let reason = test.reason.as_deref().unwrap_or_default();
    match test.outcome {
        Outcome::Passed => {}
        Outcome::Failed => {
            let _ = write!(xml, "<failure message=\"{}\">{}</failure>", attribute(reason), escape(reason));
        }
        Outcome::Skipped => {
            let _ = write!(xml, "<skipped message=\"{}\"/>", attribute(reason));
        }
    }
    if !test.details.is_empty() {
        let _ = write!(xml, "<system-out>{}</system-out>", escape(&test.details.join("\n")));
    }
    if !test.output.is_empty() {
        let _ = write!(xml, "<system-err>{}</system-err>", escape(&test.output.join("\n")));
    }
    xml.push_str("</testcase>\n");
}

/// Line breaks in an attribute are read back as spaces unless they are character references.
fn attribute(text: &str) -> String {
    escape(text).replace('\n', "&#10;").replace('\r', "&#13;").replace('\t', "&#9;")
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::hw_test::report::test::sample;

    #[test]
    fn the_document_parses_and_says_what_happened() {
        let xml = render(&sample());
        let document = roxmltree::Document::parse(&xml).unwrap();
        let root = document.root_element();
        assert_eq!((root.attribute("tests"), root.attribute("failures")), (Some("3"), Some("1")));
        assert_eq!(root.attribute("skipped"), Some("1"));
        let suites: Vec<_> = root.children().filter(|node| node.has_tag_name("testsuite")).collect();
        assert_eq!(suites.len(), 2);
        assert_eq!(suites[0].attribute("name"), Some("soft.mtty <1>.arcs"));
        assert_eq!(suites[0].attribute("tests"), Some("2"));
    }

    #[test]
    fn names_and_reasons_come_back_as_they_were() {
        let xml = render(&sample());
        let document = roxmltree::Document::parse(&xml).unwrap();
        let failed = document.descendants().find(|node| node.has_tag_name("failure")).unwrap();
        let expected = "expected <x> & 'y'\u{fffd}[0m\n]]> second line";
        assert_eq!(failed.attribute("message"), Some(expected));
        assert_eq!(failed.text(), Some(expected));
        assert_eq!(failed.parent().unwrap().attribute("name"), Some("a \"b\" <c>"));
        let skipped = document.descendants().find(|node| node.has_tag_name("skipped")).unwrap();
        assert_eq!(skipped.attribute("message"), Some("kernel 6.12.57 hangs"));
    }
}
