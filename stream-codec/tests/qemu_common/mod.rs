// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading whole streams of QEMU's, with the checks that hold for every event of every stream.
#![allow(
    dead_code,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "every test file uses its own part, and tests may panic"
)]

pub(crate) mod streams;

use std::collections::BTreeMap;

use stream_codec::decode::{Decoder, Step};
use stream_codec::qemu::{
    ConfigState, Error, Event, Extent, Item, MainDecoder, MainOptions, MappedRamHeader, MultifdDecoder, MultifdItem,
    MultifdOptions, Piece, RamRecord, Reason, ReturnPathDecoder, SectionKind, VfioRecord, VmState, VmStateReader,
    Vmdesc, VmdescLimits,
};

/// Feeds `$stream` in pieces and runs `$handle` on every event. Every event must cover the bytes of the stream that
/// follow those of the event before, and writing its item must give these bytes.
macro_rules! drive {
    ($decoder:expr, $stream:expr, $piece_bytes:expr, |$event:ident| $handle:block) => {
        'stream: {
            let (mut decoder, stream): (_, &[u8]) = ($decoder, $stream);
            let mut end = 0;
            for piece in stream.chunks($piece_bytes) {
                let mut rest = piece;
                loop {
                    let consumed = match decoder.decode(rest) {
                        Err(error) => break 'stream Err(error),
                        Ok(Step { consumed, event: None }) => {
                            assert_eq!(consumed, rest.len(), "only what is used up ends without an event");
                            break;
                        }
                        Ok(Step { consumed, event: Some($event) }) => {
                            check_event(stream, &mut end, &$event, |out| $event.item.encode(out));
                            $handle
                            consumed
                        }
                    };
                    rest = &rest[consumed..];
                }
            }
            let result = decoder.finish();
            assert!(result.is_err() || end == stream.len() as u64, "{end} of {} bytes accounted for", stream.len());
            result
        }
    };
}

fn check_event<I>(
    stream: &[u8],
    end: &mut u64,
    event: &Event<'_, I>,
    encode: impl Fn(&mut Vec<u8>) -> Result<(), Reason>,
) {
    assert_eq!(event.offset, *end, "events must leave no gap");
    assert!(!event.raw.is_empty(), "an event of nothing at {end}");
    let start = *end as usize;
    assert!(event.raw == &stream[start..start + event.raw.len()], "the event at {start} has other bytes");
    let mut encoded = Vec::with_capacity(event.raw.len());
    encode(&mut encoded).unwrap();
    assert!(encoded == event.raw, "the item at {start} is written otherwise");
    *end += event.raw.len() as u64;
}

/// How to read a main stream.
pub(crate) struct Options {
    pub(crate) use_vmdesc: bool,
    pub(crate) piece_bytes: usize,
    /// Whether payloads that were found by search are read with the vmdesc afterwards.
    pub(crate) read_fields: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { use_vmdesc: true, piece_bytes: usize::MAX, read_fields: false }
    }
}

pub(crate) struct Section {
    pub(crate) kind: SectionKind,
    pub(crate) idstr: String,
    pub(crate) extent: Extent,
    pub(crate) payload_start: u64,
    pub(crate) payload_end: u64,
}

/// What a main stream holds.
pub(crate) struct Main {
    pub(crate) result: Result<(), Error>,
    pub(crate) sections: Vec<Section>,
    /// Bytes of FULL sections for which there is a field or a subsection.
    pub(crate) field_bytes: u64,
    pub(crate) device: Vec<u8>,
    pub(crate) config: Vec<u8>,
    pub(crate) normal_pages: u64,
    pub(crate) zero_pages: u64,
    /// Pages in the file, of mapped-ram.
    pub(crate) mapped_pages: u64,
}

impl Main {
    pub(crate) fn full_sections(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter().filter(|section| section.kind == SectionKind::Full)
    }

    pub(crate) fn boundaries(&self) -> Vec<(&str, u64, u64)> {
        let boundaries = self.sections.iter();
        boundaries.map(|section| (section.idstr.as_str(), section.payload_start, section.payload_end)).collect()
    }
}

