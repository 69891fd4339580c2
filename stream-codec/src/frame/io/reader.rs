// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading frames, verified.

use alloc::vec;
use alloc::vec::Vec;
use std::io::{ErrorKind, IoSliceMut, Read};

use super::super::error::Reason;
use super::super::header::{HEADER_BYTES, Header};
use super::super::kind::Kind;
use super::super::limits::Limits;
use super::super::message::Message;
use super::super::parse::{compare_crc, parse_control, verify_payload};
use super::super::prologue::{PROLOGUE_BYTES, decode_prologue};
use super::Error;
use crate::decode::Located;

const DATA_PAYLOAD: &str = "the payload of a Data frame";
const OVERCLAIM: &str = "the reader claims more bytes than it was asked for";

/// A frame, complete and verified.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Frame<'a> {
    /// Any frame but Data.
    Control(Message<'a>),
    /// A piece of a device's state.
    Data {
        /// Number of the device.
        device: u32,
        /// Number of the frame within the device.
        sequence: u64,
        /// At least one byte.
        payload: &'a [u8],
    },
}

/// A frame and where it starts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Received<'a> {
    /// Stream offset of the frame's header.
    pub offset: u64,
    /// The frame.
    pub frame: Frame<'a>,
}

/// Reads frames from a blocking reader into one buffer, or into buffers of the caller.
///
/// Use one of [`read_frame`](Self::read_frame) and [`read_frame_into`](Self::read_frame_into) for a whole stream. The
/// reader may run up to 32 bytes (a header) ahead of the frame it hands out. Frames that this version does not know
/// and that may be skipped are checked and skipped.
///
/// A read that is interrupted is repeated. `WouldBlock` and `TimedOut` leave the position as it was: the same call,
/// with the same buffer, goes on. Any other error is final.
#[derive(Debug)]
pub struct FrameReader<R> {
    source: Source<R>,
    buffer: Vec<u8>,
}

impl<R: Read> FrameReader<R> {
    /// A reader at the start of a stream, with a buffer of [`Limits::payload_bytes`] bytes. Reads nothing yet.
    #[must_use]
    pub fn new(reader: R, limits: Limits) -> Self {
        let buffer = vec![0; usize::try_from(limits.payload_bytes()).unwrap_or(usize::MAX)];
        Self { source: Source::new(reader, limits), buffer }
    }

    /// A reader without a buffer of its own, for [`read_frame_into`](Self::read_frame_into) only.
    #[must_use]
    pub fn unbuffered(reader: R, limits: Limits) -> Self {
        Self { source: Source::new(reader, limits), buffer: Vec::new() }
    }

