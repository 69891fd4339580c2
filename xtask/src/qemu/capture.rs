// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Reading what two QEMUs said to each other: every byte is accounted for, and the state of each device is put together
//! from whatever connections it came over.
//!
//! Files are read in pieces: memory does not grow with them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crc_fast::{CrcAlgorithm, Digest};
use stream_codec::decode::{Decoder, Step};
use stream_codec::qemu::{
    ChannelKind, Event, Item, MainDecoder, MainOptions, MultifdDecoder, MultifdItem, MultifdOptions, Reason,
    ReturnPathDecoder, ReturnPathItem, SectionHeader, VfioRecord, Vmdesc, VmdescLimits,
};

use super::proxy::Recording;

const PIECE_BYTES: usize = 64 << 10;
/// A machine without a guest describes itself in less than 100 KiB.
const VMDESC_BYTES_MAX: u64 = 4 << 20;

/// A whole migration, as it was said.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Capture {
    /// The machine type.
    pub(crate) machine: String,
    /// Per device, by the name of its section.
    pub(crate) devices: BTreeMap<String, DeviceCapture>,
    /// Ids of the multifd channels, in order.
    pub(crate) channels: Vec<u8>,
    /// Acknowledgements of initial bytes.
    pub(crate) acks: u32,
    /// The target's last word on the return path: 0 if all went well.
    pub(crate) shut: Option<u32>,
    /// Bytes of all connections in both directions; each belongs to something that was understood.
    pub(crate) bytes: u64,
}

/// What was said of one device.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct DeviceCapture {
    /// Bytes of device state on the main connection.
    pub(crate) main_bytes: u64,
    /// Bytes of device state on multifd channels.
    pub(crate) multifd_bytes: u64,
    /// CRC-64/NVME over all of it, in the order in which it was read from the device.
    pub(crate) digest: u64,
    /// How often it was said that all initial bytes had been sent.
    pub(crate) initial_sent: u32,
    /// Config states: exactly one in a whole migration.
    pub(crate) configs: u32,
}

impl DeviceCapture {
    /// Bytes of device state.
    pub(crate) fn bytes(&self) -> u64 {
        self.main_bytes.saturating_add(self.multifd_bytes)
    }
}

/// A device while it is being put together.
struct Assembly {
    found: DeviceCapture,
    digest: Digest,
    /// Payloads of multifd packets, by number.
    packets: BTreeMap<u32, Part>,
}

/// Bytes in a file.
#[derive(Clone, Copy)]
struct Part {
    recording: usize,
    offset: u64,
    length: u64,
}

/// Reads the recording of a migration that was completed. The error says what does not fit, where.
pub(crate) fn read(recordings: &[Recording]) -> Result<Capture, String> {
    let mut capture = Capture::default();
    let mut assemblies = BTreeMap::new();
    let mut mains = 0u32;
    for (number, recording) in recordings.iter().enumerate() {
        let back = match first_bytes(&recording.forward)? {
            Some(ChannelKind::Main) => {
                mains = mains.saturating_add(1);
                read_main(&recording.forward, &mut capture, &mut assemblies)?;
                read_return_path(&recording.back, &mut capture)?
            }
            Some(_) => {
                read_multifd(number, &recording.forward, &mut capture, &mut assemblies)?;
                length(&recording.back)?
            }
            None => return Err(format!("connection {number} is neither the main one nor a multifd channel")),
        };
        if back > 0 && capture.shut.is_none() {
            return Err(format!("the target sent {back} bytes back on connection {number}, and no end"));
        }
    }
    if mains != 1 {
        return Err(format!("{mains} main connections"));
    }
    capture.channels.sort_unstable();
    for (idstr, assembly) in assemblies {
        capture.devices.insert(idstr, assembly.finish(recordings)?);
    }
    Ok(capture)
}

