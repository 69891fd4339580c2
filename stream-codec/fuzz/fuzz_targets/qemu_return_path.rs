// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The return path of QEMU's: arbitrary messages, and arbitrary bytes behind them. Messages that were written are read
//! as they were meant.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stream_codec::qemu::ReturnPathItem;
use stream_codec_fuzz::check::return_path;
use stream_codec_fuzz::parts::ReturnPathPart;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    seed: u64,
    parts: Vec<ReturnPathPart<'a>>,
    /// Bytes behind the messages, as they are.
    rest: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    let mut stream = Vec::new();
    input.parts.iter().for_each(|part| part.append(&mut stream));
    stream.extend_from_slice(input.rest);
    let outcome = return_path(&stream, input.seed);

    // As long as messages are plain ones, they come back one by one.
    let plain = input.parts.iter().map_while(|part| {
        let item = part.items().first().copied();
        item.filter(|item| {
            matches!(item, ReturnPathItem::Shut { .. } | ReturnPathItem::Pong { .. } | ReturnPathItem::SwitchoverAck)
        })
    });
    for (item, record) in plain.zip(&outcome.records) {
        assert_eq!(record.what, format!("{item:?}"));
    }
});