pub(crate) fn vmdesc_of(stream: &[u8]) -> Option<Vmdesc> {
    let json = Vmdesc::locate(stream)?;
    Some(Vmdesc::parse(&stream[json], &VmdescLimits::DEFAULT).unwrap())
}

pub(crate) fn decode_main(stream: &[u8], options: &Options) -> Main {
    let vmdesc = vmdesc_of(stream);
    let later = vmdesc.clone().filter(|_| options.read_fields);
    let used = vmdesc.filter(|_| options.use_vmdesc);
    let decoder = MainDecoder::new(MainOptions { vmdesc: used, ..MainOptions::default() });
    let mut main = Main {
        result: Ok(()),
        sections: Vec::new(),
        field_bytes: 0,
        device: Vec::new(),
        config: Vec::new(),
        normal_pages: 0,
        zero_pages: 0,
        mapped_pages: 0,
    };
    let mut mapped = MappedBlock::default();
    let result = drive!(decoder, stream, options.piece_bytes, |event| {
        match event.item {
            Item::Section(header) => main.sections.push(Section {
                kind: header.kind,
                idstr: header.idstr.into(),
                extent: header.extent,
                payload_start: event.offset + event.raw.len() as u64,
                payload_end: 0,
            }),
            Item::Footer { .. } => main.sections.last_mut().unwrap().payload_end = event.offset,
            Item::Vfio(VfioRecord::DataBytes(piece)) => main.device.extend_from_slice(piece.bytes),
            Item::Vfio(VfioRecord::ConfigState(state)) => {
                assert!(matches!(state, ConfigState::Pci(_)), "every recorded device is a PCI device");
                main.config.extend_from_slice(event.raw);
            }
            Item::Ram(RamRecord::Page(_)) => main.normal_pages += 1,
            Item::Ram(RamRecord::ZeroPage { .. }) => main.zero_pages += 1,
            Item::Ram(record) => main.mapped_pages += mapped.record(&record),
            Item::VmState(part) => {
                main.field_bytes += event.raw.len() as u64;
                if let VmState::Field(field) = part {
                    let is_whole = field.piece.bytes.len() as u64 == field.piece.length;
                    assert!(is_whole || field.piece.length > 64);
                }
            }
            Item::Payload(payload) => {
                if let Some(vmdesc) = &later {
                    let section = main.sections.last().unwrap();
                    main.field_bytes += read_fields(vmdesc, &section.idstr, payload);
                }
            }
            _ => {}
        }
    });
    main.result = result;
    main
}

/// Reads a payload with a vmdesc that came later. The recordings have no two instances with different fields.
fn read_fields(vmdesc: &Vmdesc, idstr: &str, payload: &[u8]) -> u64 {
    let device = vmdesc.devices().find(|device| device.name == idstr).unwrap();
    let mut reader = VmStateReader::new(vmdesc, idstr, device.instance_id, payload).unwrap();
    let mut bytes = 0;
    while let Some(event) = reader.next_part().unwrap() {
        assert_eq!(event.offset, bytes);
        let mut encoded = Vec::new();
        event.item.encode(&mut encoded).unwrap();
        assert_eq!(encoded, event.raw);
        bytes += event.raw.len() as u64;
    }
    assert_eq!(bytes, payload.len() as u64);
    bytes
}

/// The bitmap of a block of mapped-ram, to compare with the block's pages.
#[derive(Default)]
struct MappedBlock {
    header: Option<MappedRamHeader>,
    bitmap: Vec<u8>,
}

impl MappedBlock {
    /// How many pages the bitmap says are there, once both have come. None of them is zero, for QEMU clears the bit of
    /// a page that has become zero; its old bytes stay in the file.
    fn record(&mut self, record: &RamRecord<'_>) -> u64 {
        match record {
            RamRecord::MappedRam(header) => *self = Self { header: Some(*header), bitmap: Vec::new() },
            RamRecord::Bitmap(piece) => self.bitmap.extend_from_slice(piece.bytes),
            // In one piece only: the pages of several pieces need not be whole.
            RamRecord::Pages(piece) if piece.position == 0 && piece.is_last() => {
                let pages = piece.bytes.chunks(self.header.unwrap().page_bytes as usize);
                let is_set = |number: usize| self.bitmap[number / 8] >> (number % 8) & 1 == 1;
                for (number, page) in pages.enumerate().filter(|(number, _)| is_set(*number)) {
                    assert!(page.iter().any(|&byte| byte != 0), "page {number} is in the bitmap, not in the file");
                }
                return self.bitmap.iter().map(|byte| u64::from(byte.count_ones())).sum();
            }
            _ => {}
        }
        0
    }
}