fn read_main(path: &Path, capture: &mut Capture, assemblies: &mut BTreeMap<String, Assembly>) -> Result<(), String> {
    let options = MainOptions { vmdesc: Some(vmdesc(path)?), ..MainOptions::default() };
    let mut section = String::new();
    let mut machine = String::new();
    let bytes = drive(MainDecoder::new(options), path, |event| {
        match event.item {
            Item::Configuration { machine: name } => name.clone_into(&mut machine),
            Item::Section(SectionHeader { idstr, .. }) => idstr.clone_into(&mut section),
            Item::Vfio(record) => assembly(assemblies, &section).record(&record),
            _ => {}
        }
        Ok(())
    })?;
    capture.machine = machine;
    capture.bytes = capture.bytes.saturating_add(bytes);
    Ok(())
}

fn read_multifd(
    recording: usize,
    path: &Path,
    capture: &mut Capture,
    assemblies: &mut BTreeMap<String, Assembly>,
) -> Result<(), String> {
    let mut device = String::new();
    let mut packet = 0;
    let mut channel = None;
    let bytes = drive(MultifdDecoder::new(MultifdOptions::default()), path, |event| {
        match event.item {
            MultifdItem::Initial(initial) => channel = Some(initial.channel_id),
            MultifdItem::DeviceState(header) => header.idstr.clone_into(&mut device),
            MultifdItem::VfioPacket(header) => {
                packet = header.index;
                let part = Part { recording, offset: 0, length: 0 };
                if assembly(assemblies, &device).packets.insert(packet, part).is_some() {
                    return Err(format!("packet {packet} of {device} came twice"));
                }
            }
            MultifdItem::DeviceBytes(piece) => {
                let assembly = assembly(assemblies, &device);
                if piece.position == 0 {
                    let part = Part { recording, offset: event.offset, length: piece.length };
                    assembly.packets.insert(packet, part);
                }
            }
            MultifdItem::ConfigState(_) => assembly(assemblies, &device).config(),
            _ => {}
        }
        Ok(())
    })?;
    capture.channels.extend(channel);
    capture.bytes = capture.bytes.saturating_add(bytes);
    Ok(())
}

fn read_return_path(path: &Path, capture: &mut Capture) -> Result<u64, String> {
    let (mut acks, mut shut) = (0u32, None);
    let bytes = drive(ReturnPathDecoder::new(), path, |event| {
        match event.item {
            ReturnPathItem::SwitchoverAck => acks = acks.saturating_add(1),
            ReturnPathItem::Shut { status } => shut = Some(status),
            _ => {}
        }
        Ok(())
    })?;
    (capture.acks, capture.shut) = (acks, shut);
    capture.bytes = capture.bytes.saturating_add(bytes);
    Ok(bytes)
}

fn assembly<'a>(assemblies: &'a mut BTreeMap<String, Assembly>, idstr: &str) -> &'a mut Assembly {
    assemblies.entry(idstr.to_owned()).or_insert_with(|| Assembly {
        found: DeviceCapture::default(),
        digest: Digest::new(CrcAlgorithm::Crc64Nvme),
        packets: BTreeMap::new(),
    })
}

impl Assembly {
    fn record(&mut self, record: &VfioRecord<'_>) {
        match record {
            VfioRecord::DataBytes(piece) => {
                self.digest.update(piece.bytes);
                let count = u64::try_from(piece.bytes.len()).unwrap_or(u64::MAX);
                self.found.main_bytes = self.found.main_bytes.saturating_add(count);
            }
            VfioRecord::InitDataSent => self.found.initial_sent = self.found.initial_sent.saturating_add(1),
            VfioRecord::ConfigState(_) => self.config(),
            _ => {}
        }
    }

    fn config(&mut self) {
        self.found.configs = self.found.configs.saturating_add(1);
    }

    /// What came on the main connection was read before the first packet; packets are in the order of their numbers.
    fn finish(mut self, recordings: &[Recording]) -> Result<DeviceCapture, String> {
        for (expected, (number, part)) in (0..).zip(&self.packets) {
            if *number != expected {
                return Err(format!("packet {expected} of {} packets did not come", self.packets.len()));
            }
            let path = recordings.get(part.recording).map(|recording| recording.forward.as_path());
            let copied = path.map_or(Ok(0), |path| digest_part(path, part, &mut self.digest))?;
            self.found.multifd_bytes = self.found.multifd_bytes.saturating_add(copied);
        }
        self.found.digest = self.digest.finalize();
        Ok(self.found)
    }
}

