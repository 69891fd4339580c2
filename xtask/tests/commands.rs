// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The commands as a user runs them, on simulated devices: what they print, where, and with which exit status.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod soft;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

const MACHINE: &str = "kernel=7.3
device serial0 model=mtty ports=2
device serial1 model=mtty ports=2
device card0 model=plain caps=7 initial=1MiB dirty=1MiB stop=3MiB seed=1
device card1 model=plain caps=7 initial=1MiB dirty=1MiB stop=3MiB seed=1
device fixed model=plain caps=1 stop=1KiB seed=2";

const SERIAL: [&str; 2] = ["50f7f10c-0000-4000-8000-000000000000", "50f7f10c-0000-4000-8000-000000000001"];
const CARD: [&str; 2] = ["0000:a2:00.0", "0000:a3:00.0"];

fn xtask(arguments: &[&str]) -> Command {
    soft::xtask(MACHINE, arguments)
}

fn run(arguments: &[&str]) -> Output {
    xtask(arguments).output().unwrap()
}

/// The one JSON document on standard output.
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error} in {}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    })
}

/// A target that listens, and the address it says it listens on.
fn target(arguments: &[&str], at: &str) -> (Child, String) {
    let mut all = vec!["migrate", "target", "--json", "--timeout", "10", "--from", at];
    all.extend(arguments);
    let mut child = xtask(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    let address = said.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{said}")).to_owned();
    (child, address)
}

fn finish(child: Child) -> (bool, Value) {
    let output = child.wait_with_output().unwrap();
    (output.status.success(), json(&output))
}

#[test]
fn probe_shows_what_there_is() {
    let output = run(&["probe", "--json"]);
    assert!(output.status.success());
    let all = json(&output);
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 5);
    let find = |name: &str| all.iter().find(|device| device["name"] == name).unwrap();
    assert_eq!(find(SERIAL[0])["identity"], "mig1:mdev-mtty/mtty/mtty-2/mtty@1.0;!ports=2");
    // mtty.md section 1: 24 bytes and 36 per port.
    assert_eq!(find(SERIAL[0])["capabilities"]["stop_copy_bytes"], 96);
    assert_eq!(find(CARD[0])["capabilities"]["pre_copy"], true);
    assert_eq!(find("0000:a4:00.0")["capabilities"]["pre_copy"], false);

    let text = String::from_utf8(run(&["probe"]).stdout).unwrap();
    assert!(text.contains("can migrate: pre-copy yes"), "{text}");
    let missing = run(&["probe", "0000:ff:1f.7"]);
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("there is no VFIO device"), "{missing:?}");
}

#[test]
fn two_devices_move_over_every_kind_of_connection() {
    let folder = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", folder.path().join("socket").display());
    for at in ["tcp:127.0.0.1:0", &socket] {
        let (here, there) = (format!("net={}", CARD[0]), format!("net={}", CARD[1]));
        let (tty_here, tty_there) = (format!("tty={}", SERIAL[0]), format!("tty={}", SERIAL[1]));
        let (child, address) = target(&["--device", &tty_there, "--device", &there], at);
        let source = run(&["migrate", "source", "--json", "--device", &here, "--device", &tty_here, "--to", &address]);
        let (moved, arrived) = finish(child);
        assert!(source.status.success() && moved, "{source:?} {arrived}");
        let left = json(&source);
        for name in ["net", "tty"] {
            let device = |side: &Value| {
                side["devices"].as_array().unwrap().iter().find(|device| device["name"] == name).unwrap().clone()
            };
            let (left, arrived) = (device(&left), device(&arrived));
            assert_eq!(left["crc64_nvme"], arrived["crc64_nvme"], "{name}");
            assert_eq!(left["bytes"], arrived["bytes"], "{name}");
            assert!(left["precopy_bytes"].as_u64().unwrap() > 0, "{name} used its pre-copy");
            assert_eq!((left["state"].as_str(), arrived["state"].as_str()), (Some("STOP"), Some("RUNNING")));
        }
        assert!(left["downtime_ms"].as_f64().unwrap() > 0.0);
    }
}

