// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `inspect` as a user runs it: on streams of `migrate`, on what cannot be read, and for a reader that leaves.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod captures;
mod soft;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn inspect(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("inspect").args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    inspect(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A stream without firmware: a QEMU with machine type `none`.
fn none() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../stream-codec/testdata/qemu/none.bin")
}

#[test]
fn a_stream_of_a_stock_qemu_as_a_person_sees_it() {
    let path = none();
    let path = path.to_str().unwrap();
    let said = text(&run(&[path]));
    for line in [
        "00000008           9  configuration                   machine type none",
        "00000011          38  START ram                       section 1, version 4",
        "00000037           5  command SWITCHOVER_START        the guest is stopped from here on",
        "runstate=\"running\"",
    ] {
        assert!(said.contains(line), "no {line:?} in\n{said}");
    }
    let short = text(&run(&["--summary", path]));
    assert!(short.lines().count() < 24 && short.contains("machine type none") && short.contains("complete"), "{short}");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut child = inspect(&["--all", "--json", none().to_str().unwrap()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before anything is written, or while it is.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn what_cannot_be_read_is_said_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let fails = |arguments: &[&str], wanted: &str| {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(wanted), "{said}");
    };
    fails(&[&path("packed", b"\xfd7zXZ\0\0\x04")], "xz -dc FILE | cargo xtask inspect -");
    fails(&[&path("empty", b"")], "is empty");
    fails(&[&path("other", b"#!/bin/sh\n")], "23 21 2f 62");
    fails(&[folder.path().to_str().unwrap()], "is a directory");
    fails(&["/nonexistent"], "cannot open /nonexistent");
    let state = path("state", b"QEVM\0\0\0\x03");
    fails(&["--extract", &format!("x={state}"), &state], "is to be read");
    assert_eq!(std::fs::read(&state).unwrap(), b"QEVM\0\0\0\x03");
    assert_eq!(run(&["--format", "nonsense", &state]).status.code(), Some(2));
    let output = run(&["--json", &path("odd", b"odd")]);
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(document["error"].as_str().unwrap().contains("no stream is known"), "{document}");
}

/// One device of every kind that is simulated.
const MACHINE: &str = "kernel=7.3
device serial model=mtty ports=2
device zip model=hisi accelerator=zip
device sec model=hisi accelerator=sec version=1-faulty
device cx model=mlx5 initial=128KiB dirty=64KiB stop=300KiB chunk=64KiB
device card model=plain caps=7 initial=64KiB dirty=64KiB stop=3MiB seed=1";

#[test]
fn states_that_migrate_wrote_to_a_file_are_explained_and_extracted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved");
    let to = format!("file:{}", file.display());
    let devices = [
        "tty=50f7f10c-0000-4000-8000-000000000000",
        "zip=0000:a1:00.0",
        "sec=0000:a2:00.0",
        "cx=0000:a3:00.0",
        "card=0000:a4:00.0",
    ];
    let mut arguments = vec!["migrate", "source", "--json", "--to", &to];
    devices.iter().for_each(|device| arguments.extend(["--device", device]));
    let saved = soft::xtask(MACHINE, &arguments).output().unwrap();
    let saved: Value = serde_json::from_slice(&saved.stdout).unwrap();
    assert_eq!(saved["moved"], true, "{saved}");

    let file = file.to_str().unwrap();
    let checked = run(&["--check", file]);
    assert!(checked.status.success(), "{}", text(&checked));
    let said = text(&run(&[file]));
    for wanted in [
        "mtty device state, version 1.0",
        "PCI device id: ZIP",
        "the known fault of kernels",
        "FW_DATA 0, initial image",
    ] {
        assert!(said.contains(wanted), "no {wanted:?} in\n{said}");
    }
    let document: Value = serde_json::from_str(&text(&run(&["--json", file]))).unwrap();
    let found = document["migrations"][0]["devices"].as_array().unwrap();
    for (device, format) in saved["devices"].as_array().unwrap().iter().zip(["mtty", "hisi", "hisi", "mlx5", "opaque"])
    {
        let explained = found.iter().find(|found| found["device"] == device["name"]).unwrap();
        // The source's own count and checksum, computed while it read its device.
        assert_eq!((&explained["state_bytes"], &explained["crc64_nvme"]), (&device["bytes"], &device["crc64_nvme"]));
        assert_eq!(explained["precopy_bytes"], device["precopy_bytes"]);
        assert_eq!(explained["format"], format);
        let name = device["name"].as_str().unwrap();
        let into = folder.path().join(name);
        assert!(run(&["--check", "--extract", &format!("{name}={}", into.display()), file]).status.success());
        // Alone it is the same state, recognised by its content.
        let alone: Value = match name {
            "card" => serde_json::from_str(&text(&run(&["--json", "--format", "opaque", into.to_str().unwrap()]))),
            _ => serde_json::from_str(&text(&run(&["--json", into.to_str().unwrap()]))),
        }
        .unwrap();
        let alone = &alone["migrations"][0]["devices"][0];
        assert_eq!((&alone["crc64_nvme"], &alone["format"]), (&device["crc64_nvme"], &Value::from(format)));
    }
}

#[test]
fn both_directions_of_a_connection_are_one_migration() {
    let machine = "kernel=7.3\ndevice one model=mtty ports=1\ndevice other model=mtty ports=1";
    let folder = tempfile::tempdir().unwrap();
    let serial = ["50f7f10c-0000-4000-8000-000000000000", "50f7f10c-0000-4000-8000-000000000001"];
    let mut target = soft::xtask(machine, &["migrate", "target", "--from", "tcp:127.0.0.1:0", "--device", serial[1]])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(target.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    let address = said.trim().strip_prefix("listening on tcp:").unwrap().to_owned();

    // A relay that keeps what passes.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("tcp:{}", listener.local_addr().unwrap());
    let paths = ["there", "back"].map(|name| folder.path().join(name));
    let kept = paths.clone();
    let relay = std::thread::spawn(move || {
        let (source, _) = listener.accept().unwrap();
        let target = std::net::TcpStream::connect(address).unwrap();
        let pairs = [(source.try_clone().unwrap(), target.try_clone().unwrap()), (target, source)];
        let copies = pairs.into_iter().zip(kept).map(|((mut from, mut to), path)| {
            std::thread::spawn(move || {
                let (mut file, mut buffer) = (std::fs::File::create(path).unwrap(), [0; 4096]);
                while let Ok(count @ 1..) = std::io::Read::read(&mut from, &mut buffer) {
                    file.write_all(&buffer[..count]).unwrap();
                    let _ = to.write_all(&buffer[..count]);
                }
                let _ = to.shutdown(std::net::Shutdown::Write);
            })
        });
        copies.collect::<Vec<_>>().into_iter().for_each(|copy| copy.join().unwrap());
    });
    let source = soft::xtask(machine, &["migrate", "source", "--to", &at, "--device", serial[0]]).output().unwrap();
    assert!(source.status.success(), "{source:?}");
    assert!(target.wait().unwrap().success());
    relay.join().unwrap();

    let [there, back] = paths.each_ref().map(|path| path.to_str().unwrap());
    // In whichever order they are named.
    for files in [[there, back], [back, there]] {
        let checked = run(&["--check", files[0], files[1]]);
        assert!(checked.status.success(), "{}", text(&checked));
        let document: Value = serde_json::from_str(&text(&run(&["--json", files[0], files[1]]))).unwrap();
        assert_eq!(document["migrations"].as_array().unwrap().len(), 1);
        assert_eq!(document["migrations"][0]["devices"].as_array().unwrap().len(), 1);
        assert_eq!(document["migrations"][0]["summary"]["native"][1]["role"], "target");
    }
    let (ours, theirs) = (text(&run(&[there])), text(&run(&[back])));
    assert!(ours.contains("the initial bytes are in the first 1 frame (generation 1)"), "{ours}");
    assert!(theirs.contains("the initial bytes are written (generation 1)"), "{theirs}");
    assert!(theirs.contains("the target runs the guest"));
}
