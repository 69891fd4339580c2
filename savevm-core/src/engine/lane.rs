// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sending side of one channel.
//!
//! Whoever has something to send does it at once if the channel is idle: a chunk then goes from the device to the socket
//! in one thread. Otherwise it queues, in order, and the channel's own thread sends it. The queue is as long as there are
//! buffers, and a few control frames.

use std::boxed::Box;
use std::collections::VecDeque;
use std::io::Write;
use std::string::String;

use stream_codec::frame::io::{Error as FrameError, FrameWriter};
use stream_codec::frame::{self, Abort, AbortCode, DeviceOpen, Message};

use super::buffer::{Buffer, Pool};
use crate::dirty::Region;
use crate::sync::{Condvar, Mutex, lock, wait};

/// What goes out on a channel.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Data { device: u32, sequence: u64, buffer: Buffer },
    Open { device: u32, name: String, identity: String, migration_flags: u64, stop_copy_bytes: u64 },
    Region { device: u32, region: Region },
    Abort { code: AbortCode, reason: String },
    Plain(Message<'static>),
}

impl Outgoing {
    /// The message of a control frame.
    pub(crate) fn message(&self) -> Option<Message<'_>> {
        match self {
            Self::Data { .. } => None,
            Self::Open { device, name, identity, migration_flags, stop_copy_bytes } => {
                Some(Message::DeviceOpen(DeviceOpen {
                    device: *device,
                    name,
                    identity,
                    migration_flags: *migration_flags,
                    stop_copy_bytes: *stop_copy_bytes,
                }))
            }
            Self::Region { device, region } => Some(Message::Region(frame::Region {
                device: *device,
                name: &region.name,
                bytes: region.bytes,
                page_bytes: region.page_bytes,
            })),
            Self::Abort { code, reason } => Some(Message::Abort(Abort { code: *code, device: None, reason })),
            Self::Plain(message) => Some(*message),
        }
    }
}

/// The queue and the writer of one channel.
pub(crate) struct Lane<'a> {
    state: Mutex<State>,
    changed: Condvar,
    writer: Mutex<FrameWriter<Box<dyn Write + Send + 'a>>>,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Outgoing>,
    is_busy: bool,
    end: End,
    frames: u64,
    bytes: u64,
}

impl State {
    fn count(&mut self, bytes: u64) {
        if bytes > 0 {
            self.frames = self.frames.saturating_add(1);
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// More may come.
    Open,
    /// What is queued goes out, nothing more is taken.
    Draining,
    /// Nothing goes out any more.
    Closed,
}

impl<'a> Lane<'a> {
    pub(crate) fn new(writer: FrameWriter<Box<dyn Write + Send + 'a>>) -> Self {
        let state = State { queue: VecDeque::with_capacity(16), is_busy: false, end: End::Open, frames: 0, bytes: 0 };
        Self { state: Mutex::new(state), changed: Condvar::new(), writer: Mutex::new(writer) }
    }

    /// The writer, for what is no frame: limits, and the position.
    pub(crate) fn with_writer<R>(&self, use_it: impl FnOnce(&mut FrameWriter<Box<dyn Write + Send + 'a>>) -> R) -> R {
        use_it(&mut lock(&self.writer))
    }

    /// Sends now if the channel is idle, and queues otherwise.
    ///
    /// # Errors
    /// What the writer says, for this frame only; a failure of a queued one comes to the channel's thread.
    pub(crate) fn send(&self, item: Outgoing, pool: Option<&Pool>) -> Result<(), FrameError> {
        let mut state = lock(&self.state);
        if state.end != End::Open {
            drop(state);
            recycle(item, pool);
            return Ok(());
        }
        if state.is_busy || !state.queue.is_empty() {
            state.queue.push_back(item);
            return Ok(());
        }
        state.is_busy = true;
        drop(state);
        let written = self.write(item, pool, true);
        let mut state = lock(&self.state);
        state.is_busy = false;
        let has_more = !state.queue.is_empty() || state.end != End::Open;
        state.count(written.as_ref().copied().unwrap_or(0));
        drop(state);
        if has_more {
            self.changed.notify_all();
        }
        written.map(drop)
    }

    /// Leaves it to the channel's thread: for a caller that must not wait for the peer, or has more to read.
    pub(crate) fn post(&self, item: Outgoing, pool: Option<&Pool>) {
        let mut state = lock(&self.state);
        if state.end == End::Open {
            state.queue.push_back(item);
            drop(state);
            self.changed.notify_all();
        } else {
            drop(state);
            recycle(item, pool);
        }
    }

    /// How much is waiting or going out: 0 for an idle channel.
    pub(crate) fn depth(&self) -> usize {
        let state = lock(&self.state);
        state.queue.len().saturating_add(usize::from(state.is_busy))
    }

    /// The channel's thread: sends what is queued until nothing more will come.
    ///
    /// # Errors
    /// What the writer says. Nothing goes out after it.
    pub(crate) fn run<'p>(&self, pool: impl Fn() -> Option<&'p Pool>) -> Result<(), FrameError> {
        loop {
            let mut state = lock(&self.state);
            while state.is_busy || (state.queue.is_empty() && state.end == End::Open) {
                state = wait(&self.changed, state);
            }
            let Some(item) = state.queue.pop_front() else { return Ok(()) };
            let is_last = state.queue.is_empty();
            state.is_busy = true;
            drop(state);
            let written = self.write(item, pool(), is_last);
            let mut state = lock(&self.state);
            state.is_busy = false;
            match written {
                Ok(bytes) => state.count(bytes),
                Err(error) => {
                    state.end = End::Closed;
                    state.queue.clear();
                    return Err(error);
                }
            }
        }
    }

    /// Nothing more comes; the channel's thread ends when the queue is out.
    pub(crate) fn drain(&self) {
        let mut state = lock(&self.state);
        if state.end == End::Open {
            state.end = End::Draining;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Says a last word instead of what is queued, and nothing after it.
    pub(crate) fn abandon(&self, last: Option<Outgoing>) {
        let mut state = lock(&self.state);
        state.queue.clear();
        if state.end != End::Closed {
            state.queue.extend(last);
            state.end = End::Draining;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Data frames and payload bytes that went out.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let state = lock(&self.state);
        (state.frames, state.bytes)
    }

    fn write(&self, item: Outgoing, pool: Option<&Pool>, flush: bool) -> Result<u64, FrameError> {
        let mut writer = lock(&self.writer);
        let bytes = match &item {
            Outgoing::Data { device, sequence, buffer } => {
                writer.write_data(*device, *sequence, buffer.filled())?;
                u64::try_from(buffer.filled().len()).unwrap_or(u64::MAX)
            }
            control => {
                if let Some(message) = control.message() {
                    writer.write_control(&message)?;
                }
                0
            }
        };
        if flush {
            writer.flush()?;
        }
        drop(writer);
        recycle(item, pool);
        Ok(bytes)
    }
}

fn recycle(item: Outgoing, pool: Option<&Pool>) {
    if let (Outgoing::Data { buffer, .. }, Some(pool)) = (item, pool) {
        pool.give(buffer);
    }
}
