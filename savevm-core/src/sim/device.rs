// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The simulated driver: the rules that every VFIO migration driver obeys, around a [`Model`].

use std::boxed::Box;
use std::sync::{Arc, Mutex, TryLockError};
use std::vec::Vec;

use vfio_mig_fsm::{Capabilities, SessionEffect, State, next, session};

use super::driver::{Core, Held, Shared, SleepIf as _};
use super::fault::{Call, Place};
use super::{Clock, Direction, Errno, Facts, FaultPlan, Model, SimEvent, SimSession, Step, SystemClock, Timing};

/// A simulated device: the kernel's driver of one VFIO device, seen from the ioctl layer.
///
/// Clones are handles to the same device. Calls take and return what the kernel's ioctls do: raw state
/// numbers and [`Errno`]s.
///
/// ```
/// use savevm_core::sim::{Errno, SimConfig};
///
/// let device = SimConfig::parse("model=mtty ports=1")?.device()?;
/// device.open()?;
/// let session = device.set_state(6)?.ok_or("PRE_COPY opens a session")?;
/// let mut header = [0; 64];
/// assert_eq!(session.read(&mut header), Ok(24));
/// assert_eq!(device.set_state(8).err(), Some(Errno::EINVAL));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct SimDevice {
    pub(super) shared: Arc<Shared>,
}

/// Who is told of everything that happens to a device.
pub type Observer = Box<dyn FnMut(&SimEvent) + Send>;

impl SimDevice {
    /// A device of `model`, in RUNNING, with real time, no delays and no faults.
    #[must_use]
    pub fn new(model: Box<dyn Model>) -> Self {
        Self::with(model, Timing::default(), FaultPlan::new(), Arc::new(SystemClock::new()))
    }

    /// A device of `model` with delays, faults and a clock of the caller's.
    #[must_use]
    pub fn with(model: Box<dyn Model>, timing: Timing, faults: FaultPlan, clock: Arc<dyn Clock>) -> Self {
        let facts = model.facts();
        let core = Core {
            model,
            state: State::Running,
            live: None,
            faults,
            precopy_v2: false,
            opens: 0,
            sessions: 0,
            reset_pending: false,
            logging: false,
            observer: None,
        };
        let shared = Shared {
            capabilities: facts.migration_flags.and_then(Capabilities::from_flags),
            facts,
            clock,
            timing,
            state_lock: Mutex::new(()),
            gate: Mutex::new(()),
            core: Mutex::new(core),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The constant answers of the device.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.shared.facts
    }

    /// MIGRATION: the `VFIO_MIGRATION_*` flags; `None` when the device has no migration.
    #[must_use]
    pub fn migration_flags(&self) -> Option<u64> {
        self.shared.capabilities?;
        self.shared.facts.migration_flags
    }

    /// Replaces the fault plan; counts start anew.
    pub fn set_faults(&self, faults: FaultPlan) {
        self.shared.core().faults = faults;
    }

    /// Has `observer` told of everything that happens. It is called with the device locked and must not call back.
    pub fn observe(&self, observer: Observer) {
        self.shared.core().observer = Some(observer);
    }

    /// Opens the device once more. The first open starts in RUNNING unless the state survives a close.
    ///
    /// # Errors
    /// Only by a fault.
    pub fn open(&self) -> Result<(), Errno> {
        self.shared.faulted(Call::Open, None, None)?;
        let mut core = self.shared.core();
        if core.opens == 0 && !self.shared.facts.state_survives_close {
            core.state = State::Running;
        }
        core.opens = core.opens.saturating_add(1);
        Ok(())
    }

    /// Whether anybody has it open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.shared.core().opens > 0
    }

    /// Closes one of the opens. The last one ends the sessions, the dirty log and the version 2 opt-in.
    pub fn close(&self) {
        let _gate = self.shared.gate();
        let mut core = self.shared.core();
        core.opens = core.opens.saturating_sub(1);
        if core.opens > 0 {
            return;
        }
        core.end_session();
        core.model.closed();
        core.precopy_v2 = false;
        core.logging = false;
        if !self.shared.facts.state_survives_close {
            core.state = State::Running;
        }
    }

    /// GET of MIG_DEVICE_STATE. Waits for a SET in progress.
    ///
    /// # Errors
    /// `ENOTTY` without migration.
    pub fn get_state(&self) -> Result<u32, Errno> {
        self.require_migration()?;
        let held = self.shared.hold();
        if let Some((raw, _)) = self.shared.faulted(Call::GetState, None, Some(&held))?.answer {
            return Ok(u32::try_from(raw).unwrap_or(u32::MAX));
        }
        Ok(self.shared.core().state.raw())
    }

