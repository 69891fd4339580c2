// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The structure in pieces of any size.

use stream_codec::decode::{Accumulator, Decoder, Located, Step};

use crate::error::{Error, Reason};
use crate::state::{Match, State, Stream};
use crate::version::check_magic;
use crate::{MATCH_BYTES, STATE_BYTES};

/// What a [`StateDecoder`] recognises.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The first 40 bytes are there: enough to refuse a source that does not fit, before the guest is stopped. The
    /// stream may end here.
    Match(Match),
    /// All 176 bytes are there. Nothing may follow.
    Complete(State),
}

/// Reads a stream in pieces, as PRE_COPY and STOP_COPY deliver it, or as a transport cuts it. Holds at most 176 bytes.
///
/// ```
/// use device_hisi::{Decoder, Event, Match, Reason, StateDecoder, Stream, Version};
///
/// let head = Match {
///     version: Version::CURRENT,
///     qp_num: 64,
///     dev_id: 0xa251,
///     que_iso_cfg: 0,
///     qp_base: 64,
///     vf_qm_state: 0,
///     qm_rsv_state: [0; 2],
/// };
/// let mut decoder = StateDecoder::new();
/// let bytes = head.encode();
/// assert_eq!(decoder.decode(&bytes[..7])?.event, None);
/// assert!(matches!(decoder.finish().unwrap_err().reason, Reason::Truncated { have: 7, .. }));
/// assert_eq!(decoder.decode(&bytes[7..])?.event, Some(Event::Match(head)));
/// assert_eq!(decoder.end()?, Stream::MatchOnly(head));
/// # Ok::<(), device_hisi::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct StateDecoder {
    bytes: Accumulator<STATE_BYTES>,
    failed: Option<Error>,
}

/// Size of the magic, the first thing that can be wrong.
const MAGIC_BYTES: usize = 8;

impl StateDecoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Accumulator::new(), failed: None }
    }

    /// The stream, if it may end here.
    ///
    /// # Errors
    /// Those of [`Decoder::finish`].
    pub fn end(&self) -> Result<Stream, Error> {
        match self.failed {
            Some(error) => Err(error),
            None => Stream::decode(self.bytes.bytes()),
        }
    }

    /// Fills up to the next place where something can be said, and says it.
    fn advance(&mut self, input: &[u8]) -> Result<Step<Event>, Error> {
        let mut consumed = 0usize;
        loop {
            let rest = input.get(consumed..).unwrap_or_default();
            let stop = match self.bytes.filled() {
                0..MAGIC_BYTES => MAGIC_BYTES,
                MAGIC_BYTES..MATCH_BYTES => MATCH_BYTES,
                _ => STATE_BYTES,
            };
            let wanted = stop.saturating_sub(self.bytes.filled());
            if wanted == 0 && !rest.is_empty() {
                return Err(Located::new(self.offset(), Reason::TooLong));
            }
            let taken = self.bytes.fill(rest.get(..wanted).unwrap_or(rest));
            consumed = consumed.saturating_add(taken);
            if taken == 0 || taken < wanted {
                return Ok(Step { consumed, event: None });
            }
            if let Some(event) = self.event()? {
                return Ok(Step { consumed, event: Some(event) });
            }
        }
    }

    /// What the bytes say that are there now: one of the three stops has just been reached.
    fn event(&self) -> Result<Option<Event>, Error> {
        let bytes = self.bytes.bytes();
        if bytes.len() == MAGIC_BYTES {
            let magic = bytes.first_chunk().map_or(0, |magic| u64::from_le_bytes(*magic));
            return check_magic(magic).map(|()| None).map_err(|reason| Located::new(0, reason));
        }
        Ok(Some(match Stream::decode(bytes)? {
            Stream::MatchOnly(head) => Event::Match(head),
            Stream::Full(state) => Event::Complete(state),
        }))
    }
}

impl Decoder for StateDecoder {
    type Event<'a> = Event;
    type Error = Error;

    fn decode<'a>(&'a mut self, input: &'a [u8]) -> Result<Step<Event>, Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.advance(input).inspect_err(|error| self.failed = Some(*error))
    }

    fn finish(&self) -> Result<(), Error> {
        self.end().map(|_| ())
    }

    fn offset(&self) -> u64 {
        u64::try_from(self.bytes.filled()).unwrap_or(u64::MAX)
    }

    fn buffered_bytes(&self) -> usize {
        self.bytes.filled()
    }
}
