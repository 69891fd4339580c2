// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Encoding and decoding undo each other, and the kernel takes what the decoder takes.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

mod common;

use common::{Item, decode, decode_within};
use device_mlx5::model::Resuming;
use device_mlx5::record::Header;
use device_mlx5::{Encoder, Limits};
use proptest::collection::vec;
use proptest::prelude::*;

/// A record after the first.
#[derive(Clone, Debug)]
enum Content {
    Image(Vec<u8>),
    Optional(u32, Vec<u8>),
}

fn content() -> impl Strategy<Value = Content> {
    prop_oneof![
        3 => vec(any::<u8>(), 1..80).prop_map(Content::Image),
        1 => (2u32.., vec(any::<u8>(), 0..40)).prop_map(|(tag, payload)| Content::Optional(tag, payload)),
    ]
}

fn encode(size: Option<u64>, contents: &[Content]) -> Vec<u8> {
    let mut encoder = Encoder::new();
    let mut bytes = Vec::new();
    if let Some(size) = size {
        bytes.extend_from_slice(&encoder.stop_copy_size(size).unwrap());
    }
    for content in contents {
        let (payload, header) = match content {
            Content::Image(payload) => (payload, encoder.image(payload.len() as u64)),
            Content::Optional(tag, payload) => (payload, encoder.optional(*tag, payload.len() as u64)),
        };
        bytes.extend_from_slice(&header.unwrap());
        encoder.payload(payload.len() as u64).unwrap();
        bytes.extend_from_slice(payload);
    }
    encoder.finish().unwrap();
    bytes
}

proptest! {
    #[test]
    fn streams_survive(size in any::<Option<u64>>(), mut contents in vec(content(), 0..12), last in vec(any::<u8>(), 1..50)) {
        contents.push(Content::Image(last));
        let bytes = encode(size, &contents);
        let mut items = decode(&bytes).unwrap().into_iter();
        if let Some(bytes) = size {
            prop_assert_eq!(items.next(), Some(Item::Size { offset: 0, bytes }));
        }
        for (content, item) in contents.iter().zip(items.by_ref()) {
            match (content, item) {
                (Content::Image(payload), Item::Image { bytes, is_complete, .. }) => {
                    prop_assert!(is_complete);
                    prop_assert_eq!(payload, &bytes);
                }
                (Content::Optional(tag, payload), Item::Skipped(record)) => {
                    prop_assert_eq!(record.header, Header { record_bytes: payload.len() as u64, flags: 1, tag: *tag });
                }
                (content, item) => prop_assert!(false, "{:?} was read as {:?}", content, item),
            }
        }
        prop_assert_eq!(items.next(), None);
    }

    #[test]
    fn headers_survive(record_bytes: u64, flags: u32, tag: u32) {
        let header = Header { record_bytes, flags, tag };
        prop_assert_eq!(Header::decode(&header.encode()), header);
    }

    /// Bytes that are mostly records, with odd sizes, flags and tags.
    #[test]
    fn the_kernel_takes_what_the_decoder_takes(
        headers in vec((0u64..40, prop_oneof![Just(0u32), Just(1), any::<u32>()], 0u32..4), 1..6),
        bytes in vec(any::<u8>(), 100),
        length in 0usize..200,
    ) {
        let mut stream = Vec::new();
        for (record_bytes, flags, tag) in headers {
            stream.extend_from_slice(&Header { record_bytes, flags, tag }.encode());
            stream.extend_from_slice(&bytes[..usize::try_from(record_bytes).unwrap()]);
        }
        stream.truncate(length);
        let limits = Limits { record_bytes: 1 << 20, ..Limits::DEFAULT };
        if let Ok(items) = decode_within(&stream, limits) {
            let images = items.iter().filter(|item| matches!(item, Item::Image { .. })).count() as u64;
            let has_empty = items.iter().any(|item| matches!(item, Item::Image { bytes, .. } if bytes.is_empty()));
            let mut session = Resuming::new(1 << 33);
            let written = session.write(&stream);
            // Of empty images the kernel refuses one that comes first and forgets one that comes last.
            if !has_empty {
                prop_assert_eq!(written, Ok(stream.len()));
                prop_assert_eq!(session.images(), images);
            }
        }
    }
}