    /// SET of MIG_DEVICE_STATE: walks to the state with number `raw` and returns the data session that the
    /// last step opened, if it did.
    ///
    /// The current state always succeeds. A step that fails leaves the device where the last good step led.
    ///
    /// # Errors
    /// `ENOTTY` without migration; `EINVAL` for ERROR, unknown and unsupported states, for blocked arcs and
    /// in ERROR; otherwise what the model or a fault answers.
    pub fn set_state(&self, raw: u32) -> Result<Option<SimSession>, Errno> {
        let capabilities = self.require_migration()?;
        let held = self.shared.hold();
        let from = self.shared.core().state;
        let result = self.set_held(&held, capabilities, raw);
        let mut core = self.shared.core();
        let event = SimEvent::Set {
            from: from.raw(),
            target: raw,
            found: core.state.raw(),
            errno: result.as_ref().err().copied(),
        };
        core.tell(&event);
        drop(core);
        result
    }

    fn set_held(&self, held: &Held<'_>, capabilities: Capabilities, raw: u32) -> Result<Option<SimSession>, Errno> {
        let target = State::from_raw(raw);
        self.shared.faulted(Call::SetState, target.map(Place::Target), Some(held))?;
        let mut opened = None;
        loop {
            let from = self.shared.core().state;
            // Drivers compare before they validate, so even ERROR to ERROR succeeds.
            if from.raw() == raw {
                return Ok(opened);
            }
            if from == State::Error {
                return Err(self.shared.facts.set_in_error);
            }
            let target = target.filter(|target| capabilities.supports(*target)).ok_or(Errno::EINVAL)?;
            let to = next(capabilities, from, target).ok_or(Errno::EINVAL)?;
            opened = self.step(held, Step { from, to })?;
        }
    }

    fn step(&self, held: &Held<'_>, step: Step) -> Result<Option<SimSession>, Errno> {
        self.shared.wait_until_idle();
        let delay = self.shared.timing.step(step).saturating_add(self.shared.core().model.step_delay(step));
        self.shared.clock.sleep_if(delay);
        let faulted = self.shared.faulted(Call::Step, Some(Place::Step(step)), Some(held));
        let now = self.shared.clock.now();
        let _gate = self.shared.gate();
        let mut core = self.shared.core();
        let done = faulted.and_then(|_| core.model.step(step, now));
        core.tell(&SimEvent::Step { from: step.from.raw(), to: step.to.raw(), errno: done.err() });
        done?;
        core.state = step.to;
        let direction = match session(step.from, step.to) {
            SessionEffect::OpensSaving => Some(Direction::Saving),
            SessionEffect::OpensResuming => Some(Direction::Resuming),
            SessionEffect::Keeps if self.reopens(&core, step.to) => Some(Direction::Saving),
            SessionEffect::Ends => {
                core.end_session();
                None
            }
            _ => None,
        };
        Ok(direction.map(|direction| {
            let id = core.begin_session(direction);
            SimSession::new(Arc::clone(&self.shared), id, direction)
        }))
    }

    fn reopens(&self, core: &Core, to: State) -> bool {
        self.shared.facts.reopens_lost_session && core.live.is_none() && to == State::StopCopy
    }

    /// MIG_DATA_SIZE, in bytes.
    ///
    /// # Errors
    /// `ENOTTY` without migration; otherwise what the model or a fault answers.
    pub fn mig_data_size(&self) -> Result<u64, Errno> {
        self.require_migration()?;
        let held = self.shared.hold();
        self.shared.clock.sleep_if(self.shared.timing.query);
        if let Some((bytes, _)) = self.shared.faulted(Call::MigDataSize, None, Some(&held))?.answer {
            return Ok(bytes);
        }
        let now = self.shared.clock.now();
        let mut core = self.shared.core();
        let state = core.state;
        core.model.stop_copy_bytes(state, now)
    }

    /// SET of MIG_PRECOPY_INFOv2: from now on PRECOPY_INFO reports flags. Lasts until the last close.
    ///
    /// # Errors
    /// `EINVAL` when the device has no PRE_COPY, migration or not.
    pub fn enable_precopy_info_v2(&self) -> Result<(), Errno> {
        if !self.has_pre_copy() {
            return Err(Errno::EINVAL);
        }
        self.shared.core().precopy_v2 = true;
        Ok(())
    }

    /// Whether the device has the PRE_COPY states.
    #[must_use]
    pub fn has_pre_copy(&self) -> bool {
        self.shared.has_pre_copy()
    }

