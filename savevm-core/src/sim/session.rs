// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Data sessions: what the kernel hands out as a migration data fd.

use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crc_fast::{CrcAlgorithm, Digest};

use super::driver::{Core, Shared, SleepIf as _};
use super::fault::Call;
use super::{Errno, Failure, PrecopySizes, SimEvent};

/// Which way the bytes of a session go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_enums)] // There is no third way.
pub enum Direction {
    /// Read-only: the saving fd.
    Saving,
    /// Write-only: the resuming fd.
    Resuming,
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes read or written.
    pub bytes: u64,
    /// CRC-64/NVME over them.
    pub digest: u64,
}

/// What GET_PRECOPY_INFO answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct PrecopyInfo {
    /// Must-have bytes not read yet.
    pub initial_bytes: u64,
    /// Incremental bytes not read yet.
    pub dirty_bytes: u64,
    /// The flags (bit 0: REINIT) after the version 2 opt-in; `None` without it: the driver then returns the
    /// caller's own flags.
    pub flags: Option<u32>,
}

/// A data session of a [`SimDevice`](super::SimDevice). Dropping it does not change the device: the driver holds
/// its own reference, as in the kernel.
#[derive(Clone)]
pub struct SimSession {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    id: u64,
    direction: Direction,
    /// The file's own lock: one read or write at a time. Holds the delay that is still to be slept.
    io: Mutex<Duration>,
}

/// The session that the device is attached to.
pub(super) struct Live {
    pub(super) id: u64,
    pub(super) direction: Direction,
    bytes: u64,
    digest: Digest,
}

/// Delays shorter than this are saved up: the operating system cannot sleep so briefly.
const DEBT: Duration = Duration::from_millis(1);

impl SimSession {
    pub(super) fn new(shared: Arc<Shared>, id: u64, direction: Direction) -> Self {
        Self { inner: Arc::new(Inner { shared, id, direction, io: Mutex::new(Duration::ZERO) }) }
    }

    /// Which way the bytes go.
    #[must_use]
    pub fn direction(&self) -> Direction {
        self.inner.direction
    }

