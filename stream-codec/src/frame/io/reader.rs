// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reading frames, verified.

use alloc::vec;
use alloc::vec::Vec;
use std::io::{ErrorKind, Read};

use super::super::error::Reason;
use super::super::header::{HEADER_BYTES, Header};
use super::super::kind::Kind;
use super::super::limits::Limits;
use super::super::message::Message;
use super::super::parse::{compare_crc, parse_control, verify_payload};
use super::super::prologue::{PROLOGUE_BYTES, decode_prologue};
use super::Error;
use super::transport::Transport;
use crate::decode::Located;

const DATA_PAYLOAD: &str = "the payload of a Data frame";

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
/// reader may run up to 32 bytes (a header) ahead of the frame it hands out, and further where
/// [`next_header_with`](Self::next_header_with) is asked to. Frames that this version does not know
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
    /// [`take_payload`](Self::take_payload) has taken something, or [`next_header_with`](Self::next_header_with) has put something into
    /// another buffer, which is not final.
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
        self.source.next_header(&mut [])
    }

    /// The same for a caller that expects a Data frame: the read that brings the header brings as much of the payload as has come, into
    /// the beginning of `buffer`, up to its length. Where the next call finds the connection empty a thread sleeps and is woken again for
    /// each frame, which over a quick TCP connection costs a sixth of the speed.
    ///
    /// If it is a Data frame whose payload fits, the same buffer, as it is, is for [`read_frame_into`](Self::read_frame_into);
    /// [`read_frame`](Self::read_frame), whose buffer is another, refuses. Everything else that came is kept until it is read, in memory
    /// of this reader's own, of no more than `buffer.len()` bytes. With room for just the payload that is expected nothing is kept unless
    /// something else comes. Once the header is known, the buffer is not touched.
    ///
    /// ```
    /// use stream_codec::frame::io::{Frame, FrameReader, FrameWriter};
    /// use stream_codec::frame::{Kind, Limits};
    ///
    /// let mut stream = Vec::new();
    /// FrameWriter::new(&mut stream, Limits::DEFAULT).write_data(0, 0, b"state")?;
    ///
    /// let mut reader = FrameReader::unbuffered(&stream[..], Limits::DEFAULT);
    /// let mut buffer = [0; 5];
    /// let header = reader.next_header_with(&mut buffer)?.expect("one frame");
    /// assert_eq!((header.kind(), header.payload_length), (Some(Kind::Data), 5));
    /// let received = reader.read_frame_into(&mut buffer)?.expect("the same");
    /// assert!(matches!(received.frame, Frame::Data { payload: b"state", .. }));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`read_frame`](Self::read_frame).
    pub fn next_header_with(&mut self, buffer: &mut [u8]) -> Result<Option<Header>, Error> {
        self.source.next_header(buffer)
    }

    /// Has `take` take bytes of a Data frame's payload from the transport, past any buffer: as many of those that are left, which it is
    /// told, as it likes. Says how many it took; with the last one the frame is over. `None`, and nothing is taken, without a Data frame
    /// that [`next_header`](Self::next_header) has said, where its payload has a checksum, which only this reader could compare, and where
    /// some of it is not the transport's any more: in a buffer already, or kept by this reader.
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
    pub fn offset(&self) -> u64 {
        self.source.offset.saturating_add(u64::try_from(self.source.transport.early()).unwrap_or(u64::MAX))
    }

    /// The transport.
    pub const fn get_ref(&self) -> &R {
        &self.source.transport.reader
    }

    /// The transport. Reading from it loses the position in the stream.
    pub const fn get_mut(&mut self) -> &mut R {
        &mut self.source.transport.reader
    }

    /// The transport, at the position that [`offset`](Self::offset) says. What this reader has kept is lost
    /// ([`next_header_with`](Self::next_header_with)).
    #[must_use]
    pub fn into_inner(self) -> R {
        self.source.transport.reader
    }
}

#[derive(Debug)]
struct Source<R> {
    transport: Transport<R>,
    limits: Limits,
    /// Bytes of the stream before the next one of `transport`.
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
    /// Some of it is in a buffer of the caller's.
    is_elsewhere: bool,
    /// Over the payload of the frame that is being skipped.
    skipped_crc: crc32fast::Hasher,
    failed: bool,
}

