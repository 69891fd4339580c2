// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A multifd channel of QEMU's: arbitrary packets with RAM and device state, and arbitrary bytes behind them.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stream_codec::qemu::{MultifdOptions, packet_pages};
use stream_codec_fuzz::check::{LIMITS, multifd};
use stream_codec_fuzz::parts::MultifdPart;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    seed: u64,
    /// Small packets are those of large pages: 8 offsets at 64 KiB, 128 at 4 KiB.
    page_bits: u8,
    is_started: bool,
    parts: Vec<MultifdPart<'a>>,
    /// Bytes behind the packets, as they are.
    rest: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    let page_bits = u32::from(10 + input.page_bits % 10);
    let offset_count = packet_pages(page_bits);
    let mut stream = Vec::new();
    if input.is_started {
        MultifdPart::Initial { uuid: [0; 16], channel_id: 1 }.append(offset_count, &mut stream);
    }
    input.parts.iter().for_each(|part| part.append(offset_count, &mut stream));
    stream.extend_from_slice(input.rest);
    multifd(MultifdOptions { limits: LIMITS, page_bits }, &stream, input.seed);
});
