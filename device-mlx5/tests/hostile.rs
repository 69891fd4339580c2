// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hostile and broken streams, each by name. None may panic or cost memory; each must be refused, and say why.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{Item, PRE_COPY_STREAM, decode, decode_within, fw_data, hex, optional, record, stop_copy_size};
use device_mlx5::record::Header;
use device_mlx5::{Limits, Reason, StreamDecoder};
use stream_codec::decode::Decoder;
use stream_codec::testkit::run;

fn reason(bytes: &[u8]) -> Reason {
    decode_within(bytes, Limits::DEFAULT).unwrap_err().reason
}

#[test]
fn sizes_around_every_limit() {
    let size = |record_bytes| {
        let header = Header { record_bytes, flags: 0, tag: 0 };
        reason(&[stop_copy_size(0), record(header, b"abc")].concat())
    };
    for above in [1 << 32, (1 << 32) + 3, 1 << 63, (1 << 63) - 1, u64::MAX, u64::MAX - 15] {
        assert!(matches!(size(above), Reason::RecordTooLarge { .. }), "{above:#x}");
    }
    for above in [(1 << 30) + 1, 0xffff_ffff] {
        assert!(matches!(size(above), Reason::RecordLimit { .. }), "{above:#x}");
    }
    assert!(matches!(size(1 << 30), Reason::TruncatedRecord { have: 3, .. }));
}

#[test]
fn a_total_that_overflows() {
    // Nothing of the sum may wrap, even if the caller sets no limit.
    let bytes = [fw_data(b"x"), record(Header { record_bytes: u64::MAX, flags: 1, tag: 7 }, &[])].concat();
    assert!(matches!(decode(&bytes).unwrap_err().reason, Reason::RecordTooLarge { .. }));
}

#[test]
fn unknown_mandatory_tag() {
    for tag in [2, 3, 0x100, u32::MAX] {
        let bytes = [fw_data(b"x"), record(Header { record_bytes: 1, flags: 0, tag }, b"y")].concat();
        assert!(matches!(reason(&bytes), Reason::UnknownTag { header } if header.tag == tag));
    }
}

#[test]
fn unknown_optional_tag_of_4_gib() {
    let with_size =
        |record_bytes| [fw_data(b"x"), Header { record_bytes, flags: 1, tag: 7 }.encode().to_vec()].concat();
    assert!(matches!(reason(&with_size(1 << 32)), Reason::RecordTooLarge { .. }));
    assert!(matches!(reason(&with_size(0xffff_ffff)), Reason::RecordLimit { .. }));

    // Where it is allowed it is skipped in constant memory, and its end is found.
    let limits = Limits { record_bytes: 64 << 20, ..Limits::DEFAULT };
    let start = with_size(64 << 20);
    let zeros = vec![0; 1 << 20];
    let end = fw_data(b"y");
    let pieces = [&start[..]].into_iter().chain([&zeros[..]; 64]).chain([&end[..]]);
    let outcome = run(StreamDecoder::new(limits), common::collect, 24, pieces);
    assert_eq!(outcome.result, Ok(()));
    assert!(matches!(&outcome.records[..], [Item::Image { .. }, Item::Skipped(_), Item::Image { .. }]));
}

#[test]
fn stop_copy_size_of_another_length() {
    for size in [0u64, 1, 7, 9, 16, 0xffff_ffff] {
        let bytes = [record(Header { record_bytes: size, flags: 1, tag: 1 }, &[0; 16]), fw_data(b"x")].concat();
        let reason = decode(&bytes).unwrap_err().reason;
        assert_eq!(reason, Reason::StopCopySizeLength { record_bytes: size });
    }
}

#[test]
fn stop_copy_size_that_claims_everything_allocates_nothing() {
    let bytes = [stop_copy_size(u64::MAX), fw_data(b"x")].concat();
    let outcome = run(StreamDecoder::new(Limits::DEFAULT), common::collect, 24, [&bytes[..]]);
    assert_eq!(outcome.result, Ok(()));
    assert_eq!(outcome.records[0], Item::Size { offset: 0, bytes: u64::MAX });
}

#[test]
fn a_header_split_at_every_byte() {
    let bytes = hex(PRE_COPY_STREAM);
    let whole = decode(&bytes).unwrap();
    for at in 0..=bytes.len() {
        let outcome = run(StreamDecoder::new(Limits::DEFAULT), common::collect, 24, [&bytes[..at], &bytes[at..]]);
        assert_eq!((outcome.records, outcome.result), (whole.clone(), Ok(())), "cut at {at}");
    }
}

#[test]
fn empty_records_of_every_kind() {
    let bytes = [stop_copy_size(1), fw_data(b""), fw_data(b"x"), optional(9, b""), fw_data(b"")].concat();
    let items = decode(&bytes).unwrap().split_off(1);
    let lengths = items.iter().map(|item| match item {
        Item::Image { bytes, is_complete: true, .. } => Some(bytes.len()),
        _ => None,
    });
    assert_eq!(lengths.collect::<Vec<_>>(), [Some(0), Some(1), None, Some(0)]);
}

#[test]
fn a_flood_of_empty_records_costs_no_memory() {
    let mut decoder = StreamDecoder::new(Limits::DEFAULT);
    common::feed(&mut decoder, &stop_copy_size(1), &mut Vec::new());
    let empty = [fw_data(b""), optional(9, b"")].concat();
    for _ in 0..50_000 {
        let mut rest = &empty[..];
        while let (rest_after, true) = {
            let step = decoder.decode(rest).unwrap();
            (&rest[step.consumed..], step.event.is_some())
        } {
            rest = rest_after;
        }
        assert!(decoder.buffered_bytes() <= 24);
    }
    assert_eq!((decoder.summary().images, decoder.summary().empty_images), (50_000, 50_000));
    assert!(matches!(decoder.finish().unwrap_err().reason, Reason::NoImage { .. }));
}

#[test]
fn a_stream_without_image() {
    assert!(matches!(reason(&stop_copy_size(0)), Reason::NoImage { .. }));
    assert!(matches!(reason(&[]), Reason::NoImage { .. }));
    assert!(matches!(reason(&[stop_copy_size(1), fw_data(b"")].concat()), Reason::NoImage { .. }));
    assert_eq!(reason(&[stop_copy_size(0), fw_data(b"")].concat()), Reason::EmptyImage);
}

#[test]
fn every_truncation() {
    let bytes = hex(PRE_COPY_STREAM);
    for length in 0..bytes.len() {
        let result = decode(&bytes[..length]);
        // Cut between two images nothing can be noticed: there is no end mark.
        let is_boundary_after_image = [45, 64].contains(&length);
        assert_eq!(result.is_ok(), is_boundary_after_image, "{length} bytes: {result:?}");
        if let Err(error) = result {
            assert_eq!(error.offset, u64::try_from(length).unwrap());
        }
    }
}

#[test]
fn a_stream_that_ends_inside_a_record() {
    let bytes = [fw_data(b"x"), fw_data(&[7; 100])].concat();
    let truncated = Reason::TruncatedRecord { tag: 0, have: 99, record_bytes: 100 };
    assert_eq!(reason(&bytes[..bytes.len() - 1]), truncated);
}