impl<R: Read> Source<R> {
    fn new(reader: R, limits: Limits) -> Self {
        Self {
            transport: Transport::new(reader),
            limits,
            offset: 0,
            prologue: [0; PROLOGUE_BYTES],
            prologue_filled: 0,
            prologue_checked: false,
            header: [0; HEADER_BYTES],
            header_filled: 0,
            open: None,
            is_taken: false,
            is_elsewhere: false,
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
        match self.open.filter(|_| self.is_taken || self.is_elsewhere) {
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
        if self.transport.early() > 0 || (seen > 0 && !self.is_taken) {
            return Ok(None);
        }
        let wanted = header.payload_size();
        let taken = self.transport.take(wanted.saturating_sub(seen), take);
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

    fn next_header(&mut self, ahead: &mut [u8]) -> Result<Option<Header>, Error> {
        if self.failed {
            return Err(Error::AfterError { offset: self.offset });
        }
        let known = self.fetch_known(ahead).inspect_err(|error| self.failed = is_final(error))?;
        Ok(known.map(|(header, _)| header))
    }

    /// The header of the next frame of a kind that this version knows; those before it are checked and skipped.
    fn fetch_known(&mut self, ahead: &mut [u8]) -> Result<Option<(Header, u64)>, Error> {
        self.fetch_prologue()?;
        while let Some((header, offset)) = self.fetch_header(ahead)? {
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
            let (count, _) = self.transport.read_two(piece, &mut []).map_err(|source| Error::Read {
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
        let Some((header, offset)) = self.fetch_known(&mut [])? else {
            return Ok(None);
        };
        let length = header.payload_length;
        let available = buffer.len();
        let payload = buffer
            .get_mut(..header.payload_size())
            .ok_or_else(|| Located::new(offset, Reason::Buffer { length, buffer: available }))?;
        self.fetch_payload(payload, &header, offset)?;
        (self.open, self.is_taken, self.is_elsewhere) = (None, false, false);
        verify_payload(&header, payload, offset)?;
        Ok(Some((header, offset)))
    }

    fn fetch_prologue(&mut self) -> Result<(), Error> {
        while self.prologue_filled < PROLOGUE_BYTES {
            let missing = self.prologue.get_mut(self.prologue_filled..).unwrap_or_default();
            let have = (self.prologue_filled, PROLOGUE_BYTES);
            let header = self.header.as_mut_slice();
            let (first, second) = self.transport.read_two(missing, header).map_err(|source| Error::Read {
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

    /// The header of the open frame, or the next one and what comes with it; `None` where the stream ends before it.
    fn fetch_header(&mut self, ahead: &mut [u8]) -> Result<Option<(Header, u64)>, Error> {
        if let Some((header, offset, _)) = self.open {
            return Ok(Some((header, offset)));
        }
        let start = self.offset.saturating_sub(u64::try_from(self.header_filled).unwrap_or(0));
        // What was kept is read in its order: to take it along and give it back would be to copy it for each header.
        let ahead = if self.transport.early() > 0 { &mut [] } else { ahead };
        let mut came = 0;
        while self.header_filled < HEADER_BYTES {
            let missing = self.header.get_mut(self.header_filled..).unwrap_or_default();
            let (count, more) = self.transport.read_two(missing, ahead).map_err(|source| Error::Read {
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
            came = more;
        }
        let header = Header::decode(&self.header, &self.limits, start)?;
        self.header_filled = 0;
        let filled = self.settle(&header, ahead, came);
        self.open = Some((header, start, filled));
        Ok(Some((header, start)))
    }

    /// Of what came with a header, a Data frame's payload stays where it is. Says how much that is.
    fn settle(&mut self, header: &Header, ahead: &[u8], came: usize) -> usize {
        let stays = header.kind() == Some(Kind::Data) && header.payload_size() <= ahead.len();
        let filled = if stays { came.min(header.payload_size()) } else { 0 };
        self.transport.unread(ahead.get(filled..came).unwrap_or_default());
        self.count(filled);
        self.is_elsewhere = filled > 0;
        filled
    }

    /// Fills `payload`, and takes along what the transport already has of the next header.
    fn fetch_payload(&mut self, payload: &mut [u8], header: &Header, start: u64) -> Result<(), Error> {
        let what = if header.kind() == Some(Kind::Data) { DATA_PAYLOAD } else { "a control payload" };
        let mut filled = self.open.map_or(0, |(_, _, filled)| filled);
        while filled < payload.len() {
            let wanted = payload.len();
            let missing = payload.get_mut(filled..).unwrap_or_default();
            let (first, second) = self.transport.read_two(missing, &mut self.header).map_err(|source| Error::Read {
                what,
                offset: self.offset,
                source,
            })?;
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
