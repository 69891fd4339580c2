// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a thread of the source asks of its device, besides to change its state.

use core::time::Duration;
use std::format;
use std::time::Instant;

use vfio_mig_fsm::State;

use crate::device::{self, Call, Device, DeviceError};
use crate::engine::board::Board;
use crate::engine::buffer::Buffer;
use crate::error::Cause;
use crate::sched::Sizes;

/// A device that yields its state in small pieces is read again for as long, so that its frames are not as small.
const GATHERING: Duration = Duration::from_millis(1);

/// What came of filling a buffer.
pub(super) enum Then {
    /// There may be more.
    More,
    /// Nothing for now.
    Drained,
    /// Nothing will follow.
    End,
}

/// PRECOPY_INFO only in states that answer it: elsewhere it is EINVAL.
pub(super) fn sizes<D: Device>(device: &mut D, board: &Board, state: Option<State>) -> Result<Sizes, Cause> {
    let stop_copy_bytes = board.in_device(|| device.stop_copy_bytes()).unwrap_or(0);
    if !matches!(state, Some(State::PreCopy | State::PreCopyP2p)) {
        return Ok(Sizes::new(0, 0, stop_copy_bytes));
    }
    let info = board.in_device(|| device.precopy_info())?;
    let sizes = Sizes::new(info.initial_bytes, info.dirty_bytes, stop_copy_bytes);
    Ok(if info.reinit == Some(true) { sizes.reinitialised() } else { sizes })
}

/// Reads until the buffer is full, or the device has nothing more, or takes its time. Gives what it said last.
pub(super) fn fill<D: Device>(
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
