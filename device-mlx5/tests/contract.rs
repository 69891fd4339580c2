// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The four properties of a decoder, for both layers.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{
    PRE_COPY_STREAM, STREAM_OF_6_2, STREAM_WITH_OPTIONAL, collect, fw_data, hex, optional, record, stop_copy_size,
};
use device_mlx5::record::{Format, Header, Record, RecordDecoder, RecordEvent, VIRTIO};
use device_mlx5::{FORMAT, Limits, StreamDecoder};
use stream_codec::testkit::check_decoder;

/// Small enough for hostile lengths to be beyond.
const LIMITS: Limits = Limits { record_bytes: 300, total_bytes: 1000 };

fn streams() -> Vec<Vec<u8>> {
    let empty_images = [stop_copy_size(1), fw_data(b""), fw_data(b"x"), fw_data(b"")].concat();
    let large = [stop_copy_size(0x1000), fw_data(&[0xa5; 200]), optional(9, &[0x5a; 100])].concat();
    let odd_flags = record(Header { record_bytes: 2, flags: 0xffff_ffff, tag: 0 }, b"ab");
    vec![hex(PRE_COPY_STREAM), hex(STREAM_OF_6_2), hex(STREAM_WITH_OPTIONAL), empty_images, large, odd_flags]
}

#[test]
fn the_four_properties_of_the_stream() {
    let streams = streams();
    let streams = streams.iter().map(Vec::as_slice).collect::<Vec<_>>();
    check_decoder(|| StreamDecoder::new(LIMITS), collect, 24, &streams);
}

/// A record and the bytes of it that have come, or that it was skipped.
type Item = (Record, Option<Vec<u8>>, bool);

fn collect_record(event: RecordEvent<'_>, items: &mut Vec<Item>) {
    match (event, items.last_mut()) {
        (RecordEvent::Start(record), _) => items.push((record, Some(Vec::new()), false)),
        (RecordEvent::Payload { record, position, bytes: piece }, Some((started, Some(bytes), false))) => {
            assert_eq!((record, position), (*started, u64::try_from(bytes.len()).unwrap()));
            bytes.extend_from_slice(piece);
        }
        (RecordEvent::End(record), Some((started, Some(_), is_complete))) if record == *started => *is_complete = true,
        (RecordEvent::Skipped(record), _) => items.push((record, None, true)),
        (event, last) => panic!("{event:?} after {last:?}"),
    }
}

#[test]
fn the_four_properties_of_records() {
    let streams = streams();
    let streams = streams.iter().map(Vec::as_slice).collect::<Vec<_>>();
    for format in [FORMAT, VIRTIO, Format { tags: &[], image_tag: 9, ..FORMAT }] {
        let valid = |stream: &&[u8]| {
            stream_codec::testkit::run(RecordDecoder::new(format, LIMITS), collect_record, 16, [*stream]).result.is_ok()
        };
        let streams = streams.iter().copied().filter(valid).collect::<Vec<_>>();
        if format.tags.is_empty() {
            assert!(streams.is_empty(), "no format without tags can take an image");
            continue;
        }
        check_decoder(|| RecordDecoder::new(format, LIMITS), collect_record, 16, &streams);
    }
}
