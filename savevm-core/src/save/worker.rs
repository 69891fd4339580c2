// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread of one device of the source: it makes every call to the device, and sends what it reads.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::time::Instant;

use vfio_mig_fsm::State;

use super::read::{self, Then};
use super::set::Progress;
use crate::device::{Call, Device, DeviceError};
use crate::engine::board::Event;
use crate::engine::buffer::Pool;
use crate::engine::spread::{Lap, Spread};
use crate::engine::task::{Done, Task};
use crate::engine::wire::{Route, Wire};
use crate::error::Cause;
use crate::hooks::Phase;
use crate::trace::Activity;

/// One device, and what is known of it.
pub(super) struct Worker<'w, 'a, 'd, D> {
    pub(super) wire: &'w Wire<'a>,
    pub(super) index: usize,
    pub(super) device: &'d mut D,
    pub(super) progress: &'d mut Progress,
    pub(super) spread: Spread,
    /// When the chunk before was sent.
    pub(super) lap_began: Instant,
    /// Of the task under way, the time in sending.
    pub(super) sending: Duration,
}

/// What came of asking a device for a chunk.
enum Chunk {
    /// This many bytes went out, and there may be more.
    Sent(u64),
    /// Nothing for now, behind this many bytes.
    Drained(u64),
    /// Nothing will follow.
    End,
}

