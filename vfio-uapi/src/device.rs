// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A VFIO device fd and its migration calls.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use nix::libc::{EINTR, EINVAL, ENOTTY};
use vfio_bindings::bindings::vfio as sys;

use crate::data::{DataFd, Epoch, LoadFd, SaveFd};
use crate::ioctl::{self, Op, RawResult};
use crate::{
    Call, DeviceState, Error, FeatureOp, MigrationFlags, PrecopyInfoVersion, Refusal, Result, SetStateError, Support,
};

/// How often a harmless call is repeated when signals interrupt it, before EINTR is reported.
const INTERRUPTED_MAX: u32 = 16;

/// A VFIO device, through any fd of it: owned, borrowed, from a group or from its character device.
///
/// The fd may be shared with other users of the device. All of them share one migration state, and nothing but
/// agreement keeps them apart.
///
/// Every call blocks until the driver is done, for seconds with some drivers: keep them out of event loops. Calls that
/// only ask are repeated when a signal interrupts them; a call that changes the device never is.
pub struct Device<F> {
    fd: F,
    label: Arc<str>,
    precopy_info_v2: AtomicBool,
    epoch: Epoch,
}

impl<F> Device<F> {
    /// Wraps the fd of a device. `label` names the device in errors: an address or UUID the operator knows.
    pub fn with_label(fd: F, label: &str) -> Self {
        Self { fd, label: Arc::from(label), precopy_info_v2: AtomicBool::new(false), epoch: Epoch::default() }
    }

    /// The name of the device in errors.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The fd, for what this crate does not do.
    pub const fn get_ref(&self) -> &F {
        &self.fd
    }

    /// Gives the fd back. The opt-in to the second version of the precopy info stays with the open device.
    pub fn into_inner(self) -> F {
        self.fd
    }

    /// The shared label.
    pub(crate) const fn shared_label(&self) -> &Arc<str> {
        &self.label
    }

    /// An error of a call on this device.
    pub(crate) fn error(&self, call: Call, errno: i32) -> Error {
        Error::kernel(&self.label, call, errno)
    }
}

impl<F: AsFd> Device<F> {
    /// Wraps the fd of a device and labels it with the fd's number.
    pub fn new(fd: F) -> Self {
        let label = format!("fd {}", fd.as_fd().as_raw_fd());
        Self::with_label(fd, &label)
    }

    /// What the device's migration support covers, or `None` if it has none (`VFIO_DEVICE_FEATURE_MIGRATION`).
    ///
    /// # Errors
    ///
    /// Any errno of the driver. An fd that is no usable VFIO device is an error, not a device without migration.
    pub fn migration_flags(&self) -> Result<Option<MigrationFlags>> {
        let call = Call::MigrationFlags;
        let empty = sys::vfio_device_feature_migration::default();
        match repeat(|| ioctl::feature(self.as_fd(), Op::Get, empty)) {
            Ok(reply) => Ok(Some(MigrationFlags::from_bits_retain(reply.flags))),
            Err(errno) => self.absent(call, errno).map(|_| None),
        }
    }

    /// Asks whether the device has a feature with these operations, without using it.
    ///
    /// A yes does not promise that the call will work: [`dma_logging_report`](Self::dma_logging_report) fails on
    /// kernels without `CONFIG_IOMMUFD_DRIVER` that accept the probe. Never probe by asking for a state: see
    /// [`set_device_state`](Self::set_device_state).
    ///
    /// # Errors
    ///
    /// Any errno but ENOTTY and EINVAL, and these too if the fd is no usable VFIO device.
    pub fn probe(&self, op: FeatureOp) -> Result<Support> {
        match repeat(|| ioctl::probe(self.as_fd(), op.index(), op.flags())) {
            Ok(()) => Ok(Support::Supported),
            Err(errno) => self.absent(Call::Probe, errno),
        }
    }

    /// The migration state the device is in.
    ///
    /// Blocks while another thread's transition runs.
    ///
    /// # Errors
    ///
    /// ENOTTY if the device does not support migration; any errno of the driver.
    pub fn device_state(&self) -> Result<DeviceState> {
        let empty = sys::vfio_device_feature_mig_state::default();
        repeat(|| ioctl::feature(self.as_fd(), Op::Get, empty))
            .map(|reply| DeviceState::from_raw(reply.device_state))
            .map_err(|errno| self.error(Call::GetDeviceState, errno))
    }

