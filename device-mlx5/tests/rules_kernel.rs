// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's resuming side: what it refuses, what it lets pass, and that it takes what the decoder takes.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod common;

use common::{
    PRE_COPY_STREAM, STREAM_OF_6_2, STREAM_WITH_OPTIONAL, decode, fw_data, hex, optional, record, stop_copy_size,
};
use device_mlx5::model::{Firmware, Refusal, Resuming};
use device_mlx5::record::Header;

fn header(record_bytes: u64, flags: u32, tag: u32) -> Vec<u8> {
    Header { record_bytes, flags, tag }.encode().to_vec()
}

/// What the last of these writes returns, on a machine with 1 MiB.
fn write(pieces: &[&[u8]]) -> (Resuming, Result<usize, Refusal>) {
    let mut session = Resuming::new(1 << 20);
    let results = pieces.iter().map(|piece| session.write(piece)).collect::<Vec<_>>();
    (session, results.last().copied().unwrap_or(Ok(0)))
}

#[test]
fn what_the_decoder_accepts_the_kernel_loads() {
    for stream in [PRE_COPY_STREAM, STREAM_OF_6_2, STREAM_WITH_OPTIONAL].map(hex) {
        let images = decode(&stream).unwrap().iter().filter(|item| matches!(item, common::Item::Image { .. })).count();
        for piece in [1, 5, 16, 1000] {
            let mut session = Resuming::new(1 << 20);
            for piece in stream.chunks(piece) {
                assert_eq!(session.write(piece), Ok(piece.len()));
            }
            assert_eq!(session.images(), u64::try_from(images).unwrap());
        }
    }
}

#[test]
fn sizes_and_tags_are_refused_at_the_header() {
    let limit = 0x1_0000_0000;
    assert_eq!(write(&[&header(limit, 0, 0)]).1, Err(Refusal::NoMemory { record_bytes: limit }));
    assert_eq!(write(&[&header(limit, 1, 9)]).1, Err(Refusal::NoMemory { record_bytes: limit }));
    assert_eq!(write(&[&header(0, 0, 9)]).1, Err(Refusal::UnknownTag { tag: 9 }));
    assert_eq!(write(&[&header(0, 2, 9)]).1, Err(Refusal::UnknownTag { tag: 9 }));
    assert_eq!(write(&[&header(0, 3, 9)]).1, Ok(16));
    // However much memory there is, and the size comes before the tag.
    for tag in [0, 1, 9] {
        let mut session = Resuming::new(u64::MAX);
        assert_eq!(session.write(&header(limit, 0, tag)), Err(Refusal::NoMemory { record_bytes: limit }));
    }
    for tag in [0, 1] {
        assert_eq!(Resuming::new(u64::MAX).write(&header(limit - 1, 0, tag)), Ok(16));
    }
    // The flags of known tags say nothing.
    for flags in [0, 1, 2, u32::MAX] {
        assert_eq!(write(&[&header(8, flags, 1)]).1, Ok(16), "{flags:#x}");
        assert_eq!(write(&[&header(8, flags, 0)]).1, Ok(16), "{flags:#x}");
    }
    // Nothing is said before the 16th byte.
    assert_eq!(write(&[&header(limit, 0, 9)[..15]]).1, Ok(15));
}

#[test]
fn memory_is_pinned_by_the_header_alone() {
    let (session, result) = write(&[&header(1 << 20, 0, 0)]);
    assert_eq!((session.pinned_bytes(), session.images(), result), (1 << 20, 0, Ok(16)));
    assert_eq!(write(&[&header((1 << 20) + 1, 0, 0)]).1, Err(Refusal::NoMemory { record_bytes: (1 << 20) + 1 }));
    // An optional record that will be skipped, too.
    assert_eq!(write(&[&header(1 << 20, 1, 9)]).0.pinned_bytes(), 1 << 20);
    // STOP_COPY_SIZE makes the first image's buffer larger.
    let (session, _) = write(&[&stop_copy_size(0x3000), &fw_data(b"x")]);
    assert_eq!(session.pinned_bytes(), 0x3000 + 8);
    let claim = Refusal::NoMemory { record_bytes: 0xffff_ffff };
    assert_eq!(write(&[&stop_copy_size(u64::MAX), &header(1, 0, 0)]).1, Err(claim), "clamped to 32 bits");
}

#[test]
fn stop_copy_size_of_another_length_is_taken() {
    let short = record(Header { record_bytes: 2, flags: 1, tag: 1 }, &[0x34, 0x12]);
    // The bytes above are what the header left: the upper bytes of record_size.
    assert_eq!(write(&[&short, &fw_data(b"x")]).0.pinned_bytes(), 0x1234 + 2);
    let after_another = [optional(9, &[0xff; 8]), short].concat();
    assert_eq!(write(&[&after_another, &fw_data(b"x")]).0.pinned_bytes(), 0x1234 + 8);
    let long = record(Header { record_bytes: 12, flags: 1, tag: 1 }, &[0, 0x10, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9]);
    assert_eq!(write(&[&long, &fw_data(b"x")]).0.pinned_bytes(), 0x1000 + 12);
    let (first, second) = long.split_at(24);
    assert_eq!(write(&[first, second, &fw_data(b"x")]).0.pinned_bytes(), 0x1000 + 12, "only 8 bytes count");
}

