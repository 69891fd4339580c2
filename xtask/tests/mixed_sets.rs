// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sets of devices of several kinds move together: one stream, two processes, every state where it belongs.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod soft;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// A model with its options, and which part of its kept contents must have arrived.
#[derive(Clone, Copy)]
struct Kind {
    options: &'static str,
    /// Ranges of bytes of what `SOFTVFIO_STATE` keeps.
    state: &'static [core::ops::Range<usize>],
}

/// Two state words and the scratch bytes; what lies between tells what was saved and loaded.
const REGISTERS: &[core::ops::Range<usize>] = &[0..16, 64..128];

/// Both ports; behind them is nothing else.
const SERIAL: &[core::ops::Range<usize>] = &[0..36, 36..72];

const PLAIN: Kind = Kind { options: "model=plain caps=7 initial=100KiB dirty=50KiB stop=200KiB", state: REGISTERS };
const SIMPLE: Kind = Kind { options: "model=plain caps=1 stop=77KiB dirty-log=absent", state: REGISTERS };
const MTTY: Kind = Kind { options: "model=mtty ports=2", state: SERIAL };
const HISI: Kind = Kind { options: "model=hisi accelerator=sec", state: REGISTERS };
const MLX5: Kind = Kind { options: "model=mlx5 initial=150KiB dirty=60KiB stop=90KiB save-ms=2", state: REGISTERS };
const CHUNKS: Kind = Kind { options: "model=mlx5 initial=64KiB stop=256KiB chunk=32KiB", state: REGISTERS };

/// One process's machine: the devices of the set in order, with contents of their own.
struct Side {
    config: String,
    addresses: Vec<String>,
    contents: tempfile::TempDir,
}

impl Side {
    fn new(kernel: &str, set: &[Kind], first_seed: usize) -> Self {
        let mut config = format!("kernel={kernel}\n");
        let mut addresses = Vec::new();
        for (index, kind) in set.iter().enumerate() {
            let is_mtty = kind.options.contains("mtty");
            let seed = if is_mtty { String::new() } else { format!(" seed={}", first_seed + index) };
            config += &format!("device d{index} {}{seed}\n", kind.options);
            addresses.push(if is_mtty {
                format!("50f7f10c-0000-4000-8000-{index:012x}")
            } else {
                format!("0000:{:02x}:00.0", 0xa0 + index)
            });
        }
        // Each process lays out many small files that stand for its devices: in memory where there is such a place.
        let memory = tempfile::tempdir_in(Path::new("/dev/shm"));
        Self { config, addresses, contents: memory.or_else(|_| tempfile::tempdir()).unwrap() }
    }

    /// `migrate`, with the devices in this order.
    fn migrate(&self, side: &str, order: &[usize], more: &[&str]) -> Command {
        let mut command = soft::xtask(&self.config, &["migrate", side, "--json", "--timeout", "20"]);
        command.args(more);
        for index in order {
            command.args(["--device", &format!("d{index}={}", self.addresses[*index])]);
        }
        command.env("TMPDIR", self.contents.path()).env("SOFTVFIO_STATE", self.contents.path().join("contents"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What the device holds after its process has ended.
    fn contents(&self, index: usize) -> Vec<u8> {
        let text = std::fs::read_to_string(self.contents.path().join("contents").join(format!("d{index}"))).unwrap();
        let digits = text.lines().nth(1).unwrap().as_bytes();
        digits.chunks(2).map(|pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }
}

/// The report of the device called `name`.
fn report<'a>(side: &'a Value, name: &str) -> &'a Value {
    let devices = side["devices"].as_array().unwrap();
    devices.iter().find(|device| device["name"] == name).unwrap_or_else(|| panic!("no {name} in {side}"))
}

fn migrate(kernels: [&str; 2], set: &[Kind]) {
    let (here, there) = (Side::new(kernels[0], set, 1), Side::new(kernels[1], set, 101));
    let order: Vec<usize> = (0..set.len()).collect();
    // The other side may name the devices in any order.
    let reversed: Vec<usize> = order.iter().rev().copied().collect();
    let mut target = there.migrate("target", &reversed, &["--from", "tcp:127.0.0.1:0"]).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(target.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    let address = said.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{said}")).to_owned();
    let source = here.migrate("source", &order, &["--to", &address]).output().unwrap();
    let target = target.wait_with_output().unwrap();
    assert!(source.status.success() && target.status.success(), "{source:?}\n{target:?}");
    let [left, arrived] = [source, target].map(|output| serde_json::from_slice::<Value>(&output.stdout).unwrap());
    for (index, kind) in set.iter().enumerate() {
        let name = format!("d{index}");
        let (left, arrived) = (report(&left, &name), report(&arrived, &name));
        assert_eq!((&left["bytes"], &left["crc64_nvme"]), (&arrived["bytes"], &arrived["crc64_nvme"]), "{name}");
        assert_eq!((left["state"].as_str(), arrived["state"].as_str()), (Some("STOP"), Some("RUNNING")), "{name}");
        let live = kind.options != SIMPLE.options;
        assert_eq!(left["precopy_bytes"].as_u64().unwrap() > 0, live, "{name} {}", kind.options);
        let (from, to) = (here.contents(index), there.contents(index));
        for range in kind.state {
            assert_eq!(from[range.clone()], to[range.clone()], "{name} {}", kind.options);
        }
    }
}

#[test]
fn one_device_of_each_kind() {
    for kind in [PLAIN, SIMPLE, MTTY, HISI, MLX5, CHUNKS] {
        migrate(["6.12", "7.3"], &[kind]);
    }
}

#[test]
fn two_devices_of_different_kinds() {
    for set in [[HISI, MLX5], [MLX5, MTTY], [PLAIN, HISI], [SIMPLE, CHUNKS]] {
        migrate(["7.3", "6.12"], &set);
    }
}

#[test]
fn eight_devices_of_all_kinds() {
    migrate(["7.3", "7.3"], &[PLAIN, MTTY, HISI, MLX5, CHUNKS, SIMPLE, HISI, MLX5]);
}

#[test]
fn devices_of_different_vendors_are_not_exchanged() {
    let (here, there) = (Side::new("7.3", &[HISI], 1), Side::new("7.3", &[MLX5], 101));
    let folder = tempfile::tempdir().unwrap();
    let file = format!("file:{}", folder.path().join("state").display());
    assert!(here.migrate("source", &[0], &["--to", &file]).output().unwrap().status.success());
    let refused = there.migrate("target", &[0], &["--from", &file]).output().unwrap();
    let report: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert!(!refused.status.success());
    assert!(report["error"].as_str().unwrap().contains("they do not read each other's state"), "{report}");
}