/// mtty keeps its migration state over a close (mtty.md section 5): what a killed program left must not stay for ever.
#[test]
fn a_device_left_in_the_middle_is_reset_on_request() {
    let folder = tempfile::tempdir().unwrap();
    let (state, file) = (folder.path().join("state"), format!("file:{}", folder.path().join("file").display()));
    let migrate = |more: &[&str]| {
        let mut arguments = vec!["migrate", "source", "--json", "--device", SERIAL[0], "--to", &file];
        arguments.extend(more);
        let mut command = xtask(&arguments);
        command.env("SOFTVFIO_STATE", &state);
        command
    };
    let mut left = migrate(&["--pause-at", "stop-copy"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(left.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("stop-copy"), "{said}");
    left.kill().unwrap();
    left.wait().unwrap();

    let refused = migrate(&[]).output().unwrap();
    assert!(!refused.status.success());
    assert!(json(&refused)["error"].as_str().unwrap().contains("reset it first"), "{refused:?}");
    let reset = migrate(&["--reset-first"]).output().unwrap();
    assert!(reset.status.success(), "{reset:?}");
}

/// On the group path a second open of a group is EBUSY, and a set may have several devices in one.
#[test]
fn devices_that_share_a_group_move_together() {
    let machine = "kernel=6.12
device a0 model=plain caps=7 initial=1KiB stop=5KiB seed=1 group=7
device a1 model=mtty group=7
device b0 model=plain caps=7 initial=1KiB stop=5KiB seed=1 group=8
device b1 model=mtty group=8";
    let folder = tempfile::tempdir().unwrap();
    let file = format!("file:{}", folder.path().join("state").display());
    let migrate = |side: [&str; 3], pci: &str, mdev: &str| {
        let mut command = xtask(&["migrate", side[0], "--json", side[1], side[2], "--device", pci, "--device", mdev]);
        command.env("SOFTVFIO", machine).output().unwrap()
    };
    let saved = migrate(["source", "--to", &file], "0000:a0:00.0", "50f7f10c-0000-4000-8000-000000000001");
    assert!(saved.status.success(), "{saved:?}");
    let loaded = migrate(["target", "--from", &file], "0000:a2:00.0", "50f7f10c-0000-4000-8000-000000000003");
    assert!(loaded.status.success(), "{loaded:?}");
    assert_eq!(json(&loaded)["devices"].as_array().unwrap().len(), 2);
}

#[test]
fn to_a_file_and_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    let file = format!("file:{}", path.display());
    let saved = run(&["migrate", "source", "--json", "--device", CARD[0], "--to", &file]);
    assert!(saved.status.success(), "{saved:?}");
    assert_eq!(json(&saved)["devices"][0]["state"], "RUNNING", "the device runs on");
    let loaded = run(&["migrate", "target", "--json", "--device", CARD[1], "--from", &file]);
    assert!(loaded.status.success(), "{loaded:?}");
    assert_eq!(json(&saved)["devices"][0]["crc64_nvme"], json(&loaded)["devices"][0]["crc64_nvme"]);

    // Cut short, and of another device: refused with the reason, the device as after a reset or untouched.
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    for (device, reason) in [(CARD[1], "offset"), (SERIAL[1], "they do not read each other's state")] {
        let refused = run(&["migrate", "target", "--json", "--device", device, "--from", &file]);
        let report = json(&refused);
        assert!(!refused.status.success());
        assert!(report["error"].as_str().unwrap().contains(reason), "{report}");
        assert_eq!(report["devices"][0]["state"], "RUNNING");
    }
    // A file that cannot be written leaves the device running and nothing behind.
    let nowhere = format!("file:{}/no/such/folder", folder.path().display());
    let failed = run(&["migrate", "source", "--json", "--device", CARD[0], "--to", &nowhere]);
    assert!(!failed.status.success());
    assert_eq!(json(&failed)["devices"][0]["state"], "RUNNING");
}

#[test]
fn what_cannot_work_is_said_before_anything_is_touched() {
    for (arguments, reason) in [
        (vec!["--device", "0000:ff:1f.7", "--to", "unix:/nowhere"], "there is no VFIO device"),
        (vec!["--device", CARD[0], "--device", CARD[0], "--to", "unix:/nowhere"], "is given twice"),
        (
            vec!["--device", "a=0000:a2:00.0", "--device", "a=0000:a3:00.0", "--to", "unix:/nowhere"],
            "names must differ",
        ),
        (vec!["--device", CARD[0], "--timeout", "0.1", "--to", "unix:/no/such/socket"], "is the target listening"),
        (vec!["--device", CARD[0], "--to", "carrier-pigeon:coop"], "is not a kind of address"),
        (vec!["--device", CARD[0], "--timeout", "0", "--to", "unix:/nowhere"], "not a positive number"),
    ] {
        let mut all = vec!["migrate", "source"];
        all.extend(&arguments);
        let output = run(&all);
        assert!(!output.status.success(), "{arguments:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
}

#[test]
fn bench_names_what_it_can_measure() {
    let listed = String::from_utf8(run(&["bench", "--list"]).stdout).unwrap();
    assert!(listed.lines().any(|line| line.starts_with("codec ")), "{listed}");
    let unknown = run(&["bench", "--json", "no-such-thing"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(json(&unknown)["error"].as_str().unwrap().contains("no-such-thing"), "{unknown:?}");
}

#[test]
fn fuzz_names_its_targets() {
    let listed = json(&run(&["fuzz", "--list", "--json", "device-hisi", "stream-codec/frame"]));
    assert_eq!(listed, serde_json::json!(["device-hisi/resume", "device-hisi/state", "stream-codec/frame"]));
    let unknown = run(&["fuzz", "--json", "no-such-thing"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(json(&unknown)["error"].as_str().unwrap().contains("no-such-thing"), "{unknown:?}");
}

/// What `bench growth` says of memory: the bound counts, and the state does not.
#[test]
fn a_migration_within_a_process_takes_as_much_as_its_buffers_may() {
    let peak = |state_mib: u64| {
        let folder = tempfile::tempdir().unwrap();
        let state = (state_mib << 20).to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("growth-memory").arg("--folder").arg(folder.path()).args(["--devices", "2", "--channels", "2"]);
        command.args(["--state-bytes", &state, "--buffer-bytes", "4194304"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().parse::<u64>().unwrap()
    };
    let (small, large) = (peak(8), peak(96));
    assert!(small > 1 << 20, "{small} bytes");
    assert!(large < small + (16 << 20), "{large} bytes with 96 MiB of state, {small} with 8 MiB");
}