    /// VFIO_DEVICE_RESET: ends the sessions, clears ERROR, goes to RUNNING. Does not wait for a SET in
    /// progress: the reset then takes effect when that SET finishes, and overrides where it led.
    ///
    /// # Errors
    /// Only by a fault.
    pub fn reset(&self) -> Result<(), Errno> {
        self.shared.faulted(Call::Reset, None, None)?;
        let _gate = self.shared.gate();
        let mut core = self.shared.core();
        core.reset_pending = true;
        match self.shared.state_lock.try_lock() {
            Err(TryLockError::WouldBlock) => {}
            Ok(_guard) => core.apply_reset(),
            Err(TryLockError::Poisoned(_guard)) => core.apply_reset(),
        }
        Ok(())
    }

    /// Reads registers at `offset` of region `index`; returns the bytes read, fewer at the end of the region.
    ///
    /// # Errors
    /// `EINVAL` beyond the region.
    pub fn region_read(&self, index: u32, offset: u64, buffer: &mut [u8]) -> Result<usize, Errno> {
        let len = self.inside(index, offset, buffer.len())?;
        let inside = buffer.get_mut(..len).ok_or(Errno::EINVAL)?;
        self.shared.core().model.region_read(index, offset, inside);
        Ok(len)
    }

    /// Writes registers at `offset` of region `index`; returns the bytes taken, fewer at the end of the region.
    ///
    /// # Errors
    /// `EINVAL` beyond the region.
    pub fn region_write(&self, index: u32, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let len = self.inside(index, offset, data.len())?;
        let inside = data.get(..len).ok_or(Errno::EINVAL)?;
        let _gate = self.shared.gate();
        self.shared.core().model.region_write(index, offset, inside);
        Ok(len)
    }

    /// Starts device dirty logging, after the checks that the kernel's core has made. The page size is kept.
    ///
    /// # Errors
    /// `ENOTTY` when not offered; `EINVAL` when it runs and the driver allows one START only.
    pub fn dirty_logging_start(&self) -> Result<(), Errno> {
        use super::DirtyLogging::{Absent, Exclusive};
        let mut core = self.shared.core();
        match self.shared.facts.dirty_logging {
            Absent => return Err(Errno::ENOTTY),
            Exclusive if core.logging => return Err(Errno::EINVAL),
            _ => core.logging = true,
        }
        Ok(())
    }

    /// Stops device dirty logging; stopping twice succeeds.
    ///
    /// # Errors
    /// `ENOTTY` when not offered.
    pub fn dirty_logging_stop(&self) -> Result<(), Errno> {
        if self.shared.facts.dirty_logging == super::DirtyLogging::Absent {
            return Err(Errno::ENOTTY);
        }
        self.shared.core().logging = false;
        Ok(())
    }

    /// Whether dirty pages can be reported. Which there are, whoever carries the [DMA](Self::dma) keeps account of.
    ///
    /// # Errors
    /// `ENOTTY` when not offered; `EINVAL` when it does not run and the driver minds.
    pub fn dirty_logging_report(&self) -> Result<(), Errno> {
        use super::DirtyLogging::{Absent, Exclusive};
        match self.shared.facts.dirty_logging {
            Absent => Err(Errno::ENOTTY),
            Exclusive if !self.shared.core().logging => Err(Errno::EINVAL),
            _ => Ok(()),
        }
    }

    /// What of the device outlives a process, for [`import`](Self::import): the state number and the model's
    /// contents.
    #[must_use]
    pub fn export(&self) -> (u32, Vec<u8>) {
        let core = self.shared.core();
        (core.state.raw(), core.model.export())
    }

    /// Restores what [`export`](Self::export) returned. A state other than RUNNING is taken only if the
    /// device's state survives a close.
    ///
    /// # Errors
    /// `EINVAL` when the contents are not of this model or the state is not one of this device.
    pub fn import(&self, raw_state: u32, contents: &[u8]) -> Result<(), Errno> {
        let capabilities = self.require_migration()?;
        let state = State::from_raw(raw_state).filter(|state| capabilities.supports(*state)).ok_or(Errno::EINVAL)?;
        let mut core = self.shared.core();
        core.model.import(contents)?;
        if self.shared.facts.state_survives_close {
            core.state = state;
        }
        Ok(())
    }

    fn require_migration(&self) -> Result<Capabilities, Errno> {
        self.shared.capabilities.ok_or(Errno::ENOTTY)
    }

    fn inside(&self, index: u32, offset: u64, len: usize) -> Result<usize, Errno> {
        let size = self.shared.facts.region_bytes(index);
        let left = size.checked_sub(offset).filter(|left| *left > 0).ok_or(Errno::EINVAL)?;
        Ok(usize::try_from(left).map_or(len, |left| len.min(left)))
    }
}

impl core::fmt::Debug for SimDevice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SimDevice").field("facts", &self.shared.facts).finish_non_exhaustive()
    }
}
