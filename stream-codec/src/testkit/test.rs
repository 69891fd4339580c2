// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kit must notice decoders that break a property: one faulty decoder per property.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use std::panic::catch_unwind;

use thiserror::Error;

use super::{bit_flips, check_decoder, prefixes};
use crate::decode::{Decoder, Step};

/// What is wrong with a [`Lines`].
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flaw {
    None,
    /// Yields what it has of a line at the end of each piece.
    SplitDependent,
    /// Wants more input though some is left.
    Lazy,
    /// Yields empty lines for ever.
    Endless,
    /// Claims to consume more than there is.
    Greedy,
    /// Keeps every byte ever seen.
    Hoarding,
    /// Accepts input after an error.
    Forgetful,
    /// Does not count what it consumes.
    Lost,
    /// Panics on a certain byte.
    Fragile,
}

#[derive(Clone, Debug, Error, PartialEq)]
#[error("byte {0} at {1}")]
struct Refused(u8, u64);

/// Lines of at most eight bytes below 0x80, ended by a line feed.
struct Lines {
    flaw: Flaw,
    line: Vec<u8>,
    offset: u64,
    hoard: usize,
    failed: Option<Refused>,
}

fn lines(flaw: Flaw) -> impl Fn() -> Lines {
    move || Lines { flaw, line: Vec::new(), offset: 0, hoard: 0, failed: None }
}

impl Lines {
    fn take_byte(&mut self, byte: u8) -> Result<Option<Vec<u8>>, Refused> {
        assert!(self.flaw != Flaw::Fragile || byte != 0x41, "fragile");
        if byte >= 0x80 || self.line.len() == 8 && byte != b'\n' {
            let error = Refused(byte, self.offset);
            self.failed = (self.flaw != Flaw::Forgetful).then(|| error.clone());
            return Err(error);
        }
        self.offset += u64::from(self.flaw != Flaw::Lost);
        self.hoard += usize::from(self.flaw == Flaw::Hoarding);
        if byte == b'\n' {
            return Ok(Some(core::mem::take(&mut self.line)));
        }
        self.line.push(byte);
        Ok(None)
    }
}

impl Decoder for Lines {
    type Event<'a> = Vec<u8>;
    type Error = Refused;

    fn decode<'a>(&'a mut self, input: &'a [u8]) -> Result<Step<Vec<u8>>, Refused> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        for (index, &byte) in input.iter().enumerate() {
            if let Some(line) = self.take_byte(byte)? {
                let consumed = if self.flaw == Flaw::Greedy { input.len() + 1 } else { index + 1 };
                return Ok(Step { consumed, event: Some(line) });
            }
        }
        match self.flaw {
            Flaw::Endless => Ok(Step { consumed: input.len(), event: Some(Vec::new()) }),
            Flaw::Lazy if input.len() > 1 => {
                self.line.pop();
                self.offset -= 1;
                Ok(Step { consumed: input.len() - 1, event: None })
            }
            Flaw::SplitDependent if !self.line.is_empty() => {
                Ok(Step { consumed: input.len(), event: Some(core::mem::take(&mut self.line)) })
            }
            _ => Ok(Step { consumed: input.len(), event: None }),
        }
    }

    fn finish(&self) -> Result<(), Refused> {
        match (&self.failed, self.line.last()) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(&byte)) => Err(Refused(byte, self.offset)),
            (None, None) => Ok(()),
        }
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    fn buffered_bytes(&self) -> usize {
        self.line.len() + self.hoard
    }
}

fn record(line: Vec<u8>, records: &mut Vec<Vec<u8>>) {
    records.push(line);
}

/// What the kit says about a decoder with this flaw.
fn verdict(flaw: Flaw) -> String {
    let checked = catch_unwind(|| check_decoder(lines(flaw), record, 8, &[b"abc\n\nBCDEFGHI\nz\n"]));
    match checked {
        Ok(()) => "fine".into(),
        Err(payload) => match payload.downcast::<String>() {
            Ok(message) => *message,
            Err(payload) => (*payload.downcast::<&str>().unwrap()).into(),
        },
    }
}

#[test]
fn a_sound_decoder_passes() {
    assert_eq!(verdict(Flaw::None), "fine");
}

#[test]
fn every_flaw_is_noticed() {
    for (flaw, said) in [
        (Flaw::SplitDependent, "split invariance"),
        (Flaw::Lazy, "progress: more input wanted"),
        (Flaw::Endless, "progress: 17 events in a row"),
        (Flaw::Greedy, "progress: 17 bytes consumed of 16"),
        (Flaw::Hoarding, "boundedness: 14 bytes held, the bound is 8"),
        (Flaw::Forgetful, "totality: finish() does not repeat the error"),
        (Flaw::Lost, "offset() is 0"),
        (Flaw::Fragile, "fragile"),
    ] {
        let verdict = verdict(flaw);
        assert!(verdict.contains(said), "{flaw:?}: {verdict}");
    }
}

#[test]
fn an_empty_check_is_refused() {
    assert!(catch_unwind(|| check_decoder(lines(Flaw::None), record, 8, &[])).is_err(), "no stream");
    assert!(catch_unwind(|| check_decoder(lines(Flaw::None), record, 8, &[b""])).is_err(), "a stream without events");
    assert!(catch_unwind(|| check_decoder(lines(Flaw::None), record, 8, &[b"a"])).is_err(), "a cut stream");
}

#[test]
fn mutations_cover_the_stream() {
    assert_eq!(prefixes(b"abc").collect::<Vec<_>>(), [&b""[..], b"a", b"ab"]);
    let flips = bit_flips(&[0, 0]).map(|(_, bytes)| bytes).collect::<Vec<_>>();
    assert_eq!(flips.len(), 16);
    assert_eq!((flips[0].clone(), flips[7].clone(), flips[8].clone()), (vec![1, 0], vec![0x80, 0], vec![0, 1]));
}
