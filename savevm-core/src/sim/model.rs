// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What differs from one simulated driver to another.
//!
//! [`SimDevice`](super::SimDevice) keeps the rules that are the same for every VFIO driver (the state
//! machine, the life of data sessions, the order of checks); a [`Model`] brings the rest: which states
//! exist, which bytes are saved, what is accepted on load, and which registers show it.

use core::time::Duration;
use std::string::String;
use std::vec::Vec;

use vfio_mig_fsm::State;

use super::{Dma, DmaFacts, Errno};

/// One step of the state machine: a single arc, never a combination.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_structs)] // A step is its two ends.
pub struct Step {
    /// The state left.
    pub from: State,
    /// The state entered when the step succeeds.
    pub to: State,
}

/// Why a call on a data session failed, and whether the session survives it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_structs)] // Models build it.
pub struct Failure {
    /// What the caller gets.
    pub errno: Errno,
    /// Whether every later call on this session gets `ENODEV` (the sticky errors of mlx5 and virtio).
    pub session_dead: bool,
}

impl Failure {
    /// A failure after which the session is dead.
    #[must_use]
    pub const fn sticky(errno: Errno) -> Self {
        Self { errno, session_dead: true }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self { errno, session_dead: false }
    }
}

/// What a model reports on a pre-copy query.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[allow(clippy::exhaustive_structs)] // Models build it.
pub struct PrecopySizes {
    /// Must-have bytes not read yet.
    pub initial_bytes: u64,
    /// Incremental bytes not read yet.
    pub dirty_bytes: u64,
    /// A new initial phase has begun; shown only to a caller that opted in to version 2.
    pub reinit: bool,
}

/// How the driver treats device dirty logging (features 6, 7, 8).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum DirtyLogging {
    /// Not offered.
    Absent,
    /// Offered; a second START succeeds and a REPORT needs no START (mtty).
    Permissive,
    /// Offered; a second START and a REPORT without START are `EINVAL` (mlx5, pds).
    Exclusive,
}

/// A region of the device that has a size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_structs)] // Models build it.
pub struct Region {
    /// Index: BAR 0–5, ROM 6, config space 7, VGA 8.
    pub index: u32,
    /// Size in bytes.
    pub size: u64,
}

/// An interrupt index of the device that has vectors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(clippy::exhaustive_structs)] // Models build it.
pub struct Irq {
    /// Index: INTx 0, MSI 1, MSI-X 2, error 3, request 4.
    pub index: u32,
    /// Number of vectors.
    pub count: u32,
    /// `VFIO_IRQ_INFO_*`: eventfd 1, maskable 2, automasked 4, no resize 8.
    pub flags: u32,
}

/// What is constant about a device: the answers that need no state.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Facts {
    /// Name of the kernel driver (`"mtty"`, `"mlx5-vfio-pci"`).
    pub driver: String,
    /// `VFIO_MIGRATION_*` flags; `None`: the device has no migration.
    pub migration_flags: Option<u64>,
    /// Device dirty logging.
    pub dirty_logging: DirtyLogging,
    /// Whether the migration state survives the last close (mtty) or restarts in RUNNING (all others).
    pub state_survives_close: bool,
    /// Whether entering STOP_COPY without a session (lost by a close) opens a new one (mtty).
    pub reopens_lost_session: bool,
    /// Whether a write to the resuming fd holds the state lock, so that GET waits for it (mlx5, virtio).
    pub write_holds_state: bool,
    /// What SET answers in ERROR: `EINVAL` from the core, `EIO` from pds.
    pub set_in_error: Errno,
    /// PCI vendor id.
    pub vendor_id: u16,
    /// PCI device id.
    pub device_id: u16,
    /// PCI class code, 24 bits.
    pub class: u32,
    /// `VFIO_DEVICE_FLAGS_*` of GET_INFO: reset 1, PCI 2.
    pub info_flags: u32,
    /// Number of region indices.
    pub region_count: u32,
    /// The regions with a size; all are readable and writable.
    pub regions: Vec<Region>,
    /// Number of interrupt indices.
    pub irq_count: u32,
    /// The interrupt indices with vectors.
    pub irqs: Vec<Irq>,
    /// Whether the device is a mediated one: no IOMMU behind it.
    pub emulated_iommu: bool,
    /// The DMA it performs; `None`: none ever.
    pub dma: Option<DmaFacts>,
}