fn digest_part(path: &Path, part: &Part, digest: &mut Digest) -> Result<u64, String> {
    let mut file = open(path)?;
    file.seek(SeekFrom::Start(part.offset)).map_err(|error| unreadable(path, &error))?;
    let mut left = file.take(part.length);
    let mut buffer = vec![0; PIECE_BYTES];
    let mut total = 0u64;
    loop {
        let count = left.read(&mut buffer).map_err(|error| unreadable(path, &error))?;
        if count == 0 {
            return Ok(total);
        }
        digest.update(buffer.get(..count).unwrap_or_default());
        total = total.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
    }
}

/// What all events have, whatever was said.
trait Said {
    fn place(&self) -> (u64, &[u8]);
    fn write(&self, out: &mut Vec<u8>) -> Result<(), Reason>;
}

impl Said for Event<'_, Item<'_>> {
    fn place(&self) -> (u64, &[u8]) {
        (self.offset, self.raw)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), Reason> {
        self.item.encode(out)
    }
}

impl Said for Event<'_, MultifdItem<'_>> {
    fn place(&self) -> (u64, &[u8]) {
        (self.offset, self.raw)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), Reason> {
        self.item.encode(out)
    }
}

impl Said for Event<'_, ReturnPathItem<'_>> {
    fn place(&self) -> (u64, &[u8]) {
        (self.offset, self.raw)
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), Reason> {
        self.item.encode(out)
    }
}

/// Reads a file to its end and hands over every event. Events must leave no gap, and writing an item must give the bytes
/// it was read from. Gives the length of the file.
fn drive<D>(
    mut decoder: D,
    path: &Path,
    mut handle: impl FnMut(&D::Event<'_>) -> Result<(), String>,
) -> Result<u64, String>
where
    D: Decoder + 'static,
    for<'a> D::Event<'a>: Said,
{
    let about = |offset: u64, error: &str| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("{name}, at byte {offset}: {error}")
    };
    let mut file = open(path)?;
    let (mut piece, mut written) = (vec![0; PIECE_BYTES], Vec::new());
    let mut end = 0u64;
    loop {
        let count = file.read(&mut piece).map_err(|error| unreadable(path, &error))?;
        let mut rest = piece.get(..count).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
        loop {
            let Step { consumed, event } = decoder.decode(rest).map_err(|error| about(end, &error.to_string()))?;
            rest = rest.get(consumed..).unwrap_or_default();
            let Some(event) = event else { break };
            let (offset, raw) = event.place();
            written.clear();
            event.write(&mut written).map_err(|error| about(offset, &error.to_string()))?;
            if offset != end || raw.is_empty() || written != raw {
                return Err(about(end, "what was read does not cover or does not give the bytes again"));
            }
            end = end.saturating_add(u64::try_from(raw.len()).unwrap_or(u64::MAX));
            handle(&event)?;
        }
    }
    decoder.finish().map_err(|error| about(end, &error.to_string()))?;
    let length = length(path)?;
    if end == length { Ok(end) } else { Err(about(end, &format!("{length} bytes are there, not all were read"))) }
}

fn vmdesc(path: &Path) -> Result<Vmdesc, String> {
    let mut file = open(path)?;
    let start = length(path)?.saturating_sub(VMDESC_BYTES_MAX);
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(start))
        .and_then(|_| file.read_to_end(&mut end))
        .map_err(|error| unreadable(path, &error))?;
    let json = Vmdesc::locate(&end).and_then(|range| end.get(range));
    let json = json.ok_or_else(|| "the main stream does not end with a description of the machine".to_owned())?;
    Vmdesc::parse(json, &VmdescLimits::DEFAULT).map_err(|error| format!("the description of the machine: {error}"))
}

fn first_bytes(path: &Path) -> Result<Option<ChannelKind>, String> {
    let mut first = [0; 4];
    match open(path)?.read_exact(&mut first) {
        Ok(()) => Ok(ChannelKind::from_first_bytes(first)),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn length(path: &Path) -> Result<u64, String> {
    path.metadata().map(|found| found.len()).map_err(|error| unreadable(path, &error))
}

fn open(path: &Path) -> Result<File, String> {
    File::open(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &std::io::Error) -> String {
    format!("the recording {} cannot be read: {error}", path.display())
}