impl<D: Device> Worker<'_, '_, '_, D> {
    /// Does what it is asked until there is nothing more to do, or something has failed.
    pub(super) fn run(mut self) {
        while let Ok(passage) = self.wire.passage(self.index) {
            let Some(task) = passage.mailbox.take() else { return };
            match self.act(task) {
                Ok(done) => self.wire.board.report(Event::Done { device: self.index, done }),
                Err(cause) => return self.wire.board.fail(cause),
            }
        }
    }

    fn act(&mut self, task: Task) -> Result<Done, Cause> {
        self.lap_began = Instant::now();
        let trace = self.progress.trace.clone();
        match task {
            Task::Describe => trace.call(Activity::Describe, || self.describe()),
            Task::Transition(to) => trace.call(Activity::Transition(to), || self.transition(to)),
            Task::Query => trace.call(Activity::Query, || self.query()),
            Task::Read { bytes_max } => trace.call(Activity::Read { bytes_max }, || self.read(bytes_max)),
        }
    }

    fn describe(&mut self) -> Result<Done, Cause> {
        let Self { wire, device, .. } = self;
        let state = wire.board.in_device(|| device.state())?;
        // For the target's display: a driver without an estimate does not stop a migration.
        let stop_copy_bytes = wire.board.in_device(|| device.stop_copy_bytes()).unwrap_or(0);
        Ok(Done::Described { state, stop_copy_bytes })
    }

    fn transition(&mut self, to: State) -> Result<Done, Cause> {
        let Self { wire, device, progress, spread, .. } = self;
        if progress.home.is_none() {
            progress.home = Some(wire.board.in_device(|| device.state())?);
        }
        wire.board.in_device(|| device.transition(to))?;
        progress.state = Some(to);
        if to == State::StopCopy {
            spread.begin_anew(&wire.trials);
            progress.precopy_bytes = progress.digest.bytes();
        }
        Ok(Done::Moved)
    }

    fn query(&mut self) -> Result<Done, Cause> {
        let sizes = read::sizes(self.device, &self.wire.board, self.progress.state)?;
        self.progress.trace.sizes(&sizes);
        Ok(Done::Queried(sizes))
    }

    /// Chunk by chunk, up to `bytes_max`.
    fn read(&mut self, bytes_max: u64) -> Result<Done, Cause> {
        let mut moved = 0_u64;
        self.sending = Duration::ZERO;
        while moved < bytes_max {
            let room = usize::try_from(bytes_max.saturating_sub(moved)).unwrap_or(usize::MAX);
            match self.send_chunk(room)? {
                Chunk::Sent(bytes) => {
                    moved = moved.saturating_add(bytes);
                    let buffer_len = self.wire.pool().map_or(1, Pool::buffer_len);
                    let is_full = usize::try_from(bytes).is_ok_and(|bytes| bytes >= buffer_len.min(room));
                    // A device that takes its time: what its guest makes meanwhile would fill the task for as long as that takes, and
                    // nobody could ask it anything, or decide.
                    if !is_full && self.progress.state != Some(State::StopCopy) {
                        break;
                    }
                }
                Chunk::Drained(bytes) if bytes > 0 || moved > 0 => {
                    moved = moved.saturating_add(bytes);
                    break;
                }
                Chunk::Drained(_) if self.progress.state == Some(State::StopCopy) => {
                    let detail = "it says there is more to come, in STOP_COPY, where nothing can change";
                    let call = Call::SetState(State::StopCopy);
                    return Err(DeviceError::contract(self.device.name(), call, detail).into());
                }
                Chunk::Drained(_) => return Ok(Done::Drained),
                Chunk::End if moved > 0 => break,
                Chunk::End => {
                    let Progress { digest, sequence, watched, trace, .. } = &mut *self.progress;
                    watched.end().map_err(Cause::tap(self.device.name()))?;
                    trace.done("read to its end", digest.sum());
                    return Ok(Done::Ended { sum: digest.sum(), frames: *sequence });
                }
            }
        }
        let (sending, frames) = (self.sending, self.progress.sequence);
        Ok(Done::Read { bytes: moved, skipped_bytes: 0, sending, frames })
    }

    /// Moves one chunk. Room at the target comes first, then a buffer, then the device: nothing is held while something
    /// is waited for that others may need.
    fn send_chunk(&mut self, room: usize) -> Result<Chunk, Cause> {
        if self.progress.has_ended {
            return Ok(Chunk::End);
        }
        let wire = self.wire;
        let sequence = self.progress.sequence;
        let passage = wire.passage(self.index)?;
        let asked = Instant::now();
        if !passage.credit.wait_after(sequence, self.progress.digest.bytes(), self.spread.is_spread()) {
            return Err(Cause::Cancelled);
        }
        let waiting = asked.elapsed();
        let (Some(pool), false) = (wire.pool(), wire.board.is_stopped()) else { return Err(Cause::Cancelled) };
        let Some(mut buffer) = pool.take() else { return Err(Cause::Cancelled) };
        let then = read::fill(self.device, &wire.board, &mut buffer, pool.buffer_len().min(room))?;
        let length = buffer.filled().len();
        if length == 0 {
            pool.give(buffer);
        } else {
            self.progress.digest.update(buffer.filled());
            let total = self.progress.digest.bytes();
            let limit = wire.limits.state_bytes_max;
            if total > limit {
                return Err(Cause::TooLarge { device: self.device.name().into(), limit });
            }
            let phase = if self.progress.state == Some(State::StopCopy) { Phase::StopCopy } else { Phase::PreCopy };
            let watched = self.progress.watched.data(phase, buffer.filled());
            watched.map_err(Cause::tap(self.device.name()))?;
            let send_began = Instant::now();
            let route = if self.spread.is_spread() { Route::Spread } else { Route::Home };
            wire.send_data(self.index, sequence, buffer, route)?;
            self.lap(length, waiting, send_began);
            self.progress.sequence = sequence.saturating_add(1);
            passage.bytes.store(total, Ordering::Relaxed);
        }
        let bytes = u64::try_from(length).unwrap_or(u64::MAX);
        Ok(match then {
            Then::More => Chunk::Sent(bytes),
            Then::Drained => {
                self.spread.pause(&wire.trials);
                Chunk::Drained(bytes)
            }
            Then::End => {
                self.progress.has_ended = true;
                self.spread.pause(&wire.trials);
                if length == 0 { Chunk::End } else { Chunk::Sent(bytes) }
            }
        })
    }

    fn lap(&mut self, length: usize, waiting: Duration, send_began: Instant) {
        let now = Instant::now();
        self.sending = self.sending.saturating_add(now.saturating_duration_since(send_began));
        if self.wire.channel_count() < 2 {
            return;
        }
        let whole = now.saturating_duration_since(self.lap_began);
        let sending = now.saturating_duration_since(send_began);
        self.lap_began = now;
        let was_spread = self.spread.is_spread();
        let idle = if was_spread { 0 } else { self.wire.idle_beside(self.index) };
        let lap = Lap { bytes: u64::try_from(length).unwrap_or(u64::MAX), whole, sending, waiting, idle };
        self.spread.lap(lap, &self.wire.trials);
        if self.spread.is_spread() != was_spread {
            self.progress.trace.spreads(!was_spread);
        }
    }
}
