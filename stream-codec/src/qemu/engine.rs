// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The one loop under all decoders of this module, where the four properties of a
//! [`Decoder`](crate::decode::Decoder) are kept.
//!
//! A grammar looks at the bytes that stand at an offset and either names the item they start with, or asks for more.
//! The engine collects what is asked for when it comes in pieces, and hands items out in place when it does not.

use alloc::vec::Vec;
use core::ops::Range;

use super::error::{Error, Reason};
use super::event::Event;
use crate::cursor::{Cursor, CursorError};
use crate::decode::{Located, Step};

/// Why a grammar cannot name an item.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stop {
    /// At least so many more bytes are needed. `what` is the field that is missing.
    More { what: &'static str, least: usize },
    /// The bytes are refused.
    Refused(Reason),
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
    }
}

impl From<CursorError> for Stop {
    fn from(error: CursorError) -> Self {
        match error {
            CursorError::Missing { what, wanted, left, .. } => {
                let least = wanted.saturating_sub(left).max(1);
                Self::More { what, least }
            }
            CursorError::Leftover { what, left: value, .. } => {
                let value = u64::try_from(value).unwrap_or(u64::MAX);
                Self::Refused(Reason::Value { what, value, expected: "at its end" })
            }
            CursorError::NotZero { what, value, .. } => {
                Self::Refused(Reason::Value { what, value: value.into(), expected: "zero" })
            }
        }
    }
}

/// A format, without any notion of pieces.
pub(super) trait Grammar {
    /// An item that was named, without what it borrows.
    type Token;
    /// An item.
    type Item<'a>
    where
        Self: 'a;

    /// Reads one item, of at least one byte, from a cursor that stands at its stream offset. Changes its own state
    /// only when it succeeds, for it is asked again with the same bytes and more. What it decides must depend on the
    /// item's bytes alone, not on how many more are there.
    fn next(&mut self, cursor: &mut Cursor<'_>) -> Result<Self::Token, Stop>;

    /// Completes the item that `next` has just named, whose bytes are `raw`.
    fn item<'a>(&'a self, token: Self::Token, raw: &'a [u8]) -> Self::Item<'a>;

    /// Whether the stream may end before the next item.
    fn may_end(&self) -> bool;

    /// How many bytes of memory the state holds that depend on the stream.
    fn held_bytes(&self) -> usize;
}

/// A grammar, and bytes of an item that is not complete.
#[derive(Clone, Debug)]
pub(super) struct Engine<G> {
    grammar: G,
    carry: Vec<u8>,
    /// How many bytes at the front of `carry` were handed out.
    head: usize,
    /// Where the next item starts.
    at: u64,
    /// The field that the grammar last asked for.
    missing: &'static str,
    failed: Option<Error>,
}

impl<G: Grammar> Engine<G> {
    /// An engine at the start of a stream, whose first field is `first`.
    pub(super) const fn new(grammar: G, first: &'static str) -> Self {
        Self { grammar, carry: Vec::new(), head: 0, at: 0, missing: first, failed: None }
    }

    pub(super) fn decode<'a>(&'a mut self, input: &'a [u8]) -> Result<Step<Event<'a, G::Item<'a>>>, Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let mut consumed = 0usize;
        let (token, range, carried) = loop {
            let carried = self.head < self.carry.len();
            let rest = input.get(consumed..).unwrap_or_default();
            let view = if carried { self.carry.get(self.head..).unwrap_or_default() } else { rest };
            let mut cursor = Cursor::at(view, self.at);
            match self.grammar.next(&mut cursor) {
                Ok(token) => {
                    let start = if carried { self.head } else { consumed };
                    let end = start.saturating_add(cursor.position());
                    self.at = cursor.offset();
                    if carried {
                        self.head = end;
                    } else {
                        consumed = end;
                    }
                    break (token, start..end, carried);
                }
                Err(Stop::More { what, least }) => {
                    self.missing = what;
                    let taken = self.collect(rest, carried, least).map_err(|reason| self.fail(reason))?;
                    consumed = consumed.saturating_add(taken);
                    // With every byte that has come the grammar is asked again, even if it wanted more of them: at the
                    // end of a package it finds out that more will not come.
                    if !carried || taken == 0 {
                        return Ok(Step { consumed, event: None });
                    }
                }
                Err(Stop::Refused(reason)) => return Err(self.fail(reason)),
            }
        };
        let event = self.event(token, range, if carried { &self.carry } else { input });
        Ok(Step { consumed, event: Some(event) })
    }

