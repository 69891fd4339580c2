// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Writing frames.

use alloc::vec::Vec;
use std::io::{ErrorKind, IoSlice, Write};

use super::super::encode::{data_header, encode_control, unchecked_data_header};
use super::super::error::Reason;
use super::super::kind::Kind;
use super::super::limits::Limits;
use super::super::message::Message;
use super::super::prologue::encode_prologue;
use super::Error;
use crate::decode::Located;

/// Writes frames to a blocking writer. The prologue goes out with the first of them.
///
/// A write that is interrupted or short is continued. Any other error of the transport is final, `WouldBlock` and
/// `TimedOut` included: part of a frame may be out. A frame that is refused before it is written changes nothing.
#[derive(Debug)]
pub struct FrameWriter<W> {
    writer: W,
    limits: Limits,
    offset: u64,
    /// The prologue before the first frame, then each control frame in turn.
    control: Vec<u8>,
    unchecked: bool,
    failed: bool,
}

impl<W: Write> FrameWriter<W> {
    /// A writer at the start of a stream. Writes nothing yet. `limits` are those of the peer as far as they are known:
    /// a frame beyond them is refused here instead of there.
    #[must_use]
    pub const fn new(writer: W, limits: Limits) -> Self {
        Self { writer, limits, offset: 0, control: Vec::new(), unchecked: false, failed: false }
    }

    /// Writes a control frame.
    ///
    /// # Errors
    /// [`Error::Format`] if the message cannot be a frame within the limits, [`Error::Write`] from the transport.
    pub fn write_control(&mut self, message: &Message<'_>) -> Result<(), Error> {
        self.check_usable()?;
        self.control.clear();
        self.begin_stream();
        let prologue_bytes = self.control.len();
        encode_control(message, &mut self.control).map_err(|reason| self.located(reason))?;
        let frame_bytes = self.control.len().saturating_sub(prologue_bytes);
        let length = u32::try_from(frame_bytes.saturating_sub(super::super::HEADER_BYTES)).unwrap_or(u32::MAX);
        self.check_length(message.kind(), length, self.limits.control_bytes)?;
        self.write_all(message.kind().name(), &[])
    }

    /// Writes a Data frame: header and payload in one gather write, the payload from where it is.
    ///
    /// # Errors
    /// [`Error::Format`] if the payload is empty or above the limit, [`Error::Write`] from the transport.
    pub fn write_data(&mut self, device: u32, sequence: u64, payload: &[u8]) -> Result<(), Error> {
        self.check_usable()?;
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.check_length(Kind::Data, length, self.limits.data_bytes)?;
        let encode = if self.unchecked { unchecked_data_header } else { data_header };
        let header = encode(device, sequence, payload).map_err(|reason| self.located(reason))?;
        self.control.clear();
        self.begin_stream();
        self.control.extend_from_slice(&header);
        self.write_all("a Data frame", payload)
    }

    /// Flushes the transport.
    ///
    /// # Errors
    /// [`Error::Write`] from the transport.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.check_usable()?;
        self.writer.flush().map_err(|source| self.write_error("buffered frames", source))
    }

    /// The limits that frames are held against.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Changes the limits, to the peer's [`data_bytes_max`](super::super::Hello::data_bytes_max) for one.
    pub const fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Whether Data goes out without a checksum of its own: only after both sides have agreed on
    /// [`Support::UNCHECKED`](super::super::Support::UNCHECKED).
    pub const fn set_unchecked(&mut self, unchecked: bool) {
        self.unchecked = unchecked;
    }

    /// How many bytes of the stream were given to the transport.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// The transport.
    pub const fn get_ref(&self) -> &W {
        &self.writer
    }

    /// The transport. Writing to it breaks the stream.
    pub const fn get_mut(&mut self) -> &mut W {
        &mut self.writer
    }

    /// The transport, without flushing it.
    pub fn into_inner(self) -> W {
        self.writer
    }

    fn check_usable(&self) -> Result<(), Error> {
        if self.failed { Err(Error::AfterError { offset: self.offset }) } else { Ok(()) }
    }

    fn check_length(&self, kind: Kind, length: u32, limit: u32) -> Result<(), Error> {
        if length > limit {
            return Err(self.located(Reason::PayloadLength { kind: kind.raw(), length, limit }).into());
        }
        Ok(())
    }

    fn located(&self, reason: Reason) -> Located<Reason> {
        Located::new(self.offset, reason)
    }

    fn begin_stream(&mut self) {
        if self.offset == 0 {
            self.control.extend_from_slice(&encode_prologue());
        }
    }

    /// Writes `self.control` and then `payload`, in as few calls as the transport allows.
    fn write_all(&mut self, what: &'static str, payload: &[u8]) -> Result<(), Error> {
        let front = self.control.len();
        let total = front.saturating_add(payload.len());
        let mut written = 0usize;
        while written < total {
            let head = self.control.get(written..).unwrap_or_default();
            let body = payload.get(written.saturating_sub(front)..).unwrap_or_default();
            match write_two(&mut self.writer, head, body) {
                Ok(count) => {
                    written = written.saturating_add(count);
                    self.offset = self.offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.write_error(what, error)),
            }
        }
        Ok(())
    }

    fn write_error(&mut self, what: &'static str, source: std::io::Error) -> Error {
        self.failed = true;
        Error::Write { what, offset: self.offset, source }
    }
}

fn write_two(writer: &mut impl Write, head: &[u8], body: &[u8]) -> Result<usize, std::io::Error> {
    let count = match (head.is_empty(), body.is_empty()) {
        (true, _) => writer.write(body)?,
        (false, true) => writer.write(head)?,
        (false, false) => writer.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?,
    };
    match count {
        0 => Err(ErrorKind::WriteZero.into()),
        count if count > head.len().saturating_add(body.len()) => {
            Err(std::io::Error::other("the writer claims more bytes than it was given"))
        }
        count => Ok(count),
    }
}