    /// The next frame, or `None` where the stream ends between two frames.
    ///
    /// # Errors
    /// [`Error::Read`] from the transport, [`Error::Format`] for everything that is wrong with the stream, a stream
    /// that ends inside a frame or before the end of its prologue included. [`Reason::Buffer`] for a frame of which
    /// [`take_payload`](Self::take_payload) has taken something, which is not final.
    pub fn read_frame(&mut self) -> Result<Option<Received<'_>>, Error> {
        self.source.check_untaken()?;
        self.source.read_frame(&mut self.buffer)
    }

    /// The next frame, with its payload in `buffer`: page-aligned memory that will be written to a device, say.
    /// Bytes behind the payload are as before.
    ///
    /// # Errors
    /// As [`read_frame`](Self::read_frame), and [`Reason::Buffer`] if the payload does not fit, which is not final.
    pub fn read_frame_into<'b>(&mut self, buffer: &'b mut [u8]) -> Result<Option<Received<'b>>, Error> {
        self.source.read_frame(buffer)
    }

    /// The header of the next frame, or `None` where the stream ends between two frames: what
    /// [`read_frame_into`](Self::read_frame_into) will hand out next, for a caller that chooses its buffer by it. Asked
    /// again before that, it says the same again.
    ///
    /// # Errors
    /// As [`read_frame`](Self::read_frame).
    pub fn next_header(&mut self) -> Result<Option<Header>, Error> {
        self.source.next_header()
    }

    /// Has `take` take bytes of a Data frame's payload from the transport, past any buffer: as many of those that are left, which it is
    /// told, as it likes. Says how many it took; with the last one the frame is over. `None`, and nothing is taken, without a Data frame
    /// that [`next_header`](Self::next_header) has said, and where its payload has a checksum, which only this reader could compare.
    ///
    /// Between two such calls [`read_frame_into`](Self::read_frame_into) may fetch the rest, into a buffer that begins with what was
    /// taken; [`read_frame`](Self::read_frame), whose buffer does not, refuses.
    ///
    /// # Errors
    /// [`Error::Read`] with what `take` says, or where it claims more than there was to take; [`Reason::Truncated`] where it takes
    /// nothing, which is how a stream ends. `WouldBlock`, `TimedOut` and `Interrupted` leave the position as it was.
    pub fn take_payload(
        &mut self,
        take: impl FnOnce(&mut R, usize) -> std::io::Result<usize>,
    ) -> Result<Option<usize>, Error> {
        self.source.take_payload(take)
    }

    /// How many bytes of the stream were taken from the transport.
    pub const fn offset(&self) -> u64 {
        self.source.offset
    }

    /// The transport.
    pub const fn get_ref(&self) -> &R {
        &self.source.reader
    }

    /// The transport. Reading from it loses the position in the stream.
    pub const fn get_mut(&mut self) -> &mut R {
        &mut self.source.reader
    }

    /// The transport, at the position that [`offset`](Self::offset) says.
    #[must_use]
    pub fn into_inner(self) -> R {
        self.source.reader
    }
}

#[derive(Debug)]
struct Source<R> {
    reader: R,
    limits: Limits,
    /// Bytes taken from `reader`.
    offset: u64,
    prologue: [u8; PROLOGUE_BYTES],
    prologue_filled: usize,
    prologue_checked: bool,
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    /// The frame whose payload is being read, where it starts, and how much of the payload is there.
    open: Option<(Header, u64, usize)>,
    /// Some of that went past this reader.
    is_taken: bool,
    /// Over the payload of the frame that is being skipped.
    skipped_crc: crc32fast::Hasher,
    failed: bool,
}

impl<R: Read> Source<R> {
    fn new(reader: R, limits: Limits) -> Self {
        Self {
            reader,
            limits,
            offset: 0,
            prologue: [0; PROLOGUE_BYTES],
            prologue_filled: 0,
            prologue_checked: false,
            header: [0; HEADER_BYTES],
            header_filled: 0,
            open: None,
            is_taken: false,
            skipped_crc: crc32fast::Hasher::new(),
            failed: false,
        }
    }

