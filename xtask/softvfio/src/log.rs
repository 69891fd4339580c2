// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `SOFTVFIO_LOG`: what happened, one line each.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use savevm_core::sim::{Direction, SimDevice, SimEvent};
use vfio_mig_fsm::State;

/// Has `device` write a line to the file at `path` for everything that happens to it.
///
/// The file is opened for every line: a descriptor kept open would be seen by the program, and could be closed by it.
pub(crate) fn attach(name: &str, device: &SimDevice, path: PathBuf) {
    let name = name.to_owned();
    device.observe(Box::new(move |event| {
        let Some(text) = line(event) else { return };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = format!("{}.{:06} {} {name} {text}\n", time.as_secs(), time.subsec_micros(), std::process::id());
        // One write to a file opened for appending: lines of several processes do not mix. Without a free
        // descriptor the line is lost, and the program must not notice.
        if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(&path) {
            let _ = file.write_all(line.as_bytes());
        }
    }));
}

fn line(event: &SimEvent) -> Option<String> {
    Some(match event {
        SimEvent::Set { from, target, found, errno: None, .. } => {
            format!("set {} -> {}: {}", state(*from), state(*target), state(*found))
        }
        SimEvent::Set { from, target, found, errno: Some(errno), .. } => {
            format!("set {} -> {}: {errno}, found {}", state(*from), state(*target), state(*found))
        }
        SimEvent::Step { from, to, errno: None, .. } => format!("step {} -> {}", state(*from), state(*to)),
        SimEvent::Step { from, to, errno: Some(errno), .. } => {
            format!("step {} -> {}: {errno}", state(*from), state(*to))
        }
        SimEvent::SessionOpened { id, direction, .. } => {
            format!("session {id} {} begins", way(*direction))
        }
        SimEvent::SessionEnded { id, direction, bytes, digest, .. } => {
            format!("session {id} {} ends bytes={bytes} crc64={digest:016x}", way(*direction))
        }
        SimEvent::WriteRefused { id, bytes, errno, .. } => format!("session {id} load refuses bytes={bytes}: {errno}"),
        SimEvent::Reset => "reset".to_owned(),
        _ => return None,
    })
}

fn state(raw: u32) -> String {
    State::from_raw(raw).map_or_else(|| raw.to_string(), |state| state.name().to_owned())
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Saving => "save",
        Direction::Resuming => "load",
    }
}
