// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arbitrary calls of the encoder: whatever it lets pass, the decoder reads as it was meant.
#![no_main]

use arbitrary::Arbitrary;
use device_mlx5::{Encoder, Event, Limits, StreamDecoder};
use libfuzzer_sys::fuzz_target;
use stream_codec::testkit::run;

#[derive(Arbitrary, Debug)]
enum Call<'a> {
    StopCopySize(u64),
    Image(u16),
    Optional(u32, u16),
    Payload(&'a [u8]),
}

#[derive(Debug, PartialEq)]
enum Item {
    Size(u64),
    Image(u64),
    Skipped(u32, u64),
}

fuzz_target!(|calls: Vec<Call<'_>>| {
    let (mut encoder, mut stream, mut expected, mut content) = (Encoder::new(), Vec::new(), Vec::new(), Vec::new());
    let mut is_image = false;
    for call in calls {
        match call {
            Call::StopCopySize(bytes) => {
                if let Ok(record) = encoder.stop_copy_size(bytes) {
                    stream.extend_from_slice(&record);
                    expected.push(Item::Size(bytes));
                }
            }
            Call::Image(bytes) => {
                if let Ok(header) = encoder.image(bytes.into()) {
                    stream.extend_from_slice(&header);
                    expected.push(Item::Image(bytes.into()));
                    is_image = true;
                }
            }
            Call::Optional(tag, bytes) => {
                if let Ok(header) = encoder.optional(tag, bytes.into()) {
                    stream.extend_from_slice(&header);
                    expected.push(Item::Skipped(tag, bytes.into()));
                    is_image = false;
                }
            }
            Call::Payload(bytes) => {
                if encoder.payload(bytes.len() as u64).is_ok() {
                    stream.extend_from_slice(bytes);
                    if is_image {
                        content.extend_from_slice(bytes);
                    }
                }
            }
        }
    }
    let (items, payload) = (std::cell::RefCell::new(Vec::new()), std::cell::RefCell::new(Vec::new()));
    let collect = |event: Event<'_>, _: &mut Vec<()>| match event {
        Event::StopCopySize { bytes, .. } => items.borrow_mut().push(Item::Size(bytes)),
        Event::ImageStart(image) => items.borrow_mut().push(Item::Image(image.bytes())),
        Event::ImagePiece { bytes, .. } => payload.borrow_mut().extend_from_slice(bytes),
        Event::Skipped(record) => {
            items.borrow_mut().push(Item::Skipped(record.header.tag, record.header.record_bytes));
        }
        _ => {}
    };
    let outcome = run(StreamDecoder::new(Limits::FORMAT), collect, 24, [&stream[..]]);
    assert_eq!(outcome.result.is_ok(), encoder.finish().is_ok(), "{:?}, {:?}", outcome.result, encoder.finish());
    assert_eq!(payload.into_inner(), content);
    if outcome.result.is_ok() {
        assert_eq!(items.into_inner(), expected);
    }
});
