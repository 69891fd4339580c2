// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `codec`: what it costs to understand a stream of device state, over just reading it.
//!
//! The same file, in the page cache, is read into one buffer that is used again and again. The baseline stops there;
//! the contenders decode what they have read. That must not take longer than the read itself, so that they go at
//! least at half its speed.

use core::hint::black_box;
use std::fs::File;

use std::io::{BufWriter, Read, Write};
use std::path::Path;

use stream_codec::decode::{Decoder, Step};
use stream_codec::frame::io::{Frame, FrameReader};
use stream_codec::frame::{self, FrameDecoder, data_header, encode_prologue};
use stream_codec::qemu::{
    DeviceStateHeader, Extent, InitialPacket, Item, MainDecoder, MainOptions, MultifdDecoder, MultifdItem,
    MultifdOptions, Reason, SectionHeader, SectionKind, VFIO_PACKET_HEADER_BYTES, VfioPacketHeader, VfioRecord,
};
use tempfile::NamedTempFile;

use super::{Comparison, Contender, Goal, Outcome, Setting, Unit, per_second};

/// How much device state a packet, record or frame holds: what QEMU and `savevm-core` read from a device at once.
const PAYLOAD_BYTES: u32 = 1 << 20;
/// What is read at once.
const BUFFER_BYTES: usize = 256 << 10;
const IDSTR: &str = "0000:00:10.0/vfio";
/// Decoding may take as long as reading.
const GOAL: Option<Goal> = Some(Goal::AtLeast(0.5));

pub(super) fn run(setting: &Setting) -> Result<Vec<Outcome>, String> {
    let payloads = if setting.quick { 32 } else { 257 };
    let streams = Streams { setting, payloads, payload: payload() };
    Ok(vec![streams.multifd()?, streams.vfio()?, streams.native()?])
}

/// Bytes that look like nothing in particular.
fn payload() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::new();
    for _ in 0..PAYLOAD_BYTES / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

struct Streams<'a> {
    setting: &'a Setting,
    /// How many packets, records or frames.
    payloads: u32,
    payload: Vec<u8>,
}

impl Streams<'_> {
    /// Packets with device state on a multifd channel of QEMU's.
    fn multifd(&self) -> Result<Outcome, String> {
        let payload_bytes = PAYLOAD_BYTES.saturating_add(VFIO_PACKET_HEADER_BYTES);
        let mut head = Vec::new();
        InitialPacket { uuid: [0; 16], channel_id: 0 }.encode(&mut head);
        let file = self.file(&head, &[], |index, out| {
            let header = DeviceStateHeader { idstr: IDSTR, instance_id: 0, payload_bytes };
            MultifdItem::DeviceState(header).encode(out)?;
            MultifdItem::VfioPacket(VfioPacketHeader { index, is_config: false }).encode(out)
        })?;
        let expected = self.payload_bytes();
        let decode = Contender::new("decode", GOAL, || {
            let decoder = MultifdDecoder::new(MultifdOptions::default());
            decoded(file.path(), decoder, expected, |event| match event.item {
                MultifdItem::DeviceBytes(piece) => piece.bytes.len(),
                _ => 0,
            })
        });
        self.compare("multifd device state", file.path(), vec![decode])
    }

    /// A VFIO section on QEMU's main stream.
    fn vfio(&self) -> Result<Outcome, String> {
        let encoded = |items: &[Item<'_>]| {
            let mut out = Vec::new();
            items.iter().try_for_each(|item| item.encode(&mut out)).map(|()| out).map_err(|error| error.to_string())
        };
        let section = |kind| {
            let (id, instance_id, version_id, extent) = (9, 0, 1, Extent::Format);
            Item::Section(SectionHeader { kind, id, idstr: IDSTR, instance_id, version_id, extent })
        };
        let (footer, end) = (Item::Footer { id: 9 }, Item::Vfio(VfioRecord::EndOfState));
        let head = encoded(&[
            Item::FileHeader,
            Item::Configuration { machine: "none" },
            section(SectionKind::Start),
            Item::Vfio(VfioRecord::Setup),
            end,
            footer,
            section(SectionKind::End),
        ])?;
        let tail = encoded(&[end, footer, Item::EndOfStream, Item::Vmdesc { length: 0 }])?;
        let file = self
            .file(&head, &tail, |_, out| Item::Vfio(VfioRecord::Data { length: PAYLOAD_BYTES.into() }).encode(out))?;
        let expected = self.payload_bytes();
        let decode = Contender::new("decode", GOAL, || {
            let decoder = MainDecoder::new(MainOptions::default());
            decoded(file.path(), decoder, expected, |event| match event.item {
                Item::Vfio(VfioRecord::DataBytes(piece)) => piece.bytes.len(),
                _ => 0,
            })
        });
        self.compare("vfio records", file.path(), vec![decode])
    }

    /// Data frames of the native format, whose every byte is checked by a CRC-32.
    fn native(&self) -> Result<Outcome, String> {
        let file = self.file(&encode_prologue(), &[], |index, out| {
            let header = data_header(0, index.into(), &self.payload).map_err(|_| Reason::Trailing)?;
            out.extend_from_slice(&header);
            Ok(())
        })?;
        let expected = self.payload_bytes();
        let decode = Contender::new("decode and check", GOAL, || {
            decoded(file.path(), FrameDecoder::new(frame::Limits::DEFAULT), expected, |event| match event {
                frame::Event::Data(piece) => piece.bytes.len(),
                _ => 0,
            })
        });
        let reader = Contender::new("FrameReader", GOAL, || framed(file.path(), expected));
        self.compare("native frames", file.path(), vec![decode, reader])
    }

    fn payload_bytes(&self) -> u64 {
        u64::from(PAYLOAD_BYTES).saturating_mul(self.payloads.into())
    }

    fn compare(&self, what: &str, path: &Path, contenders: Vec<Contender<'_>>) -> Result<Outcome, String> {
        self.setting.compare(Comparison {
            name: format!("codec/{what}"),
            unit: Unit::BytesPerSecond,
            baseline: Contender::new("read", None, || read(path)),
            contenders,
        })
    }

    /// Writes a stream: `head`, each payload behind what `header` puts in front of it, `tail`.
    fn file(
        &self,
        head: &[u8],
        tail: &[u8],
        mut header: impl FnMut(u32, &mut Vec<u8>) -> Result<(), Reason>,
    ) -> Result<NamedTempFile, String> {
        let folder = &self.setting.folder;
        let failed = |error: std::io::Error| {
            let needed = self.payload_bytes() >> 20;
            format!("cannot write {needed} MiB to {}: {error}; --folder DIR names another place", folder.display())
        };
        let file = NamedTempFile::new_in(folder).map_err(failed)?;
        let mut writer = BufWriter::new(file.as_file());
        let mut encoded = head.to_vec();
        for index in 0..self.payloads {
            header(index, &mut encoded).map_err(|error| error.to_string())?;
            writer.write_all(&encoded).and_then(|()| writer.write_all(&self.payload)).map_err(failed)?;
            encoded.clear();
        }
        writer.write_all(tail).and_then(|()| writer.flush()).map_err(failed)?;
        drop(writer);
        Ok(file)
    }
}

