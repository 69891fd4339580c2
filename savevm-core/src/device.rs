// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the engine asks of a device: one trait for the kernel's devices and for simulated ones.

use alloc::string::String;
use core::fmt;

use vfio_mig_fsm::{Capabilities, State};

/// A device whose state can be moved.
///
/// The device owns its data session: there is no file descriptor in this interface. A transition that opens a
/// session replaces the one before it, and one that ends the session drops it, so a dead data fd cannot be reached.
///
/// Calls block. On real hardware a transition, a read or a write can take seconds, because the driver waits for
/// firmware in it.
pub trait Device {
    /// The name by which source and target mean the same device, unique in one migration.
    fn name(&self) -> &str;

    /// What must fit on both sides for the state to be understood, as [`crate::identity`] has it. A target refuses what
    /// does not fit before it touches its device. Any other text is compared for equality.
    fn identity(&self) -> &str;

    /// The optional states this device has.
    fn capabilities(&self) -> Capabilities;

    /// The state the device is in now, asked of the device and not remembered.
    ///
    /// # Errors
    /// When the device cannot be asked, or answers a number that names no state.
    fn state(&mut self) -> Result<State, DeviceError>;

    /// Takes the device to `to`, through the states the path requires, and opens or ends the data session as
    /// [`vfio_mig_fsm::request_session`] says.
    ///
    /// # Errors
    /// [`TransitionError`] tells where the device was found after the failure. A failed transition may also have
    /// ended in `to` itself, without a data session (`spec/kernel/uapi.md` section 2.2, exhausted descriptors).
    fn transition(&mut self, to: State) -> Result<(), TransitionError>;

    /// Reads the next bytes of the state into `buffer`.
    ///
    /// # Errors
    /// When there is no saving session, or the device fails the read.
    fn read(&mut self, buffer: &mut [u8]) -> Result<Read, DeviceError>;

    /// Writes the next bytes of a state, all of them.
    ///
    /// # Errors
    /// When there is no resuming session, or the device refuses the bytes. The first error is final for the session:
    /// hisi and mtty would take later bytes after a refused header, and load them (`uapi.md` section 3.4).
    fn write(&mut self, bytes: &[u8]) -> Result<(), DeviceError>;

    /// How much is left to read while the device runs. Estimates, for scheduling only. On mlx5 and virtio the call is
    /// also what makes the driver fetch the next increment.
    ///
    /// # Errors
    /// When the device is not in a pre-copy state, or the driver fails the query.
    fn precopy_info(&mut self) -> Result<PrecopyInfo, DeviceError>;

    /// The driver's estimate of what STOP_COPY will yield, in bytes. A hint: real drivers leave out headers, and one
    /// returns a negative errno as a length. Never allocate from it.
    ///
    /// # Errors
    /// When the driver has no estimate.
    fn stop_copy_bytes(&mut self) -> Result<u64, DeviceError>;

    /// Resets the device: sessions end, the state is RUNNING, the contents are those after power-on or undefined.
    ///
    /// # Errors
    /// When the device cannot be reset.
    fn reset(&mut self) -> Result<(), DeviceError>;
}

/// What one [`Device::read`] yielded.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the three outcomes of the contract; a fourth would change every reader")]
pub enum Read {
    /// This many bytes, at least one.
    Bytes(usize),
    /// Nothing for now, in a pre-copy state: more may come.
    Drained,
    /// The end of the state, in STOP_COPY: nothing will follow.
    End,
}

/// What a device has left to read in a pre-copy state (`struct vfio_precopy_info`).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct PrecopyInfo {
    /// Bytes the target should have before the switchover, still unread.
    pub initial_bytes: u64,
    /// Bytes that changed since, still unread. Says nothing about the size of STOP_COPY.
    pub dirty_bytes: u64,
    /// Whether a new initial phase began, where the kernel tells (`VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2`).
    pub reinit: Option<bool>,
}

impl PrecopyInfo {
    /// Estimates as the driver gave them.
    #[must_use]
    pub const fn new(initial_bytes: u64, dirty_bytes: u64, reinit: Option<bool>) -> Self {
        Self { initial_bytes, dirty_bytes, reinit }
    }
}

/// The call in which a device failed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Call {
    /// Asking for the current state.
    GetState,
    /// Requesting a state.
    SetState(State),
    /// Reading from the saving session.
    Read,
    /// Writing to the resuming session.
    Write,
    /// Asking for the pre-copy estimates.
    PrecopyInfo,
    /// Asking for the stop-copy estimate.
    StopCopySize,
    /// Resetting.
    Reset,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GetState => f.write_str("asking for the state"),
            Self::SetState(to) => write!(f, "the request for {to}"),
            Self::Read => f.write_str("reading the device state"),
            Self::Write => f.write_str("writing the device state"),
            Self::PrecopyInfo => f.write_str("asking for the pre-copy estimates"),
            Self::StopCopySize => f.write_str("asking for the stop-copy size"),
            Self::Reset => f.write_str("the reset"),
        }
    }
}

/// A device did not do what was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{device}: {call} failed: {detail}")]
#[non_exhaustive]
pub struct DeviceError {
    /// The device's name.
    pub device: String,
    /// What was asked of it.
    pub call: Call,
    /// The errno, where the failure came with one.
    pub errno: Option<i32>,
    /// What it means here, for a person.
    pub detail: String,
}

impl DeviceError {
    /// A failure that came as an errno, with its meaning for this call.
    #[must_use]
    pub fn errno(device: &str, call: Call, errno: i32, detail: impl Into<String>) -> Self {
        Self { device: device.into(), call, errno: Some(errno), detail: detail.into() }
    }

    /// An answer that breaks the interface's contract, or a call out of order.
    #[must_use]
    pub fn contract(device: &str, call: Call, detail: impl Into<String>) -> Self {
        Self { device: device.into(), call, errno: None, detail: detail.into() }
    }
}

/// A transition failed; the device may be anywhere on its path.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{error}; {found}")]
#[non_exhaustive]
pub struct TransitionError {
    /// The state that was requested.
    pub to: State,
    /// Where the device was found afterwards.
    pub found: Found,
    /// Why the request failed.
    #[source]
    pub error: DeviceError,
}

impl TransitionError {
    /// A failed request for `to`, and where it left the device.
    #[must_use]
    pub const fn new(to: State, found: Found, error: DeviceError) -> Self {
        Self { to, found, error }
    }
}

/// Where a device was found after a failed transition.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Found {
    /// In this state.
    State(State),
    /// It answered a number that names no state.
    Unknown(u32),
    /// It could not be asked.
    Unreadable,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(state) => write!(f, "the device is now in {state}"),
            Self::Unknown(raw) => write!(f, "the device now claims state {raw}, which does not exist"),
            Self::Unreadable => f.write_str("the device no longer tells its state"),
        }
    }
}
