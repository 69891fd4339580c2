// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What has come for one device of a target, put in order, and who writes it to the device.
//!
//! Whoever receives the next chunk in order may write it itself: a chunk that goes from the socket to the device in one
//! thread is still in that core's cache and wakes nobody. A device that takes its time must not hold up the others of
//! the channel, so the chunks of a slow one are left to its own thread. One *writer* at a time has the device; the role
//! passes from hand to hand under this lock, and never while a chunk is being written.

use core::time::Duration;
use std::collections::VecDeque;
use std::time::Instant;

use super::buffer::Buffer;
use super::plan::Grant;
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait, wait_timeout};

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
    grant: Grant,
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
    /// The writer is the device's own thread.
    is_own: bool,
    /// A receiver waits for the writer to let go.
    is_awaited: bool,
    /// Slow writes in a row, up to the last one.
    slow_writes: u32,
    /// How many frames there are in all.
    end: Option<u64>,
    /// The generation of initial bytes to acknowledge, and how many frames have them.
    initial: Option<(u32, u64)>,
    /// Whoever reads a file waits for room.
    is_full: bool,
    is_closed: bool,
}

impl State {
    fn offset(&self, sequence: u64) -> Option<usize> {
        sequence.checked_sub(self.next).and_then(|offset| usize::try_from(offset).ok())
    }

    /// The device is quick, and its own thread has the chunk before this one.
    fn is_before(&self, sequence: u64) -> bool {
        let behind = match self.writer {
            Writer::Writing => Some(1),
            Writer::Written => Some(0),
            Writer::Nobody | Writer::Wanted => None,
        };
        self.is_own && self.slow_writes == 0 && behind.is_some() && self.offset(sequence) == behind
    }

    /// The generation that can be acknowledged now.
    fn take_initial(&mut self) -> Option<u32> {
        let (generation, _) = self.initial.filter(|(_, frames)| self.next >= *frames)?;
        self.initial = None;
        Some(generation)
    }
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

/// What the source is to be told of a chunk that was written.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct News {
    /// So many frames it may send in all.
    pub(crate) credit: Option<u64>,
    /// The initial bytes of this generation are in the device.
    pub(crate) initial: Option<u32>,
}

/// What the device's own thread has to do next.
#[derive(Debug)]
pub(crate) enum Work {
    /// Write this; the thread is the writer now.
    Write(Buffer),
    /// Everything that the source has announced is written.
    End,
    /// Stop.
    Closed,
}

