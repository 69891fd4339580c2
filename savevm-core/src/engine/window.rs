// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What has come for one device of a target, put in order, and who writes it to the device.
//!
//! Whoever receives the next chunk in order may write it itself: a chunk that goes from the socket to the device in one
//! thread is still in that core's cache and wakes nobody. A device that takes its time must not hold up the others of
//! the channel, so the chunks of a slow one are left to its own thread. One *writer* at a time has the device; the role
//! passes from hand to hand under this lock, and never while a chunk is being written.

use core::time::Duration;
use std::collections::VecDeque;

use super::buffer::Buffer;
use crate::digest::DigestSum;
use crate::sync::{Condvar, Mutex, lock, wait};

/// A device that takes longer than this for a chunk gets its chunks from its own thread. A wake-up costs about 20 µs,
/// less than a hundredth of this.
const QUICK: Duration = Duration::from_millis(2);

/// So many slow writes in a row make a slow device; fewer may be a busy machine.
pub(super) const SLOW_WRITES: u32 = 3;

/// The chunks of one device between the channels and the device.
#[derive(Debug)]
pub(crate) struct Window {
    state: Mutex<State>,
    changed: Condvar,
    /// How many frames beyond the last one written may be under way; at least 1.
    frames: u64,
}

#[derive(Debug)]
struct State {
    /// `slots[n]` is the chunk number `next + n`.
    slots: VecDeque<Option<Buffer>>,
    /// The first chunk that is not written yet.
    next: u64,
    /// The first that the source may not send yet.
    granted: u64,
    writer: Writer,
    /// Slow writes in a row, up to the last one.
    slow_writes: u32,
    end: Option<(u64, DigestSum)>,
    is_closed: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Writer {
    /// Nobody; the next chunk has not come.
    Nobody,
    /// The next chunk is there for the device's own thread.
    Wanted,
    /// Somebody has the next chunk in hand.
    Writing,
    /// Somebody has written it, and has not let go yet.
    Written,
}

/// What the device's own thread has to do next.
#[derive(Debug)]
pub(crate) enum Work {
    /// Write this; the thread is the writer now.
    Write(Buffer),
    /// Everything is written: this is what the source says there was.
    End(DigestSum),
    /// Stop.
    Closed,
}

impl Window {
    /// Room for `frames` chunks.
    pub(crate) fn new(frames: u64) -> Self {
        let frames = frames.max(1);
        let slots = (0..frames).map(|_| None).collect();
        let state = State {
            slots,
            next: 0,
            granted: 0,
            writer: Writer::Nobody,
            // Unknown: the first chunk is left to the device's thread.
            slow_writes: SLOW_WRITES,
            end: None,
            is_closed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), frames }
    }

    /// What the source may send at the beginning.
    pub(crate) fn first_grant(&self) -> u64 {
        lock(&self.state).granted = self.frames;
        self.frames
    }

    /// Where there is no credit, in a file: waits until there is room for a chunk. False if that will never be.
    pub(crate) fn wait_room(&self, sequence: u64) -> bool {
        let mut state = lock(&self.state);
        while !state.is_closed && sequence >= state.next.saturating_add(self.frames) {
            state = wait(&self.changed, state);
        }
        !state.is_closed
    }

    /// Keeps a chunk until it is its turn. If it is now, and the device is quick, the caller gets it back and is the
    /// writer.
    ///
    /// # Errors
    /// The chunk, where there is no place for it: outside the window, or there twice.
    pub(crate) fn put(&self, sequence: u64, buffer: Buffer) -> Result<Option<Buffer>, Buffer> {
        let mut state = lock(&self.state);
        let offset = sequence.checked_sub(state.next).and_then(|offset| usize::try_from(offset).ok());
        let is_next = offset == Some(0);
        let is_mine = is_next && state.writer == Writer::Nobody && state.slow_writes < SLOW_WRITES;
        let taken_out = is_next && state.writer == Writer::Writing;
        match offset.and_then(|offset| state.slots.get_mut(offset)) {
            Some(slot) if slot.is_none() && !taken_out => {
                if is_mine {
                    state.writer = Writer::Writing;
                    return Ok(Some(buffer));
                }
                *slot = Some(buffer);
            }
            _ => return Err(buffer),
        }
        if is_next {
            self.want(&mut state);
        }
        Ok(None)
    }

    /// The writer has written the chunk it had. Gives a credit worth sending, which must go out before the role passes
    /// on, or a later one could overtake it.
    pub(crate) fn written(&self, took: Duration) -> Option<u64> {
        let mut state = lock(&self.state);
        state.slow_writes = if took <= QUICK { 0 } else { state.slow_writes.saturating_add(1) };
        state.writer = Writer::Written;
        state.next = state.next.saturating_add(1);
        state.slots.rotate_left(1);
        let grant = state.next.saturating_add(self.frames);
        let is_enough = state.end.is_some_and(|(frames, _)| frames <= state.granted);
        let is_worth = grant.saturating_sub(state.granted).saturating_mul(2) >= self.frames;
        if is_worth && !is_enough {
            state.granted = grant;
            return Some(grant);
        }
        None
    }

    /// The writer lets go of the device.
    pub(crate) fn step_back(&self) {
        let mut state = lock(&self.state);
        state.writer = Writer::Nobody;
        if matches!(state.slots.front(), Some(Some(_))) {
            self.want(&mut state);
        } else {
            // Perhaps everything is written, or a file has room again.
            self.changed.notify_all();
        }
    }

    /// The source has sent all: so many frames, with this digest.
    pub(crate) fn end(&self, frames: u64, sum: DigestSum) {
        lock(&self.state).end = Some((frames, sum));
        self.changed.notify_all();
    }

    /// The device's own thread waits for something to do. After a chunk it has written itself it steps back first.
    pub(crate) fn next(&self) -> Work {
        let mut state = lock(&self.state);
        loop {
            if state.is_closed {
                return Work::Closed;
            }
            if state.writer == Writer::Wanted {
                if let Some(buffer) = state.slots.front_mut().and_then(Option::take) {
                    state.writer = Writer::Writing;
                    return Work::Write(buffer);
                }
            }
            match state.end {
                Some((frames, sum)) if state.writer == Writer::Nobody && state.next >= frames => {
                    return Work::End(sum);
                }
                _ => state = wait(&self.changed, state),
            }
        }
    }

    /// The next chunk is there: its device's thread shall write it, unless somebody is at the device.
    fn want(&self, state: &mut State) {
        if state.writer == Writer::Nobody {
            state.writer = Writer::Wanted;
            self.changed.notify_all();
        }
    }

    /// Nobody waits any more.
    pub(crate) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.changed.notify_all();
    }

    /// As after a quick write.
    #[cfg(all(loom, test))]
    pub(crate) fn assume_quick(&self) {
        lock(&self.state).slow_writes = 0;
    }
}
