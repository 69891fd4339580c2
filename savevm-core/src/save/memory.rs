// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's memory at the source. Its thread does what the scheduler asks; reading and sending is done by as many threads as there
//! are channels, each with a frame of its own.
//!
//! A frame of memory says where its bytes go, and a page is in one frame at a time, so frames need no order. What must be in order is
//! their numbers, which are given out one by one together with the pages that go into them, and the digest, which is over frames by
//! their numbers.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::time::Instant;
use std::vec::Vec;

use stream_codec::frame::{PagesWriter, Role};
use vfio_mig_fsm::State;

use super::set::Progress;
use crate::digest::{Digest, DigestSum};
use crate::engine::board::Event;
use crate::engine::buffer::{Buffer, Pool};
use crate::engine::hands::Hands;
use crate::engine::task::{Done, Task};
use crate::engine::wire::{Passage, Route, Wire};
use crate::error::Cause;
use crate::ram::{self, Attempt, Batch, GuestMemory, Left};
use crate::sync::{Mutex, lock};
use crate::trace::Activity;

/// What is looked at for one frame at most, where all is zero and the frame does not fill.
const LOOK_BYTES_MAX: u64 = 32 << 20;

/// Guest memory, and what is known of it.
pub(super) struct Memory<'w, 'a, 'd> {
    wire: &'w Wire<'a>,
    index: usize,
    guest: &'a dyn GuestMemory,
    pub(super) hands: Hands,
    /// Held by who waits for room, and takes the next frame's number and pages.
    turn: Mutex<()>,
    /// Held for moments.
    lap: Mutex<Lap<'d, 'a>>,
}

/// What all hands share.
struct Lap<'d, 'a> {
    attempt: &'d mut Attempt<'a>,
    progress: &'d mut Progress,
    sums: Sums,
    /// Of the task under way, what may still be taken,
    left_bytes: u64,
    /// what was sent,
    sent_bytes: u64,
    /// and how long one hand was sending at most.
    sending: Duration,
    /// The frames that the target had written when nothing could be taken.
    written_frames: u64,
    has_failed: bool,
}

/// A frame to fill.
struct Blank {
    sequence: u64,
    buffer: Buffer,
    /// The most it may have.
    length_max: usize,
    batch: Batch,
}

impl<'w, 'a, 'd> Memory<'w, 'a, 'd> {
    pub(super) fn new(
        wire: &'w Wire<'a>,
        index: usize,
        attempt: &'d mut Attempt<'a>,
        progress: &'d mut Progress,
    ) -> Self {
        let guest = attempt.memory();
        let lap = Lap {
            attempt,
            progress,
            sums: Sums::default(),
            left_bytes: 0,
            sent_bytes: 0,
            sending: Duration::ZERO,
            written_frames: 0,
            has_failed: false,
        };
        Self { wire, index, guest, hands: Hands::default(), turn: Mutex::new(()), lap: Mutex::new(lap) }
    }

    /// Does what it is asked until there is nothing more to do, or something has failed.
    pub(super) fn run(&self) {
        let _closing = Closing(&self.hands);
        while let Ok(passage) = self.wire.passage(self.index) {
            let Some(task) = passage.mailbox.take() else { return };
            match self.act(task, passage) {
                Ok(done) => self.wire.board.report(Event::Done { device: self.index, done }),
                Err(cause) => return self.wire.board.fail(cause),
            }
        }
    }

    /// What a helper's thread does. Each has a channel that it prefers: who sends and who receives then often share a core, and what
    /// is in its cache.
    pub(super) fn help(&self, channel: u16) {
        self.hands.help(|| self.lend(channel));
    }

    fn act(&self, task: Task, passage: &Passage) -> Result<Done, Cause> {
        let trace = lock(&self.lap).progress.trace.clone();
        match task {
            Task::Describe => trace.call(Activity::Describe, || {
                Ok(Done::Described { state: State::Running, stop_copy_bytes: lock(&self.lap).attempt.bytes() })
            }),
            Task::Transition(to) => trace.call(Activity::Transition(to), || self.transition(to)),
            Task::Query => trace.call(Activity::Query, || {
                let Lap { attempt, progress, .. } = &mut *lock(&self.lap);
                attempt.acknowledged(passage.credit.written());
                let sizes = self.wire.board.in_device(|| attempt.query());
                progress.trace.sizes(&sizes);
                Ok(Done::Queried(sizes))
            }),
            Task::Read { bytes_max } => trace.call(Activity::Read { bytes_max }, || self.read(bytes_max, passage)),
        }
    }