#[test]
fn every_error_is_final() {
    let mut session = Resuming::new(1 << 20);
    session.write(&fw_data(b"image")).unwrap();
    assert_eq!(session.write(&header(0, 0, 9)), Err(Refusal::UnknownTag { tag: 9 }));
    assert_eq!(session.write(&fw_data(b"image")), Err(Refusal::Over));
    assert_eq!(session.write(&[]), Err(Refusal::Over));
    assert_eq!(session.images(), 1);
}

#[test]
fn an_error_hides_what_of_the_write_was_used() {
    let (session, result) = write(&[&[fw_data(b"image"), header(0, 0, 9)].concat()]);
    assert_eq!((result, session.images()), (Err(Refusal::UnknownTag { tag: 9 }), 1));
}

/// A firmware that keeps what it is given, and refuses images of one size.
#[derive(Default)]
struct Recorder {
    images: Vec<(u64, Vec<u8>)>,
    current: Vec<u8>,
    refused_bytes: Option<u64>,
}

impl Firmware for Recorder {
    fn data(&mut self, image_bytes: u64, offset: u64, data: &[u8]) {
        assert_eq!(offset, u64::try_from(self.current.len()).unwrap());
        assert!(offset < image_bytes);
        self.current.extend_from_slice(data);
    }

    fn load(&mut self, image_bytes: u64) -> Result<(), i32> {
        self.images.push((image_bytes, core::mem::take(&mut self.current)));
        if self.refused_bytes == Some(image_bytes) { Err(71) } else { Ok(()) }
    }
}

#[test]
fn the_firmware_is_given_images_and_nothing_else() {
    let stream = [stop_copy_size(0x1000), fw_data(b"first"), optional(9, b"other"), fw_data(b"last")].concat();
    for piece in [1, 3, 16, 1000] {
        let (mut firmware, mut session) = (Recorder::default(), Resuming::new(1 << 20));
        for piece in stream.chunks(piece) {
            assert_eq!(session.write_to(piece, &mut firmware), Ok(piece.len()));
        }
        assert_eq!(firmware.images, [(5, b"first".to_vec()), (4, b"last".to_vec())]);
    }
}

#[test]
fn what_the_firmware_refuses_is_final_and_keeps_its_errno() {
    let mut firmware = Recorder { refused_bytes: Some(4), ..Recorder::default() };
    let mut session = Resuming::new(1 << 20);
    let refused = session.write_to(&[fw_data(b"first"), fw_data(b"last")].concat(), &mut firmware);
    assert_eq!(refused, Err(Refusal::Firmware { errno: 71 }));
    assert_eq!(refused.map_err(Refusal::errno), Err(71));
    assert_eq!((session.images(), session.image_bytes()), (1, 5));
    assert_eq!(session.write_to(&fw_data(b"more"), &mut firmware), Err(Refusal::Over));
    assert_eq!(firmware.images.len(), 2, "after an error nothing reaches the firmware");
}

#[test]
fn an_image_loads_in_the_write_that_completes_it() {
    let image = fw_data(b"image");
    let mut session = Resuming::new(1 << 20);
    session.write(&image[..image.len() - 1]).unwrap();
    assert_eq!(session.images(), 0);
    session.write(&image[image.len() - 1..]).unwrap();
    assert_eq!((session.images(), session.image_bytes()), (1, 5));
}

#[test]
fn an_empty_image_loads_with_the_next_byte_only() {
    assert_eq!(write(&[&fw_data(b"x"), &fw_data(b"")]).0.images(), 1);
    assert_eq!(write(&[&fw_data(b"x"), &fw_data(b""), &[0]]).0.images(), 2);
    assert_eq!(write(&[&fw_data(b"")]).1, Ok(16));
    assert_eq!(write(&[&fw_data(b""), &[0]]).1, Err(Refusal::EmptyImage));
    assert_eq!(write(&[&stop_copy_size(0x1000), &fw_data(b""), &[0]]).1, Ok(1));
}

#[test]
fn leaving_resuming_checks_nothing() {
    // Each of these loses the state, and the kernel says nothing. The decoder does.
    let whole = [stop_copy_size(0), fw_data(b"image")].concat();
    for lost in [&whole[..0], &whole[..7], &whole[..24], &whole[..40], &whole[..44], &optional(9, b"x")[..]] {
        let (mut session, result) = write(&[lost]);
        assert_eq!(result, Ok(lost.len()));
        session.stop();
        assert_eq!((session.images(), session.write(&[])), (0, Err(Refusal::Over)));
        assert!(decode(lost).is_err());
    }
}

#[test]
fn errnos() {
    let refusals =
        [Refusal::NoMemory { record_bytes: 0 }, Refusal::Over, Refusal::EmptyImage, Refusal::UnknownTag { tag: 2 }];
    assert_eq!(refusals.map(Refusal::errno), [12, 19, 22, 95]);
}
