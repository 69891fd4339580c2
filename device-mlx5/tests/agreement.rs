// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's resuming side and the decoder agree on what is a stream, except where the kernel is too lax: each of these
//! exceptions is named here, and shown to be one.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use common::{Item, decode, fw_data, optional, record, stop_copy_size};
use device_mlx5::Reason;
use device_mlx5::model::{Refusal, Resuming};
use device_mlx5::record::Header;
use proptest::collection::vec;
use proptest::prelude::*;

/// What the kernel makes of a stream, on a machine with all memory there can be: how many images it has loaded.
fn kernel<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<u64, Refusal> {
    let mut session = Resuming::new(u64::MAX);
    pieces.into_iter().try_for_each(|piece| session.write(piece).map(|_| ()))?;
    session.stop();
    Ok(session.images())
}

/// mlx5.md section 3: "RESUMING→STOP does no check", and a STOP_COPY_SIZE of any length, anywhere, is taken.
fn is_not_noticed(reason: Reason) -> bool {
    match reason {
        Reason::TruncatedHeader { .. }
        | Reason::TruncatedRecord { .. }
        | Reason::NoImage { .. }
        | Reason::StopCopySizeLength { .. }
        | Reason::StopCopySizeNotFirst { .. } => true,
        Reason::RecordTooLarge { .. } | Reason::UnknownTag { .. } | Reason::Bare { .. } => false,
        // Refused with the next byte; without one there is nothing but empty images.
        Reason::EmptyImage => false,
        other => panic!("{other:?} is a limit of the reader, of which there is none, or new: say which side it is on"),
    }
}

fn compare(stream: &[u8], piece: usize) {
    let verdict = kernel(stream.chunks(piece));
    match (decode(stream), verdict) {
        (Ok(items), Ok(loaded)) => {
            let images = items.iter().filter(|item| matches!(item, Item::Image { .. })).count();
            // An empty image loads with the byte after it.
            let is_forgotten = matches!(items.last(), Some(Item::Image { bytes, .. }) if bytes.is_empty());
            assert_eq!(loaded + u64::from(is_forgotten), u64::try_from(images).unwrap());
        }
        (Ok(_), Err(refusal)) => panic!("{refusal} for what the decoder takes"),
        (Err(_), Err(_)) => {}
        (Err(error), Ok(_)) => {
            let is_last = |offset: u64| offset + 16 == u64::try_from(stream.len()).unwrap();
            let is_empty_end = error.reason == Reason::EmptyImage && is_last(error.offset);
            assert!(is_not_noticed(error.reason) || is_empty_end, "the kernel takes what is refused: {error}");
        }
    }
}

/// Records with odd sizes, flags and tags; what they announce is there, or something else.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![4 => 0u64..20, 2 => Just(8), 1 => Just(0x1_0000_0000), 1 => any::<u64>()];
    let flags = prop_oneof![Just(0u32), Just(1), any::<u32>()];
    let tag = prop_oneof![6 => Just(0u32), 2 => Just(1), 2 => 2u32..4];
    let records = vec((size, flags, tag, vec(any::<u8>(), 20)), 0..5);
    let start = prop_oneof![Just(None), Just(Some(0u64)), any::<u64>().prop_map(Some)];
    let length = prop_oneof![3 => Just(None), 1 => (0usize..120).prop_map(Some)];
    (start, records, length).prop_map(|(start, records, length)| {
        let mut stream = start.map(stop_copy_size).unwrap_or_default();
        for (record_bytes, flags, tag, bytes) in records {
            let payload = usize::try_from(record_bytes).ok().and_then(|size| bytes.get(..size)).unwrap_or(&bytes);
            stream.extend(record(Header { record_bytes, flags, tag }, payload));
        }
        stream.truncate(length.unwrap_or(stream.len()));
        stream
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn both_agree_however_the_stream_is_cut(stream in stream(), piece in 1usize..40) {
        compare(&stream, piece);
        compare(&stream, stream.len().max(1));
    }
}

/// Each exception is one: the kernel says nothing, the decoder does.
#[test]
fn what_the_kernel_does_not_notice() {
    let whole = [stop_copy_size(0x1000), fw_data(b"image")].concat();
    let short_size = record(Header { record_bytes: 2, flags: 1, tag: 1 }, b"xy");
    let cases = [
        (whole[..whole.len() - 1].to_vec(), 0),
        (whole[..30].to_vec(), 0),
        (whole[..24].to_vec(), 0),
        (Vec::new(), 0),
        ([short_size, fw_data(b"image")].concat(), 1),
        ([whole.clone(), stop_copy_size(0x1000)].concat(), 1),
        ([optional(7, b"z"), whole.clone()].concat(), 1),
    ];
    for (stream, images) in cases {
        assert_eq!(kernel([&stream[..]]), Ok(images), "{stream:x?}");
        assert!(is_not_noticed(decode(&stream).unwrap_err().reason), "{stream:x?}");
    }
}

/// mlx5.md section 3, LOAD_IMAGE: "EINVAL if no buffer exists yet; otherwise passed to firmware with size 0".
#[test]
fn an_empty_image_needs_a_buffer() {
    let refused = |stream: &[u8]| decode(stream).err().map(|error| (error.offset, error.reason));
    for start in [Vec::new(), stop_copy_size(0)] {
        let stream = [start.clone(), fw_data(b""), fw_data(b"x")].concat();
        assert_eq!(kernel([&stream[..]]), Err(Refusal::EmptyImage));
        assert_eq!(refused(&stream), Some((u64::try_from(start.len()).unwrap(), Reason::EmptyImage)));
    }
    for start in [fw_data(b"x"), stop_copy_size(1)] {
        let stream = [start, fw_data(b""), fw_data(b"x")].concat();
        assert!(kernel([&stream[..]]).is_ok());
        assert_eq!(refused(&stream), None);
    }
}
