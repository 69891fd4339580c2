// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The thread of one device of the source: it makes every call to the device, and sends what it reads.

use core::sync::atomic::Ordering;
use core::time::Duration;
use std::format;
use std::time::Instant;

use vfio_mig_fsm::State;

use super::set::Progress;
use crate::device::{self, Call, Device, DeviceError};
use crate::engine::board::Event;
use crate::engine::buffer::Buffer;
use crate::engine::spread::{Lap, Spread};
use crate::engine::task::{Done, Task};
use crate::engine::wire::Wire;
use crate::error::Cause;
use crate::hooks::Phase;
use crate::sched::Sizes;

/// A device that yields its state in small pieces is read again for as long, so that its frames are not as small.
const GATHERING: Duration = Duration::from_millis(1);

/// One device and what is known of it.
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
        match task {
            Task::Describe => self.describe(),
            Task::Transition(to) => self.transition(to),
            Task::Query => self.query(),
            Task::Read { bytes_max } => self.read(bytes_max),
        }
    }

    fn describe(&mut self) -> Result<Done, Cause> {
        let board = &self.wire.board;
        let state = board.in_device(|| self.device.state())?;
        // An estimate for the target's display; a driver without one does not stop a migration.
        let stop_copy_bytes = board.in_device(|| self.device.stop_copy_bytes()).unwrap_or(0);
        Ok(Done::Described { state, stop_copy_bytes })
    }

    fn transition(&mut self, to: State) -> Result<Done, Cause> {
        let Self { wire, device, progress, .. } = self;
        if progress.home.is_none() {
            progress.home = Some(wire.board.in_device(|| device.state())?);
        }
        wire.board.in_device(|| device.transition(to))?;
        progress.state = Some(to);
        if to == State::StopCopy {
            progress.precopy_bytes = progress.digest.sum().bytes;
        }
        Ok(Done::Moved)
    }

    /// PRECOPY_INFO only in states that answer it: elsewhere it is EINVAL.
    fn query(&mut self) -> Result<Done, Cause> {
        let Self { wire, device, progress, .. } = self;
        let stop_copy_bytes = wire.board.in_device(|| device.stop_copy_bytes()).unwrap_or(0);
        if !matches!(progress.state, Some(State::PreCopy | State::PreCopyP2p)) {
            return Ok(Done::Queried(Sizes::new(0, 0, stop_copy_bytes)));
        }
        let info = wire.board.in_device(|| device.precopy_info())?;
        let sizes = Sizes::new(info.initial_bytes, info.dirty_bytes, stop_copy_bytes);
        Ok(Done::Queried(if info.reinit == Some(true) { sizes.reinitialised() } else { sizes }))
    }

    /// Chunk by chunk, up to `bytes_max`.
    fn read(&mut self, bytes_max: u64) -> Result<Done, Cause> {
        let mut moved = 0_u64;
        self.sending = Duration::ZERO;
        while moved < bytes_max {
            let room = usize::try_from(bytes_max.saturating_sub(moved)).unwrap_or(usize::MAX);
            match self.send_chunk(room)? {
                Chunk::Sent(bytes) => moved = moved.saturating_add(bytes),
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
                    let Progress { digest, sequence, watched, .. } = &mut *self.progress;
                    watched.end().map_err(Cause::tap(self.device.name()))?;
                    return Ok(Done::Ended { sum: digest.sum(), frames: *sequence });
                }
            }
        }
        Ok(Done::Read { bytes: moved, sending: self.sending })
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
        if !passage.credit.wait(sequence) {
            return Err(Cause::Cancelled);
        }
        let waiting = asked.elapsed();
        let (Some(pool), false) = (wire.pool(), wire.board.is_stopped()) else { return Err(Cause::Cancelled) };
        let Some(mut buffer) = pool.take() else { return Err(Cause::Cancelled) };
        let then = self.fill(&mut buffer, pool.buffer_len().min(room))?;
        let length = buffer.filled().len();
        if length == 0 {
            pool.give(buffer);
        } else {
            self.progress.digest.update(buffer.filled());
            let total = self.progress.digest.sum().bytes;
            let limit = wire.limits.state_bytes_max;
            if total > limit {
                return Err(Cause::TooLarge { device: self.device.name().into(), limit });
            }
            let phase = if self.progress.state == Some(State::StopCopy) { Phase::StopCopy } else { Phase::PreCopy };
            let watched = self.progress.watched.data(phase, buffer.filled());
            watched.map_err(Cause::tap(self.device.name()))?;
            let send_began = Instant::now();
            wire.send_data(self.index, sequence, buffer, self.spread.is_spread())?;
            self.lap(length, waiting, send_began);
            self.progress.sequence = sequence.saturating_add(1);
            passage.bytes.store(total, Ordering::Relaxed);
        }
        let bytes = u64::try_from(length).unwrap_or(u64::MAX);
        Ok(match then {
            device::Read::Bytes(_) => Chunk::Sent(bytes),
            device::Read::Drained => Chunk::Drained(bytes),
            device::Read::End => {
                self.progress.has_ended = true;
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
        self.spread.lap(Lap { bytes: u64::try_from(length).unwrap_or(u64::MAX), whole, sending, waiting });
    }

    /// Reads until the buffer is full, or the device has nothing more, or takes its time. Gives what it said last.
    fn fill(&mut self, buffer: &mut Buffer, piece_len: usize) -> Result<device::Read, Cause> {
        let started = Instant::now();
        loop {
            let filled = buffer.filled().len();
            let room = buffer.rest(piece_len);
            let room_len = room.len();
            let read = self.wire.board.in_device(|| self.device.read(room))?;
            let device::Read::Bytes(length) = read else { return Ok(read) };
            if length == 0 || length > room_len || !buffer.set_filled(filled.saturating_add(length)) {
                let detail = format!("it claims {length} bytes in a buffer of {room_len}");
                return Err(DeviceError::contract(self.device.name(), Call::Read, detail).into());
            }
            if length == room_len || started.elapsed() >= GATHERING || self.wire.board.is_stopped() {
                return Ok(read);
            }
        }
    }
}
