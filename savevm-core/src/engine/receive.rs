// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread that reads one channel.

use core::time::Duration;
use std::vec;
use std::vec::Vec;

use stream_codec::frame::io::Frame;
use stream_codec::frame::{Header, Kind, Message, Role};

use super::board::Event;
use super::buffer::Buffer;
use super::early::Early;
use super::lane::Outgoing;
use super::straight::Way;
use super::wire::{Reader, Wire, at, is_patience};
use crate::error::Cause;
use crate::link::{self, Incoming, LinkError};
use crate::ram::Sink;

/// What a target does with its chunks.
pub(crate) trait Deliver: Sync {
    /// One has come, of the device with this number.
    fn chunk(&self, device: usize, sequence: u64, buffer: Buffer) -> Result<(), Cause>;

    /// The memory that the device stands for, if it does.
    fn memory(&self, device: usize) -> Option<Sink<'_>>;

    /// One of memory is coming, of this length, and the caller may see to it that it gets to its place. If not, it goes through a
    /// buffer.
    fn begin(&self, device: usize, sequence: u64, length: u32) -> Result<bool, Cause>;

    /// It is in its place, for which memory took so long.
    fn end(&self, device: usize, sequence: u64, length: u32, is_stopped: bool, took: Duration) -> Result<(), Cause>;
}

/// Of a side to which no data come.
pub(crate) struct NoData;

impl Deliver for NoData {
    fn chunk(&self, _: usize, _: u64, _: Buffer) -> Result<(), Cause> {
        Err(Cause::refused("a source takes no data"))
    }

    fn memory(&self, _: usize) -> Option<Sink<'_>> {
        None
    }

    fn begin(&self, _: usize, _: u64, _: u32) -> Result<bool, Cause> {
        Ok(false)
    }

    fn end(&self, _: usize, _: u64, _: u32, _: bool, _: Duration) -> Result<(), Cause> {
        Ok(())
    }
}

/// Reads the channel at `position` until nothing more comes, and reports the end in any case.
pub(crate) fn run(wire: &Wire<'_>, position: usize, reader: &mut Reader<'_>, deliver: &dyn Deliver) {
    let channel = u16::try_from(position).unwrap_or(u16::MAX);
    let mut receiver = Receiver::new(wire, (position, channel), reader, deliver);
    if let Err(cause) = receiver.run() {
        wire.board.fail(cause);
    }
    if let (Some(buffer), Some(pool)) = (receiver.early.take(), wire.pool()) {
        pool.give(buffer);
    }
    wire.board.count_threads(|receivers, _| *receivers = receivers.saturating_sub(1));
    wire.board.report(Event::ReceiverEnded);
}

/// Reads one control frame from the first channel. `None` if this side has stopped listening.
pub(crate) fn one(wire: &Wire<'_>, reader: &mut Reader<'_>) -> Result<Option<Incoming>, Cause> {
    let mut receiver = Receiver::new(wire, (0, 0), reader, &NoData);
    let Some(_) = receiver.header()? else { return Ok(None) };
    match receiver.message(true)? {
        Some(Incoming::Abort { reason }) => Err(Cause::Peer { reason }),
        incoming => Ok(incoming),
    }
}

pub(super) struct Receiver<'r, 'w, 'a, 'b> {
    pub(super) wire: &'w Wire<'a>,
    position: usize,
    channel: u16,
    pub(super) reader: &'r mut Reader<'b>,
    /// For control frames.
    scratch: Vec<u8>,
    /// The source has said on this channel that its guest is stopped.
    pub(super) is_stopped: bool,
    pub(super) way: Way,
    early: Early,
    pub(super) deliver: &'r dyn Deliver,
}

impl<'r, 'w, 'a, 'b> Receiver<'r, 'w, 'a, 'b> {
    fn new(
        wire: &'w Wire<'a>,
        (position, channel): (usize, u16),
        reader: &'r mut Reader<'b>,
        deliver: &'r dyn Deliver,
    ) -> Self {
        let control_bytes = link::frame_limits(&wire.limits, wire.role).control_bytes;
        let scratch = vec![0; usize::try_from(control_bytes).unwrap_or(usize::MAX)];
        Self {
            wire,
            position,
            channel,
            reader,
            scratch,
            is_stopped: false,
            way: Way::Untried,
            early: Early::default(),
            deliver,
        }
    }
}

