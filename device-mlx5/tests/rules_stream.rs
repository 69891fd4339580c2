// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The rules of the stream, one by one.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{Item, decode, decode_within, fw_data, optional, record, stop_copy_size, summary};
use device_mlx5::record::{Header, RecordDecoder, RecordEvent, VIRTIO};
use device_mlx5::{EncodeError, Encoder, Form, Limits, Reason, Remark};
use stream_codec::decode::{Blame, Decoder, Fault};

/// Offset and reason of a refusal.
fn refused(bytes: &[u8]) -> (u64, Reason) {
    let error = decode(bytes).unwrap_err();
    (error.offset, error.reason)
}

fn header(record_bytes: u64, flags: u32, tag: u32) -> Vec<u8> {
    Header { record_bytes, flags, tag }.encode().to_vec()
}

#[test]
fn a_record_has_at_most_32_bits_of_size() {
    // The highest size is accepted; then its payload is missing.
    let highest = [stop_copy_size(0), header(0xffff_ffff, 0, 0)].concat();
    assert_eq!(refused(&highest), (40, Reason::TruncatedRecord { tag: 0, have: 0, record_bytes: 0xffff_ffff }));
    let above = [stop_copy_size(0), header(0x1_0000_0000, 0, 0)].concat();
    let reason = Reason::RecordTooLarge {
        format: "mlx5",
        header: Header { record_bytes: 0x1_0000_0000, flags: 0, tag: 0 },
        limit: 0xffff_ffff,
    };
    assert_eq!(refused(&above), (24, reason));
    assert_eq!(reason.fault(), Fault::Sender);
}

#[test]
fn an_unknown_tag_needs_the_optional_bit() {
    let with_flags = |flags| [fw_data(b"x"), header(0, flags, 2)].concat();
    for flags in [0, 2, 0xffff_fffe] {
        let reason = Reason::UnknownTag { header: Header { record_bytes: 0, flags, tag: 2 } };
        assert_eq!(refused(&with_flags(flags)), (17, reason));
        assert_eq!(reason.fault(), Fault::Versions);
    }
    for flags in [1, 3, u32::MAX] {
        assert!(decode(&with_flags(flags)).is_ok(), "{flags:#x}");
    }
}

#[test]
fn flags_of_known_tags_are_ignored_but_remarked() {
    let bytes = [
        record(Header { record_bytes: 8, flags: 0, tag: 1 }, &[0; 8]),
        record(Header { record_bytes: 1, flags: 0x8000_0001, tag: 0 }, b"x"),
    ]
    .concat();
    let items = decode(&bytes).unwrap();
    let Item::Image { image, .. } = &items[1] else { panic!("{items:?}") };
    assert_eq!(image.record.header.flags, 0x8000_0001, "flags are kept");
    assert_eq!(
        summary(&bytes).remarks().collect::<Vec<_>>(),
        [Remark::ImageAboveStopCopySize { bytes: 0, image_bytes: 1 }, Remark::UnknownFlags { flags: 0x8000_0000 }]
    );
}

#[test]
fn stop_copy_size_has_eight_bytes() {
    for size in [0, 1, 7, 9, 4096] {
        let bytes = [header(size, 1, 1), vec![0; 4096], fw_data(b"x")].concat();
        assert_eq!(refused(&bytes), (0, Reason::StopCopySizeLength { record_bytes: size }));
    }
}

#[test]
fn stop_copy_size_comes_first_and_once() {
    let twice = [stop_copy_size(0), stop_copy_size(0), fw_data(b"x")].concat();
    assert_eq!(refused(&twice), (24, Reason::StopCopySizeNotFirst { index: 1 }));
    let late = [fw_data(b"x"), stop_copy_size(0)].concat();
    assert_eq!(refused(&late), (17, Reason::StopCopySizeNotFirst { index: 1 }));
    let after_skipped = [optional(7, b""), stop_copy_size(0), fw_data(b"x")].concat();
    assert_eq!(refused(&after_skipped), (16, Reason::StopCopySizeNotFirst { index: 1 }));
}

