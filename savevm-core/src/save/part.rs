// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a thread of the source reads: a device, or guest memory. The scheduler asks both for the same things.

use core::time::Duration;
use std::format;
use std::time::Instant;

use vfio_mig_fsm::State;

use crate::device::{self, Call, Device, DeviceError};
use crate::engine::board::Board;
use crate::engine::buffer::Buffer;
use crate::engine::wire::Route;
use crate::error::Cause;
use crate::ram::{self, Attempt, Filled};
use crate::sched::Sizes;

/// A device that yields its state in small pieces is read again for as long, so that its frames are not as small.
const GATHERING: Duration = Duration::from_millis(1);

pub(super) enum Part<'d, 'm, D> {
    Device(&'d mut D),
    Memory(&'d mut Attempt<'m>),
}

/// What came of filling a buffer.
pub(super) enum Then {
    /// There may be more.
    More,
    /// Nothing for now.
    Drained,
    /// Nothing will follow.
    End,
    /// What there is can be read when the target has written more of what was sent.
    Blocked,
}

impl<D: Device> Part<'_, '_, D> {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Device(device) => device.name(),
            Self::Memory(_) => ram::NAME,
        }
    }

    /// The least that is worth a frame, of buffers of `buffer_len`: memory is cut where the buffer ends, and a rest of a grant would make
    /// for a short frame.
    pub(super) const fn piece_len_min(&self, buffer_len: usize) -> usize {
        match self {
            Self::Device(_) => 1,
            Self::Memory(_) => buffer_len,
        }
    }

    /// Which channels its chunks take while one after the other is enough.
    pub(super) const fn route(&self) -> Route {
        match self {
            Self::Device(_) => Route::Home,
            Self::Memory(_) => Route::InTurn,
        }
    }

    /// The state it is found in, and an estimate of its size for the target's display.
    pub(super) fn describe(&mut self, board: &Board) -> Result<(State, u64), Cause> {
        match self {
            Self::Device(device) => {
                let state = board.in_device(|| device.state())?;
                // A driver without an estimate does not stop a migration.
                Ok((state, board.in_device(|| device.stop_copy_bytes()).unwrap_or(0)))
            }
            Self::Memory(memory) => Ok((State::Running, memory.bytes())),
        }
    }

    pub(super) fn state(&mut self, board: &Board) -> Result<State, Cause> {
        match self {
            Self::Device(device) => Ok(board.in_device(|| device.state())?),
            Self::Memory(_) => Ok(State::Running),
        }
    }

    pub(super) fn transition(&mut self, board: &Board, to: State) -> Result<(), Cause> {
        match self {
            Self::Device(device) => Ok(board.in_device(|| device.transition(to))?),
            Self::Memory(memory) => board.in_device(|| memory.transition(to)),
        }
    }

    /// PRECOPY_INFO only in states that answer it: elsewhere it is EINVAL.
    pub(super) fn query(&mut self, board: &Board, state: Option<State>) -> Result<Sizes, Cause> {
        let device = match self {
            Self::Device(device) => device,
            Self::Memory(memory) => return Ok(board.in_device(|| memory.query())),
        };
        let stop_copy_bytes = board.in_device(|| device.stop_copy_bytes()).unwrap_or(0);
        if !matches!(state, Some(State::PreCopy | State::PreCopyP2p)) {
            return Ok(Sizes::new(0, 0, stop_copy_bytes));
        }
        let info = board.in_device(|| device.precopy_info())?;
        let sizes = Sizes::new(info.initial_bytes, info.dirty_bytes, stop_copy_bytes);
        Ok(if info.reinit == Some(true) { sizes.reinitialised() } else { sizes })
    }

    /// The target has written this many frames.
    pub(super) fn acknowledged(&mut self, frames: u64) {
        if let Self::Memory(memory) = self {
            memory.acknowledged(frames);
        }
    }

    /// Fills the buffer for the frame of this number, up to `piece_len`.
    pub(super) fn fill(
        &mut self,
        board: &Board,
        buffer: &mut Buffer,
        piece_len: usize,
        sequence: u64,
    ) -> Result<Then, Cause> {
        match self {
            Self::Device(device) => fill_from_device(*device, board, buffer, piece_len),
            Self::Memory(memory) => match board.in_device(|| memory.fill(buffer.rest(piece_len), sequence))? {
                Filled::Bytes(length) => {
                    buffer.set_filled(length);
                    Ok(Then::More)
                }
                Filled::Drained => Ok(Then::Drained),
                Filled::End => Ok(Then::End),
                Filled::OnItsWay => Ok(Then::Blocked),
            },
        }
    }
}

/// Reads until the buffer is full, or the device has nothing more, or takes its time. Gives what it said last.
fn fill_from_device<D: Device>(
    device: &mut D,
    board: &Board,
    buffer: &mut Buffer,
    piece_len: usize,
) -> Result<Then, Cause> {
    let started = Instant::now();
    loop {
        let filled = buffer.filled().len();
        let room = buffer.rest(piece_len);
        let room_len = room.len();
        let length = match board.in_device(|| device.read(room))? {
            device::Read::Bytes(length) => length,
            device::Read::Drained => return Ok(Then::Drained),
            device::Read::End => return Ok(Then::End),
        };
        if length == 0 || length > room_len || !buffer.set_filled(filled.saturating_add(length)) {
            let detail = format!("it claims {length} bytes in a buffer of {room_len}");
            return Err(DeviceError::contract(device.name(), Call::Read, detail).into());
        }
        if length == room_len || started.elapsed() >= GATHERING || board.is_stopped() {
            return Ok(Then::More);
        }
    }
}
