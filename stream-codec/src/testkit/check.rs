// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The four properties, over the streams an implementor gives and many made from them.

use alloc::vec::Vec;
use core::fmt::Debug;

use super::mutate::{Random, bit_flips, prefixes};
use super::run::{Outcome, run};
use crate::decode::Decoder;

/// Up to this length a stream is cut at every place, and every prefix and bit flip of it is tried. Of a longer stream
/// the first bytes are, as many.
const EXHAUSTIVE_BYTES_MAX: usize = 2048;

/// How many random segmentations, damaged copies and random streams are tried.
const RANDOM_RUNS: u64 = 200;

/// Checks all four properties of a decoder. See the [module](super) for an example.
///
/// * `new` makes a decoder, always with the same limits.
/// * `record` normalises: it appends an event to the records, or adds it to the last record if both are pieces of one
///   payload, so that records are equal however the stream was cut.
/// * `bytes_max` bounds [`Decoder::buffered_bytes`].
/// * `streams` are valid and complete, and should have every kind of event between them. Keep them below 2 KiB: then
///   everything about them is tried.
///
/// # Panics
/// If a property does not hold, or a stream is refused or yields nothing.
pub fn check_decoder<D: Decoder + 'static, T: Debug + PartialEq>(
    new: impl Fn() -> D,
    record: impl Fn(D::Event<'_>, &mut Vec<T>),
    bytes_max: usize,
    streams: &[&[u8]],
) {
    assert!(!streams.is_empty(), "no stream was given");
    let mut random = Random::new(0x5eed);
    for stream in streams {
        let whole = run(new(), &record, bytes_max, [*stream]);
        assert!(whole.result.is_ok(), "a stream that should be valid is refused: {:?}", whole.result);
        assert!(!whole.records.is_empty(), "a stream yields no event, which checks nothing");
        check_segmentations(&new, &record, bytes_max, stream, &whole);

        let head = stream.get(..EXHAUSTIVE_BYTES_MAX).unwrap_or(stream);
        for prefix in prefixes(head) {
            check_some_segmentations(&new, &record, bytes_max, prefix, &mut random);
        }
        for (_, flipped) in bit_flips(head) {
            check_some_segmentations(&new, &record, bytes_max, &flipped, &mut random);
        }
        for _ in 0..RANDOM_RUNS {
            check_some_segmentations(&new, &record, bytes_max, &random.damage(stream), &mut random.clone());
        }
    }
    for _ in 0..RANDOM_RUNS {
        let length = random.up_to(400);
        check_some_segmentations(&new, &record, bytes_max, &random.bytes(length), &mut random.clone());
    }
}

/// Checks the four properties on arbitrary bytes: what a fuzz target does with its input. `seed` chooses the
/// segmentations.
///
/// # Panics
/// If a property does not hold.
pub fn check_bytes<D: Decoder + 'static, T: Debug + PartialEq>(
    new: impl Fn() -> D,
    record: impl Fn(D::Event<'_>, &mut Vec<T>),
    bytes_max: usize,
    bytes: &[u8],
    seed: u64,
) {
    check_some_segmentations(&new, &record, bytes_max, bytes, &mut Random::new(seed));
}

/// Byte by byte, at every place, and at random.
fn check_segmentations<D: Decoder + 'static, T: Debug + PartialEq>(
    new: &impl Fn() -> D,
    record: &impl Fn(D::Event<'_>, &mut Vec<T>),
    bytes_max: usize,
    stream: &[u8],
    whole: &Outcome<T, D::Error>,
) {
    let bytewise = run(new(), record, bytes_max, stream.chunks(1));
    assert_same(whole, &bytewise, &"single bytes");
    for at in 0..=stream.len().min(EXHAUSTIVE_BYTES_MAX) {
        let (front, back) = stream.split_at_checked(at).unwrap_or((stream, &[]));
        // The empty piece says what a decoder does when there is nothing to read.
        let cut = run(new(), record, bytes_max, [front, &[], back]);
        assert_same(whole, &cut, &at);
    }
    for seed in 0..RANDOM_RUNS {
        let pieces = Random::new(seed).cut(stream);
        let lengths = pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>();
        assert_same(whole, &run(new(), record, bytes_max, pieces), &lengths);
    }
}

/// At once, and cut at random.
fn check_some_segmentations<D: Decoder + 'static, T: Debug + PartialEq>(
    new: &impl Fn() -> D,
    record: &impl Fn(D::Event<'_>, &mut Vec<T>),
    bytes_max: usize,
    bytes: &[u8],
    random: &mut Random,
) {
    let whole = run(new(), record, bytes_max, [bytes]);
    let pieces = random.cut(bytes);
    let lengths = pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>();
    assert_same(&whole, &run(new(), record, bytes_max, pieces), &lengths);
}

fn assert_same<T: Debug + PartialEq, E: Debug + PartialEq>(
    whole: &Outcome<T, E>,
    cut: &Outcome<T, E>,
    segmentation: &dyn Debug,
) {
    assert!(whole == cut, "split invariance, cut at {segmentation:?}:\nin one piece {whole:?}\nin several   {cut:?}",);
}
