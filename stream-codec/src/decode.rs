// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The contract of every streaming decoder of this workspace.
//!
//! A decoder is fed a stream in pieces of any size. It consumes a prefix of each piece, remembers no more than its
//! limits allow, and yields events that borrow their payload from the piece: payload bytes are never copied.
//!
//! # The four properties
//!
//! 1. **Split invariance.** However a stream is cut into pieces, the events are the same (a payload may arrive as
//!    more, smaller pieces), and so is the error, if there is one.
//! 2. **Progress.** A call consumes something, or yields an event, or has consumed all it was given and says so by
//!    yielding none. Never anything else, so a driver's loop ends.
//! 3. **Boundedness.** What a decoder holds is bounded by limits its creator chose, never by a length it has read.
//! 4. **Totality.** No input makes it panic, overflow or hang. After the first error every call returns that error.
//!
//! The feature `testkit` has the tests that check all four on any implementor.
//!
//! # Driving a decoder
//!
//! ```
//! use stream_codec::decode::{Decoder, Step};
//!
//! fn drive<D: Decoder>(decoder: &mut D, mut piece: &[u8], mut handle: impl FnMut(D::Event<'_>)) -> Result<(), D::Error> {
//!     loop {
//!         let Step { consumed, event } = decoder.decode(piece)?;
//!         match event {
//!             Some(event) => handle(event),
//!             None => return Ok(()), // `piece` is used up: feed the next one, or `finish` at the end
//!         }
//!         piece = piece.get(consumed..).unwrap_or_default();
//!     }
//! }
//! ```

mod accumulate;
mod fault;

pub use self::accumulate::{Accumulator, Gather, GatherError};
pub use self::fault::{Blame, Fault, Located};

/// A sans-IO reader of one stream format. See the [module](self) for the four properties an implementor promises.
pub trait Decoder {
    /// What the decoder recognises. It borrows from the input or from the decoder, until the next call.
    type Event<'a>
    where
        Self: 'a;

    /// Why the stream was refused. Says at which stream offset and what was being read.
    type Error: Clone + core::error::Error + PartialEq;

    /// Consumes a prefix of `input` and yields at most one event.
    ///
    /// The next call must be given the bytes that were not consumed, followed by those that come after. When no
    /// event is yielded all of `input` has been consumed. An event may come without consuming anything.
    ///
    /// # Errors
    /// The stream is refused. The error is final: every later call returns it again and consumes nothing.
    fn decode<'a>(&'a mut self, input: &'a [u8]) -> Result<Step<Self::Event<'a>>, Self::Error>;

    /// Says whether the stream may end here. Call it once `decode` has yielded no event and no input is left.
    ///
    /// # Errors
    /// The stream was cut short, or had already been refused.
    fn finish(&self) -> Result<(), Self::Error>;

    /// The stream offset of the next byte to consume: the sum of all `consumed`.
    fn offset(&self) -> u64;

    /// How many bytes of memory the decoder holds that depend on the stream. Never above the limits it was given.
    fn buffered_bytes(&self) -> usize;
}

/// The result of one call of [`Decoder::decode`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "the bytes not consumed must be given to the next call"]
pub struct Step<E> {
    /// How many bytes of the input were consumed. All of them, if there is no event.
    pub consumed: usize,
    /// What was recognised; `None` means that more input is needed.
    pub event: Option<E>,
}
