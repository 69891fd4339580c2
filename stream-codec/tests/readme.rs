// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The layout stands in the README and in the documentation of `frame`: they must not drift apart.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

/// The rows of the tables between two headings.
fn rows(text: &str, from: &str, to: &str) -> Vec<String> {
    let layout = text.split_once(from).unwrap().1.split_once(to).unwrap().0;
    let lines = layout.lines().map(|line| line.trim_start_matches("//!").trim());
    lines.filter(|line| line.starts_with('|')).map(|line| line.replace("[code](AbortCode)", "code")).collect()
}

#[test]
fn the_layout_in_the_readme_is_that_of_the_documentation() {
    let documented = rows(include_str!("../src/frame.rs"), "//! # Prologue", "//! # Order");
    let readme = rows(include_str!("../README.md"), "### Prologue", "### Order");
    assert!(documented.len() > 50, "only {} rows found", documented.len());
    assert_eq!(readme, documented);
}
