// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The four properties of a decoder, and its events.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::unwrap_used)]

mod common;

use common::{HEAD, STATE, full_v1, full_v1_wrong, full_v2, match_v1, match_v2};
use device_hisi::{Event, STATE_BYTES, StateDecoder, Stream};
use stream_codec::decode::Decoder;
use stream_codec::testkit::{check_decoder, run};

#[test]
fn the_four_properties() {
    let streams = [match_v2(), match_v1(), full_v2(), full_v1(), full_v1_wrong()];
    let streams = streams.iter().map(Vec::as_slice).collect::<Vec<_>>();
    check_decoder(StateDecoder::new, |event, events| events.push(event), STATE_BYTES, &streams);
}

#[test]
fn match_comes_before_complete_however_the_stream_is_cut() {
    let bytes = full_v2();
    // As the driver itself cuts it with PRE_COPY, at once, and in between.
    for pieces in [vec![&bytes[..40], &bytes[40..]], vec![&bytes[..]], vec![&bytes[..7], &bytes[7..100], &bytes[100..]]]
    {
        let outcome = run(StateDecoder::new(), |event, events| events.push(event), STATE_BYTES, pieces);
        assert_eq!(outcome.records, [Event::Match(HEAD), Event::Complete(STATE)]);
        assert_eq!(outcome.result, Ok(()));
    }
}

#[test]
fn a_match_part_may_be_all_there_is() {
    let mut decoder = StateDecoder::new();
    let step = decoder.decode(&match_v2()).unwrap();
    assert_eq!((step.consumed, step.event), (40, Some(Event::Match(HEAD))));
    assert_eq!(decoder.end(), Ok(Stream::MatchOnly(HEAD)));
    // Until one more byte has come.
    assert_eq!(decoder.decode(&[0]).unwrap().event, None);
    assert!(decoder.end().is_err());
}

#[test]
fn a_foreign_stream_is_refused_at_its_eighth_byte() {
    let mut decoder = StateDecoder::new();
    assert!(decoder.decode(&[0; 7]).is_ok());
    assert!(decoder.decode(&[0]).is_err());
}

#[test]
fn the_decoder_agrees_with_decoding_at_once() {
    for length in 0..=STATE_BYTES + 1 {
        let bytes = [full_v2(), vec![0]].concat();
        let bytes = &bytes[..length];
        let outcome = run(StateDecoder::new(), |event, events| events.push(event), STATE_BYTES, [bytes]);
        assert_eq!(outcome.result, Stream::decode(bytes).map(|_| ()), "{length} bytes");
    }
}
