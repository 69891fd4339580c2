// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The sending side of one channel.
//!
//! A chunk goes from the device to the socket in one thread, which waits for its turn where several devices share a
//! channel: handed over, it would leave that core's cache and wake somebody. What may not wait (control frames, and the
//! chunks of a device that uses every channel) queues, in order, and the channel's own thread sends it. The queue is as
//! long as there are buffers, and a few control frames.

use core::time::Duration;
use std::boxed::Box;
use std::collections::VecDeque;
use std::io::Write;
use std::string::String;
use std::time::Instant;

use stream_codec::frame::io::{Error as FrameError, FrameWriter};
use stream_codec::frame::{self, Abort, AbortCode, DeviceOpen, Message};

use super::buffer::{Buffer, Pool};
use crate::dirty::Region;
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait};

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
    /// For the channel's own thread.
    changed: Condvar,
    /// For those who wait for their turn.
    freed: Condvar,
    writer: Mutex<FrameWriter<Box<dyn Write + Send + 'a>>>,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Outgoing>,
    is_busy: bool,
    /// When what is going out began to.
    began: Option<Instant>,
    /// What the last chunk took.
    took: Duration,
    in_line: usize,
    end: End,
    frames: u64,
    bytes: u64,
}

impl State {
    fn new() -> Self {
        Self {
            queue: VecDeque::with_capacity(16),
            is_busy: false,
            began: None,
            took: Duration::ZERO,
            in_line: 0,
            end: End::Open,
            frames: 0,
            bytes: 0,
        }
    }

    fn load(&self) -> (usize, Option<Instant>) {
        let depth = self.queue.len().saturating_add(self.in_line).saturating_add(usize::from(self.is_busy));
        let began = self.began.filter(|_| self.is_busy);
        (depth, began.and_then(|began| began.checked_add(self.took)))
    }

    fn begin(&mut self) {
        self.is_busy = true;
        self.began = Some(Instant::now());
    }

    fn count(&mut self, bytes: u64) {
        if bytes > 0 {
            self.took = self.began.map_or(Duration::ZERO, |began| began.elapsed());
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
        let (changed, freed) = (Condvar::new(), Condvar::new());
        Self { state: Mutex::new(State::new()), changed, freed, writer: Mutex::new(writer) }
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
        state.begin();
        drop(state);
        self.send_now(item, pool)
    }

    /// Sends when it is this thread's turn: behind what is queued, and behind whoever is sending.
    ///
    /// # Errors
    /// As of [`Self::send`].
    pub(crate) fn send_in_turn(&self, item: Outgoing, pool: Option<&Pool>) -> Result<(), FrameError> {
        let mut state = lock(&self.state);
        state.in_line = state.in_line.saturating_add(1);
        while state.end == End::Open && (state.is_busy || !state.queue.is_empty()) {
            state = wait(&self.freed, state);
        }
        state.in_line = state.in_line.saturating_sub(1);
        if state.end != End::Open {
            drop(state);
            recycle(item, pool);
            return Ok(());
        }
        state.begin();
        drop(state);
        self.send_now(item, pool)
    }

    /// For who has made the channel busy.
    fn send_now(&self, item: Outgoing, pool: Option<&Pool>) -> Result<(), FrameError> {
        let written = self.write(item, pool, true);
        let mut state = lock(&self.state);
        if matches!(written, Err(FrameError::Write { .. } | FrameError::AfterError { .. })) {
            // Who comes next would report that the stream failed before, perhaps earlier than this thread reports why.
            self.close(state);
        } else {
            state.count(written.as_ref().copied().unwrap_or(0));
            self.free(state);
        }
        written.map(drop)
    }

    /// Nothing goes out any more.
    fn close(&self, mut state: MutexGuard<'_, State>) {
        state.is_busy = false;
        state.end = End::Closed;
        state.queue.clear();
        drop(state);
        self.notify_ended();
    }

    /// The channel is idle again: wakes who comes next.
    fn free(&self, mut state: MutexGuard<'_, State>) {
        state.is_busy = false;
        let (has_more, has_line) = (!state.queue.is_empty() || state.end != End::Open, state.in_line > 0);
        drop(state);
        if has_more {
            self.changed.notify_all();
        } else if has_line {
            self.freed.notify_one();
        }
    }

    /// Nobody waits for a turn that will not come.
    fn notify_ended(&self) {
        self.changed.notify_all();
        self.freed.notify_all();
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
        self.load().0
    }

    /// The same, and when what is going out will be gone, if that takes as long as the last chunk.
    pub(crate) fn load(&self) -> (usize, Option<Instant>) {
        lock(&self.state).load()
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
            state.begin();
            drop(state);
            let written = self.write(item, pool(), is_last);
            let mut state = lock(&self.state);
            match written {
                Ok(bytes) => {
                    state.count(bytes);
                    self.free(state);
                }
                Err(error) => {
                    self.close(state);
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
        self.notify_ended();
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
        self.notify_ended();
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

#[cfg(all(test, not(loom)))]
mod test {
    use std::io;
    use std::sync::Arc;
    use std::sync::mpsc::{self, Receiver};
    use std::thread;
    use std::vec::Vec;

    use stream_codec::frame::Limits;

    use super::*;

    /// Fails when it is told to.
    struct Full(Receiver<()>);

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_next_chunk_goes_where_there_will_be_room_first() {
        let now = Instant::now();
        let ms = Duration::from_millis;
        let busy = |began_ms, took_ms| {
            let mut state = State::new();
            state.begin();
            (state.began, state.took) = (Some(now + ms(began_ms)), ms(took_ms));
            state
        };
        let (idle, first, second, slow) = (State::new(), busy(0, 10), busy(5, 10), busy(0, 100));
        let mut queued = busy(0, 1);
        queued.queue.push_back(Outgoing::Plain(Message::Complete));
        let ascending = [&idle, &first, &second, &slow, &queued].map(State::load);
        assert!(ascending.is_sorted_by(|one, next| one < next), "{ascending:?}");
        let mut done = busy(0, 10);
        done.is_busy = false;
        assert_eq!(done.load(), idle.load(), "what has gone keeps nobody waiting");
    }

    #[test]
    fn only_who_met_with_the_failure_reports_it() {
        let (fails, full) = mpsc::channel();
        let lane =
            Arc::new(Lane::new(FrameWriter::new(Box::new(Full(full)) as Box<dyn Write + Send>, Limits::DEFAULT)));
        let complete = || Outgoing::Plain(Message::Complete);
        let senders: Vec<_> = (0..3)
            .map(|_| {
                let lane = Arc::clone(&lane);
                thread::spawn(move || lane.send_in_turn(complete(), None))
            })
            .collect();
        // One is writing, the others stand in line.
        while lane.depth() < 3 {
            thread::yield_now();
        }
        fails.send(()).unwrap();
        let outcomes: Vec<_> = senders.into_iter().map(|sender| sender.join().unwrap()).collect();
        let errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
        assert!(matches!(errors.as_slice(), [FrameError::Write { .. }]), "{errors:?}");
        assert!(lane.send(complete(), None).is_ok(), "nothing more is taken");
        assert!(lane.run(|| None).is_ok(), "and nothing is left to send");
    }
}
