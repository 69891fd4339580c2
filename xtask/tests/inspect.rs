// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `inspect` as a user runs it: on streams that a stock QEMU was recorded to send, on streams of `migrate`, through
//! pipes, and for a reader that leaves.
//!
//! The recordings hold firmware images, so they are not in the repository. They are looked for in the directory that
//! `SAVEVM_CAPTURES` names, or in `shared/captures` beside the repository, and read with the `xz` program.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod soft;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

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

/// The recordings' directory, or why there is none.
fn directory() -> Result<PathBuf, String> {
    let named = std::env::var_os("SAVEVM_CAPTURES").map(PathBuf::from);
    let is_named = named.is_some();
    let directory = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures"));
    match std::fs::read_dir(&directory) {
        Ok(_) => {}
        Err(error) if is_named => panic!("SAVEVM_CAPTURES names {}: {error}", directory.display()),
        Err(_) => {
            return Err("SAVEVM_CAPTURES is not set and there is no shared/captures beside the repository".into());
        }
    }
    match Command::new("xz").arg("--version").output() {
        Ok(_) => Ok(directory),
        Err(error) => Err(format!("the recordings are compressed and the xz program does not run: {error}")),
    }
}

/// A recorded migration, unpacked.
struct Capture {
    name: String,
    notes: Value,
    folder: TempDir,
    files: Vec<String>,
}

