// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernels' ways to lose dirty bits, by name: what a raw caller gets, and what the library makes of it.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The folder with the library and the program, which cargo does not build for a test that links with neither.
fn built() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_path_buf();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "softvfio", "--lib", "--example", "dirty", "--target-dir"]);
        cargo.arg(folder.parent().unwrap());
        if folder.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap().success(), "the library builds");
        folder
    })
}

/// What the program prints for `scenario`, on a kernel with one set of bugs and a device with another.
fn run(scenario: &str, [of_kernel, of_device]: [&str; 2]) -> String {
    let device = "device a model=plain dma-rate=1MiB/s stop=4KiB address=0000:a1:00.0";
    let mut command = Command::new(built().join("examples/dirty"));
    command.env("LD_PRELOAD", built().join("libsoftvfio.so"));
    command.env("SOFTVFIO", format!("kernel=7.3 {of_kernel}\n{device} {of_device}"));
    let output = command.args([scenario, "0000:a1:00.0"]).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{scenario}: {}\n{text}", output.status);
    text
}

#[test]
fn a_report_that_pds_shifts_is_read_from_where_it_does_not() {
    assert_eq!(run("log", ["", ""]), "raw: [70]\nours: [70], 0 errors\n");
    // From page 10 on the report has what is from page 64 on: everything 54 pages too low.
    let found = run("log", ["", "bug=pds-shifted-report"]);
    assert_eq!(found, "raw: [16]\nours: [70], 0 errors\n");
}

#[test]
fn a_log_that_ends_with_stop_copy_makes_everything_dirty() {
    let sound = "raw: Ok(()), [70]\nours: 1 dirty, 0 errors\nrestart: 0 errors\nthen: 1 dirty, 0 errors\n";
    assert_eq!(run("after-stop", ["", ""]), sound);
    let found = run("after-stop", ["", "bug=pds-shifted-report,pds-stop-ends-log"]);
    let all = "raw: Err(22), []\nours: 200 dirty, 1 errors\nrestart: 0 errors\nthen: 1 dirty, 0 errors\n";
    assert_eq!(found, all);
}

#[test]
fn a_table_is_not_read_when_its_tracking_has_ended() {
    let rest = "ours: [70], 0 errors\nstarted again: 200 dirty, 0 errors\n";
    assert_eq!(run("untracked", ["", ""]), format!("raw: [70]\n{rest}"));
    assert_eq!(run("untracked", ["bug=untracked-is-clean", ""]), format!("raw: []\n{rest}"));
}

#[test]
fn a_request_of_no_length_is_not_made() {
    let refused = "ours: an empty range at 0x0\nthen: [70]\n";
    assert_eq!(run("empty", ["", ""]), format!("raw: Err(22), then [70]\n{refused}"));
    assert_eq!(run("empty", ["bug=zero-length", ""]), format!("raw: Ok(()), then []\n{refused}"));
}
