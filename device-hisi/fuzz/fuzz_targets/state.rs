// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Arbitrary bytes, most of them made to look like a state: the contract of a decoder, and what is read is written back
//! byte for byte.
#![no_main]

use arbitrary::Arbitrary;
use device_hisi::{MAGIC_V1, MAGIC_V2, STATE_BYTES, StateDecoder, Stream};
use libfuzzer_sys::fuzz_target;
use stream_codec::testkit::{check_bytes, run};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    seed: u64,
    magic: Magic,
    bytes: &'a [u8],
}

#[derive(Arbitrary, Debug)]
enum Magic {
    AsItIs,
    V1,
    V2,
}

impl Input<'_> {
    fn stream(&self) -> Vec<u8> {
        let magic = match self.magic {
            Magic::AsItIs => return self.bytes.to_vec(),
            Magic::V1 => MAGIC_V1,
            Magic::V2 => MAGIC_V2,
        };
        [&magic.to_le_bytes(), self.bytes].concat()
    }
}

fuzz_target!(|input: Input<'_>| {
    let bytes = input.stream();
    check_bytes(StateDecoder::new, |event, events| events.push(event), STATE_BYTES, &bytes, input.seed);

    let decoded = Stream::decode(&bytes);
    let streamed = run(StateDecoder::new(), |event, events| events.push(event), STATE_BYTES, [&bytes[..]]);
    assert_eq!(streamed.result, decoded.map(|_| ()));
    let Ok(stream) = decoded else { return };

    let mut written = Vec::new();
    let write = |bytes: &[u8]| {
        written.extend_from_slice(bytes);
        Ok::<usize, ()>(bytes.len())
    };
    stream.encode().write(write).expect("all of it was taken");
    assert_eq!(written, bytes);
    let text = stream.to_string();
    assert_eq!(text.lines().count(), if stream.state().is_some() { 24 } else { 10 });

    // What is found in a converted state was found before, but for what the conversion repairs or brings.
    let (findings, converted) = (stream.check(), stream.to_v2());
    assert!(!converted.head().version.is_v1());
    if findings.is_loadable() {
        assert!(converted.check().is_loadable(), "{findings}{}", converted.check());
    }
});
