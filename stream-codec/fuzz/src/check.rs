// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What holds for every stream of QEMU's, good or bad: the contract of a decoder; events that cover the stream without
//! gap; items that are written back byte for byte.

use stream_codec::qemu::{
    Error, Event, Item, Limits, MainDecoder, MainOptions, MultifdDecoder, MultifdItem, MultifdOptions, Piece,
    RamRecord, Reason, ReturnPathDecoder, ReturnPathItem, VfioRecord, VmState, WHOLE_FIELD_BYTES_MAX,
};
use stream_codec::testkit::{Outcome, check_bytes, run};

/// Small, so that short inputs reach them.
pub const LIMITS: Limits =
    Limits { sections: 4, ram_blocks: 4, section_bytes: 512, config_bytes: 512, command_bytes: 96 };

/// The return path has no limits to set: a message has at most 516 bytes, and a buffer that grows copies the old one.
const RETURN_PATH_BYTES_MAX: usize = 2048;

/// An event, with all pieces of a payload put together.
#[derive(Debug, PartialEq)]
pub struct Record {
    /// The item as it prints; of a payload, what it is a payload of.
    pub what: String,
    /// Where it starts.
    pub offset: u64,
    /// Length of the payload, if it is one.
    pub length: Option<u64>,
    /// The bytes.
    pub raw: Vec<u8>,
}

impl Record {
    /// The most bytes that such an item may have and still come whole.
    fn whole_bytes_max(&self) -> usize {
        let is = |name: &str| self.what.strip_prefix("Vfio(").unwrap_or(&self.what).starts_with(name);
        if is("ConfigState") {
            LIMITS.config_bytes
        } else if is("Payload") {
            LIMITS.section_bytes
        } else if is("Command") {
            LIMITS.command_bytes + 5
        } else {
            usize::MAX
        }
    }

    /// Appends an event to the records, or adds a piece to the record of its payload.
    fn push<I>(
        event: &Event<'_, I>,
        what: String,
        piece: Option<Piece<'_>>,
        encode: impl Fn(&mut Vec<u8>) -> Result<(), Reason>,
        records: &mut Vec<Self>,
    ) {
        assert!(!event.raw.is_empty(), "an event of nothing at {}", event.offset);
        let mut encoded = Vec::with_capacity(event.raw.len());
        encode(&mut encoded).expect("what was read can be written");
        assert!(
            encoded == event.raw,
            "{what} at {}, written otherwise:\n{:02x?}\n{encoded:02x?}",
            event.offset,
            event.raw
        );

        let start = event.offset - piece.map_or(0, |piece| piece.position);
        if let Some(piece) = piece {
            assert_eq!(piece.bytes, event.raw);
            assert!(piece.position + piece.bytes.len() as u64 <= piece.length, "a piece beyond its payload");
            if piece.position > 0 {
                let last = records.last_mut().expect("a piece has one before it");
                assert_eq!((&last.what, last.offset, last.length), (&what, start, Some(piece.length)));
                assert_eq!(last.raw.len() as u64, piece.position, "a piece is missing");
                last.raw.extend_from_slice(event.raw);
                return;
            }
        }
        let length = piece.map(|piece| piece.length);
        records.push(Self { what, offset: start, length, raw: event.raw.to_vec() });
    }
}

/// Checks a main stream, and says what was in it.
pub fn main_stream(options: &MainOptions, stream: &[u8], seed: u64) -> Outcome<Record, Error> {
    let decoder = || MainDecoder::new(options.clone());
    let bytes_max = options.limits.main_bytes();
    check_bytes(decoder, main_record, bytes_max, stream, seed);
    covers(run(decoder(), main_record, bytes_max, [stream]), stream)
}

/// Checks a multifd channel, and says what was in it.
pub fn multifd(options: MultifdOptions, stream: &[u8], seed: u64) -> Outcome<Record, Error> {
    let decoder = || MultifdDecoder::new(options);
    let bytes_max = options.limits.buffer_bytes();
    check_bytes(decoder, multifd_record, bytes_max, stream, seed);
    covers(run(decoder(), multifd_record, bytes_max, [stream]), stream)
}