#[test]
fn odd_stop_copy_sizes_are_remarked() {
    let remarks = |size| summary(&[stop_copy_size(size), fw_data(b"x")].concat()).remarks().collect::<Vec<_>>();
    assert_eq!(remarks(0x1000), []);
    assert_eq!(remarks(0xffff_f000), []);
    assert_eq!(remarks(0x1800), [Remark::StopCopySizeNotPages { bytes: 0x1800 }]);
    assert_eq!(remarks(0x1_0000_0000), [Remark::StopCopySizeClamped { bytes: 0x1_0000_0000 }]);
    let all = [Remark::StopCopySizeClamped { bytes: u64::MAX }, Remark::StopCopySizeNotPages { bytes: u64::MAX }];
    assert_eq!(remarks(u64::MAX), all);
}

#[test]
fn the_callers_limits_hold_before_the_payload() {
    let limits = Limits { record_bytes: 10, total_bytes: 60 };
    let at_limits = [fw_data(&[0; 10]), optional(5, &[0; 10]), fw_data(&[0; 0])].concat();
    assert_eq!(at_limits.len(), 68);
    let within = &at_limits[..52];
    assert!(decode_within(within, limits).is_ok());

    // Optional records count: the kernel keeps memory for them too.
    for (flags, tag) in [(0, 0), (1, 5)] {
        let bytes = [within, &header(11, flags, tag)].concat();
        let error = decode_within(&bytes, Limits { total_bytes: 1000, ..limits }).unwrap_err();
        assert_eq!((error.offset, error.reason), (52, Reason::RecordLimit { tag, record_bytes: 11, limit: 10 }));
        assert_eq!(error.fault(), Fault::Limits);
    }
    let error = decode_within(&at_limits, limits).unwrap_err();
    assert_eq!((error.offset, error.reason), (52, Reason::TotalLimit { total_bytes: 68, limit: 60 }));
    assert!(decode_within(&at_limits, Limits { total_bytes: 68, ..limits }).is_ok());
}

#[test]
fn a_stream_ends_on_a_record_boundary_after_an_image() {
    let no_image = Reason::NoImage { name: "FW_DATA" };
    assert_eq!(refused(&[]), (0, no_image));
    assert_eq!(refused(&stop_copy_size(0)), (24, no_image));
    assert_eq!(refused(&[stop_copy_size(0), optional(3, b"abc")].concat()), (43, no_image));
    // An empty image at the end is never loaded, so it is no image.
    assert_eq!(refused(&[stop_copy_size(1), fw_data(b"")].concat()), (40, no_image));
    assert_eq!(no_image.fault(), Fault::Transport);
    let bytes = [fw_data(b"ab"), fw_data(b"")].concat();
    assert_eq!(
        summary(&bytes).remarks().collect::<Vec<_>>(),
        [Remark::NoStopCopySize, Remark::EmptyImages { count: 1 }]
    );
    assert_eq!(refused(&bytes[..19]), (19, Reason::TruncatedHeader { have: 1 }));
    assert_eq!(refused(&bytes[..33]), (33, Reason::TruncatedHeader { have: 15 }));
    assert_eq!(refused(&bytes[..17]), (17, Reason::TruncatedRecord { tag: 0, have: 1, record_bytes: 2 }));
    let skipped = [fw_data(b"ab"), optional(8, b"abc")].concat();
    assert_eq!(refused(&skipped[..36]), (36, Reason::TruncatedRecord { tag: 8, have: 2, record_bytes: 3 }));
}

#[test]
fn a_bare_image_is_recognised_as_such() {
    let image = [&b"MLX5 firmware image without any header"[..], &[0xee; 50]].concat();
    let (offset, Reason::Bare { header }) = refused(&image) else { panic!("not recognised") };
    assert_eq!((offset, header), (0, Header::decode(image.first_chunk().unwrap())));
    assert_eq!(Form::of(image.first_chunk().unwrap()), Form::Bare);
    assert_eq!(Reason::Bare { header }.fault(), Fault::Versions);
    // Not later: a stream that began with records does not turn into a bare image.
    let late = [fw_data(b"x"), image].concat();
    assert!(matches!(refused(&late), (17, Reason::RecordTooLarge { .. })));
}

