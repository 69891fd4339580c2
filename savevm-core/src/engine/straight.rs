// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory on its way from a socket straight to its place, where nobody has to look at it.
//!
//! A frame of scattered pages takes fewer calls through a buffer, so only one that is mostly a single stretch goes this way. Which it is,
//! its first record says, which is read into the buffer that the rest goes to if it does not.

use core::time::Duration;
use std::format;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::time::Instant;

use stream_codec::frame::io::Error as FrameError;
use stream_codec::frame::{Header, PagesError, RECORD_BYTES, RecordHead, RecordHeads};

use super::pipe::{Pipe, is_unfit};
use super::receive::Receiver;
use super::wire::is_patience;
use crate::channel::Receiving;
use crate::error::Cause;
use crate::link::{self, Proof};
use crate::ram::Sink;

/// Less than this costs more in calls than in copies.
const STRETCH_BYTES_MIN: u32 = 64 << 10;

/// The way past the buffers, of one channel.
#[derive(Debug)]
pub(super) enum Way {
    Untried,
    Open(Pipe),
    /// There is none: not from this connection, or not to this memory.
    Closed,
}

impl Way {
    fn is_open(&mut self) -> bool {
        if matches!(self, Self::Untried) {
            *self = Pipe::new().map_or(Self::Closed, Self::Open);
        }
        matches!(self, Self::Open(_))
    }
}

