// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The devices of a migration: what there is of each, gathered from all files, and its state put together.

mod frames;
mod order;
mod report;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use savevm_core::identity::{Identity, Namespace};
use serde_json::Value;

pub(super) use self::frames::Stated;
pub(super) use self::order::Packet;
pub(super) use self::report::Explained;
use super::format::{Forced, StateFormat};
use super::state::{StateReader, Surroundings};

/// Most devices and packets that are remembered; a stream with more is no stream of a real machine.
const DEVICES_MAX: usize = 4096;
const PACKETS_MAX: usize = 1 << 20;

/// Most places of a device's state that are remembered: 64 GiB of records of a usual size.
const EXTENTS_MAX: usize = 1 << 16;

/// What is written to a file of its own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Extract {
    pub(super) device: String,
    pub(super) path: PathBuf,
}

/// Where in a file bytes of a state stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    state_offset: u64,
    file: usize,
    offset: u64,
    length: u64,
}

/// A device and what is known of it.
pub(super) struct Device {
    pub(super) name: String,
    pub(super) instance: u32,
    pub(super) identity: String,
    state: StateReader,
    extents: Vec<Extent>,
    /// Bytes of its state: all, and those that came while the guest ran, and after.
    bytes: u64,
    pub(super) precopy_bytes: u64,
    pub(super) stopped_bytes: u64,
    /// What is known of its config state.
    pub(super) config: Vec<(&'static str, Value)>,
    pub(super) config_text: Option<String>,
    pci: Option<(u16, u16)>,
    /// Its packets on multifd channels, in the order in which they were found.
    pub(super) packets: Vec<Packet>,
    lost_packets: u64,
    /// What the source says of it at the end, where its packets are frames of several channels of ours.
    pub(super) stated: Option<Stated>,
    /// Whether they are.
    pub(super) has_frames: bool,
    /// How many times it said that all initial bytes were sent.
    pub(super) initial_sent: u64,
    /// Whether the stream said that this is all of it.
    pub(super) is_ended: bool,
    /// Files its state is written to, and the first error of that.
    copies: Vec<(PathBuf, File)>,
    copy_error: Option<String>,
}

/// The devices of a migration, in the order in which they were found.
pub(super) struct Devices<'a> {
    devices: Vec<Device>,
    forced: &'a [Forced],
    extracts: &'a [Extract],
}

