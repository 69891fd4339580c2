// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What has come for the guest memory of a target, and who writes it.
//!
//! A chunk of memory says where its bytes go, and no two chunks under way have the same page: the source sends a page again
//! only when the chunk that had it before is acknowledged. So whoever receives a chunk writes it, beside others that write
//! theirs, in any order. What is counted is counted in order: a credit says that every chunk up to it is written, and the
//! digest is over the chunks by their numbers. Memory that takes its time is left to a thread of its own, as a device is
//! ([`window`](super::window)).

use core::time::Duration;
use std::collections::VecDeque;

use super::buffer::Buffer;
use super::window::SLOW_WRITES;
use crate::digest::DigestSum;
use crate::sync::{Condvar, Mutex, lock, wait};

/// Memory that takes longer than this for a chunk gets its chunks from its own thread: a chunk may stand for 32 MiB of zeros, which take
/// a few milliseconds to look at, and where a machine is busy a copy takes as long as its turn does.
const QUICK: Duration = Duration::from_millis(20);

/// The chunks of memory between the channels and their places.
#[derive(Debug)]
pub(crate) struct Scattered {
    state: Mutex<State>,
    changed: Condvar,
    /// Held while a credit is worked out and sent, or a later one could overtake it.
    granting: Mutex<()>,
    /// How many frames beyond the last one written may be under way; at least 1.
    frames: u64,
}

#[derive(Debug)]
struct State {
    /// `slots[n]` is the chunk number `next + n`.
    slots: VecDeque<Slot>,
    /// The first chunk that is not written yet.
    next: u64,
    /// The first that the source may not send yet.
    granted: u64,
    /// Slow writes in a row.
    slow_writes: u32,
    /// Of all chunks before `next`.
    received: Chunk,
    end: Option<(u64, DigestSum)>,
    is_closed: bool,
}

#[derive(Debug)]
enum Slot {
    Missing,
    /// For the memory's own thread.
    Waiting(Buffer),
    /// Somebody has it in hand.
    Writing,
    Written(Chunk),
}

/// What one chunk, or all up to one, came to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Chunk {
    pub(crate) sum: DigestSum,
    /// Of its bytes, those that were read while the guest ran.
    pub(crate) precopy_bytes: u64,
}

/// What the memory's own thread has to do next.
#[derive(Debug)]
pub(crate) enum Job {
    /// Write the chunk of this number.
    Write(u64, Buffer),
    /// Everything is written: what the source says there was, and what there was.
    End { sent: DigestSum, received: Chunk },
    /// Stop.
    Closed,
}

impl Scattered {
    /// Room for `frames` chunks.
    pub(crate) fn new(frames: u64) -> Self {
        let frames = frames.max(1);
        let state = State {
            slots: (0..frames).map(|_| Slot::Missing).collect(),
            next: 0,
            granted: 0,
            slow_writes: 0,
            received: Chunk::default(),
            end: None,
            is_closed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), granting: Mutex::new(()), frames }
    }

    /// What the source may send at the beginning.
    pub(crate) fn first_grant(&self) -> u64 {
        lock(&self.state).granted = self.frames;
        self.frames
    }

    /// Takes note of a chunk. The caller gets it back and writes it, unless memory is slow.
    ///
    /// # Errors
    /// The chunk, where there is no place for it: outside the window, or there twice.
    pub(crate) fn put(&self, sequence: u64, buffer: Buffer) -> Result<Option<Buffer>, Buffer> {
        let mut state = lock(&self.state);
        let is_quick = state.slow_writes < SLOW_WRITES;
        match state.slot(sequence) {
            Some(slot @ Slot::Missing) if is_quick => {
                *slot = Slot::Writing;
                Ok(Some(buffer))
            }
            Some(slot @ Slot::Missing) => {
                *slot = Slot::Waiting(buffer);
                drop(state);
                self.changed.notify_all();
                Ok(None)
            }
            _ => Err(buffer),
        }
    }

    /// A chunk is in its place.
    pub(crate) fn written(&self, sequence: u64, chunk: Chunk, took: Duration) {
        let mut state = lock(&self.state);
        state.slow_writes = if took <= QUICK { 0 } else { state.slow_writes.saturating_add(1) };
        if let Some(slot) = state.slot(sequence) {
            *slot = Slot::Written(chunk);
        }
        while let Some(Slot::Written(chunk)) = state.slots.front() {
            let chunk = *chunk;
            state.received.sum = state.received.sum.then(chunk.sum);
            state.received.precopy_bytes = state.received.precopy_bytes.saturating_add(chunk.precopy_bytes);
            state.next = state.next.saturating_add(1);
            state.slots.pop_front();
            state.slots.push_back(Slot::Missing);
        }
        if state.is_complete() {
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Sends a credit if there is one worth it: each chunk that is written up to is, for the source takes it for an
    /// acknowledgement. There is none behind the end.
    ///
    /// # Errors
    /// What `send` says.
    pub(crate) fn grant<E>(&self, send: impl FnOnce(u64) -> Result<(), E>) -> Result<(), E> {
        let _turn = lock(&self.granting);
        let mut state = lock(&self.state);
        let grant = state.next.saturating_add(self.frames);
        let is_enough = state.end.is_some_and(|(frames, _)| frames <= state.granted);
        if grant <= state.granted || is_enough {
            return Ok(());
        }
        state.granted = grant;
        drop(state);
        send(grant)
    }

    /// The source has sent all: so many frames, with this digest.
    pub(crate) fn end(&self, frames: u64, sum: DigestSum) {
        lock(&self.state).end = Some((frames, sum));
        self.changed.notify_all();
    }

    /// The memory's own thread waits for something to do.
    pub(crate) fn next(&self) -> Job {
        let mut state = lock(&self.state);
        loop {
            if state.is_closed {
                return Job::Closed;
            }
            if let Some((sequence, buffer)) = state.take_waiting() {
                return Job::Write(sequence, buffer);
            }
            match state.end {
                Some((_, sent)) if state.is_complete() => {
                    let received = state.received;
                    drop(state);
                    // The last credit is out, and no other follows.
                    drop(lock(&self.granting));
                    return Job::End { sent, received };
                }
                _ => state = wait(&self.changed, state),
            }
        }
    }

    /// Nobody waits any more.
    pub(crate) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.changed.notify_all();
    }

    /// As after slow writes.
    #[cfg(all(loom, test))]
    pub(crate) fn assume_slow(&self) {
        lock(&self.state).slow_writes = SLOW_WRITES;
    }
}