impl<'r> Receiver<'r, '_, '_, '_> {
    /// Whether the frame whose header was read is memory, and in its place now. If it is not, what was read of it is where the rest goes.
    pub(super) fn straight(&mut self, header: &Header, space: &mut [u8]) -> Result<bool, Cause> {
        // Such a frame has no stretch; and if all of one were a head, there would be no rest.
        if header.payload_length < STRETCH_BYTES_MIN {
            return Ok(false);
        }
        let device = link::index(header.device);
        let Some(sink) = self.sink(device, header) else { return Ok(false) };
        let mut heads = RecordHeads::new(header.payload_size());
        let mut head = self.head(&mut heads, space)?;
        let is_stretch = !head.is_zeros && head.length >= STRETCH_BYTES_MIN.max(header.payload_length / 2);
        if !is_stretch || !self.way.is_open() || !self.deliver.begin(device, header.sequence, header.payload_length)? {
            return Ok(false);
        }
        let mut took = self.place(sink, &head, space)?;
        while heads.has_more().map_err(malformed)? {
            head = self.head(&mut heads, space)?;
            took = took.saturating_add(self.place(sink, &head, space)?);
        }
        if !self.wire.board.is_stopped() {
            self.deliver.end(device, header.sequence, header.payload_length, self.is_stopped, took)?;
        }
        Ok(true)
    }

    /// The memory that is to be filled, if nobody has to see what comes, and it is files.
    fn sink(&self, device: usize, header: &Header) -> Option<Sink<'r>> {
        let is_unseen = header.is_unchecked() && self.wire.proof(device) == Proof::Count;
        let is_way = !matches!(self.way, Way::Closed) && self.reader.get_ref().is_socket();
        let may = is_unseen && is_way && !self.wire.board.is_stopped();
        let deliver = self.deliver;
        deliver.memory(device).filter(|sink| may && sink.has_files())
    }

    fn head(&mut self, heads: &mut RecordHeads, space: &mut [u8]) -> Result<RecordHead, Cause> {
        heads.has_more().map_err(malformed)?;
        let mut head = [0; RECORD_BYTES];
        self.fetch(&mut head)?;
        space.iter_mut().zip(head).for_each(|(slot, byte)| *slot = byte);
        heads.next(&head).map_err(malformed)
    }

    /// Has the bytes of a record go where it says, and says how long memory took. Once this side has stopped, they go nowhere: what is
    /// behind them may say why the peer has.
    fn place(&mut self, sink: Sink<'_>, head: &RecordHead, space: &mut [u8]) -> Result<Duration, Cause> {
        let region = sink.region(head.region, head.offset, head.length.into())?;
        let board = &self.wire.board;
        if head.is_zeros && board.is_stopped() {
            return Ok(Duration::ZERO);
        }
        if head.is_zeros {
            return timed(|| board.in_device(|| sink.zero(region, head.offset, head.length.into())));
        }
        let file = sink.file(region).filter(|_| head.length >= STRETCH_BYTES_MIN);
        let (mut at, mut left) = (head.offset, usize::try_from(head.length).unwrap_or(usize::MAX));
        let mut took = Duration::ZERO;
        while left > 0 {
            let is_stopped = board.is_stopped();
            let file = file.filter(|_| !is_stopped);
            let spliced = file.map_or(Ok(None), |file| self.splice(sink, (region, at, left), file, space))?;
            let (count, longer) = match spliced {
                Some(spliced) => spliced,
                None => {
                    let count = left.min(space.len());
                    let bytes = space.get_mut(..count).unwrap_or_default();
                    self.fetch(bytes)?;
                    let write = || if is_stopped { Ok(()) } else { sink.bytes(region, at, bytes) };
                    (count, timed(|| board.in_device(write))?)
                }
            };
            left = left.saturating_sub(count);
            at = at.saturating_add(wide(count));
            took = took.saturating_add(longer);
        }
        Ok(took)
    }

    /// Some of the bytes that belong at this place, as they come: how many, and how long memory took for them. `None` if there is no way.
    fn splice(
        &mut self,
        sink: Sink<'_>,
        (region, at, left): (usize, u64, usize),
        file: BorrowedFd<'_>,
        space: &mut [u8],
    ) -> Result<Option<(usize, Duration)>, Cause> {
        let Way::Open(pipe) = core::mem::replace(&mut self.way, Way::Closed) else { return Ok(None) };
        let taken = self.take(|reader, unread| match reader.socket().transpose()? {
            Some(socket) => match pipe.take(socket, left.min(unread)) {
                Err(error) if is_unfit(&error) => Ok(None),
                taken => taken.map(Some),
            },
            None => Ok(None),
        })?;
        let Some(count) = taken else { return Ok(None) };
        let began = Instant::now();
        let done = self.empty(&pipe, sink, (region, at, count), file)?;
        if done == count {
            self.way = Way::Open(pipe);
        } else {
            // The memory takes no bytes this way, and the pipe has some.
            let place = (region, at.saturating_add(wide(done)), count.saturating_sub(done));
            self.drain(&pipe, sink, place, space)?;
        }
        Ok(Some((count, began.elapsed())))
    }

    /// From the pipe to the file: how much of it went, if it does not take more.
    fn empty(
        &self,
        pipe: &Pipe,
        sink: Sink<'_>,
        (region, at, count): (usize, u64, usize),
        file: BorrowedFd<'_>,
    ) -> Result<usize, Cause> {
        let mut done = 0_usize;
        while done < count {
            let (place, rest) = (at.saturating_add(wide(done)), count.saturating_sub(done));
            let put = match self.wire.board.in_device(|| pipe.put(file, place, rest)) {
                Err(error) if is_unfit(&error) => break,
                Ok(0) => Err(ErrorKind::WriteZero.into()),
                put => put,
            };
            done = done.saturating_add(put.map_err(|error| sink.failed(region, place, rest, &error))?);
        }
        Ok(done)
    }

    /// From the pipe to the memory as it is.
    fn drain(
        &self,
        pipe: &Pipe,
        sink: Sink<'_>,
        (region, at, count): (usize, u64, usize),
        space: &mut [u8],
    ) -> Result<(), Cause> {
        let mut done = 0_usize;
        while done < count {
            let (place, rest) = (at.saturating_add(wide(done)), count.saturating_sub(done));
            let bytes = space.get_mut(..rest.min(space.len())).unwrap_or_default();
            let read = match pipe.read(bytes) {
                Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
                read => read,
            };
            let read = read.map_err(|error| sink.failed(region, place, rest, &error))?;
            self.wire.board.in_device(|| sink.bytes(region, place, bytes.get(..read).unwrap_or_default()))?;
            done = done.saturating_add(read);
        }
        Ok(())
    }

    /// Reads the next bytes of the payload.
    fn fetch(&mut self, bytes: &mut [u8]) -> Result<(), Cause> {
        let mut done = 0_usize;
        while done < bytes.len() {
            let rest = bytes.get_mut(done..).unwrap_or_default();
            let read = self.take(|reader, _| reader.read(rest).map(Some))?;
            done = done.saturating_add(read.unwrap_or(0));
        }
        Ok(())
    }

    /// Takes some of the payload, as long as this side listens. `None` if `take` declines.
    fn take(
        &mut self,
        mut take: impl FnMut(&mut (dyn Receiving + Send + '_), usize) -> io::Result<Option<usize>>,
    ) -> Result<Option<usize>, Cause> {
        loop {
            let mut is_declined = false;
            let taken = self.reader.take_payload(|reader, left| {
                // An error after which the position stands.
                let decline = || io::Error::from(ErrorKind::WouldBlock);
                take(reader.as_mut(), left)?.ok_or_else(|| {
                    is_declined = true;
                    decline()
                })
            });
            match taken {
                Ok(None) => return Err(Cause::refused("no frame to take bytes from: a fault of this program")),
                Err(_) if is_declined => return Ok(None),
                Err(FrameError::Read { source, .. }) if source.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_patience(&error) && !self.wire.board.is_stopped() => {}
                other => return other.map_err(|error| self.at(error)),
            }
        }
    }
}

fn timed(call: impl FnOnce() -> Result<(), Cause>) -> Result<Duration, Cause> {
    let began = Instant::now();
    call().map(|()| began.elapsed())
}

fn wide(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn malformed(error: PagesError) -> Cause {
    Cause::refused(format!("{error}"))
}