    fn transition(&self, to: State) -> Result<Done, Cause> {
        let Lap { attempt, progress, .. } = &mut *lock(&self.lap);
        progress.home.get_or_insert(State::Running);
        self.wire.board.in_device(|| attempt.transition(to))?;
        progress.state = Some(to);
        if to == State::StopCopy {
            progress.precopy_bytes = progress.digest.bytes();
        }
        Ok(Done::Moved)
    }

    /// Frame by frame, up to `bytes_max`, with as many hands as there are frames to fill.
    fn read(&self, bytes_max: u64, passage: &Passage) -> Result<Done, Cause> {
        loop {
            let covered_bytes = {
                let mut lap = lock(&self.lap);
                (lap.left_bytes, lap.sent_bytes, lap.sending) = (bytes_max, 0, Duration::ZERO);
                lap.attempt.covered_bytes()
            };
            self.hands.together(self.others(bytes_max), || self.lend(0));
            let Lap { attempt, progress, sent_bytes, sending, written_frames, has_failed, .. } = &mut *lock(&self.lap);
            if *has_failed {
                // The board knows why.
                return Err(Cause::Cancelled);
            }
            if *sent_bytes > 0 {
                let covered_bytes = attempt.covered_bytes().saturating_sub(covered_bytes);
                let skipped_bytes = covered_bytes.saturating_sub(*sent_bytes);
                let (bytes, sending, frames) = (*sent_bytes, *sending, progress.sequence);
                return Ok(Done::Read { bytes, skipped_bytes, sending, frames });
            }
            match attempt.left() {
                Left::Drained => return Ok(Done::Drained),
                Left::End => {
                    progress.trace.done("read to its end", progress.digest.sum());
                    return Ok(Done::Ended { sum: progress.digest.sum(), frames: progress.sequence });
                }
                Left::OnItsWay if passage.credit.wait_written(*written_frames) => {}
                Left::OnItsWay => return Err(Cause::Cancelled),
            }
        }
    }

    /// How many more than this thread there is work for: each has a channel, and a frame to fill.
    fn others(&self, bytes_max: u64) -> usize {
        let frame_bytes = u64::try_from(self.wire.pool().map_or(1, Pool::buffer_len)).unwrap_or(u64::MAX).max(1);
        let bytes = lock(&self.lap).attempt.dirty_bytes().min(bytes_max);
        let frames = bytes.checked_div(frame_bytes).unwrap_or(0);
        let hands = frames.min(self.wire.channel_count().into());
        usize::try_from(hands.saturating_sub(1)).unwrap_or(0)
    }

    /// One hand's part of a task.
    fn lend(&self, channel: u16) {
        if let Err(cause) = self.move_frames(channel) {
            lock(&self.lap).has_failed = true;
            self.wire.board.fail(cause);
        }
    }

    fn move_frames(&self, channel: u16) -> Result<(), Cause> {
        let mut sending = Duration::ZERO;
        while let Some(blank) = self.take()? {
            sending = sending.saturating_add(self.move_frame(blank, channel)?);
        }
        let mut lap = lock(&self.lap);
        lap.sending = lap.sending.max(sending);
        Ok(())
    }

    /// Room at the target comes first, then a buffer, then pages: nothing is held while something is waited for that others may need.
    fn take(&self) -> Result<Option<Blank>, Cause> {
        let _turn = lock(&self.turn);
        let wire = self.wire;
        let (Some(pool), passage) = (wire.pool(), wire.passage(self.index)?) else { return Err(Cause::Cancelled) };
        let (sequence, left_bytes, is_first) = {
            let lap = lock(&self.lap);
            (lap.progress.sequence, lap.left_bytes, lap.sent_bytes == 0)
        };
        let length_max = usize::try_from(left_bytes).unwrap_or(usize::MAX).min(pool.buffer_len());
        // Memory is cut where the buffer ends: the rest of a grant would make for a short frame.
        if length_max == 0 || (length_max < pool.buffer_len() && !is_first) {
            return Ok(None);
        }
        if !passage.credit.wait(sequence) || wire.board.is_stopped() {
            return Err(Cause::Cancelled);
        }
        let Some(buffer) = pool.take() else { return Err(Cause::Cancelled) };
        let lap = &mut *lock(&self.lap);
        lap.written_frames = passage.credit.written();
        lap.attempt.acknowledged(lap.written_frames);
        let Some(batch) = lap.attempt.take(length_max)? else {
            pool.give(buffer);
            return Ok(None);
        };
        lap.progress.sequence = sequence.saturating_add(1);
        lap.left_bytes = left_bytes.saturating_sub(u64::try_from(length_max).unwrap_or(u64::MAX));
        Ok(Some(Blank { sequence, buffer, length_max, batch }))
    }

