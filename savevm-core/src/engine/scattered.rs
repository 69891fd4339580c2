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
use std::time::Instant;

use super::buffer::Buffer;
use super::plan::Grant;
use super::window::SLOW_WRITES;
use crate::digest::DigestSum;
use crate::sync::{Condvar, Mutex, lock, wait, wait_timeout};

/// Memory that takes longer than this for a chunk gets its chunks from its own thread: a chunk may stand for 32 MiB of zeros, which take
/// a few milliseconds to look at, and where a machine is busy a copy takes as long as its turn does.
const QUICK: Duration = Duration::from_millis(20);

/// A credit wakes the source, and costs both sides a call. But the source can send a page again only when the chunk that had it before
/// is acknowledged. So one goes out for half of a few where the stream is fast, and after this time in any case.
const GRANT_EVERY: Duration = Duration::from_millis(2);

/// The chunks of memory between the channels and their places.
#[derive(Debug)]
pub(crate) struct Scattered {
    state: Mutex<State>,
    changed: Condvar,
    /// Held while a credit is worked out and sent, or a later one could overtake it.
    granting: Mutex<()>,
    /// How many frames beyond the last one written may be under way; at least 1.
    grant: Grant,
}

#[derive(Debug)]
struct State {
    /// `slots[n]` is the chunk number `next + n`.
    slots: VecDeque<Slot>,
    /// The first chunk that is not written yet.
    next: u64,
    /// The first that the source may not send yet.
    granted: u64,
    granted_at: Option<Instant>,
    /// The memory's own thread waits, and not for the time of a credit.
    is_asleep: bool,
    /// Slow writes in a row.
    slow_writes: u32,
    /// Of all chunks before `next`.
    received: Chunk,
    /// How many frames there are in all.
    end: Option<u64>,
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
    /// Make known what has room, little as it is.
    Grant,
    /// Everything is written: what there was.
    End(Chunk),
    /// Stop.
    Closed,
}

/// How much room a credit is worth sending for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Worth {
    Much,
    Any,
}

