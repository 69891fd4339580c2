// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams that a careful writer of QEMU's formats may write: the reader reads them to their end, finds in them what was
//! written, and writes it again byte for byte.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stream_codec::qemu::{MainOptions, MultifdOptions};
use stream_codec_fuzz::check::{LIMITS, main_stream, multifd, return_path};
use stream_codec_fuzz::written::{Main, Multifd, PAGE_BITS, ReturnPath};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    seed: u64,
    stream: Stream<'a>,
}

#[derive(Arbitrary, Debug)]
enum Stream<'a> {
    Main(Main<'a>),
    Multifd(Multifd<'a>),
    ReturnPath(ReturnPath<'a>),
}

fuzz_target!(|input: Input<'_>| {
    let (written, outcome) = match &input.stream {
        Stream::Main(main) => {
            let written = main.write();
            let options = MainOptions { limits: LIMITS, ..MainOptions::default() };
            let outcome = main_stream(&options, &written.stream, input.seed);
            (written, outcome)
        }
        Stream::Multifd(channel) => {
            let written = channel.write();
            let options = MultifdOptions { limits: LIMITS, page_bits: PAGE_BITS };
            let outcome = multifd(options, &written.stream, input.seed);
            (written, outcome)
        }
        Stream::ReturnPath(path) => {
            let written = path.write();
            let outcome = return_path(&written.stream, input.seed);
            (written, outcome)
        }
    };
    written.compare(&outcome);
});
