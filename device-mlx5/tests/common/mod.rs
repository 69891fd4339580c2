// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the tests share: streams written by hand, byte by byte, from the table that `device_mlx5::record` documents. No
//! stream of real hardware was available.
#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use device_mlx5::record::{Header, Record};
use device_mlx5::{Error, Event, Image, Limits, Phase, StreamDecoder, Summary};
use stream_codec::decode::Decoder;
use stream_codec::testkit::run;

/// Bytes of a text of hexadecimal numbers; `|` and what follows on a line is a comment.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let numbers = text.lines().flat_map(|line| line.split('|').next().unwrap().split_whitespace());
    numbers.map(|number| u8::from_str_radix(number, 16).unwrap()).collect()
}

/// A stream with PRE_COPY: the announcement at 0, an initial image at 24, an incremental one at 45, a final one at 64.
pub(crate) const PRE_COPY_STREAM: &str = "
    08 00 00 00 00 00 00 00 |  0 record_size
    01 00 00 00             |  8 flags: optional
    01 00 00 00             | 12 tag: STOP_COPY_SIZE
    00 20 00 00 00 00 00 00 | 16 8192
    05 00 00 00 00 00 00 00 | 24 record_size
    00 00 00 00             |    flags: mandatory
    00 00 00 00             |    tag: FW_DATA
    66 69 72 73 74          |    first
    03 00 00 00 00 00 00 00 | 45 record_size
    00 00 00 00             |    flags
    00 00 00 00             |    tag
    69 6e 63                |    inc
    04 00 00 00 00 00 00 00 | 64 record_size
    00 00 00 00             |    flags
    00 00 00 00             |    tag
    6c 61 73 74             |    last
";

/// What kernel 6.2 wrote: a size and 64 bits of flags, which are 0.
pub(crate) const STREAM_OF_6_2: &str = "
    05 00 00 00 00 00 00 00 |  0 image_size
    00 00 00 00 00 00 00 00 |  8 flags
    66 69 72 73 74          | 16 first
";

/// Records of a kind that no kernel writes yet, between those it does: 3 bytes at 24, none at 43.
pub(crate) const STREAM_WITH_OPTIONAL: &str = "
    08 00 00 00 00 00 00 00 |  0 record_size
    01 00 00 00 01 00 00 00 |  8 flags, tag
    00 20 00 00 00 00 00 00 | 16 8192
    03 00 00 00 00 00 00 00 | 24 record_size
    01 00 00 00 ef be ad de |    flags: optional, tag
    78 78 78                |
    00 00 00 00 00 00 00 00 | 43 record_size
    03 00 00 00 02 00 00 00 |    flags: optional and an unknown one, tag
    04 00 00 00 00 00 00 00 | 59 record_size
    00 00 00 00 00 00 00 00 |    flags, tag
    6c 61 73 74             |    last
";

pub(crate) fn record(header: Header, payload: &[u8]) -> Vec<u8> {
    [&header.encode()[..], payload].concat()
}

pub(crate) fn fw_data(payload: &[u8]) -> Vec<u8> {
    record(Header { record_bytes: payload.len().try_into().unwrap(), flags: 0, tag: 0 }, payload)
}

pub(crate) fn stop_copy_size(bytes: u64) -> Vec<u8> {
    record(Header { record_bytes: 8, flags: 1, tag: 1 }, &bytes.to_le_bytes())
}

pub(crate) fn optional(tag: u32, payload: &[u8]) -> Vec<u8> {
    record(Header { record_bytes: payload.len().try_into().unwrap(), flags: 1, tag }, payload)
}

/// An event with the pieces of an image put together.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    Size { offset: u64, bytes: u64 },
    Image { image: Image, bytes: Vec<u8>, is_complete: bool },
    Skipped(Record),
}

pub(crate) fn collect(event: Event<'_>, items: &mut Vec<Item>) {
    match event {
        Event::StopCopySize { record, bytes } => items.push(Item::Size { offset: record.offset, bytes }),
        Event::ImageStart(image) => items.push(Item::Image { image, bytes: Vec::new(), is_complete: false }),
        Event::ImagePiece { image, position, bytes: piece } => match items.last_mut() {
            Some(Item::Image { image: started, bytes, is_complete: false }) if *started == image => {
                assert_eq!(u64::try_from(bytes.len()).unwrap(), position);
                assert!(!piece.is_empty());
                bytes.extend_from_slice(piece);
            }
            other => panic!("a piece of {image:?} after {other:?}"),
        },
        Event::ImageEnd(image) => match items.last_mut() {
            Some(Item::Image { image: started, is_complete, .. }) if *started == image => *is_complete = true,
            other => panic!("the end of {image:?} after {other:?}"),
        },
        Event::Skipped(record) => items.push(Item::Skipped(record)),
        other => panic!("{other:?}"),
    }
}

/// Reads a stream at once and in pieces of several sizes, which must agree.
pub(crate) fn decode_within(bytes: &[u8], limits: Limits) -> Result<Vec<Item>, Error> {
    let whole = run(StreamDecoder::new(limits), collect, 24, [bytes]);
    for piece in [1, 7, 16, 24] {
        let pieces = run(StreamDecoder::new(limits), collect, 24, bytes.chunks(piece));
        assert_eq!(whole, pieces, "pieces of {piece} bytes");
    }
    whole.result.map(|()| whole.records)
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Item>, Error> {
    decode_within(bytes, Limits::FORMAT)
}

/// Feeds `bytes` to a decoder and leaves it ready for more.
pub(crate) fn feed(decoder: &mut StreamDecoder, mut bytes: &[u8], items: &mut Vec<Item>) {
    loop {
        let step = decoder.decode(bytes).unwrap();
        bytes = &bytes[step.consumed..];
        match step.event {
            Some(event) => collect(event, items),
            None => return,
        }
    }
}

/// What a valid stream is summed up to.
pub(crate) fn summary(bytes: &[u8]) -> Summary {
    let mut decoder = StreamDecoder::new(Limits::FORMAT);
    decoder.set_phase(Phase::Unknown);
    feed(&mut decoder, bytes, &mut Vec::new());
    decoder.finish().unwrap();
    *decoder.summary()
}
