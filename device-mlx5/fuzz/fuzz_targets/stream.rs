// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arbitrary bytes, and records with arbitrary headers: the contract of a decoder for both layers, and the kernel takes
//! what the decoder takes.
#![no_main]

use arbitrary::Arbitrary;
use device_mlx5::model::Resuming;
use device_mlx5::record::{Header, Record, RecordDecoder, RecordEvent, VIRTIO};
use device_mlx5::{Event, FORMAT, Limits, StreamDecoder};
use libfuzzer_sys::fuzz_target;
use stream_codec::testkit::{check_bytes, run};

const LIMITS: Limits = Limits { record_bytes: 300, total_bytes: 2000 };

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    seed: u64,
    has_size: Option<u64>,
    records: Vec<RawRecord<'a>>,
    /// Bytes behind the records, as they are.
    rest: &'a [u8],
}

#[derive(Arbitrary, Debug)]
struct RawRecord<'a> {
    tag: u8,
    flags: u8,
    /// A lie about the length, if any.
    record_bytes: Option<u64>,
    payload: &'a [u8],
}

impl Input<'_> {
    fn stream(&self) -> Vec<u8> {
        let mut stream = Vec::new();
        let mut append = |header: Header, payload: &[u8]| {
            stream.extend_from_slice(&header.encode());
            stream.extend_from_slice(payload);
        };
        if let Some(size) = self.has_size {
            append(Header { record_bytes: 8, flags: 1, tag: 1 }, &size.to_le_bytes());
        }
        for record in &self.records {
            let payload = record.payload.get(..400).unwrap_or(record.payload);
            let record_bytes = record.record_bytes.unwrap_or(payload.len() as u64);
            append(Header { record_bytes, flags: record.flags.into(), tag: (record.tag % 5).into() }, payload);
        }
        stream.extend_from_slice(self.rest);
        stream
    }
}

/// Events with the pieces of an image put together.
#[derive(Debug, PartialEq)]
enum Item {
    Size(u64),
    Image(u64, Vec<u8>),
    ImageEnd(u64),
    Skipped(Record),
}

fn collect(event: Event<'_>, items: &mut Vec<Item>) {
    match event {
        Event::StopCopySize { bytes, .. } => items.push(Item::Size(bytes)),
        Event::ImageStart(image) => items.push(Item::Image(image.number, Vec::new())),
        Event::ImagePiece { position, bytes: piece, .. } => match items.last_mut() {
            Some(Item::Image(_, bytes)) => {
                assert_eq!(bytes.len() as u64, position);
                bytes.extend_from_slice(piece);
            }
            last => panic!("a piece after {last:?}"),
        },
        Event::ImageEnd(image) => items.push(Item::ImageEnd(image.number)),
        Event::Skipped(record) => items.push(Item::Skipped(record)),
        _ => {}
    }
}

/// A record: where it starts, and its payload unless it was skipped.
type Payload = (u64, Option<Vec<u8>>);

fn collect_record(event: RecordEvent<'_>, records: &mut Vec<Payload>) {
    match event {
        RecordEvent::Start(record) => records.push((record.offset, Some(Vec::new()))),
        RecordEvent::Payload { bytes: piece, .. } => match records.last_mut() {
            Some((_, Some(bytes))) => bytes.extend_from_slice(piece),
            last => panic!("a payload after {last:?}"),
        },
        RecordEvent::Skipped(record) => records.push((record.offset, None)),
        _ => {}
    }
}

fuzz_target!(|input: Input<'_>| {
    let stream = input.stream();
    check_bytes(|| StreamDecoder::new(LIMITS), collect, 24, &stream, input.seed);
    for format in [FORMAT, VIRTIO] {
        check_bytes(|| RecordDecoder::new(format, LIMITS), collect_record, 16, &stream, input.seed);
    }

    let outcome = run(StreamDecoder::new(LIMITS), collect, 24, [&stream[..]]);
    let lengths = outcome.records.iter().filter_map(|item| match item {
        Item::Image(_, bytes) => Some(bytes.len()),
        _ => None,
    });
    // An empty image the kernel may refuse or forget.
    if outcome.result.is_ok() && lengths.clone().all(|length| length > 0) {
        let mut session = Resuming::new(u64::MAX);
        assert_eq!(session.write(&stream), Ok(stream.len()));
        assert_eq!(session.images(), lengths.clone().count() as u64);
        assert_eq!(session.image_bytes(), lengths.sum::<usize>() as u64);
    }
    // However the kernel is fed, it ends the same.
    let (mut whole, mut bytewise) = (Resuming::new(1 << 20), Resuming::new(1 << 20));
    let whole_result = whole.write(&stream).map(|_| ());
    let bytewise_result = stream.chunks(1).try_for_each(|byte| bytewise.write(byte).map(|_| ()));
    assert_eq!(whole_result, bytewise_result);
    assert_eq!((whole.images(), whole.pinned_bytes()), (bytewise.images(), bytewise.pinned_bytes()));
});
