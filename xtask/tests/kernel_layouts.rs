// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The vendors' layouts against the kernel's own source, wherever `cargo xtask kernel-source` has put some.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr, clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs the layout tests of both crates on a tree, and gives what they print.
fn compare(tree: &str) -> String {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("layouts");
    let output = Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--package", "device-hisi", "--package", "device-mlx5"])
        .args(["--test", "kernel_layout", "--target-dir"])
        .arg(&target)
        .args(["--", "--nocapture", "--test-threads=1"])
        .env("SAVEVM_KERNEL_SOURCE", tree)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "{tree}: {said}");
    said
}

#[test]
fn layouts_are_those_of_every_kernel_in_the_cache() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_xtask")).args(["kernel-source", "--cached", "--json"]).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).expect("one document");
    let Some(trees) = found["trees"].as_array().filter(|trees| !trees.is_empty()) else {
        eprintln!("skipped: {}", found["missing"][0].as_str().or(found["error"].as_str()).unwrap());
        return;
    };
    for tree in trees {
        let said = compare(tree["path"].as_str().unwrap());
        assert!(!said.contains("SAVEVM_KERNEL_SOURCE"), "the tree was not looked at: {said}");
        for skip in said.lines().filter(|line| line.starts_with("skipped: ")) {
            eprintln!("kernel {}: {skip}", tree["version"]);
        }
    }
}