impl Window {
    pub(crate) fn new(grant: Grant) -> Self {
        let grant = Grant { few: grant.few.max(1), most: grant.most.max(1) };
        let slots = (0..grant.most).map(|_| None).collect();
        let state = State {
            slots,
            next: 0,
            granted: 0,
            writer: Writer::Nobody,
            is_own: false,
            is_awaited: false,
            // Unknown: the first chunk is left to the device's thread.
            slow_writes: SLOW_WRITES,
            end: None,
            initial: None,
            is_full: false,
            is_closed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), grant }
    }

    /// What the source may send at the beginning.
    pub(crate) fn first_grant(&self) -> u64 {
        lock(&self.state).granted = self.grant.most;
        self.grant.most
    }

    /// Where there is no credit, in a file: waits until there is room for a chunk. False if that will never be.
    pub(crate) fn wait_room(&self, sequence: u64) -> bool {
        let mut state = lock(&self.state);
        while !state.is_closed && sequence >= state.next.saturating_add(self.grant.few) {
            state.is_full = true;
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
        let mut state = self.wait_turn(sequence);
        let offset = state.offset(sequence);
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

    /// Once its thread has begun, a device would stay with it for as long as chunks come faster than they are written. So while that thread
    /// has the chunk before this one in hand, and the device is quick, its receiver waits, for no longer than a quick write takes.
    fn wait_turn(&self, sequence: u64) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        let mut left = QUICK;
        while state.is_before(sequence) && !state.is_closed && !left.is_zero() {
            state.is_awaited = true;
            let since = Instant::now();
            state = wait_timeout(&self.changed, state, left);
            left = left.saturating_sub(since.elapsed());
        }
        state
    }

    /// The writer has written the chunk it had. Gives what is worth telling, which must go out before the role passes
    /// on, or something later could overtake it.
    pub(crate) fn written(&self, took: Duration) -> News {
        let mut state = lock(&self.state);
        state.slow_writes = if took <= QUICK { 0 } else { state.slow_writes.saturating_add(1) };
        state.writer = Writer::Written;
        state.next = state.next.saturating_add(1);
        state.slots.rotate_left(1);
        let grant = state.next.saturating_add(self.grant.most);
        let is_enough = state.end.is_some_and(|frames| frames <= state.granted);
        let is_worth = grant.saturating_sub(state.granted).saturating_mul(2) >= self.grant.few;
        let credit = (is_worth && !is_enough).then_some(grant);
        state.granted = credit.unwrap_or(state.granted);
        News { credit, initial: state.take_initial() }
    }

    /// The source has sent the initial bytes of a generation, which are in so many frames. Gives it back if the caller is to
    /// tell that they are written; else a writer will. A later generation takes the place of one that waits.
    #[must_use]
    pub(crate) fn initial(&self, generation: u32, frames: u64) -> Option<u32> {
        let mut state = lock(&self.state);
        state.initial = Some((generation, frames));
        // A writer that may have an earlier generation to tell has not done so yet: this one comes behind it.
        if state.writer == Writer::Written { None } else { state.take_initial() }
    }

    /// The writer lets go of the device. If it gets a generation instead, it has that to tell first, and tries again.
    #[must_use]
    pub(crate) fn step_back(&self) -> Option<u32> {
        let mut state = lock(&self.state);
        if let Some(generation) = state.take_initial() {
            return Some(generation);
        }
        (state.writer, state.is_own) = (Writer::Nobody, false);
        let is_awaited = core::mem::take(&mut state.is_awaited);
        if matches!(state.slots.front(), Some(Some(_))) {
            self.want(&mut state);
        } else if core::mem::take(&mut state.is_full)
            || is_awaited
            || state.end.is_some_and(|frames| state.next >= frames)
        {
            self.changed.notify_all();
        }
        None
    }

    /// The source has sent all: so many frames.
    pub(crate) fn end(&self, frames: u64) {
        lock(&self.state).end = Some(frames);
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
                    (state.writer, state.is_own) = (Writer::Writing, true);
                    return Work::Write(buffer);
                }
            }
            match state.end {
                Some(frames) if state.writer == Writer::Nobody && state.next >= frames => return Work::End,
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

#[cfg(test)]
#[cfg(not(loom))]
mod test {
    use std::vec::Vec;
    use std::{fs, thread};

    use super::super::buffer::Pool;
    use super::*;

    fn chunk() -> Buffer {
        Pool::new(1, 1).take().unwrap()
    }

    fn wrote(window: &Window, took: Duration) {
        let _ = window.written(took);
        while window.step_back().is_some() {}
    }

    /// A device that was found quick by its thread, which has the second chunk in hand now.
    fn with_its_thread() -> Window {
        let window = Window::new(Grant::only(8));
        for sequence in 0..2 {
            assert!(
                window.put(sequence, chunk()).unwrap().is_none(),
                "nobody knows how quick it is, or somebody is at it"
            );
            if sequence == 0 {
                assert!(matches!(window.next(), Work::Write(_)));
            }
        }
        wrote(&window, Duration::ZERO);
        assert!(matches!(window.next(), Work::Write(_)));
        window
    }

    #[test]
    fn a_receiver_takes_a_quick_device_over_from_its_thread() {
        let window = with_its_thread();
        thread::scope(|scope| {
            let receiver = scope.spawn(|| window.put(2, chunk()).unwrap().is_some());
            while !lock(&window.state).is_awaited && !receiver.is_finished() {
                thread::yield_now();
            }
            assert!(lock(&window.state).is_awaited, "it did not wait");
            wrote(&window, Duration::ZERO);
            // Where a machine is so busy that the wait ran out, the chunk is in its place.
            let is_there = || matches!(lock(&window.state).slots.front(), Some(Some(_)));
            assert!(receiver.join().unwrap() || is_there());
        });
    }

    #[test]
    fn it_waits_for_the_thread_no_longer_than_a_quick_write_takes() {
        let window = with_its_thread();
        let began = Instant::now();
        assert!(window.put(2, chunk()).unwrap().is_none(), "the thread never comes back");
        assert!(began.elapsed() >= QUICK);
        wrote(&window, QUICK * 2);
        assert!(matches!(window.next(), Work::Write(_)), "which is what it finds then");
        let state = lock(&window.state);
        assert!(state.slow_writes == 1 && !state.is_before(3), "a slow one is not waited for");
    }

    #[test]
    fn it_tells_of_a_few_however_many_it_has_room_for() {
        let window = Window::new(Grant { few: 8, most: 64 });
        assert_eq!(window.first_grant(), 64);
        let credits: Vec<_> = (0..8).map(|_| window.written(Duration::ZERO).credit).collect();
        assert_eq!(credits, [None, None, None, Some(68), None, None, None, Some(72)]);
    }

    #[test]
    fn of_a_file_only_a_few_are_read_ahead() {
        let window = Window::new(Grant { few: 2, most: 64 });
        assert!(window.wait_room(1));
        thread::scope(|scope| {
            let reader = scope.spawn(|| window.wait_room(2));
            while !lock(&window.state).is_full && !reader.is_finished() {
                thread::yield_now();
            }
            window.close();
            assert!(!reader.join().unwrap(), "there was room");
        });
    }

    #[test]
    fn what_receivers_write_does_not_wake_the_devices_thread() {
        const CHUNKS: u64 = 50;
        let sleeps = || -> u64 {
            let status = fs::read_to_string("/proc/thread-self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
            line.trim().parse().unwrap()
        };
        let window = Window::new(Grant::only(8));
        lock(&window.state).slow_writes = 0;
        let slept = thread::scope(|scope| {
            let own = scope.spawn(|| {
                let before = sleeps();
                assert!(matches!(window.next(), Work::End));
                sleeps() - before
            });
            for sequence in 0..CHUNKS {
                assert!(window.put(sequence, chunk()).unwrap().is_some());
                wrote(&window, Duration::ZERO);
                thread::sleep(Duration::from_millis(1));
            }
            window.end(CHUNKS);
            own.join().unwrap()
        });
        assert!(slept < CHUNKS / 2, "it slept {slept} times");
    }
}
