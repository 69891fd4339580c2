// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One run of a decoder over one segmentation, with progress and boundedness checked at every step.

use alloc::vec::Vec;

use crate::decode::{Decoder, Step};

/// How many events in a row may come without consuming anything, beside those that bytes held from before may become.
const IDLE_EVENTS_MAX: usize = 16;

/// What a decoder made of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome<T, E> {
    /// The normalised events, in order.
    pub records: Vec<T>,
    /// What the last call said: `decode` if it refused the stream, `finish` otherwise.
    pub result: Result<(), E>,
}

/// Feeds `pieces` to `decoder` and normalises what comes out.
///
/// `record` appends an event to the records, or adds it to the last one if both are pieces of one payload.
///
/// # Panics
/// If a step makes no progress, `buffered_bytes` exceeds `bytes_max`, `offset` is not the sum of all bytes consumed, or
/// an error is not final.
pub fn run<'a, D: Decoder + 'static, T>(
    mut decoder: D,
    record: impl Fn(D::Event<'_>, &mut Vec<T>),
    bytes_max: usize,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Outcome<T, D::Error> {
    let mut records = Vec::new();
    let mut offset = 0u64;
    for piece in pieces {
        if let Err(error) = feed(&mut decoder, &record, bytes_max, piece, &mut records, &mut offset) {
            check_final(&mut decoder, &error);
            return Outcome { records, result: Err(error) };
        }
    }
    Outcome { records, result: decoder.finish() }
}

fn feed<D: Decoder + 'static, T>(
    decoder: &mut D,
    record: &impl Fn(D::Event<'_>, &mut Vec<T>),
    bytes_max: usize,
    mut piece: &[u8],
    records: &mut Vec<T>,
    offset: &mut u64,
) -> Result<(), D::Error> {
    let mut idle_events = 0usize;
    let mut idle_events_max = decoder.buffered_bytes().saturating_add(IDLE_EVENTS_MAX);
    loop {
        let (consumed, is_starved) = {
            let Step { consumed, event } = decoder.decode(piece)?;
            (consumed, event.map(|event| record(event, records)).is_none())
        };
        let Some(rest) = piece.get(consumed..) else {
            assert!(consumed <= piece.len(), "progress: {consumed} bytes consumed of {}", piece.len());
            return Ok(());
        };
        piece = rest;
        *offset = offset.saturating_add(u64::try_from(consumed).unwrap_or(u64::MAX));
        assert!(decoder.offset() == *offset, "offset() is {}, {offset} bytes were consumed", decoder.offset());
        let buffered_bytes = decoder.buffered_bytes();
        assert!(buffered_bytes <= bytes_max, "boundedness: {buffered_bytes} bytes held, the bound is {bytes_max}");
        if is_starved {
            assert!(piece.is_empty(), "progress: more input wanted while {} bytes are left", piece.len());
            return Ok(());
        }
        if consumed == 0 {
            idle_events = idle_events.saturating_add(1);
        } else {
            // Every event stands for at least one byte, or goes with one that does.
            (idle_events, idle_events_max) = (0, buffered_bytes.saturating_add(IDLE_EVENTS_MAX));
        }
        assert!(idle_events <= idle_events_max, "progress: {idle_events} events in a row consumed nothing");
    }
}

/// Whether a refused stream stays refused, for the same reason.
fn check_final<D: Decoder>(decoder: &mut D, error: &D::Error) {
    assert!(decoder.finish().as_ref() == Err(error), "totality: finish() does not repeat the error: {error}");
    for input in [&[][..], &[0; 64]] {
        let again = decoder.decode(input).map(|step| step.consumed);
        assert!(again.as_ref() == Err(error), "totality: decode() does not repeat the error: {error}, then {again:?}");
    }
}
