// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where a reader's bytes come from: its transport, and what came from there too early.

use alloc::vec::Vec;
use std::io::{ErrorKind, IoSliceMut, Read, Result};

const OVERCLAIM: &str = "the reader claims more bytes than it was asked for";

#[derive(Debug)]
pub(super) struct Transport<R> {
    pub(super) reader: R,
    /// Read before it was known what it is.
    early: Vec<u8>,
    /// So much of that was handed out.
    again: usize,
}

impl<R: Read> Transport<R> {
    pub(super) const fn new(reader: R) -> Self {
        Self { reader, early: Vec::new(), again: 0 }
    }

    /// How many bytes the transport has given that nobody has taken.
    pub(super) fn early(&self) -> usize {
        self.early.len().saturating_sub(self.again)
    }

    /// One scatter read, of what came early as long as there is some. Returns how many bytes went into each slice; zero in the first is
    /// the end of the stream.
    pub(super) fn read_two(&mut self, first: &mut [u8], second: &mut [u8]) -> Result<(usize, usize)> {
        let rest = self.early.get(self.again..).unwrap_or_default();
        if !rest.is_empty() {
            let (into_first, rest) = copy(rest, first);
            let into_second = if into_first < first.len() { 0 } else { copy(rest, second).0 };
            self.again = self.again.saturating_add(into_first).saturating_add(into_second);
            return Ok((into_first, into_second));
        }
        (self.early, self.again) = (Vec::new(), 0);
        read_two(&mut self.reader, first, second)
    }

    /// Takes back the end of what the last read gave, which was the transport's.
    pub(super) fn unread(&mut self, bytes: &[u8]) {
        self.early.extend_from_slice(bytes);
    }

    /// Has `take` take at most `left` bytes from the transport.
    pub(super) fn take(&mut self, left: usize, take: impl FnOnce(&mut R, usize) -> Result<usize>) -> Result<usize> {
        match take(&mut self.reader, left) {
            Ok(taken) if taken > left => Err(std::io::Error::other(OVERCLAIM)),
            other => other,
        }
    }
}

/// As much as there is room for: how many bytes, and what is left of them.
fn copy<'b>(from: &'b [u8], into: &mut [u8]) -> (usize, &'b [u8]) {
    let count = from.len().min(into.len());
    let (some, rest) = from.split_at_checked(count).unwrap_or_default();
    into.iter_mut().zip(some).for_each(|(into, byte)| *into = *byte);
    (count, rest)
}

fn read_two(reader: &mut impl Read, first: &mut [u8], second: &mut [u8]) -> Result<(usize, usize)> {
    let (first_bytes, second_bytes) = (first.len(), second.len());
    loop {
        let result = if second_bytes == 0 {
            reader.read(first)
        } else {
            reader.read_vectored(&mut [IoSliceMut::new(first), IoSliceMut::new(second)])
        };
        match result {
            Ok(count) => {
                let into_first = count.min(first_bytes);
                let into_second = count.saturating_sub(into_first);
                // Nothing but a broken `Read` claims more than it was asked for; believing it would invent bytes.
                return if into_second <= second_bytes {
                    Ok((into_first, into_second))
                } else {
                    Err(std::io::Error::other(OVERCLAIM))
                };
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
