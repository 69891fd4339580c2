// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The example of a whole VMM on simulated devices: guests whose devices write to memory move, after attempts that were cut at random,
//! and nothing is lost. And what would be lost is found.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The example, built once for all tests, beside the preload library, where it looks for it.
fn example() -> &'static Path {
    static EXAMPLE: OnceLock<PathBuf> = OnceLock::new();
    EXAMPLE.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("commands");
        let build = |words: &[&str]| {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--release"]).args(words).arg("--target-dir").arg(&target);
            assert!(cargo.status().unwrap().success(), "{words:?}");
        };
        build(&["--package", "softvfio"]);
        build(&["--package", "savevm-core", "--features", "kernel,sim", "--example", "mini-vmm"]);
        target.join("release/examples/mini-vmm")
    })
}

fn mini_vmm(arguments: &[&str]) -> (Output, String) {
    let output = Command::new(example()).args(arguments).output().unwrap();
    let text = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat();
    (output, text)
}

#[test]
fn a_guest_whose_devices_write_moves() {
    let (output, text) = mini_vmm(&["--memory", "32"]);
    assert!(output.status.success(), "{text}");
    for part in [
        "0000:a0:00.0: the DMA log of the device",
        "0000:a1:00.0: the page table of iommufd",
        "none of them lost",
        "memory and devices are equal on both sides",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

/// Character devices in the first migration, groups in the second, and a launcher for each side of either.
#[test]
fn nodes_may_come_from_a_launcher() {
    let (output, text) = mini_vmm(&["--memory", "32", "--launch"]);
    assert!(output.status.success(), "{text}");
    let count = |part: &str| text.matches(part).count();
    assert_eq!(count("handed over 3 fds"), 4, "{text}");
    assert_eq!(count("memory and devices are equal on both sides"), 2, "{text}");
    assert!(
        count("0000:a1:00.0: the page table of iommufd") > 0 && count("000000000001: the type1 container") > 0,
        "{text}"
    );
}

/// The seed has all three machines, and attempts that the source cancels and that lose their target.
#[test]
fn attempts_that_are_cut_lose_nothing() {
    let (output, text) = mini_vmm(&["--runs", "3", "--seed", "9", "--memory", "32"]);
    assert!(output.status.success(), "{text}");
    for part in [
        "two devices' own logs",
        "a page table",
        "a container",
        "cancelled in",
        "target killed in",
        "3 runs whole, 0 failed",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn a_word_of_dirty_bits_that_is_lost_is_found() {
    // With so little downtime allowed it precopies for a second, and the target has most pages before they are written again.
    let (output, text) =
        mini_vmm(&["--runs", "3", "--seed", "1", "--memory", "64", "--downtime", "20", "--forget-a-word"]);
    assert!(!output.status.success(), "{text}");
    for part in ["FAILED: memory differs in", "(the vCPU's)", "of 3 runs failed"] {
        assert!(text.contains(part), "{part}\n{text}");
    }
}