/// Checks a return path, and says what was in it.
pub fn return_path(stream: &[u8], seed: u64) -> Outcome<Record, Error> {
    check_bytes(ReturnPathDecoder::new, return_path_record, RETURN_PATH_BYTES_MAX, stream, seed);
    covers(run(ReturnPathDecoder::new(), return_path_record, RETURN_PATH_BYTES_MAX, [stream]), stream)
}

/// Events follow each other without gap, from the first byte to where the stream was refused or ended.
fn covers(outcome: Outcome<Record, Error>, stream: &[u8]) -> Outcome<Record, Error> {
    let mut rest = stream;
    let mut offset = 0;
    for record in &outcome.records {
        assert_eq!(record.offset, offset, "events leave no gap");
        rest = rest.strip_prefix(&record.raw[..]).expect("events have the bytes of the stream");
        assert!(record.raw.len() <= record.whole_bytes_max(), "beyond a limit: {record:?}");
        offset += record.raw.len() as u64;
    }
    match &outcome.result {
        Ok(()) => assert!(rest.is_empty(), "a stream that ended well has {} bytes without event", rest.len()),
        Err(error) => assert_eq!(error.offset, offset, "the error stands behind the last event: {error}"),
    }
    outcome
}

fn main_record(event: Event<'_, Item<'_>>, records: &mut Vec<Record>) {
    let (what, piece) = describe_main(&event.item);
    Record::push(&event, what, piece, |out| event.item.encode(out), records);
}

fn multifd_record(event: Event<'_, MultifdItem<'_>>, records: &mut Vec<Record>) {
    let (what, piece) = describe_multifd(&event.item);
    Record::push(&event, what, piece, |out| event.item.encode(out), records);
}

fn return_path_record(event: Event<'_, ReturnPathItem<'_>>, records: &mut Vec<Record>) {
    let (what, piece) = describe_return_path(&event.item);
    Record::push(&event, what, piece, |out| event.item.encode(out), records);
}

/// What is recorded of an item, and the piece if it is one.
pub fn describe_main<'a>(item: &Item<'a>) -> (String, Option<Piece<'a>>) {
    let payload = |what: &str, piece| (what.into(), Some(piece));
    match *item {
        Item::Ram(RamRecord::Gap(piece)) => payload("gap", piece),
        Item::Ram(RamRecord::Bitmap(piece)) => payload("bitmap", piece),
        Item::Ram(RamRecord::Pages(piece)) => payload("pages", piece),
        Item::Ram(RamRecord::PageBytes(piece)) => payload("page", piece),
        Item::Vfio(VfioRecord::DataBytes(piece)) => payload("device state", piece),
        Item::VmdescBytes(piece) => payload("vmdesc", piece),
        Item::VmState(VmState::Field(field)) => {
            // Only a field that never comes in pieces has a value whatever the segmentation.
            let value = field.value().filter(|_| field.piece.length <= WHOLE_FIELD_BYTES_MAX);
            (format!("{}/{}: {} {value:?}", field.path, field.name, field.type_name), Some(field.piece))
        }
        item => (format!("{item:?}"), None),
    }
}

/// As [`describe_main`], of a multifd channel.
pub fn describe_multifd<'a>(item: &MultifdItem<'a>) -> (String, Option<Piece<'a>>) {
    match *item {
        MultifdItem::RamBytes(piece) => ("pages".into(), Some(piece)),
        MultifdItem::DeviceBytes(piece) => ("device state".into(), Some(piece)),
        MultifdItem::Ram(packet) => {
            let found = (packet.normal_offsets().count() as u32, packet.zero_offsets().count() as u32);
            assert_eq!(found, (packet.normal_pages, packet.zero_pages), "every page has an offset");
            (format!("{item:?}"), None)
        }
        item => (format!("{item:?}"), None),
    }
}

/// As [`describe_main`], of a return path.
pub fn describe_return_path<'a>(item: &ReturnPathItem<'a>) -> (String, Option<Piece<'a>>) {
    match *item {
        ReturnPathItem::BitmapBytes(piece) => ("bitmap".into(), Some(piece)),
        item => (format!("{item:?}"), None),
    }
}
