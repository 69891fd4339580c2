// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The streaming decoder: bytes in pieces of any size, payloads never copied.

use super::error::{Error, Reason};
use super::header::{HEADER_BYTES, Header};
use super::kind::Kind;
use super::limits::Limits;
use super::message::Message;
use super::parse::{compare_crc, parse_control};
use super::prologue::{PROLOGUE_BYTES, decode_prologue};
use crate::decode::{Accumulator, Decoder, Gather, Located, Step};

/// What a [`FrameDecoder`] recognises. Offsets are those of the frame's header in the stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A control frame, complete and verified.
    Control {
        /// Where the frame starts.
        offset: u64,
        /// What it says.
        message: Message<'a>,
    },
    /// Some bytes of a Data frame. **Not verified** before the frame's [`Event::DataEnd`].
    Data(DataPiece<'a>),
    /// A Data frame was complete and its checksum fits.
    DataEnd {
        /// Where the frame starts.
        offset: u64,
        /// Its device.
        device: u32,
        /// Its number within the device.
        sequence: u64,
        /// How many bytes it carried; at least 1.
        length: u32,
    },
    /// A frame of a kind this version does not know was skipped, as the sender allows. Its checksum fits.
    Skipped {
        /// Where the frame starts.
        offset: u64,
        /// Its kind.
        kind: u16,
        /// How many bytes of payload were skipped.
        length: u32,
    },
}

/// Some bytes of a Data frame, in place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DataPiece<'a> {
    /// Where the frame starts.
    pub offset: u64,
    /// Its device.
    pub device: u32,
    /// Its number within the device.
    pub sequence: u64,
    /// How many bytes the frame carries in all.
    pub length: u32,
    /// Where in the payload these bytes stand.
    pub position: u32,
    /// The bytes; at least one.
    pub bytes: &'a [u8],
    /// Whether they are the frame's last.
    pub last: bool,
}

/// The decoder of the native format. It knows frames; [`Session`](super::Session) knows in which order they may come.
///
/// It holds at most [`Limits::control_bytes`] of the stream.
///
/// ```
/// use stream_codec::decode::{Decoder, Step};
/// use stream_codec::frame::{Event, FrameDecoder, Limits, Message, encode_control, encode_prologue};
///
/// let mut stream = encode_prologue().to_vec();
/// encode_control(&Message::Switchover, &mut stream)?;
///
/// let mut decoder = FrameDecoder::new(Limits::DEFAULT);
/// let Step { consumed, event } = decoder.decode(&stream).unwrap();
/// assert_eq!(consumed, 48);
/// assert_eq!(event, Some(Event::Control { offset: 16, message: Message::Switchover }));
/// # Ok::<(), stream_codec::frame::Reason>(())
/// ```
#[derive(Clone, Debug)]
pub struct FrameDecoder {
    limits: Limits,
    offset: u64,
    /// Where the frame (or the prologue) starts that is being read.
    frame_offset: u64,
    prologue: Accumulator<PROLOGUE_BYTES>,
    header: Accumulator<HEADER_BYTES>,
    control: Gather,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Prologue,
    Header,
    Control(Header),
    Data(Payload),
    DataEnd(Header),
    Skip(Payload),
    Failed(Error),
}

/// A payload that is passed on or skipped, not kept.
#[derive(Clone, Debug)]
struct Payload {
    header: Header,
    seen: u32,
    crc: crc32fast::Hasher,
}

impl Payload {
    fn new(header: Header) -> Self {
        Self { header, seen: 0, crc: crc32fast::Hasher::new() }
    }

    fn missing(&self) -> u32 {
        self.header.payload_length.saturating_sub(self.seen)
    }

    /// The part of `input` that belongs to this payload, counted and added to the checksum.
    fn take<'a>(&mut self, input: &'a [u8]) -> &'a [u8] {
        let missing = usize::try_from(self.missing()).unwrap_or(usize::MAX);
        let bytes = input.get(..missing).unwrap_or(input);
        if !self.header.is_unchecked() {
            self.crc.update(bytes);
        }
        self.seen = self.seen.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        bytes
    }

    fn verify(&self) -> Result<(), Reason> {
        if self.header.is_unchecked() {
            return Ok(());
        }
        compare_crc(&self.header, self.crc.clone().finalize())
    }
}

/// What a state has made of the input. Owned, so that nothing stays borrowed while the state changes.
enum Progress {
    /// All input is used.
    Starved,
    /// The next state may be able to go on.
    Go,
    /// The control frame in `self.control` is complete.
    Control(Header),
    /// The first bytes of the input are a piece of this frame's payload.
    Data {
        header: Header,
        position: u32,
        last: bool,
        bytes: usize,
    },
    /// The payload before was complete and verified.
    DataEnd(Header),
    Skipped(Header),
}