    fn event<'a>(&'a self, token: G::Token, range: Range<usize>, bytes: &'a [u8]) -> Event<'a, G::Item<'a>> {
        let raw = bytes.get(range).unwrap_or_default();
        let length = u64::try_from(raw.len()).unwrap_or(u64::MAX);
        Event { offset: self.at.saturating_sub(length), raw, item: self.grammar.item(token, raw) }
    }

    /// Moves bytes of `rest` behind the carried ones: `wanted`, if there are that many. When none are carried, `rest` is
    /// what the grammar has just seen, and all of it is moved.
    fn collect(&mut self, rest: &[u8], carried: bool, wanted: usize) -> Result<usize, Reason> {
        self.carry.drain(..self.head);
        self.head = 0;
        let taken = if carried { rest.len().min(wanted) } else { rest.len() };
        let spare = self.carry.capacity().saturating_sub(self.carry.len());
        if taken > spare {
            // Doubling keeps the copying linear for a payload whose end is searched.
            let additional = taken.max(self.carry.len());
            let reserved = self.carry.try_reserve_exact(additional);
            reserved.map_err(|_| Reason::NoMemory { bytes: self.carry.len().saturating_add(additional) })?;
        }
        self.carry.extend_from_slice(rest.get(..taken).unwrap_or_default());
        Ok(taken)
    }

    fn fail(&mut self, reason: Reason) -> Error {
        let error = Located::new(self.at, reason);
        self.failed = Some(error);
        error
    }

    pub(super) fn finish(&self) -> Result<(), Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let have = self.carry.len().saturating_sub(self.head);
        if have == 0 && self.grammar.may_end() {
            return Ok(());
        }
        Err(Located::new(self.at, Reason::Truncated { what: self.missing, have }))
    }

    pub(super) fn offset(&self) -> u64 {
        let carried = self.carry.len().saturating_sub(self.head);
        self.at.saturating_add(u64::try_from(carried).unwrap_or(u64::MAX))
    }

    pub(super) fn buffered_bytes(&self) -> usize {
        self.carry.capacity().saturating_add(self.grammar.held_bytes())
    }
}

/// Makes a public decoder of an engine over a grammar: a type of its own, so that the grammar stays private.
macro_rules! decoder {
    ($(#[$meta:meta])* $name:ident($grammar:ty) -> $item:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        pub struct $name($crate::qemu::engine::Engine<$grammar>);

        impl $crate::decode::Decoder for $name {
            type Event<'a> = $crate::qemu::Event<'a, $item<'a>>;
            type Error = $crate::qemu::Error;

            fn decode<'a>(&'a mut self, input: &'a [u8]) -> Result<$crate::decode::Step<Self::Event<'a>>, Self::Error> {
                self.0.decode(input)
            }

            fn finish(&self) -> Result<(), Self::Error> {
                self.0.finish()
            }

            fn offset(&self) -> u64 {
                self.0.offset()
            }

            fn buffered_bytes(&self) -> usize {
                self.0.buffered_bytes()
            }
        }
    };
}
pub(super) use decoder;

/// The next bytes of a payload of which `left` are to come: as many as there are, at least one.
pub(super) fn some_bytes(cursor: &mut Cursor<'_>, left: u64, what: &'static str) -> Result<usize, Stop> {
    if cursor.is_empty() {
        return Err(Stop::More { what, least: 1 });
    }
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(cursor.left());
    cursor.take(count, what)?;
    Ok(count)
}