    fn read_frame<'b>(&mut self, buffer: &'b mut [u8]) -> Result<Option<Received<'b>>, Error> {
        if self.failed {
            return Err(Error::AfterError { offset: self.offset });
        }
        let fetched = self.fetch(buffer).inspect_err(|error| self.failed = is_final(error))?;
        let Some((header, offset)) = fetched else {
            return Ok(None);
        };
        let payload = buffer.get(..header.payload_size()).unwrap_or_default();
        let frame = match parse_control(&header, payload, &self.limits, offset) {
            Ok(Some(message)) => Frame::Control(message),
            Ok(None) => Frame::Data { device: header.device, sequence: header.sequence, payload },
            Err(error) => {
                self.failed = true;
                return Err(error.into());
            }
        };
        Ok(Some(Received { offset, frame }))
    }

    fn check_untaken(&self) -> Result<(), Error> {
        match self.open.filter(|_| self.is_taken) {
            Some((header, start, _)) => {
                Err(Located::new(start, Reason::Buffer { length: header.payload_length, buffer: 0 }).into())
            }
            None => Ok(()),
        }
    }

    fn take_payload(
        &mut self,
        take: impl FnOnce(&mut R, usize) -> std::io::Result<usize>,
    ) -> Result<Option<usize>, Error> {
        if self.failed {
            return Err(Error::AfterError { offset: self.offset });
        }
        let is_bare = |(header, ..): &(Header, u64, usize)| header.kind() == Some(Kind::Data) && header.is_unchecked();
        let Some((header, start, seen)) = self.open.filter(is_bare) else { return Ok(None) };
        let wanted = header.payload_size();
        let left = wanted.saturating_sub(seen);
        let taken = match take(&mut self.reader, left) {
            Ok(taken) if taken > left => Err(std::io::Error::other(OVERCLAIM)),
            other => other,
        };
        let read = |source| Error::Read { what: DATA_PAYLOAD, offset: self.offset, source };
        let is_repeatable = |error: &std::io::Error| error.kind() == ErrorKind::Interrupted;
        let may_repeat = taken.as_ref().is_err_and(is_repeatable);
        let count = taken.map_err(read).inspect_err(|error| self.failed = is_final(error) && !may_repeat)?;
        if count == 0 {
            self.failed = true;
            return Err(truncated(DATA_PAYLOAD, start, (seen, wanted)));
        }
        let seen = seen.saturating_add(count);
        (self.open, self.is_taken) = ((seen < wanted).then_some((header, start, seen)), seen < wanted);
        self.count(count);
        Ok(Some(count))
    }

    fn next_header(&mut self) -> Result<Option<Header>, Error> {
        if self.failed {
            return Err(Error::AfterError { offset: self.offset });
        }
        let known = self.fetch_known().inspect_err(|error| self.failed = is_final(error))?;
        Ok(known.map(|(header, _)| header))
    }

    /// The header of the next frame of a kind that this version knows; those before it are checked and skipped.
    fn fetch_known(&mut self) -> Result<Option<(Header, u64)>, Error> {
        self.fetch_prologue()?;
        while let Some((header, offset)) = self.fetch_header()? {
            if header.kind().is_some() {
                return Ok(Some((header, offset)));
            }
            self.skip(&header, offset)?;
        }
        Ok(None)
    }

    /// Reads a payload that nobody wants, piece by piece.
    fn skip(&mut self, header: &Header, offset: u64) -> Result<(), Error> {
        let what = "the payload of a skipped frame";
        let mut scratch = [0; 512];
        let mut seen = self.open.map_or(0, |(_, _, seen)| seen);
        while seen < header.payload_size() {
            let missing = header.payload_size().saturating_sub(seen);
            let piece = scratch.get_mut(..missing.min(512)).unwrap_or_default();
            let (count, _) = read_two(&mut self.reader, piece, &mut []).map_err(|source| Error::Read {
                what,
                offset: self.offset,
                source,
            })?;
            if count == 0 {
                return Err(truncated(what, offset, (seen, header.payload_size())));
            }
            self.skipped_crc.update(piece.get(..count).unwrap_or_default());
            seen = seen.saturating_add(count);
            self.open = Some((*header, offset, seen));
            self.count(count);
        }
        self.open = None;
        let crc = core::mem::take(&mut self.skipped_crc).finalize();
        compare_crc(header, crc).map_err(|reason| Located::new(offset, reason).into())
    }

    /// Fetches one known frame: its payload, verified, is in `buffer`.
    fn fetch(&mut self, buffer: &mut [u8]) -> Result<Option<(Header, u64)>, Error> {
        let Some((header, offset)) = self.fetch_known()? else {
            return Ok(None);
        };
        let length = header.payload_length;
        let available = buffer.len();
        let payload = buffer
            .get_mut(..header.payload_size())
            .ok_or_else(|| Located::new(offset, Reason::Buffer { length, buffer: available }))?;
        self.fetch_payload(payload, &header, offset)?;
        (self.open, self.is_taken) = (None, false);
        verify_payload(&header, payload, offset)?;
        Ok(Some((header, offset)))
    }

    fn fetch_prologue(&mut self) -> Result<(), Error> {
        while self.prologue_filled < PROLOGUE_BYTES {
            let missing = self.prologue.get_mut(self.prologue_filled..).unwrap_or_default();
            let have = (self.prologue_filled, PROLOGUE_BYTES);
            let header = self.header.as_mut_slice();
            let (first, second) = read_two(&mut self.reader, missing, header).map_err(|source| Error::Read {
                what: "the prologue",
                offset: self.offset,
                source,
            })?;
            if first == 0 {
                return Err(truncated("the prologue", 0, have));
            }
            self.prologue_filled = self.prologue_filled.saturating_add(first);
            self.header_filled = second;
            self.count(first.saturating_add(second));
        }
        if !self.prologue_checked {
            decode_prologue(&self.prologue)?;
            self.prologue_checked = true;
        }
        Ok(())
    }

    /// The header of the open frame, or the next one; `None` where the stream ends before it.
    fn fetch_header(&mut self) -> Result<Option<(Header, u64)>, Error> {
        if let Some((header, offset, _)) = self.open {
            return Ok(Some((header, offset)));
        }
        let start = self.offset.saturating_sub(u64::try_from(self.header_filled).unwrap_or(0));
        while self.header_filled < HEADER_BYTES {
            let missing = self.header.get_mut(self.header_filled..).unwrap_or_default();
            let (count, _) = read_two(&mut self.reader, missing, &mut []).map_err(|source| Error::Read {
                what: "a frame header",
                offset: self.offset,
                source,
            })?;
            match (count, self.header_filled) {
                (0, 0) => return Ok(None),
                (0, filled) => {
                    return Err(truncated("a frame header", start, (filled, HEADER_BYTES)));
                }
                (count, filled) => self.header_filled = filled.saturating_add(count),
            }
            self.count(count);
        }
        let header = Header::decode(&self.header, &self.limits, start)?;
        self.header_filled = 0;
        self.open = Some((header, start, 0));
        Ok(Some((header, start)))
    }

    /// Fills `payload`, and takes along what the transport already has of the next header.
    fn fetch_payload(&mut self, payload: &mut [u8], header: &Header, start: u64) -> Result<(), Error> {
        let what = if header.kind() == Some(Kind::Data) { DATA_PAYLOAD } else { "a control payload" };
        let mut filled = self.open.map_or(0, |(_, _, filled)| filled);
        while filled < payload.len() {
            let wanted = payload.len();
            let missing = payload.get_mut(filled..).unwrap_or_default();
            let (first, second) = read_two(&mut self.reader, missing, &mut self.header)
                .map_err(|source| Error::Read { what, offset: self.offset, source })?;
            if first == 0 {
                return Err(truncated(what, start, (filled, wanted)));
            }
            filled = filled.saturating_add(first);
            self.open = Some((*header, start, filled));
            self.header_filled = second;
            self.count(first.saturating_add(second));
        }
        Ok(())
    }

    fn count(&mut self, bytes: usize) {
        self.offset = self.offset.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}

/// One scatter read. Returns how many bytes went into each slice; zero in the first is the end of the stream.
fn read_two(reader: &mut impl Read, first: &mut [u8], second: &mut [u8]) -> Result<(usize, usize), std::io::Error> {
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

fn truncated(what: &'static str, offset: u64, (have, wanted): (usize, usize)) -> Error {
    let count = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    Located::new(offset, Reason::Truncated { what, wanted: count(wanted), have: count(have) }).into()
}

/// Whether the position in the stream is lost.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Read { source, .. } => !matches!(source.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        Error::Format(error) => !matches!(error.reason, Reason::Buffer { .. }),
        _ => true,
    }
}