impl Capture {
    fn read(notes: &Path) -> Self {
        let parsed: Value = serde_json::from_str(&std::fs::read_to_string(notes).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        for (file, _) in parsed["files"].as_object().into_iter().flatten() {
            let path = folder.path().join(file);
            let packed = notes.with_file_name(format!("{file}.xz"));
            let into = std::fs::File::create(&path).unwrap();
            assert!(Command::new("xz").arg("-dc").arg(packed).stdout(into).status().unwrap().success());
            files.push(path.to_str().unwrap().to_owned());
        }
        Self { name: notes.file_stem().unwrap().to_str().unwrap().to_owned(), notes: parsed, folder, files }
    }

    fn is_complete(&self) -> bool {
        self.notes["src_migrate"]["status"] == "completed"
    }

    fn has_vfio(&self) -> bool {
        self.notes["scenario"]["vfio"] == true
    }

    fn inspect(&self, arguments: &[&str]) -> Output {
        let mut all = arguments.to_vec();
        all.extend(self.files.iter().map(String::as_str));
        run(&all)
    }

    /// The device's state as it stands in the bytes of the streams, found without any decoder: what follows the flag
    /// and length of data in the main stream, then what follows the headers of packets in the channels, by their index.
    fn state(&self, idstr: &str) -> Vec<u8> {
        let main = self.files.iter().find(|file| file.ends_with(".bin") || file.ends_with(".c0.fwd")).unwrap();
        let main = std::fs::read(main).unwrap();
        let mut state = Vec::new();
        for at in find(&main, &0xffff_ffff_ef10_0004_u64.to_be_bytes()) {
            let length = u64::from_be_bytes(main[at + 8..at + 16].try_into().unwrap()) as usize;
            state.extend_from_slice(&main[at + 16..at + 16 + length]);
        }
        let mut packets = Vec::new();
        for file in self.files.iter().filter(|file| file.ends_with(".fwd") && !file.ends_with(".c0.fwd")) {
            let channel = std::fs::read(file).unwrap();
            let mut start = vec![0x11, 0x22, 0x33, 0x44, 0, 0, 0, 1, 0, 0, 0, 0x40];
            start.extend(idstr.as_bytes());
            for at in find(&channel, &start) {
                let word = |at: usize| u32::from_be_bytes(channel[at..at + 4].try_into().unwrap());
                let (length, index, flags) = (word(at + 272) as usize, word(at + 280), word(at + 284));
                if flags == 0 {
                    packets.push((index, channel[at + 288..at + 276 + length].to_vec()));
                }
            }
        }
        packets.sort();
        packets.into_iter().for_each(|(_, bytes)| state.extend(bytes));
        state
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Vec<usize> {
    (0..bytes.len().saturating_sub(wanted.len())).filter(|at| bytes[*at..].starts_with(wanted)).collect()
}

fn for_each_capture(check: impl Fn(&Capture)) {
    let directory = match directory() {
        Ok(directory) => directory,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let entries = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut notes: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ending| ending == "json")).collect();
    notes.sort();
    assert!(!notes.is_empty(), "{} has no recordings", directory.display());
    for path in notes {
        let capture = Capture::read(&path);
        if capture.files.is_empty() {
            println!("skipped: {} was refused before anything was sent", capture.name);
        } else {
            println!("{}", capture.name);
            check(&capture);
        }
    }
}

#[test]
fn every_recording_is_without_fault_or_cut_where_it_ends() {
    for_each_capture(|capture| {
        let output = capture.inspect(&["--check"]);
        let said = text(&output);
        if capture.is_complete() {
            assert!(output.status.success() && said.ends_with(": no fault\n"), "{}: {said}", capture.name);
        } else {
            // The target went away: the source stopped in the middle.
            assert_eq!(output.status.code(), Some(1), "{}: {said}", capture.name);
            let main = capture.files.iter().find(|file| file.ends_with(".c0.fwd")).unwrap();
            let length = std::fs::metadata(main).unwrap().len();
            assert!(said.contains(&format!("fault at offset {length} ")), "{}: {said}", capture.name);
            assert!(said.contains("read     the end of the file"), "{}: {said}", capture.name);
        }
    });
}

#[test]
fn the_device_of_every_recording_is_told_and_extracted_as_it_was_sent() {
    for_each_capture(|capture| {
        let document: Value = serde_json::from_str(&text(&capture.inspect(&["--json"]))).unwrap();
        let migration = &document["migrations"][0];
        let devices = migration["devices"].as_array().unwrap();
        assert_eq!(devices.len(), usize::from(capture.has_vfio()), "{}", capture.name);
        assert_eq!(migration["files"].as_array().unwrap().len(), capture.files.len());
        if !capture.has_vfio() || !capture.is_complete() {
            return;
        }
        let name = devices[0]["device"].as_str().unwrap();
        let state = capture.state(name);
        // mtty.md: 24 bytes and 36 per port, of which there are two.
        assert_eq!(state.len(), 96, "{}", capture.name);
        let into = capture.folder.path().join("extracted");
        let output = capture.inspect(&["--check", "--extract", &format!("{name}={}", into.display())]);
        assert!(output.status.success(), "{}: {}", capture.name, text(&output));
        assert_eq!(std::fs::read(&into).unwrap(), state, "{}", capture.name);
        // What the recorder read from the device's own registers.
        let lines = devices[0]["lines"].to_string();
        let scratch = capture.notes["src_regs"][7].as_str().unwrap_or("0x00");
        assert!(lines.contains(&format!("SCR {scratch}")), "{}: {lines}", capture.name);
        assert_eq!(devices[0]["format"], "mtty");
        let pages = &migration["summary"]["main"]["ram"];
        check_pages(capture, pages, &migration["summary"]["channels"]);
    });
}

/// Pages as QEMU counted them itself. With mapped-ram it does not count those that are zero.
fn check_pages(capture: &Capture, ram: &Value, channels: &Value) {
    let of = |value: &Value, name: &str| value[name].as_u64().unwrap_or(0);
    let (mut normal, mut zero) = (of(ram, "normal_pages"), of(ram, "zero_pages"));
    for channel in channels.as_array().unwrap() {
        normal += of(channel, "normal_pages");
        zero += of(channel, "zero_pages");
    }
    let counted = &capture.notes["src_migrate"]["ram"];
    if of(ram, "mapped_pages") == 0 {
        assert_eq!((normal, zero), (of(counted, "normal"), of(counted, "duplicate")), "{}", capture.name);
    }
}

#[test]
fn every_recording_is_the_same_through_a_pipe() {
    for_each_capture(|capture| {
        let Some(file) = capture.files.iter().find(|file| file.ends_with(".bin") || file.ends_with(".c0.fwd")) else {
            return;
        };
        let fields = |document: &Value| {
            let items = document["migrations"][0]["files"][0]["items"].as_array().unwrap().clone();
            items.iter().map(|item| item["fields"].clone()).filter(|fields| !fields.is_null()).collect::<Vec<_>>()
        };
        let document = |output: Output| serde_json::from_str::<Value>(&text(&output)).unwrap();
        let direct = document(run(&["--json", file]));
        let mut child = inspect(&["--json", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut into, bytes) = (child.stdin.take().unwrap(), std::fs::read(file).unwrap());
        let feeder = std::thread::spawn(move || into.write_all(&bytes).unwrap());
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        let piped = document(output);
        assert_eq!(fields(&piped), fields(&direct), "{}", capture.name);
        assert_eq!(fields(&piped).is_empty(), !capture.is_complete(), "{}", capture.name);
        let state = |document: &Value| document["migrations"][0]["devices"].clone();
        assert_eq!(state(&piped), state(&direct), "{}", capture.name);
    });
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
    assert!(text(&run(&[back])).contains("the target runs the guest"));
}