/// A packet with device state.
#[derive(Default)]
pub(crate) struct Packet {
    pub(crate) is_config: bool,
    pub(crate) bytes: Vec<u8>,
}

/// What a multifd channel holds.
#[derive(Default)]
pub(crate) struct Multifd {
    pub(crate) id: u8,
    pub(crate) syncs: u64,
    pub(crate) normal_pages: u64,
    pub(crate) zero_pages: u64,
    pub(crate) page_bytes: u64,
    /// The payload of all packets with device state.
    pub(crate) device_payload_bytes: u64,
    pub(crate) packets: BTreeMap<u32, Packet>,
}

pub(crate) fn decode_multifd(stream: &[u8]) -> Multifd {
    let mut channel = Multifd::default();
    let mut index = 0;
    let result = drive!(MultifdDecoder::new(MultifdOptions::default()), stream, 4093, |event| {
        match event.item {
            MultifdItem::Initial(packet) => channel.id = packet.channel_id,
            MultifdItem::Ram(packet) => {
                channel.syncs += u64::from(packet.is_sync);
                channel.normal_pages += packet.normal_offsets().count() as u64;
                channel.zero_pages += packet.zero_offsets().count() as u64;
                assert!(packet.normal_offsets().chain(packet.zero_offsets()).all(|offset| offset % 4096 == 0));
                assert_eq!(u64::from(packet.payload_bytes), 4096 * u64::from(packet.normal_pages));
                assert_eq!(packet.block.is_empty(), packet.normal_pages + packet.zero_pages == 0);
            }
            MultifdItem::RamBytes(piece) => channel.page_bytes += piece.bytes.len() as u64,
            MultifdItem::DeviceState(header) => channel.device_payload_bytes += u64::from(header.payload_bytes),
            MultifdItem::VfioPacket(header) => {
                index = header.index;
                let packet = Packet { is_config: header.is_config, bytes: Vec::new() };
                assert!(channel.packets.insert(index, packet).is_none(), "index {index} came twice");
            }
            MultifdItem::DeviceBytes(piece) => {
                channel.packets.get_mut(&index).unwrap().bytes.extend_from_slice(piece.bytes);
            }
            MultifdItem::ConfigState(_) => channel.packets.get_mut(&index).unwrap().bytes = event.raw.to_vec(),
            _ => {}
        }
    });
    assert_eq!(result, Ok(()));
    assert_eq!(channel.page_bytes, 4096 * channel.normal_pages);
    channel
}

/// The messages of a return path, one per line.
pub(crate) fn decode_return_path(stream: &[u8]) -> String {
    let mut messages = Vec::new();
    let result = drive!(ReturnPathDecoder::new(), stream, 3, |event| {
        messages.push(format!("{:?}", event.item));
    });
    assert_eq!(result, Ok(()));
    messages.join("\n")
}

/// An event, with all pieces of a payload put together.
#[derive(Debug, PartialEq)]
pub(crate) struct Record {
    what: String,
    offset: u64,
    /// Length of the payload, if it is one.
    length: Option<u64>,
    raw: Vec<u8>,
}

/// Appends an event to the records, or adds a piece to the record of its payload.
pub(crate) fn record(what: String, piece: Option<Piece<'_>>, offset: u64, raw: &[u8], records: &mut Vec<Record>) {
    let length = piece.map(|piece| piece.length);
    let start = offset - piece.map_or(0, |piece| piece.position);
    if let (Some(piece), Some(last)) = (piece, records.last_mut()) {
        if piece.position > 0 {
            assert_eq!((&last.what, last.offset, last.length), (&what, start, length), "pieces of one payload");
            assert_eq!(last.raw.len() as u64, piece.position, "a piece is missing");
            last.raw.extend_from_slice(raw);
            return;
        }
    }
    records.push(Record { what, offset, length, raw: raw.to_vec() });
}