impl FrameDecoder {
    /// A decoder at the start of a stream. Allocates nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            offset: 0,
            frame_offset: 0,
            prologue: Accumulator::new(),
            header: Accumulator::new(),
            control: Gather::new(usize::try_from(limits.control_bytes).unwrap_or(usize::MAX)),
            state: State::Prologue,
        }
    }

    /// Lets one state look at `input` and returns how much of it was used.
    fn advance(&mut self, input: &[u8]) -> Result<(usize, Progress), Error> {
        let at = self.frame_offset;
        let located = |reason| Located::new(at, reason);
        match &mut self.state {
            State::Failed(error) => Err(*error),
            State::Prologue => {
                let used = self.prologue.fill(input);
                let Some(prologue) = self.prologue.take() else {
                    return Ok((used, Progress::Starved));
                };
                decode_prologue(&prologue)?;
                self.state = State::Header;
                Ok((used, Progress::Go))
            }
            State::Header => {
                if self.header.filled() == 0 {
                    self.frame_offset = self.offset;
                }
                let used = self.header.fill(input);
                let Some(header) = self.header.take() else {
                    return Ok((used, Progress::Starved));
                };
                self.start_frame(&header)?;
                Ok((used, Progress::Go))
            }
            State::Control(header) => {
                let header = *header;
                let used = self.control.fill(input);
                if self.control.missing() > 0 {
                    return Ok((used, Progress::Starved));
                }
                compare_crc(&header, crc32fast::hash(self.control.bytes())).map_err(located)?;
                self.state = State::Header;
                Ok((used, Progress::Control(header)))
            }
            State::Data(payload) => {
                let position = payload.seen;
                let bytes = payload.take(input).len();
                if bytes == 0 {
                    return Ok((0, Progress::Starved));
                }
                let (header, last) = (payload.header, payload.missing() == 0);
                if last {
                    // A wrong checksum is reported by the call after the last piece: the piece itself was as good
                    // as those before, and how the stream is cut must make no difference.
                    self.state = match payload.verify() {
                        Ok(()) => State::DataEnd(header),
                        Err(reason) => State::Failed(located(reason)),
                    };
                }
                Ok((bytes, Progress::Data { header, position, last, bytes }))
            }
            State::DataEnd(header) => {
                let header = *header;
                self.state = State::Header;
                Ok((0, Progress::DataEnd(header)))
            }
            State::Skip(payload) => {
                let used = payload.take(input).len();
                if payload.missing() > 0 {
                    return Ok((used, Progress::Starved));
                }
                payload.verify().map_err(located)?;
                let header = payload.header;
                self.state = State::Header;
                Ok((used, Progress::Skipped(header)))
            }
        }
    }

    fn start_frame(&mut self, bytes: &[u8; HEADER_BYTES]) -> Result<(), Error> {
        let header = Header::decode(bytes, &self.limits, self.frame_offset)?;
        self.state = match header.kind() {
            Some(Kind::Data) => State::Data(Payload::new(header)),
            Some(_) => {
                let no_memory = |_| Reason::NoMemory { length: header.payload_length };
                let started = self.control.start(header.payload_size()).map_err(no_memory);
                started.map_err(|reason| Located::new(self.frame_offset, reason))?;
                State::Control(header)
            }
            None => State::Skip(Payload::new(header)),
        };
        Ok(())
    }

    /// The event for what `advance` found, if it is one. `input` starts where `advance` started.
    fn event<'a>(&'a self, progress: &Progress, input: &'a [u8]) -> Result<Option<Event<'a>>, Error> {
        let offset = self.frame_offset;
        Ok(match *progress {
            Progress::Starved | Progress::Go => None,
            Progress::Control(header) => parse_control(&header, self.control.bytes(), &self.limits, offset)?
                .map(|message| Event::Control { offset, message }),
            Progress::Data {
                header: Header { device, sequence, payload_length: length, .. },
                position,
                last,
                bytes,
            } => {
                let bytes = input.get(..bytes).unwrap_or_default();
                Some(Event::Data(DataPiece { offset, device, sequence, length, position, bytes, last }))
            }
            Progress::DataEnd(Header { device, sequence, payload_length: length, .. }) => {
                Some(Event::DataEnd { offset, device, sequence, length })
            }
            Progress::Skipped(Header { kind, payload_length: length, .. }) => {
                Some(Event::Skipped { offset, kind, length })
            }
        })
    }

    /// What a stream that ends now is cut in: its name, its length and how much of it there was.
    fn open_part(&self) -> Option<(&'static str, u32, u32)> {
        let count = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        match &self.state {
            State::Prologue => Some(("the prologue", count(PROLOGUE_BYTES), count(self.prologue.filled()))),
            State::Header if self.header.filled() > 0 => {
                Some(("a frame header", count(HEADER_BYTES), count(self.header.filled())))
            }
            State::Header | State::DataEnd(_) | State::Failed(_) => None,
            State::Control(header) => {
                Some(("the payload of a control frame", header.payload_length, count(self.control.filled())))
            }
            State::Data(payload) => Some(("the payload of a Data frame", payload.header.payload_length, payload.seen)),
            State::Skip(payload) => {
                Some(("the payload of a skipped frame", payload.header.payload_length, payload.seen))
            }
        }
    }
}

impl Decoder for FrameDecoder {
    type Event<'a> = Event<'a>;
    type Error = Error;

    fn decode<'a>(&'a mut self, input: &'a [u8]) -> Result<Step<Event<'a>>, Error> {
        let mut consumed = 0usize;
        let (progress, input) = loop {
            let rest = input.get(consumed..).unwrap_or_default();
            let (used, progress) = self.advance(rest).inspect_err(|error| self.state = State::Failed(*error))?;
            consumed = consumed.saturating_add(used);
            self.offset = self.offset.saturating_add(u64::try_from(used).unwrap_or(u64::MAX));
            match progress {
                Progress::Go => {}
                Progress::Starved => {
                    return Ok(Step { consumed, event: None });
                }
                progress => break (progress, rest),
            }
        };
        // A malformed control payload is found here: remember that before the payload is borrowed.
        if let Err(error) = self.event(&progress, input) {
            self.state = State::Failed(error);
            return Err(error);
        }
        let event = self.event(&progress, input)?;
        Ok(Step { consumed, event })
    }

    fn finish(&self) -> Result<(), Error> {
        if let State::Failed(error) = &self.state {
            return Err(*error);
        }
        self.open_part().map_or(Ok(()), |(what, wanted, have)| {
            Err(Located::new(self.frame_offset, Reason::Truncated { what, wanted, have }))
        })
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    fn buffered_bytes(&self) -> usize {
        self.control.capacity()
    }
}
