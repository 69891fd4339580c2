// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `inspect` on streams that a stock QEMU was recorded to send.
//!
//! The recordings hold firmware images, so they are not in the repository. They are looked for in the directory that
//! `SAVEVM_CAPTURES` names, or in `shared/captures` beside the repository, and read with the `xz` program.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{inspect, run, text};

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
