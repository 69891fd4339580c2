// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Every stream that a stock QEMU was recorded to send: all bytes accounted for, all bytes written again as they were,
//! and what was sent of each device equal to what the recorder noted.
//!
//! The recordings hold firmware images, so they are not in the repository. They are looked for in the directory that
//! `SAVEVM_CAPTURES` names, or in `shared/captures` beside the repository, and read with the `xz` program.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests may panic"
)]

mod qemu_common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qemu_common::{Main, Multifd, Options, decode_main, decode_multifd, decode_return_path};
use serde_json::Value;
use stream_codec::qemu::{Extent, Reason};

/// The recordings' directory, or why there is none.
fn directory() -> Result<PathBuf, String> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/captures");
    let named = std::env::var_os("SAVEVM_CAPTURES").map(PathBuf::from);
    let is_named = named.is_some();
    let directory = named.unwrap_or_else(beside);
    match std::fs::read_dir(&directory) {
        Ok(_) => {}
        Err(error) if is_named => panic!("SAVEVM_CAPTURES names {}: {error}", directory.display()),
        Err(_) => {
            return Err("SAVEVM_CAPTURES is not set and there is no shared/captures beside the repository".into());
        }
    }
    match std::process::Command::new("xz").arg("--version").output() {
        Ok(_) => Ok(directory),
        Err(error) => Err(format!("the recordings are compressed and the xz program does not run: {error}")),
    }
}

/// A recorded migration: what the recorder noted, and the streams by the end of their file name.
struct Capture {
    name: String,
    notes: Value,
    streams: BTreeMap<String, Vec<u8>>,
}

impl Capture {
    fn read(notes: &Path) -> Self {
        let name = notes.file_stem().unwrap().to_str().unwrap().to_owned();
        let notes_text = std::fs::read_to_string(notes).unwrap();
        let parsed: Value = serde_json::from_str(&notes_text).unwrap();
        let mut streams = BTreeMap::new();
        for (file, facts) in parsed["files"].as_object().into_iter().flatten() {
            let bytes = unpack(&notes.with_file_name(format!("{file}.xz")));
            assert_eq!(Some(bytes.len() as u64), facts["size"].as_u64(), "{file} has another size than when recorded");
            streams.insert(file.strip_prefix(&format!("{name}.")).unwrap().to_owned(), bytes);
        }
        Self { name, notes: parsed, streams }
    }

    /// The main stream: a file's only one, or the first connection's.
    fn main(&self) -> Option<&[u8]> {
        let stream = self.streams.get("bin").or_else(|| self.streams.get("c0.fwd"))?;
        Some(stream)
    }

    fn has_capability(&self, name: &str) -> bool {
        self.notes["scenario"]["caps"].as_array().unwrap().iter().any(|listed| listed == name)
    }

    fn is_complete(&self) -> bool {
        self.notes["src_migrate"]["status"] == "completed"
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.notes.pointer(path)?.as_u64()
    }
}