impl Facts {
    /// A PCI device of `driver` with these migration flags and nothing else: change what differs.
    #[must_use]
    pub fn new(driver: &str, migration_flags: Option<u64>) -> Self {
        Self {
            driver: driver.into(),
            migration_flags,
            dirty_logging: DirtyLogging::Absent,
            state_survives_close: false,
            reopens_lost_session: false,
            write_holds_state: false,
            set_in_error: Errno::EINVAL,
            vendor_id: 0x1af4,
            device_id: 0x10f0,
            class: 0x00ff_0000,
            info_flags: 0b11,
            region_count: 9,
            regions: Vec::new(),
            irq_count: 5,
            irqs: Vec::new(),
            emulated_iommu: false,
            dma: None,
        }
    }

    /// The size of region `index` in bytes; zero for an index without one.
    #[must_use]
    pub fn region_bytes(&self, index: u32) -> u64 {
        self.regions.iter().find(|region| region.index == index).map_or(0, |region| region.size)
    }
}

/// The driver-specific half of a simulated device.
///
/// Calls come one at a time. `now` is the time of the device's [`Clock`](super::Clock).
/// A model never waits: it returns delays, and the device lets them pass.
pub trait Model: Send {
    /// The constant answers. Asked once.
    fn facts(&self) -> Facts;

    /// Performs one step. On an error the device stays in `step.from`; what the model has already undone
    /// or left half-done is the model's own truth, as with a real driver.
    ///
    /// The model sets up its saved image on the arcs that open a session and drops it on those that end one.
    ///
    /// # Errors
    /// Whatever the driver answers.
    fn step(&mut self, step: Step, now: Duration) -> Result<(), Errno>;

    /// How long `step` takes, on top of the configured delays.
    fn step_delay(&self, step: Step) -> Duration {
        let _ = step;
        Duration::ZERO
    }

    /// A moment before which a read of the saving fd blocks (an image still being produced).
    fn read_blocks_until(&self) -> Option<Duration> {
        None
    }

    /// A moment before which steps and pre-copy queries wait: a command to the firmware that is still running.
    fn busy_until(&self) -> Option<Duration> {
        None
    }

    /// A fault has ended the session behind the model's back: for drivers whose session can fail by itself.
    fn session_failed(&mut self) {}

    /// Reads saved bytes: `Ok(0)` or `ENOMSG` when there are none for now, `Ok(0)` at the end in STOP_COPY.
    /// Never called with an empty buffer.
    ///
    /// # Errors
    /// Whatever the driver answers.
    fn read(&mut self, state: State, now: Duration, buffer: &mut [u8]) -> Result<usize, Failure>;

    /// The checks of a write that need no data (the length limit): they come before the user's pointer.
    ///
    /// # Errors
    /// `ENOMEM` or `EINVAL`, as the driver.
    fn check_write(&self, len: u64) -> Result<(), Errno> {
        let _ = len;
        Ok(())
    }

    /// Takes saved bytes; usually all of them. An error may have stored them all the same.
    ///
    /// # Errors
    /// Whatever the driver answers.
    fn write(&mut self, data: &[u8], now: Duration) -> Result<usize, Failure>;

    /// The memory that a write names cannot be read. Nothing has been stored; a driver that takes its stream apart as it
    /// comes has the session end then (mlx5).
    fn write_unreadable(&mut self) -> Failure {
        Errno::EFAULT.into()
    }

    /// Answers a pre-copy query; asked in PRE_COPY and PRE_COPY_P2P only. This is where drivers produce
    /// their next incremental image. `version2` tells whether the caller opted in to `REINIT`.
    ///
    /// # Errors
    /// Whatever the driver answers.
    fn precopy_sizes(&mut self, state: State, version2: bool, now: Duration) -> Result<PrecopySizes, Failure>;

    /// The estimate of MIG_DATA_SIZE, in bytes.
    ///
    /// # Errors
    /// Whatever the driver answers.
    fn stop_copy_bytes(&mut self, state: State, now: Duration) -> Result<u64, Errno>;

    /// Where its DMA has got to; `None`: it performs none.
    fn dma(&mut self) -> Option<&mut Dma> {
        None
    }

    /// VFIO_DEVICE_RESET: drops the sessions' images; whether registers are cleared is the driver's affair.
    fn reset(&mut self);

    /// The last descriptor of the device was closed: drops the sessions' images.
    fn closed(&mut self) {}

    /// Reads registers; `buffer` lies inside the region.
    fn region_read(&mut self, index: u32, offset: u64, buffer: &mut [u8]);

    /// Writes registers; `data` lies inside the region.
    fn region_write(&mut self, index: u32, offset: u64, data: &[u8]);

    /// The contents of the device that outlive a process, for [`import`](Self::import).
    fn export(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Takes contents from [`export`](Self::export) of the same model.
    ///
    /// # Errors
    /// `EINVAL` when they are not of this model; the device is unchanged then.
    fn import(&mut self, contents: &[u8]) -> Result<(), Errno> {
        let _ = contents;
        Err(Errno::EINVAL)
    }
}