    /// Takes the device to `target`, over as many arcs as that needs, and returns the data fd if the last of them
    /// opened a session.
    ///
    /// `None` where the session is kept (PRE_COPY to STOP_COPY goes on with the fd at hand), where there is none, and
    /// where the device was in `target` already. A [`SaveFd`] or [`LoadFd`] of a session that ended is dead and still
    /// wants dropping.
    ///
    /// The device's state is asked first, and two requests never reach the kernel: any request in ERROR, which makes
    /// most drivers warn in the kernel log, and STOP_COPY to a PRE_COPY state, on which kernels before the fix of 2026
    /// hang for good. Ask only for states the [`migration_flags`](Self::migration_flags) include: xe stops the device
    /// on others.
    ///
    /// # Errors
    ///
    /// The errno and, from a GET after the failure, the state the device was left in: any on the path, `target`
    /// included. A request that a signal interrupted is not repeated.
    pub fn set_device_state(&self, target: DeviceState) -> Result<Option<DataFd>, SetStateError> {
        let refusal = match self.device_state() {
            Ok(found) => guard(found, target).map(|reason| (reason, found)),
            Err(error) => {
                return Err(SetStateError { target, error: error.clone(), found: Err(error) });
            }
        };
        match refusal {
            None => self.set_device_state_unguarded(target),
            Some((reason, found)) => {
                let error = Error::refused(&self.label, Call::SetDeviceState, reason);
                Err(SetStateError { target, error, found: Ok(found) })
            }
        }
    }

    /// As [`set_device_state`](Self::set_device_state), but sends the request whatever state the device is in.
    ///
    /// For tests of a driver or kernel that is known to survive them. The requests the guarded call refuses can hang a
    /// kernel thread for good or, with `panic_on_warn`, take the host down.
    ///
    /// # Errors
    ///
    /// As [`set_device_state`](Self::set_device_state).
    pub fn set_device_state_unguarded(&self, target: DeviceState) -> Result<Option<DataFd>, SetStateError> {
        match ioctl::set_device_state(self.as_fd(), target.raw()) {
            Ok(fd) => {
                if fd.is_some() || target != DeviceState::RESUMING {
                    self.epoch.advance();
                }
                let Some(fd) = fd else { return Ok(None) };
                let label = Arc::clone(&self.label);
                match target {
                    DeviceState::RESUMING => Ok(Some(DataFd::Load(LoadFd::of_session(fd, label, &self.epoch)))),
                    state if state.is_saving() => {
                        Ok(Some(DataFd::Save(SaveFd::of_session(fd, label, self.precopy_info_version()))))
                    }
                    _ => {
                        let what = "returned a data fd with a state that has none";
                        Err(self.set_state_error(target, Error::answer(&self.label, Call::SetDeviceState, what)))
                    }
                }
            }
            Err(errno) => Err(self.set_state_error(target, self.error(Call::SetDeviceState, errno))),
        }
    }

    /// The driver's estimate of the bytes STOP_COPY will produce (`MIG_DATA_SIZE`). Allowed in every state.
    ///
    /// A hint for scheduling: headers, trailers and growth are often not in it, and a driver may return any number.
    /// Never allocate from it. mlx5 and virtio ask the hardware for each call.
    ///
    /// # Errors
    ///
    /// ENOTTY on kernels before 6.2. xe can return a negative errno as a size: that is reported as this errno.
    pub fn stop_copy_bytes(&self) -> Result<u64> {
        let call = Call::MigDataSize;
        let empty = sys::vfio_device_feature_mig_data_size::default();
        let bytes = repeat(|| ioctl::feature(self.as_fd(), Op::Get, empty))
            .map_err(|errno| self.error(call, errno))?
            .stop_copy_length;
        match errno_in_size(bytes) {
            None => Ok(bytes),
            Some(errno) => Err(self.error(call, errno)),
        }
    }