    /// Fills a frame and sends it. Says how long the sending took.
    fn move_frame(&self, blank: Blank, channel: u16) -> Result<Duration, Cause> {
        let Blank { sequence, mut buffer, length_max, batch } = blank;
        let wire = self.wire;
        wire.board.in_device(|| self.fill(&mut buffer, length_max, batch, sequence))?;
        let length = u64::try_from(buffer.filled().len()).unwrap_or(u64::MAX);
        let sum = wire.proof(self.index).sum(buffer.filled());
        {
            let Lap { progress, sums, left_bytes, sent_bytes, .. } = &mut *lock(&self.lap);
            sums.add(&mut progress.digest, sequence, sum);
            *sent_bytes = sent_bytes.saturating_add(length);
            *left_bytes =
                left_bytes.saturating_add(u64::try_from(length_max).unwrap_or(u64::MAX).saturating_sub(length));
            let (total, limit) = (progress.digest.bytes(), wire.limits.state_bytes_max);
            if total > limit {
                return Err(Cause::TooLarge { device: ram::NAME.into(), limit });
            }
            wire.passage(self.index)?.bytes.store(total, Ordering::Relaxed);
        }
        let send_began = Instant::now();
        wire.send_data(self.index, sequence, buffer, Route::Near(channel))?;
        if wire.role == Role::File {
            // What is read back from a file comes in its order, whole, or not at all.
            lock(&self.lap).attempt.acknowledged(sequence.saturating_add(1));
        }
        Ok(send_began.elapsed())
    }

    /// With this batch, and with others while there is room.
    fn fill(&self, buffer: &mut Buffer, length_max: usize, mut batch: Batch, sequence: u64) -> Result<(), Cause> {
        let mut writer = PagesWriter::new(buffer.rest(length_max));
        let mut looked_bytes = 0_u64;
        loop {
            looked_bytes = looked_bytes.saturating_add(batch.bytes());
            let covered_bytes = batch.put(self.guest, &mut writer)?;
            let lap = &mut *lock(&self.lap);
            let is_whole = lap.attempt.settle(sequence, batch, covered_bytes);
            if !is_whole || writer.room() < ram::BLOCK_LEN || looked_bytes >= LOOK_BYTES_MAX {
                break;
            }
            match lap.attempt.take(length_max)? {
                Some(next) => batch = next,
                None => break,
            }
        }
        let length = writer.filled_len();
        buffer.set_filled(length);
        Ok(())
    }
}

/// Whoever leads is gone, by a panic too: nobody waits for being called.
struct Closing<'h>(&'h Hands);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Sums of frames that come in any order, added to a digest in theirs.
#[derive(Debug, Default)]
struct Sums {
    next: u64,
    /// One for each hand at most.
    early: Vec<(u64, DigestSum)>,
}

impl Sums {
    fn add(&mut self, digest: &mut Digest, sequence: u64, sum: DigestSum) {
        self.early.push((sequence, sum));
        while let Some(at) = self.early.iter().position(|(sequence, _)| *sequence == self.next) {
            digest.append(self.early.swap_remove(at).1);
            self.next = self.next.saturating_add(1);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod test {
    use super::*;

    #[test]
    fn sums_in_any_order_make_the_sum_of_all_in_theirs() {
        let pieces = [&b"de"[..], b"vi", b"ce ", b"state"];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1]] {
            let (mut digest, mut sums) = (Digest::new(), Sums::default());
            for at in order {
                sums.add(&mut digest, at, DigestSum::of(pieces[at as usize]));
            }
            assert_eq!(digest.sum(), DigestSum::of(b"device state"), "{order:?}");
        }
    }
}
