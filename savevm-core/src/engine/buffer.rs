// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Page-aligned buffers from one pool, as many as the bound on memory allows and no more.

use std::vec;
use std::vec::Vec;

use crate::sync::{Condvar, Mutex, lock, wait};

/// What the pages of the machine may be, at least for copying by pages.
const PAGE_BYTES: usize = 4096;

/// One payload: read from a device and sent, or received and written to a device.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// A page longer than the payload, so that a page boundary is in it: alignment without unsafe code.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
    filled: usize,
    /// Read at the source after its guest had stopped: it came behind the channel's Switchover.
    pub(crate) is_stopped: bool,
}

impl Buffer {
    fn new(len: usize) -> Self {
        let slack = if len < PAGE_BYTES { 0 } else { PAGE_BYTES };
        // Zeroed memory of this size comes from the system untouched: pages that are never used cost nothing.
        let bytes = vec![0; len.saturating_add(slack)];
        let start = bytes.as_ptr().align_offset(PAGE_BYTES);
        Self { start: if start <= slack { start } else { 0 }, bytes, len, filled: 0, is_stopped: false }
    }

    /// All of it, to be read into.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        let end = self.start.saturating_add(self.len);
        self.bytes.get_mut(self.start..end).unwrap_or_default()
    }

    /// What is behind the filled part, up to `len` bytes in all.
    pub(crate) fn rest(&mut self, len: usize) -> &mut [u8] {
        let filled = self.filled;
        self.space().get_mut(filled..len).unwrap_or_default()
    }

    /// What it holds.
    pub(crate) fn filled(&self) -> &[u8] {
        let end = self.start.saturating_add(self.filled);
        self.bytes.get(self.start..end).unwrap_or_default()
    }

    /// Says that this many bytes are filled; false where it has no such room.
    pub(crate) fn set_filled(&mut self, filled: usize) -> bool {
        let fits = filled <= self.len;
        if fits {
            self.filled = filled;
        }
        fits
    }
}

/// The buffers of one side. The one given back last is taken first: it is the one still in the cache.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    given: Condvar,
    buffer_len: usize,
    count_max: usize,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Buffer>,
    created: usize,
    in_use: usize,
    in_use_peak: usize,
    /// How many threads wait for one: without any, to call them would be a system call for each chunk, and for nothing.
    waiting: usize,
    is_closed: bool,
}

impl Pool {
    /// At most `count_max` buffers of `buffer_len` bytes, made when they are first needed.
    pub(crate) fn new(buffer_len: usize, count_max: usize) -> Self {
        let state = State { free: Vec::with_capacity(count_max), ..State::default() };
        Self { state: Mutex::new(state), given: Condvar::new(), buffer_len, count_max }
    }

    /// A buffer, as soon as there is one; `None` once the pool is closed.
    pub(crate) fn take(&self) -> Option<Buffer> {
        let mut state = lock(&self.state);
        loop {
            if state.is_closed {
                return None;
            }
            if let Some(buffer) = self.take_from(&mut state) {
                return Some(buffer);
            }
            state.waiting = state.waiting.saturating_add(1);
            state = wait(&self.given, state);
            state.waiting = state.waiting.saturating_sub(1);
        }
    }

    /// A buffer, if there is one now.
    pub(crate) fn try_take(&self) -> Option<Buffer> {
        self.take_from(&mut lock(&self.state))
    }

    fn take_from(&self, state: &mut State) -> Option<Buffer> {
        let buffer = match state.free.pop() {
            Some(buffer) => buffer,
            None if state.created < self.count_max => {
                state.created = state.created.saturating_add(1);
                Buffer::new(self.buffer_len)
            }
            None => return None,
        };
        state.in_use = state.in_use.saturating_add(1);
        state.in_use_peak = state.in_use_peak.max(state.in_use);
        Some(buffer)
    }

    /// Gives a buffer back.
    pub(crate) fn give(&self, mut buffer: Buffer) {
        (buffer.filled, buffer.is_stopped) = (0, false);
        let mut state = lock(&self.state);
        state.free.push(buffer);
        state.in_use = state.in_use.saturating_sub(1);
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.given.notify_one();
        }
    }

    /// Nobody waits any more.
    pub(crate) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.given.notify_all();
    }

    /// How many buffers there may be.
    pub(crate) const fn count_max(&self) -> usize {
        self.count_max
    }

    /// The size of each, in bytes.
    pub(crate) const fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    /// The most that were in use at once, and how many were ever made.
    pub(crate) fn peak_and_created(&self) -> (usize, usize) {
        let state = lock(&self.state);
        (state.in_use_peak, state.created)
    }
}

#[cfg(all(test, not(loom)))]
mod test {
    use super::*;

    #[test]
    fn buffers_begin_at_a_page_and_are_used_again() {
        let pool = Pool::new(3 * PAGE_BYTES, 2);
        let mut first = pool.take().unwrap();
        let address = first.space().as_ptr().addr();
        assert_eq!((address % PAGE_BYTES, first.space().len()), (0, 3 * PAGE_BYTES));
        assert!(first.set_filled(5) && !first.set_filled(3 * PAGE_BYTES + 1));
        assert_eq!((first.filled().len(), first.rest(8).len()), (5, 3));
        let second = pool.take().unwrap();
        assert!(pool.try_take().is_none(), "two is the bound");
        pool.give(second);
        pool.give(first);
        let mut again = pool.take().unwrap();
        assert_eq!((again.space().as_ptr().addr(), again.filled().len()), (address, 0), "the last one given, empty");
        assert_eq!(pool.peak_and_created(), (2, 2));
    }

    #[test]
    fn small_buffers_cost_no_page() {
        assert_eq!(Buffer::new(7).bytes.len(), 7);
        assert_eq!(Buffer::new(7).space().len(), 7);
    }
}