#[test]
fn a_header_that_looks_like_one_keeps_its_own_reason() {
    assert!(matches!(refused(&header(5, 0, 2)), (0, Reason::UnknownTag { .. })));
    assert!(matches!(refused(&header(u64::MAX, 0, 0)), (0, Reason::RecordTooLarge { .. })));
    assert!(matches!(refused(&header(u64::MAX, 1, 1)), (0, Reason::RecordTooLarge { .. })));
    assert!(matches!(refused(&header(u64::MAX, 7, 0)), (0, Reason::Bare { .. })));
    assert!(matches!(refused(&header(5, 2, 2)), (0, Reason::Bare { .. })));
    let form = |record_bytes, flags, tag| Form::of(&Header { record_bytes, flags, tag }.encode());
    assert_eq!(form(8, 1, 1), Form::Current);
    assert_eq!(form(9, 0xff00, 1), Form::Current);
    assert_eq!(form(1 << 20, 0, 0), Form::WithoutSize);
    assert_eq!(form(5, 1, 2), Form::Unknown);
    assert_eq!(form(1 << 32, 1, 2), Form::Bare);
}

#[test]
fn records_of_virtio_are_read_without_claiming_mlx5() {
    let read = |bytes: &[u8]| {
        let mut decoder = RecordDecoder::new(VIRTIO, Limits::FORMAT);
        let event = decoder.decode(bytes)?.event.map(|event| matches!(event, RecordEvent::Start(_)));
        decoder.finish().map(|()| event)
    };
    // Tag 1 has no meaning there: skipped, since it is optional.
    let mut decoder = RecordDecoder::new(VIRTIO, Limits::FORMAT);
    assert!(matches!(decoder.decode(&stop_copy_size(0)).unwrap().event, Some(RecordEvent::Skipped(_))));
    let error = decoder.finish().unwrap_err();
    assert_eq!(error.reason, Reason::NoImage { name: "DEVICE_DATA" });
    assert!(!error.to_string().contains("FW_DATA"));
    // The kernel's 32-bit arithmetic wraps from here on.
    let error = read(&header(0xffff_fff8, 0, 0)).unwrap_err();
    assert!(matches!(error.reason, Reason::RecordTooLarge { format: "virtio", limit: 0xffff_fff7, .. }), "{error}");
    let error = read(&header(0xffff_fff7, 0, 0)).unwrap_err();
    assert!(matches!(error.reason, Reason::TruncatedRecord { .. }), "{error}");
    // There is no bare form.
    assert!(matches!(read(&[0xee; 16]).unwrap_err().reason, Reason::UnknownTag { .. } | Reason::RecordTooLarge { .. }));
}

#[test]
fn the_encoder_keeps_the_order() {
    let mut encoder = Encoder::new();
    assert!(encoder.stop_copy_size(1).is_ok());
    assert_eq!(encoder.stop_copy_size(1), Err(EncodeError::StopCopySizeNotFirst { records: 1 }));
    assert_eq!(encoder.finish(), Err(EncodeError::NoImage));
    assert_eq!(encoder.optional(0, 0), Err(EncodeError::KnownTag { tag: 0 }));
    assert_eq!(encoder.optional(1, 0), Err(EncodeError::KnownTag { tag: 1 }));
    assert_eq!(encoder.image(1 << 32), Err(EncodeError::TooLarge { bytes: 1 << 32 }));
    assert!(encoder.image(0).is_ok());
    assert_eq!(encoder.finish(), Err(EncodeError::NoImage));
    let mut without_size = Encoder::new();
    assert_eq!(without_size.image(0), Err(EncodeError::EmptyImage));
    assert!(without_size.stop_copy_size(0).is_ok());
    assert_eq!(without_size.image(0), Err(EncodeError::EmptyImage));
    assert!(encoder.image(5).is_ok());
    assert_eq!(encoder.payload(6), Err(EncodeError::TooMuch { bytes: 6, left: 5 }));
    assert_eq!(encoder.payload(3), Ok(()));
    assert_eq!(encoder.image(5), Err(EncodeError::Missing { bytes: 2 }));
    assert_eq!(encoder.finish(), Err(EncodeError::Missing { bytes: 2 }));
    assert_eq!(encoder.payload(2), Ok(()));
    assert_eq!(encoder.finish(), Ok(()));
    assert_eq!(Encoder::new().stop_copy_size(0).map(|record| record.to_vec()), Ok(stop_copy_size(0)));
}