fn unpack(path: &Path) -> Vec<u8> {
    let output = std::process::Command::new("xz").arg("-dc").arg(path).output();
    let output = output.unwrap_or_else(|error| panic!("the xz program, needed for the recordings: {error}"));
    assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Runs `check` on every recording, one after the other: two of them are large.
fn for_each_capture(check: impl Fn(&Capture)) {
    let directory = match directory() {
        Ok(directory) => directory,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let entries = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let mut notes =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect::<Vec<_>>();
    notes.sort();
    assert!(!notes.is_empty(), "{} has no recordings", directory.display());
    for path in notes {
        check(&Capture::read(&path));
    }
}

#[test]
fn every_recording_is_read_and_written_again() {
    for_each_capture(|capture| {
        let Some(stream) = capture.main() else {
            assert!(capture.notes["migrate_reply"]["error"].is_object(), "{}: nothing was sent", capture.name);
            return;
        };
        println!("{}", capture.name);
        let described = decode_main(stream, &Options { use_vmdesc: true, ..Options::default() });
        if capture.is_complete() {
            assert_eq!(described.result, Ok(()), "{}", capture.name);
            assert!(described.full_sections().all(|section| section.extent != Extent::FooterSearch));
            assert!(described.field_bytes > 0);
        } else {
            let error = described.result.unwrap_err();
            assert!(matches!(error.reason, Reason::Truncated { .. }), "{}: {error}", capture.name);
        }
        check_without_vmdesc(capture, stream, &described);
        check_pages(capture, &described);
        check_return_path(capture);
        check_device(capture, &described);
    });
}

/// The search finds the ends that the vmdesc names, and the payloads it yields have the fields of the vmdesc.
fn check_without_vmdesc(capture: &Capture, stream: &[u8], described: &Main) {
    let pieces = if stream.len() > 10 << 20 { 1 << 20 } else { 4093 };
    let searched = decode_main(stream, &Options { use_vmdesc: false, piece_bytes: pieces, read_fields: true });
    assert_eq!(searched.result, described.result, "{}", capture.name);
    assert_eq!(searched.boundaries(), described.boundaries(), "{}", capture.name);
    assert_eq!(searched.device, described.device, "{}", capture.name);
    assert_eq!(searched.field_bytes, described.field_bytes, "{}", capture.name);
}

/// Pages as QEMU counted them itself.
fn check_pages(capture: &Capture, main: &Main) {
    let mut normal = main.normal_pages;
    let mut zero = main.zero_pages;
    for channel in channels(capture) {
        normal += channel.normal_pages;
        zero += channel.zero_pages;
    }
    if let (Some(noted_normal), Some(noted_zero)) =
        (capture.number("/src_migrate/ram/normal"), capture.number("/src_migrate/ram/duplicate"))
    {
        if capture.has_capability("mapped-ram") {
            assert!(main.mapped_pages > 0 && main.mapped_pages <= noted_normal, "{}", capture.name);
        } else if capture.is_complete() {
            assert_eq!((normal, zero), (noted_normal, noted_zero), "{}", capture.name);
        }
    }
}

fn channels(capture: &Capture) -> Vec<Multifd> {
    if capture.has_capability("mapped-ram") {
        return Vec::new();
    }
    let streams = capture.streams.iter().filter(|(name, _)| name.ends_with(".fwd") && *name != "c0.fwd");
    let channels = streams.map(|(_, stream)| decode_multifd(stream)).collect::<Vec<_>>();
    if capture.has_capability("multifd") {
        let count = capture.number("/scenario/params/multifd-channels").unwrap();
        let mut ids = channels.iter().map(|channel| channel.id.into()).collect::<Vec<u64>>();
        ids.sort_unstable();
        assert_eq!(ids, (0..count).collect::<Vec<_>>(), "{}", capture.name);
    }
    channels
}

fn check_return_path(capture: &Capture) {
    for (_, stream) in capture.streams.iter().filter(|(name, _)| name.ends_with(".rev")) {
        let messages = decode_return_path(stream);
        assert_eq!(messages.is_empty(), stream.is_empty());
        if !stream.is_empty() {
            assert_eq!(
                messages.contains("SwitchoverAck"),
                capture.has_capability("switchover-ack"),
                "{}",
                capture.name
            );
            assert!(messages.contains("Pong { value: 1 }"), "{}", capture.name);
            assert!(messages.ends_with("Shut { status: 0 }"), "{}", capture.name);
        }
    }
}

/// The device state is what the recorder counted, and holds the registers it read from the device.
fn check_device(capture: &Capture, main: &Main) {
    let Some(transferred) = capture.number("/src_migrate/vfio/transferred") else {
        return;
    };
    let mut device = main.device.clone();
    let mut bytes = device.len() as u64;
    let mut config = main.config.clone();
    let mut packets = BTreeMap::new();
    for channel in channels(capture) {
        bytes += channel.device_payload_bytes;
        packets.extend(channel.packets);
    }
    let on_multifd = !packets.is_empty();
    assert_eq!(packets.keys().copied().collect::<Vec<_>>(), (0..packets.len() as u32).collect::<Vec<_>>());
    for (index, packet) in packets {
        assert_eq!(packet.is_config, u64::from(index) == 1, "{}", capture.name);
        if packet.is_config { config = packet.bytes } else { device.extend(packet.bytes) }
    }
    assert_eq!(bytes, transferred, "{}", capture.name);
    assert_eq!(on_multifd, config.len() == 4116 && main.config.is_empty(), "{}", capture.name);
    assert_eq!(config.len(), 4 + 4096 + 16, "{}", capture.name);
    // mtty.md: vendor and device id, little-endian, at the start of the config space.
    assert_eq!(config[4..8], [0x48, 0x43, 0x53, 0x32], "{}", capture.name);
    // mtty.md: magic, version 1.0, two ports, 24 bytes; 36 bytes per port.
    assert_eq!(device.len(), 24 + 2 * 36, "{}", capture.name);
    assert_eq!(device[..8], 0x7e9d_0989_8c3e_2c4e_u64.to_le_bytes(), "{}", capture.name);
    assert_eq!(device[16..20], 2u32.to_le_bytes(), "{}", capture.name);
    let registers = capture.notes["src_regs"].as_array();
    // Only these registers are kept: interrupt enable, line control, modem control, scratch.
    for number in [1, 3, 4, 7] {
        let noted = registers.and_then(|registers| registers[number].as_str());
        let Some(noted) = noted.and_then(|noted| u8::from_str_radix(noted.trim_start_matches("0x"), 16).ok()) else {
            continue;
        };
        assert_eq!(device[24 + number], noted, "{}: register {number}", capture.name);
    }
}