impl<'a> Devices<'a> {
    pub(super) const fn new(forced: &'a [Forced], extracts: &'a [Extract]) -> Self {
        Self { devices: Vec::new(), forced, extracts }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Device> {
        self.devices.iter_mut()
    }

    /// The device with this name, which is made if it is new. `None` if there are too many.
    pub(super) fn get(&mut self, name: &str, instance: u32) -> Option<&mut Device> {
        let known = self.devices.iter().position(|device| device.instance == instance && device.name == name);
        let index = match known {
            Some(index) => index,
            None if self.devices.len() < DEVICES_MAX => {
                self.devices.push(self.make(name, instance, ""));
                self.devices.len().saturating_sub(1)
            }
            None => return None,
        };
        self.devices.get_mut(index)
    }

    /// A device of a stream that says what it is.
    pub(super) fn open(&mut self, name: &str, identity: &str) -> Option<&mut Device> {
        if self.devices.len() >= DEVICES_MAX {
            return None;
        }
        self.devices.push(self.make(name, 0, identity));
        self.devices.last_mut()
    }

    /// The device with this number in the order of discovery.
    pub(super) fn at(&mut self, number: usize) -> Option<&mut Device> {
        self.devices.get_mut(number)
    }

    fn make(&self, name: &str, instance: u32, identity: &str) -> Device {
        let mut device = Device::new(name, instance, identity, self.format_of(name, identity));
        for extract in self.extracts.iter().filter(|extract| extract.device == name) {
            match File::create(&extract.path) {
                Ok(file) => device.copies.push((extract.path.clone(), file)),
                Err(error) => {
                    let path = super::words::shown(&extract.path.to_string_lossy());
                    device.copy_error.get_or_insert(format!("cannot write {path}: {error}"));
                }
            }
        }
        device
    }

    /// The format of a state, and how it is known: what was said counts more than what the stream says.
    fn format_of(&self, name: &str, identity: &str) -> Option<(StateFormat, &'static str)> {
        let wanted = |all: bool| {
            self.forced.iter().rev().find_map(|forced| match forced {
                Forced::State(None, format) if all => Some(*format),
                Forced::State(Some(device), format) if !all && device == name => Some(*format),
                _ => None,
            })
        };
        if let Some(format) = wanted(false).or_else(|| wanted(true)) {
            return Some((format, "--format says so"));
        }
        let format = StateFormat::of_identity(identity.parse::<Identity>().ok()?.format().name())?;
        Some((format, "its identity says so"))
    }
}

impl Device {
    fn new(name: &str, instance: u32, identity: &str, format: Option<(StateFormat, &'static str)>) -> Self {
        Self {
            name: name.to_owned(),
            instance,
            identity: identity.to_owned(),
            state: StateReader::new(format),
            extents: Vec::new(),
            bytes: 0,
            precopy_bytes: 0,
            stopped_bytes: 0,
            config: Vec::new(),
            config_text: None,
            pci: None,
            packets: Vec::new(),
            lost_packets: 0,
            stated: None,
            has_frames: false,
            initial_sent: 0,
            is_ended: false,
            copies: Vec::new(),
            copy_error: None,
        }
    }

    /// The next bytes of its state, which stand at `offset` of file number `file`; whether the guest was stopped, if that
    /// is known.
    pub(super) fn feed(&mut self, bytes: &[u8], file: usize, offset: u64, is_stopped: Option<bool>) {
        let length = super::words::wide(bytes.len());
        let state_offset = self.bytes;
        self.bytes = state_offset.saturating_add(length);
        let follows = |last: &&mut Extent| last.file == file && last.offset.saturating_add(last.length) == offset;
        if let Some(last) = self.extents.last_mut().filter(follows) {
            last.length = last.length.saturating_add(length);
        } else if self.extents.len() < EXTENTS_MAX {
            self.extents.push(Extent { state_offset, file, offset, length });
        }
        if let Some(is_stopped) = is_stopped {
            let count = if is_stopped { &mut self.stopped_bytes } else { &mut self.precopy_bytes };
            *count = count.saturating_add(length);
            self.state.set_stopped(is_stopped);
        }
        self.state.feed(bytes);
        for (path, file) in &mut self.copies {
            if let Err(error) = file.write_all(bytes) {
                let path = super::words::shown(&path.to_string_lossy());
                self.copy_error.get_or_insert(format!("cannot write {path}: {error}"));
            }
        }
    }

    /// How many bytes of its state there were.
    pub(super) const fn extracted_bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn push_packet(&mut self, packet: Packet) {
        if self.packets.len() < PACKETS_MAX {
            self.packets.push(packet);
        } else {
            self.lost_packets = self.lost_packets.saturating_add(1);
        }
    }

    pub(super) fn set_pci(&mut self, ids: Option<(u16, u16)>) {
        self.pci = ids;
    }

    /// File number and offset of a byte of the state; behind the last place that is remembered, that.
    pub(super) fn locate(&self, state_offset: u64) -> Option<(usize, u64)> {
        let index = self.extents.partition_point(|extent| extent.state_offset <= state_offset);
        let extent = self.extents.get(index.checked_sub(1)?)?;
        let skip = state_offset.saturating_sub(extent.state_offset);
        Some((extent.file, extent.offset.saturating_add(skip.min(extent.length))))
    }

    fn surroundings(&self, is_complete: bool) -> Surroundings {
        let identity = self.identity.parse::<Identity>().ok();
        let of_identity = identity.as_ref().and_then(|identity| {
            let Namespace::Pci(vendor) = identity.namespace() else { return None };
            Some((*vendor, u16::from_str_radix(identity.kind(), 16).ok()?))
        });
        let ports = identity.as_ref().and_then(|identity| identity.get("ports"));
        Surroundings {
            pci: self.pci.or(of_identity),
            ports: ports.and_then(|attribute| attribute.value.parse().ok()),
            is_complete,
        }
    }
}
