// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From what a person names to a migration identity.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use serde::{Deserialize, Serialize};
use stream_codec::frame::io::{Frame, FrameReader};
use stream_codec::frame::{Limits, MAGIC, Message};
use vfio_uapi::open::Roots;

use crate::device::OpenError;
use crate::{device, identity};

/// `probe --json` prints about one kilobyte per device.
const JSON_BYTES_MAX: u64 = 4 << 20;

/// One side of the comparison.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Operand {
    /// As given, with the device's name where it was one of a file.
    pub(super) name: String,
    pub(super) origin: Origin,
    pub(super) identity: String,
    /// What to know about the identity.
    pub(super) notes: Vec<String>,
}

/// What a side was read from.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Origin {
    Device,
    MdevType,
    Json,
    Stream,
    Text,
}

/// A device in a file.
struct Listed {
    name: String,
    /// Or why it has none, which matters only if it is chosen.
    identity: Result<String, String>,
    notes: Vec<String>,
}

/// Reads an operand; otherwise says in words what stood in the way.
pub(super) fn read(text: &str) -> Result<Operand, String> {
    let from = |origin, stated: identity::Stated| Operand {
        name: text.to_owned(),
        origin,
        identity: stated.identity.to_string(),
        notes: stated.notes,
    };
    if let Some(kind) = text.strip_prefix("mdev-type:") {
        return identity::of_mdev_type(&Roots::default(), kind).map(|stated| from(Origin::MdevType, stated));
    }
    if text.starts_with("mig1:") {
        let parsed = text.parse().map_err(|error| format!("'{text}' is no migration identity: {error}"))?;
        return Ok(from(Origin::Text, identity::Stated { identity: parsed, notes: Vec::new() }));
    }
    match device::find(text) {
        Ok(found) => identity::of_device(&found)
            .map(|stated| from(Origin::Device, stated))
            .map_err(|reason| format!("{text} has no migration identity: {reason}")),
        Err(OpenError::Missing { id, there }) => match file_and_name(text) {
            Some((path, name)) => from_file(path, name),
            None => Err(format!("there is no VFIO device '{id}' and no file of that name; {there}")),
        },
        Err(error) => Err(error.to_string()),
    }
}

/// `FILE` or `FILE#NAME`, where there is such a file.
fn file_and_name(text: &str) -> Option<(&str, Option<&str>)> {
    if Path::new(text).is_file() {
        return Some((text, None));
    }
    let (path, name) = text.rsplit_once('#')?;
    Path::new(path).is_file().then_some((path, Some(name)))
}

fn from_file(path: &str, name: Option<&str>) -> Result<Operand, String> {
    let failed = |error: io::Error| format!("cannot read {path}: {error}");
    let mut file = File::open(path).map_err(failed)?;
    let mut start = Vec::new();
    file.by_ref().take(8).read_to_end(&mut start).map_err(failed)?;
    file.rewind().map_err(failed)?;
    let (origin, listed) = if start == MAGIC {
        (Origin::Stream, of_stream(file).map_err(|error| format!("{path}: {error}"))?)
    } else {
        (Origin::Json, of_json(file).map_err(|error| format!("{path}: {error}"))?)
    };
    let (name, chosen) = choose(path, listed, name)?;
    let identity = chosen.identity.map_err(|reason| format!("{path}: {reason}"))?;
    Ok(Operand { name, origin, identity, notes: chosen.notes })
}

/// The device that was asked for, or the only one, and what to call it.
fn choose(path: &str, mut listed: Vec<Listed>, name: Option<&str>) -> Result<(String, Listed), String> {
    let there = listed.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = name {
        let found = listed.into_iter().find(|device| device.name == name);
        return found
            .map(|device| (format!("{path}#{name}"), device))
            .ok_or_else(|| format!("{path} has no device '{name}'; there is {there}"));
    }
    match (listed.pop(), listed.is_empty()) {
        (Some(only), true) => Ok((path.to_owned(), only)),
        (None, _) => Err(format!("{path} has no device")),
        (Some(_), false) => Err(format!("{path} has several devices: choose one of {there} with {path}#NAME")),
    }
}

/// The offer at the head of a stream. Nothing behind it is read.
fn of_stream(file: File) -> Result<Vec<Listed>, String> {
    let mut reader = FrameReader::new(BufReader::new(file), Limits::DEFAULT);
    let mut offered = None;
    let mut listed = Vec::new();
    while Some(listed.len()) != offered {
        let received = reader.read_frame().map_err(|error| error.to_string())?;
        match received.map(|received| received.frame) {
            Some(Frame::Control(Message::Hello(hello))) => offered = usize::try_from(hello.device_count).ok(),
            Some(Frame::Control(Message::DeviceOpen(open))) => listed.push(Listed {
                name: open.name.to_owned(),
                identity: Ok(open.identity.to_owned()),
                notes: Vec::new(),
            }),
            other => {
                let what = if other.is_some() { "goes on with something else" } else { "ends" };
                return Err(format!("the stream {what} before it has named all of its devices; save it again"));
            }
        }
    }
    Ok(listed)
}

/// What `probe --json` (a list), `migrate --json` (an object with one) and others write.
#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    List(Vec<Entry>),
    Devices { devices: Vec<Entry> },
    One(Entry),
}

#[derive(Deserialize)]
struct Entry {
    name: Option<String>,
    identity: Option<String>,
    #[serde(default)]
    identity_notes: Vec<String>,
    /// A command that failed wrote nothing else.
    error: Option<String>,
}

fn of_json(file: File) -> Result<Vec<Listed>, String> {
    let document = serde_json::from_reader(BufReader::new(file).take(JSON_BYTES_MAX));
    let document = document.map_err(|error| {
        format!("it is neither a stream of this program nor JSON that states an identity ({error})")
    })?;
    let entries = match document {
        Document::List(entries) | Document::Devices { devices: entries } => entries,
        Document::One(entry) => vec![entry],
    };
    Ok(entries.into_iter().zip(0_u32..).map(listed).collect())
}

fn listed((entry, index): (Entry, u32)) -> Listed {
    let name = entry.name.unwrap_or_else(|| index.to_string());
    let identity = match (entry.identity, entry.error) {
        (Some(identity), _) => Ok(identity),
        (None, Some(error)) => Err(format!("it holds the failure of a command: {error}")),
        (None, None) if entry.identity_notes.is_empty() => {
            Err("it states no \"identity\"; `cargo xtask probe --json DEVICE` writes one".to_owned())
        }
        (None, None) => Err(format!("{name} has no migration identity: {}", entry.identity_notes.join(" "))),
    };
    Listed { name, identity, notes: entry.identity_notes }
}
