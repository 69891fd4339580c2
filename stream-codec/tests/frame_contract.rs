// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The decoder of the native format keeps the contract of every decoder, and detects every changed bit.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{LIMITS, Record, control, data, decode, every_frame, every_message, record, stream};
use stream_codec::decode::{Blame, Fault};
use stream_codec::frame::{FrameDecoder, Limits, Message, Reason};
use stream_codec::testkit::{bit_flips, check_decoder, prefixes, run};

#[test]
fn the_contract_of_every_decoder() {
    let stream = every_frame();
    check_decoder(|| FrameDecoder::new(LIMITS), record, 300, &[&stream]);
}

#[test]
fn the_events_of_a_stream() {
    let frames = [control(&Message::Switchover), data(3, 9, b"state"), control(&Message::Commit)];
    let outcome = run(FrameDecoder::new(LIMITS), record, 300, [stream(&frames).as_slice()]);
    assert_eq!(outcome.result, Ok(()));
    // 16 bytes of prologue, 32 of Switchover, 37 of Data.
    let piece = Record::Data { frame: (48, 3, 9, 5), payload: b"state".to_vec(), is_complete: true };
    let expected = [
        Record::Control(16, "Switchover".into()),
        piece,
        Record::DataEnd(48, 3, 9, 5),
        Record::Control(85, "Commit".into()),
    ];
    assert_eq!(outcome.records, expected);
}

#[test]
fn every_kind_is_yielded_as_it_was_written() {
    let messages = every_message();
    let frames = messages.iter().map(control).collect::<Vec<_>>();
    let outcome = run(FrameDecoder::new(LIMITS), record, 300, [stream(&frames).as_slice()]);
    let mut offset = 16;
    let expected = messages.iter().zip(&frames).map(|(message, frame)| {
        let start = offset;
        offset += u64::try_from(frame.len()).unwrap();
        Record::Control(start, format!("{message:?}"))
    });
    assert_eq!(outcome.records, expected.collect::<Vec<_>>());
}

#[test]
fn every_single_bit_flip_is_detected_as_damage() {
    let stream = every_frame();
    assert!(decode(&stream, LIMITS).is_ok());
    for (bit, flipped) in bit_flips(&stream) {
        let error = decode(&flipped, LIMITS).expect_err("a flipped bit went unnoticed");
        // A damaged magic cannot be told from another format.
        let expected = if bit < 64 { Fault::Sender } else { Fault::Transport };
        assert_eq!(error.fault(), expected, "bit {bit}: {error}");
    }
}

#[test]
fn every_prefix_is_a_whole_number_of_frames_or_truncated() {
    let frames = every_message().iter().map(control).collect::<Vec<_>>();
    let mut boundaries = vec![16];
    boundaries.extend(frames.iter().scan(16, |offset, frame| {
        *offset += frame.len();
        Some(*offset)
    }));
    for prefix in prefixes(&stream(&frames)) {
        match decode(prefix, LIMITS) {
            Ok(_) => assert!(boundaries.contains(&prefix.len()), "{} bytes are no whole frames", prefix.len()),
            Err(error) => {
                assert!(!boundaries.contains(&prefix.len()), "{} bytes: {error}", prefix.len());
                assert!(matches!(error.reason, Reason::Truncated { .. }), "{error}");
                let start = boundaries.iter().rev().find(|&&start| start < prefix.len());
                assert_eq!(error.offset, start.map_or(0, |&start| start as u64), "{error}");
            }
        }
    }
}

#[test]
fn payload_is_not_buffered() {
    let limits = Limits { data_bytes: 1 << 20, ..LIMITS };
    let stream = stream(&[data(0, 0, &vec![1; 1 << 20])]);
    // The bound of zero holds: no control payload came.
    let outcome = run(FrameDecoder::new(limits), record, 0, stream.chunks(4096));
    assert_eq!(outcome.result, Ok(()));
}