    /// The number of the session within its device, from 1.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.inner.id
    }

    /// Whether the session is still attached to the device.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.inner.shared.core().alive(self.inner.id)
    }

    /// Bytes so far and their digest; `None` once the session is over.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        let core = self.inner.shared.core();
        core.live.as_ref().filter(|live| live.id == self.inner.id).map(Live::progress)
    }

    /// Whether the driver answers GET_PRECOPY_INFO at all: those without PRE_COPY do not.
    #[must_use]
    pub fn has_precopy_info(&self) -> bool {
        self.inner.direction == Direction::Saving && self.inner.shared.has_pre_copy()
    }

    /// The checks of [`read`](Self::read) that come before the buffer is looked at.
    ///
    /// # Errors
    /// `EBADF` on a resuming session; `ENODEV` when the session is over.
    pub fn check_read(&self) -> Result<(), Errno> {
        if self.inner.direction != Direction::Saving {
            return Err(Errno::EBADF);
        }
        self.inner.shared.core().alive_state(self.inner.id).map(|_| ())
    }

    /// Reads saved bytes; short reads are normal.
    ///
    /// # Errors
    /// `EBADF` on a resuming session; `ENODEV` when the session is over; `ENOMSG` when nothing is there for now
    /// and the driver says it that way; otherwise what the model or a fault answers.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let Inner { shared, id, direction, .. } = &*self.inner;
        if *direction != Direction::Saving {
            return Err(Errno::EBADF);
        }
        let mut debt = self.io();
        let faulted = shared.faulted(Call::Read, None, None)?;
        let limit = faulted.short.and_then(|short| usize::try_from(short).ok()).unwrap_or(buffer.len());
        let buffer = buffer.get_mut(..limit.min(buffer.len())).unwrap_or_default();
        self.wait_for_image();
        let now = shared.clock.now();
        let mut core = shared.core();
        let state = core.alive_state(*id)?;
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = core.model.read(state, now, buffer);
        let read = core.survive(read)?;
        if let Some(byte) = faulted.flip.and_then(|byte| buffer.get_mut(..read)?.get_mut(byte)) {
            *byte ^= 0x80;
        }
        core.count(buffer.get(..read).unwrap_or_default());
        drop(core);
        self.pay(&mut debt, shared.timing.read(read));
        Ok(read)
    }

    /// The checks of [`write`](Self::write) that come before the data is looked at.
    ///
    /// # Errors
    /// As `write`.
    pub fn check_write(&self, len: usize) -> Result<(), Errno> {
        if self.inner.direction != Direction::Resuming {
            return Err(Errno::EBADF);
        }
        let core = self.inner.shared.core();
        // A dead session has position zero again: what is too long even then is so first.
        core.model.check_write(u64::try_from(len).unwrap_or(u64::MAX))?;
        core.alive_state(self.inner.id).map(|_| ())
    }

    /// Writes saved bytes; returns how many were taken, usually all.
    ///
    /// # Errors
    /// `EBADF` on a saving session; `ENODEV` when the session is over; otherwise what the model or a fault
    /// answers. An error may have stored the bytes all the same.
    pub fn write(&self, data: &[u8]) -> Result<usize, Errno> {
        let Inner { shared, id, .. } = &*self.inner;
        self.check_write(data.len())?;
        let held = shared.facts.write_holds_state.then(|| shared.hold());
        let mut debt = self.io();
        let faulted = shared.faulted(Call::Write, None, held.as_ref())?;
        let limit = faulted.short.and_then(|short| usize::try_from(short).ok()).unwrap_or(data.len());
        let data = data.get(..limit).unwrap_or(data);
        self.pay(&mut debt, shared.timing.write(data.len()));
        let now = shared.clock.now();
        let mut core = shared.core();
        core.alive_state(*id)?;
        let written = core.model.write(data, now);
        if let Err(failure) = &written {
            let bytes = u64::try_from(data.len()).unwrap_or(u64::MAX);
            core.tell(&SimEvent::WriteRefused { id: *id, bytes, errno: failure.errno });
        }
        let written = core.survive(written)?;
        core.count(data.get(..written).unwrap_or(data));
        Ok(written)
    }

    /// A write that passed [`check_write`](Self::check_write), from memory that cannot be read: what it answers, which is
    /// `EFAULT` unless the session is over.
    #[must_use]
    pub fn write_unreadable(&self) -> Errno {
        let Inner { shared, id, .. } = &*self.inner;
        let mut core = shared.core();
        if !core.alive(*id) {
            return Errno::ENODEV;
        }
        let failure = core.model.write_unreadable();
        core.survive::<()>(Err(failure)).err().unwrap_or(failure.errno)
    }

    /// GET_PRECOPY_INFO, after the checks of the argument.
    ///
    /// # Errors
    /// `ENOTTY` on a resuming session or without PRE_COPY; `EINVAL` when the device is not in PRE_COPY or
    /// PRE_COPY_P2P; `ENODEV` when it is, but this session is over; otherwise what the model or a fault answers.
    pub fn precopy_info(&self) -> Result<PrecopyInfo, Errno> {
        let Inner { shared, id, direction, .. } = &*self.inner;
        if *direction != Direction::Saving || !shared.has_pre_copy() {
            return Err(Errno::ENOTTY);
        }
        let held = shared.hold();
        shared.wait_until_idle();
        shared.clock.sleep_if(shared.timing.query);
        let faulted = shared.faulted(Call::PrecopyInfo, None, Some(&held))?;
        let now = shared.clock.now();
        let mut core = shared.core();
        let state = core.state;
        if !state.is_saving() || state == vfio_mig_fsm::State::StopCopy {
            return Err(Errno::EINVAL);
        }
        core.alive_state(*id)?;
        let version2 = core.precopy_v2;
        let sizes = core.model.precopy_sizes(state, version2, now);
        let PrecopySizes { initial_bytes, dirty_bytes, reinit } = core.survive(sizes)?;
        let (initial_bytes, dirty_bytes) = faulted.answer.unwrap_or((initial_bytes, dirty_bytes));
        Ok(PrecopyInfo { initial_bytes, dirty_bytes, flags: version2.then_some(u32::from(reinit)) })
    }

    fn io(&self) -> MutexGuard<'_, Duration> {
        self.inner.io.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_image(&self) {
        let Inner { shared, id, .. } = &*self.inner;
        let until = shared.core().model.read_blocks_until();
        if let Some(until) = until {
            let left = until.saturating_sub(shared.clock.now());
            shared.wait(left, |core| !core.alive(*id));
        }
    }

    /// Sleeps off `delay` and what was saved up, without holding the device.
    fn pay(&self, debt: &mut Duration, delay: Duration) {
        let Inner { shared, id, .. } = &*self.inner;
        *debt = debt.saturating_add(delay);
        if *debt < DEBT {
            return;
        }
        let start = shared.clock.now();
        shared.wait(*debt, |core| !core.alive(*id));
        *debt = debt.saturating_sub(shared.clock.now().saturating_sub(start));
    }
}

impl core::fmt::Debug for SimSession {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SimSession").field("id", &self.inner.id).field("direction", &self.inner.direction).finish()
    }
}

impl Live {
    pub(super) fn new(id: u64, direction: Direction) -> Self {
        Self { id, direction, bytes: 0, digest: Digest::new(CrcAlgorithm::Crc64Nvme) }
    }

    pub(super) fn progress(&self) -> Progress {
        Progress { bytes: self.bytes, digest: self.digest.finalize() }
    }
}

impl Core {
    /// The device's state, if session `id` is attached.
    fn alive_state(&self, id: u64) -> Result<vfio_mig_fsm::State, Errno> {
        if self.alive(id) { Ok(self.state) } else { Err(Errno::ENODEV) }
    }

    fn survive<T>(&mut self, result: Result<T, Failure>) -> Result<T, Errno> {
        result.map_err(|failure| {
            if failure.session_dead {
                self.end_session();
            }
            failure.errno
        })
    }

    fn count(&mut self, bytes: &[u8]) {
        if let Some(live) = &mut self.live {
            live.bytes = live.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            live.digest.update(bytes);
        }
    }
}