impl Receiver<'_, '_, '_, '_> {
    fn run(&mut self) -> Result<(), Cause> {
        if self.wire.role == Role::Target && !self.greet()? {
            return Ok(());
        }
        while !self.wire.has_heard_all(self.channel) {
            let Some(header) = self.header()? else { return Ok(()) };
            self.wire.board.touch();
            let goes_on = if header.kind() == Some(Kind::Data) { self.data(&header)? } else { self.control()? };
            if !goes_on {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Target: which channel this is, is what the source says on it first.
    fn greet(&mut self) -> Result<bool, Cause> {
        let Some(_) = self.header()? else { return Ok(false) };
        match self.message(false)? {
            Some(Incoming::Hello(hello)) => {
                self.channel = hello.channel.index;
                self.wire.board.report(Event::Hello { position: self.position, hello });
                Ok(self.wire.gate.wait())
            }
            Some(Incoming::Abort { reason }) => Err(Cause::Peer { reason }),
            Some(other) => Err(other.out_of_place()),
            None => Ok(false),
        }
    }

    /// The next header; `None` if this side has stopped listening.
    fn header(&mut self) -> Result<Option<Header>, Cause> {
        let pool =
            if self.early.is_expecting() && self.reader.get_ref().is_socket() { self.wire.early() } else { None };
        loop {
            match self.reader.next_header_with(self.early.room(pool)) {
                Ok(Some(header)) => return Ok(Some(header)),
                Ok(None) => return Err(self.at(LinkError::Closed { offset: self.reader.offset() })),
                Err(error) if is_patience(&error) => {
                    if self.wire.board.is_stopped() {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(self.at(error)),
            }
        }
    }

    pub(super) fn at(&self, error: impl Into<LinkError>) -> Cause {
        at(self.channel, error)
    }

    /// A piece of state, received into the buffer that will be written.
    fn data(&mut self, header: &Header) -> Result<bool, Cause> {
        let (device, sequence) = (header.device, header.sequence);
        let judged = self.wire.session().received_data_on(self.channel, device, sequence, header.payload_length);
        judged.map_err(|error| self.at(error))?;
        let device = link::index(device);
        if self.wire.session().is_file() && !self.wire.passage(device)?.window.wait_room(sequence) {
            return Ok(false);
        }
        let Some(pool) = self.wire.pool() else { return Ok(false) };
        let Some(mut buffer) = self.early.take().or_else(|| pool.try_take()) else {
            if self.wire.board.is_stopped() {
                return Ok(false);
            }
            return Err(Cause::refused("no buffer is free for a frame inside its credit: a fault of this program"));
        };
        if self.straight(header, buffer.space())? {
            pool.give(buffer);
            return Ok(true);
        }
        loop {
            let wire = self.wire;
            match self.reader.read_frame_into(buffer.space()) {
                Ok(Some(_)) => break,
                Ok(None) => return Err(self.at(LinkError::Closed { offset: self.reader.offset() })),
                Err(error) if is_patience(&error) && !wire.board.is_stopped() => {}
                Err(error) => return Err(self.at(error)),
            }
        }
        self.early.saw(header.payload_size());
        buffer.set_filled(header.payload_size());
        buffer.is_stopped = self.is_stopped;
        if self.wire.board.is_stopped() {
            pool.give(buffer);
            return Ok(true);
        }
        self.deliver.chunk(device, sequence, buffer)?;
        Ok(true)
    }

    /// The control frame whose header was read; `None` if this side has stopped listening.
    fn message(&mut self, is_judged: bool) -> Result<Option<Incoming>, Cause> {
        loop {
            match self.reader.read_frame_into(&mut self.scratch) {
                Ok(Some(received)) => {
                    let Frame::Control(message) = received.frame else { return Ok(None) };
                    if is_judged {
                        let judged = self.wire.session().received_on(self.channel, &message);
                        judged.map_err(|error| at(self.channel, error))?;
                    }
                    return Incoming::from_message(&message, |device| self.wire.proof(device)).map(Some);
                }
                Ok(None) => return Err(at(self.channel, LinkError::Closed { offset: self.reader.offset() })),
                Err(error) if is_patience(&error) => {
                    if self.wire.board.is_stopped() {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(at(self.channel, error)),
            }
        }
    }

    /// A control frame, passed on to whom it concerns. False after the last one.
    fn control(&mut self) -> Result<bool, Cause> {
        let Some(incoming) = self.message(true)? else { return Ok(false) };
        let wire = self.wire;
        match incoming {
            Incoming::Abort { reason } => return Err(Cause::Peer { reason }),
            Incoming::Credit { index, frames } => wire.passage(index)?.credit.raise(frames),
            Incoming::InitialDone { index, generation, frames } => {
                if let Some(generation) = wire.passage(index)?.window.initial(generation, frames) {
                    let device = link::number(index);
                    wire.post(0, Outgoing::Plain(Message::InitialAck { device, generation }))?;
                }
            }
            Incoming::ChannelEnd => {
                if wire.role == Role::Target {
                    wire.post(self.channel, Outgoing::Plain(Message::ChannelEnd))?;
                }
                return Ok(false);
            }
            Incoming::End { index, frames, .. } => {
                // Reported first: who leads must know that the end has come before any device is done.
                wire.board.report(Event::Control(incoming));
                let passage = wire.passage(index)?;
                passage.window.end(frames);
                passage.scattered.end(frames);
            }
            Incoming::Switchover => {
                self.is_stopped = true;
                if self.channel == 0 {
                    wire.board.report(Event::Control(incoming));
                }
            }
            other => wire.board.report(Event::Control(other)),
        }
        Ok(true)
    }
}