impl State {
    fn slot(&mut self, sequence: u64) -> Option<&mut Slot> {
        let offset = usize::try_from(sequence.checked_sub(self.next)?).ok()?;
        self.slots.get_mut(offset)
    }

    fn take_waiting(&mut self) -> Option<(u64, Buffer)> {
        let next = self.next;
        let waiting = self.slots.iter_mut().enumerate().find(|(_, slot)| matches!(slot, Slot::Waiting(_)));
        let (offset, slot) = waiting?;
        match core::mem::replace(slot, Slot::Writing) {
            Slot::Waiting(buffer) => Some((next.saturating_add(u64::try_from(offset).unwrap_or(u64::MAX)), buffer)),
            other => {
                *slot = other;
                None
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.end.is_some_and(|(frames, _)| self.next >= frames)
    }
}

#[cfg(all(test, not(loom)))]
mod test {
    use std::vec::Vec;

    use super::super::buffer::Pool;
    use super::*;
    use crate::digest::Digest;

    const QUICK_WRITE: Duration = Duration::ZERO;

    fn chunk(bytes: &[u8]) -> Chunk {
        let mut digest = Digest::new();
        digest.update(bytes);
        Chunk { sum: digest.sum(), precopy_bytes: 1 }
    }

    fn granted(memory: &Scattered) -> Option<u64> {
        let mut granted = None;
        let sent = memory.grant(|frames| {
            granted = Some(frames);
            Ok::<(), ()>(())
        });
        assert!(sent.is_ok());
        granted
    }

    #[test]
    fn what_is_written_in_any_order_is_counted_in_its_own() {
        let pool = Pool::new(1, 8);
        let memory = Scattered::new(3);
        assert_eq!(memory.first_grant(), 3);
        for sequence in [2, 0, 1] {
            assert!(memory.put(sequence, pool.take().unwrap()).unwrap().is_some(), "whoever brings it writes it");
        }
        memory.written(2, chunk(b"state"), QUICK_WRITE);
        memory.written(1, chunk(b"ice "), QUICK_WRITE);
        assert_eq!(granted(&memory), None, "the first is missing");
        memory.written(0, chunk(b"dev"), QUICK_WRITE);
        assert_eq!((granted(&memory), granted(&memory)), (Some(6), None));
        memory.end(3, DigestSum::new(3, 3));
        let Job::End { sent, received } = memory.next() else { panic!("all is written") };
        assert_eq!((sent, received.precopy_bytes), (DigestSum::new(3, 3), 3));
        assert_eq!(received.sum, chunk(b"device state").sum);
    }

    #[test]
    fn a_chunk_has_one_place() {
        let pool = Pool::new(1, 8);
        let memory = Scattered::new(2);
        let put = |sequence| memory.put(sequence, pool.take().unwrap()).is_ok();
        assert!(put(1) && !put(1), "in hand");
        assert!(!put(2), "beyond the window");
        memory.written(1, chunk(b"b"), QUICK_WRITE);
        assert!(!put(1), "written, and the one before it is not");
        assert!(put(0));
        memory.written(0, chunk(b"a"), QUICK_WRITE);
        assert!(!put(0) && !put(1) && put(3), "the window has moved on");
    }

    #[test]
    fn slow_memory_is_left_to_its_thread_until_it_is_quick_again() {
        let pool = Pool::new(1, 8);
        let memory = Scattered::new(8);
        for sequence in 0..u64::from(SLOW_WRITES) {
            assert!(memory.put(sequence, pool.take().unwrap()).unwrap().is_some());
            memory.written(sequence, chunk(b"a"), QUICK * 2);
        }
        let last = u64::from(SLOW_WRITES) + 1;
        for sequence in [last, last - 1] {
            assert!(memory.put(sequence, pool.take().unwrap()).unwrap().is_none());
        }
        let numbers = [(); 2].map(|()| match memory.next() {
            Job::Write(sequence, _) => sequence,
            other => panic!("{other:?}"),
        });
        assert_eq!(numbers, [last - 1, last]);
        memory.written(last, chunk(b"a"), QUICK_WRITE);
        assert!(memory.put(last + 1, pool.take().unwrap()).unwrap().is_some());
    }

    #[test]
    fn behind_the_end_there_is_no_credit() {
        let pool = Pool::new(1, 8);
        let memory = Scattered::new(2);
        memory.first_grant();
        memory.end(2, DigestSum::default());
        let buffers: Vec<_> = (0..2).map(|sequence| memory.put(sequence, pool.take().unwrap()).unwrap()).collect();
        assert_eq!(buffers.len(), 2);
        memory.written(0, chunk(b"a"), QUICK_WRITE);
        assert_eq!(granted(&memory), None);
        memory.close();
        assert!(matches!(memory.next(), Job::Closed));
    }
}
