// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Bytes written by hand against events, and what a person gets to read.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{Item, PRE_COPY_STREAM, STREAM_OF_6_2, STREAM_WITH_OPTIONAL, decode, feed, hex, summary};
use device_mlx5::record::Header;
use device_mlx5::{Encoder, Form, Limits, Part, Phase, Remark, StreamDecoder};
use stream_codec::decode::Decoder;

/// Offset, number and content of each image.
fn images(items: &[Item]) -> Vec<(u64, u64, &[u8])> {
    let images = items.iter().filter_map(|item| match item {
        Item::Image { image, bytes, is_complete: true } => Some((image.record.offset, image.number, &bytes[..])),
        _ => None,
    });
    images.collect()
}

#[test]
fn a_stream_with_pre_copy() {
    let items = decode(&hex(PRE_COPY_STREAM)).unwrap();
    assert_eq!(items[0], Item::Size { offset: 0, bytes: 8192 });
    assert_eq!(images(&items), [(24, 0, &b"first"[..]), (45, 1, b"inc"), (64, 2, b"last")]);
    assert_eq!(items.len(), 4);
}

#[test]
fn a_stream_of_kernel_6_2() {
    let bytes = hex(STREAM_OF_6_2);
    assert_eq!(images(&decode(&bytes).unwrap()), [(0, 0, &b"first"[..])]);
    let summary = summary(&bytes);
    assert_eq!((summary.form, summary.stop_copy_size), (Some(Form::WithoutSize), None));
    assert_eq!(summary.remarks().collect::<Vec<_>>(), [Remark::NoStopCopySize]);
}

#[test]
fn optional_records_are_skipped() {
    let bytes = hex(STREAM_WITH_OPTIONAL);
    let items = decode(&bytes).unwrap();
    let Item::Skipped(first) = &items[1] else { panic!("{items:?}") };
    let Item::Skipped(second) = &items[2] else { panic!("{items:?}") };
    assert_eq!((first.offset, first.index), (24, 1));
    assert_eq!(first.header, Header { record_bytes: 3, flags: 1, tag: 0xdead_beef });
    assert_eq!((second.offset, second.index), (43, 2));
    assert_eq!(second.header, Header { record_bytes: 0, flags: 3, tag: 2 });
    assert_eq!(images(&items), [(59, 0, &b"last"[..])]);

    let summary = summary(&bytes);
    assert_eq!((summary.skipped_records, summary.skipped_bytes), (2, 3));
    let remarks = summary.remarks().collect::<Vec<_>>();
    assert_eq!(remarks, [Remark::Skipped { count: 2 }, Remark::UnknownFlags { flags: 2 }]);
}

#[test]
fn the_encoder_writes_what_was_written_by_hand() {
    let mut encoder = Encoder::new();
    let mut bytes = encoder.stop_copy_size(8192).unwrap().to_vec();
    for image in [&b"first"[..], b"inc", b"last"] {
        let size = u64::try_from(image.len()).unwrap();
        bytes.extend_from_slice(&encoder.image(size).unwrap());
        encoder.payload(size).unwrap();
        bytes.extend_from_slice(image);
    }
    encoder.finish().unwrap();
    assert_eq!(bytes, hex(PRE_COPY_STREAM));
}

#[test]
fn payloads_are_borrowed_not_copied() {
    let bytes = hex(STREAM_OF_6_2);
    let mut decoder = StreamDecoder::new(Limits::DEFAULT);
    let consumed = decoder.decode(&bytes).unwrap().consumed;
    let event = decoder.decode(&bytes[consumed..]).unwrap().event;
    let Some(device_mlx5::Event::ImagePiece { bytes: piece, .. }) = event else { panic!("{event:?}") };
    assert_eq!(piece.as_ptr(), bytes[16..].as_ptr());
}

/// The parts of the images of the hand-written stream, if the first `switchover` bytes are read in PRE_COPY.
fn parts(switchover: usize) -> Vec<Part> {
    let bytes = hex(PRE_COPY_STREAM);
    let mut decoder = StreamDecoder::new(Limits::DEFAULT);
    let mut items = Vec::new();
    decoder.set_phase(Phase::PreCopy);
    feed(&mut decoder, &bytes[..switchover], &mut items);
    decoder.set_phase(Phase::StopCopy);
    feed(&mut decoder, &bytes[switchover..], &mut items);
    let parts = items.iter().filter_map(|item| match item {
        Item::Image { image, .. } => Some(image.part),
        _ => None,
    });
    parts.collect()
}

#[test]
fn images_are_initial_incremental_and_final_by_the_phase_their_header_starts_in() {
    use Part::{Final, Incremental, Initial};
    assert_eq!(parts(64), [Initial, Incremental, Final]);
    assert_eq!(parts(65), [Initial, Incremental, Incremental]);
    assert_eq!(parts(63), [Initial, Incremental, Final]);
    assert_eq!(parts(46), [Initial, Incremental, Final]);
    assert_eq!(parts(45), [Initial, Final, Final]);
    // Cut inside the header of the first image: it was there before.
    assert_eq!(parts(25), [Initial, Final, Final]);
    // After a failure of PRE_COPY, or without it, all comes in STOP_COPY.
    assert_eq!(parts(24), [Final, Final, Final]);
    assert_eq!(parts(0), [Final, Final, Final]);
}

#[test]
fn without_a_phase_the_part_is_unknown() {
    let items = decode(&hex(PRE_COPY_STREAM)).unwrap();
    assert!(matches!(&items[1], Item::Image { image, .. } if image.part == Part::Unknown));
}

#[test]
fn a_person_can_read_it() {
    let text = summary(&hex(PRE_COPY_STREAM)).to_string();
    let expected = "mlx5 device state, records (kernel 6.3 or newer)\n\
                    stop-copy size  8192 bytes\n\
                    images          3, 12 bytes, the largest 5 bytes\n";
    assert_eq!(text, expected);
}