/// Reads the file piece by piece and gives each piece to `handle`. Returns the speed.
fn pieces(path: &Path, mut handle: impl FnMut(&[u8]) -> Result<(), String>) -> Result<f64, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let mut buffer = vec![0; BUFFER_BYTES];
    per_second(bytes, || {
        loop {
            let count = file.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                return Ok(());
            }
            handle(buffer.get(..count).unwrap_or_default())?;
        }
    })
}

fn read(path: &Path) -> Result<f64, String> {
    pieces(path, |piece| {
        black_box(piece);
        Ok(())
    })
}

/// Decodes the file; `payload` says how many bytes of device state an event has.
fn decoded<D: Decoder>(
    path: &Path,
    mut decoder: D,
    expected: u64,
    payload: impl Fn(D::Event<'_>) -> usize,
) -> Result<f64, String> {
    let mut found = 0u64;
    let speed = pieces(path, |mut piece| {
        loop {
            let Step { consumed, event } = decoder.decode(piece).map_err(|error| error.to_string())?;
            match event {
                None => return Ok(()),
                Some(event) => found = found.saturating_add(black_box(payload(event)).try_into().unwrap_or(u64::MAX)),
            }
            piece = piece.get(consumed..).unwrap_or_default();
        }
    })?;
    decoder.finish().map_err(|error| error.to_string())?;
    complete(found, expected).map(|()| speed)
}

/// Reads the file with the blocking reader.
fn framed(path: &Path, expected: u64) -> Result<f64, String> {
    let failed = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let mut reader = FrameReader::new(file, frame::Limits::DEFAULT);
    let mut found = 0u64;
    let speed = per_second(bytes, || {
        while let Some(received) = reader.read_frame().map_err(|error| error.to_string())? {
            if let Frame::Data { payload, .. } = received.frame {
                found = found.saturating_add(black_box(payload).len().try_into().unwrap_or(u64::MAX));
            }
        }
        Ok(())
    })?;
    complete(found, expected).map(|()| speed)
}

/// A contender that does less is no contender.
fn complete(found: u64, expected: u64) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{found} bytes of device state found, {expected} were written"))
}