    /// Opts in to the second version of the precopy info (`MIG_PRECOPY_INFOv2`, Linux 7.1), with which the driver can
    /// announce a new initial phase. Returns whether the device has it.
    ///
    /// Saving fds that this `Device` returns from then on report [`PrecopyInfo::reinit`](crate::PrecopyInfo::reinit).
    /// The opt-in cannot be taken back and lasts until the last fd of the device is closed.
    ///
    /// # Errors
    ///
    /// Any errno but ENOTTY and EINVAL, and these too if the fd is no usable VFIO device.
    pub fn enable_precopy_info_v2(&self) -> Result<bool> {
        match repeat(|| ioctl::feature(self.as_fd(), Op::Set, ioctl::PrecopyInfoV2)) {
            Ok(_) => {
                self.precopy_info_v2.store(true, Ordering::Release);
                Ok(true)
            }
            Err(errno) => self.absent(Call::PrecopyInfoV2, errno).map(|_| false),
        }
    }

    /// The version of the precopy info that saving fds opened now report.
    pub fn precopy_info_version(&self) -> PrecopyInfoVersion {
        if self.precopy_info_v2.load(Ordering::Acquire) { PrecopyInfoVersion::V2 } else { PrecopyInfoVersion::V1 }
    }

    /// Resets the device: sessions end and the state becomes RUNNING, from any state and from ERROR.
    ///
    /// On a source this resets the guest's device. Where a SET to RUNNING works, prefer it. Drivers that were busy with
    /// another thread's request apply the reset when that finishes, and its result is then RUNNING.
    ///
    /// # Errors
    ///
    /// EAGAIN while another user holds the device's lock: whether and how often to try again is the caller's to decide.
    /// EINVAL if the function cannot be reset. The RESET flag of [`DeviceInfo`](crate::DeviceInfo) does not predict it.
    pub fn reset(&self) -> Result<()> {
        ioctl::device_reset(self.as_fd()).map_err(|errno| self.error(Call::Reset, errno))?;
        self.epoch.advance();
        Ok(())
    }

    /// Tells a feature that is absent from an fd that is no usable device: both say ENOTTY or EINVAL.
    fn absent(&self, call: Call, errno: i32) -> Result<Support> {
        let support = match errno {
            ENOTTY => Support::NotOffered,
            // Kernels before 6.12.58 answered EINVAL to unknown features for drivers without a feature callback. So
            // does every call on a character device that is not bound to an iommufd yet, and there the info fails too.
            EINVAL => Support::Refused,
            _ => return Err(self.error(call, errno)),
        };
        match repeat(|| ioctl::device_info(self.as_fd())) {
            Ok(_) => Ok(support),
            Err(_) => Err(self.error(call, errno)),
        }
    }

    /// Completes an error of a SET with where the device is now.
    fn set_state_error(&self, target: DeviceState, error: Error) -> SetStateError {
        let found = self.device_state();
        if found != Ok(DeviceState::RESUMING) {
            self.epoch.advance();
        }
        SetStateError { target, error, found }
    }
}

impl<F: AsFd> AsFd for Device<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<F: fmt::Debug> fmt::Debug for Device<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("label", &self.label).field("fd", &self.fd).finish_non_exhaustive()
    }
}

/// Repeats a call that is harmless to repeat while signals interrupt it, but not for ever.
pub(crate) fn repeat<T>(mut call: impl FnMut() -> RawResult<T>) -> RawResult<T> {
    for _ in 1..INTERRUPTED_MAX {
        match call() {
            Err(EINTR) => {}
            result => return result,
        }
    }
    call()
}

/// Why a request must not reach the kernel.
fn guard(found: DeviceState, target: DeviceState) -> Option<Refusal> {
    match (found, target) {
        (DeviceState::ERROR, _) => Some(Refusal::InError),
        (DeviceState::STOP_COPY, DeviceState::PRE_COPY | DeviceState::PRE_COPY_P2P) => {
            Some(Refusal::NoWayBack { target })
        }
        _ => None,
    }
}

/// The errno in a size that is a negative errno: no stream is within 4095 bytes of 2^64.
fn errno_in_size(bytes: u64) -> Option<i32> {
    u64::MAX
        .checked_sub(bytes)
        .filter(|&below| below < 4095)
        .and_then(|below| i32::try_from(below).ok()?.checked_add(1))
}

#[cfg(test)]
#[cfg(not(miri))]
mod fake_test;
#[cfg(test)]
mod test;