impl Scattered {
    pub(crate) fn new(grant: Grant) -> Self {
        let grant = Grant { few: grant.few.max(1), most: grant.most.max(1) };
        let state = State {
            slots: (0..grant.most).map(|_| Slot::Missing).collect(),
            next: 0,
            granted: 0,
            granted_at: None,
            is_asleep: false,
            slow_writes: 0,
            received: Chunk::default(),
            end: None,
            is_closed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), granting: Mutex::new(()), grant }
    }

    /// What the source may send at the beginning.
    pub(crate) fn first_grant(&self) -> u64 {
        lock(&self.state).granted = self.grant.most;
        self.grant.most
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

    /// The same of a chunk that is still coming, which the caller sees to, unless memory is slow.
    ///
    /// # Errors
    /// Where there is no place for it.
    pub(crate) fn claim(&self, sequence: u64) -> Result<bool, ()> {
        let mut state = lock(&self.state);
        let is_quick = state.slow_writes < SLOW_WRITES;
        match state.slot(sequence) {
            Some(slot @ Slot::Missing) => {
                if is_quick {
                    *slot = Slot::Writing;
                }
                Ok(is_quick)
            }
            _ => Err(()),
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

    /// Sends a credit if there is one worth it, or for all there is. There is none behind the end.
    ///
    /// # Errors
    /// What `send` says.
    pub(crate) fn grant<E>(
        &self,
        worth: Worth,
        now: Instant,
        send: impl FnOnce(u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let _turn = lock(&self.granting);
        let mut state = lock(&self.state);
        let more = state.ungranted(self.grant.most);
        if more == 0 {
            return Ok(());
        }
        let is_late = state.granted_at.is_none_or(|at| now.saturating_duration_since(at) >= GRANT_EVERY);
        if worth == Worth::Much && more < (self.grant.few / 2).max(1) && !is_late {
            let is_asleep = core::mem::take(&mut state.is_asleep);
            drop(state);
            if is_asleep {
                self.changed.notify_all();
            }
            return Ok(());
        }
        let grant = state.granted.saturating_add(more);
        (state.granted, state.granted_at) = (grant, Some(now));
        drop(state);
        send(grant)
    }

    /// The source has sent all: so many frames.
    pub(crate) fn end(&self, frames: u64) {
        lock(&self.state).end = Some(frames);
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
            if state.is_complete() {
                let received = state.received;
                drop(state);
                // The last credit is out, and no other follows.
                drop(lock(&self.granting));
                return Job::End(received);
            }
            let due_in = state.due_in();
            if !due_in.is_zero() {
                // Meanwhile receivers see to what is worth it, and need not wake anybody for less.
                state = wait_timeout(&self.changed, state, due_in);
            } else if state.ungranted(self.grant.most) > 0 {
                return Job::Grant;
            } else {
                state.is_asleep = true;
                state = wait(&self.changed, state);
                state.is_asleep = false;
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

    /// How many frames there is room for that the source does not know of, and may need to.
    fn ungranted(&self, frames: u64) -> u64 {
        let is_enough = self.granted == 0 || self.end.is_some_and(|frames| frames <= self.granted);
        if is_enough { 0 } else { self.next.saturating_add(frames).saturating_sub(self.granted) }
    }

    /// How long until there may be another credit, little as it is for. A model checker knows no time.
    fn due_in(&self) -> Duration {
        let since = self.granted_at.filter(|_| !cfg!(loom)).map(|at| at.elapsed());
        since.map_or(Duration::ZERO, |since| GRANT_EVERY.saturating_sub(since))
    }

    fn is_complete(&self) -> bool {
        self.end.is_some_and(|frames| self.next >= frames)
    }
}

#[cfg(all(test, not(loom)))]
mod test {
    use std::thread;
    use std::vec::Vec;

    use super::super::buffer::Pool;
    use super::*;

    const QUICK_WRITE: Duration = Duration::ZERO;

    fn chunk(bytes: &[u8]) -> Chunk {
        Chunk { sum: DigestSum::of(bytes), precopy_bytes: 1 }
    }

    fn granted(memory: &Scattered, worth: Worth, now: Instant) -> Option<u64> {
        let mut granted = None;
        let sent = memory.grant(worth, now, |frames| {
            granted = Some(frames);
            Ok::<(), ()>(())
        });
        assert!(sent.is_ok());
        granted
    }

    /// Writes one more chunk, read while the guest ran or not, and says what is granted for it.
    fn write(memory: &Scattered, sequence: u64, precopy_bytes: u64, now: Instant) -> Option<u64> {
        let buffer = Pool::new(1, 1).take();
        assert!(buffer.is_some_and(|buffer| matches!(memory.put(sequence, buffer), Ok(Some(_)))));
        memory.written(sequence, Chunk { precopy_bytes, ..chunk(b"a") }, QUICK_WRITE);
        granted(memory, Worth::Much, now)
    }

    #[test]
    fn what_is_written_in_any_order_is_counted_in_its_own() {
        let pool = Pool::new(1, 8);
        let memory = Scattered::new(Grant::only(3));
        assert_eq!(memory.first_grant(), 3);
        for sequence in [2, 0, 1] {
            assert!(memory.put(sequence, pool.take().unwrap()).unwrap().is_some(), "whoever brings it writes it");
        }
        memory.written(2, chunk(b"state"), QUICK_WRITE);
        memory.written(1, chunk(b"ice "), QUICK_WRITE);
        let now = Instant::now();
        assert_eq!(granted(&memory, Worth::Much, now), None, "the first is missing");
        memory.written(0, chunk(b"dev"), QUICK_WRITE);
        assert_eq!((granted(&memory, Worth::Much, now), granted(&memory, Worth::Much, now)), (Some(6), None));
        memory.end(3);
        let Job::End(received) = memory.next() else { panic!("all is written") };
        assert_eq!(received.precopy_bytes, 3);
        assert_eq!(received.sum, chunk(b"device state").sum);
    }

    #[test]
    fn a_chunk_has_one_place() {
        let pool = Pool::new(1, 8);
        let memory = Scattered::new(Grant::only(2));
        let put = |sequence| memory.put(sequence, pool.take().unwrap()).is_ok();
        assert!(put(1) && !put(1), "in hand");
        assert!(!put(2), "beyond the window");
        memory.written(1, chunk(b"b"), QUICK_WRITE);
        assert!(!put(1), "written, and the one before it is not");
        assert_eq!(memory.claim(0), Ok(true));
        assert_eq!([0, 1, 2].map(|sequence| memory.claim(sequence)), [Err(()); 3]);
        memory.written(0, chunk(b"a"), QUICK_WRITE);
        assert!(!put(0) && !put(1) && put(3), "the window has moved on");
    }

    #[test]
    fn slow_memory_is_left_to_its_thread_until_it_is_quick_again() {
        let pool = Pool::new(1, 8);
        let memory = Scattered::new(Grant::only(8));
        for sequence in 0..u64::from(SLOW_WRITES) {
            assert!(memory.put(sequence, pool.take().unwrap()).unwrap().is_some());
            memory.written(sequence, chunk(b"a"), QUICK * 2);
        }
        let last = u64::from(SLOW_WRITES) + 1;
        assert_eq!(memory.claim(last), Ok(false));
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
    fn a_fast_stream_gets_a_credit_for_half_of_a_few_and_a_slow_one_for_every_chunk() {
        let (memory, began) = (Scattered::new(Grant { few: 8, most: 64 }), Instant::now());
        memory.first_grant();
        assert_eq!(write(&memory, 0, 1, began), Some(65), "nobody knows yet how fast it is");
        let fast: Vec<_> = (1..=8).map(|sequence| write(&memory, sequence, 1, began)).collect();
        assert_eq!(fast, [None, None, None, Some(69), None, None, None, Some(73)]);
        for n in 1..=3 {
            assert_eq!(write(&memory, 8 + n, 1, began + GRANT_EVERY * n as u32), Some(73 + n));
        }
    }

    #[test]
    fn what_is_written_is_acknowledged_even_if_nothing_follows() {
        let (memory, now) = (Scattered::new(Grant::only(8)), Instant::now());
        memory.first_grant();
        assert_eq!(write(&memory, 0, 1, now), Some(9));
        thread::scope(|scope| {
            let own = scope.spawn(|| {
                let job = memory.next();
                (matches!(job, Job::Grant), granted(&memory, Worth::Any, now))
            });
            assert_eq!(write(&memory, 1, 1, now), None);
            assert_eq!(own.join().unwrap(), (true, Some(10)));
        });
        assert_eq!(granted(&memory, Worth::Any, now), None);
    }

    #[test]
    fn what_takes_no_credit_is_granted_none() {
        let memory = Scattered::new(Grant::only(8));
        assert_eq!(granted(&memory, Worth::Any, Instant::now()), None);
    }

    #[test]
    fn behind_the_end_there_is_no_credit() {
        let pool = Pool::new(1, 8);
        let memory = Scattered::new(Grant::only(2));
        memory.first_grant();
        memory.end(2);
        let buffers: Vec<_> = (0..2).map(|sequence| memory.put(sequence, pool.take().unwrap()).unwrap()).collect();
        assert_eq!(buffers.len(), 2);
        memory.written(0, chunk(b"a"), QUICK_WRITE);
        assert_eq!(granted(&memory, Worth::Any, Instant::now()), None);
        memory.close();
        assert!(matches!(memory.next(), Job::Closed));
    }
}
