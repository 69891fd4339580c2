// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Every unsafe operation of the crate: the ioctls themselves, the fds they return, the mapping of memory that devices get, and the fds
//! that come over a unix socket.
//!
//! The numbers belong to VFIO and iommufd alone (type `;`, 0x64–0x7f and 0x80–0xff, in the kernel's registry of ioctl
//! numbers), so an fd of another kind answers ENOTTY or EINVAL. Where VFIO reuses a number on another kind of its own
//! fds (0x3b75 and 0x3b79 on a container), that call touches no more bytes than ours provides.
//!
//! No errno is interpreted here: a failure is the raw number, and nothing of the buffer is handed out with it.

// UNSAFETY: ioctl(2) takes addresses and returns fd numbers, and no safe wrapper of VFIO's exists to build on.
#![expect(unsafe_code)]

use core::ffi::c_void;
use core::mem::{offset_of, size_of, size_of_val};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use vfio_bindings::bindings::vfio as sys;

pub(crate) mod cdev;
pub(crate) mod container;
#[cfg(feature = "contract")]
pub(crate) mod contract;
pub(crate) mod dma_logging;
#[cfg(test)]
#[cfg(not(miri))]
pub(crate) mod fake;
pub(crate) mod group;
pub(crate) mod hwpt;
pub(crate) mod iommufd;
#[cfg(feature = "contract")]
pub(crate) mod mock;
pub(crate) mod rights;
pub(crate) mod shared;
#[cfg(test)]
mod test;
pub(crate) mod type1;

/// A result whose error is the raw errno: `nix` folds numbers it has no name for, and drivers do leak such numbers.
pub(crate) type RawResult<T> = Result<T, i32>;

/// The raw errno of the call that has just failed on this thread.
pub(crate) fn last_errno<E>(_: E) -> i32 {
    Errno::last_raw()
}

mod raw {
    use core::ffi::c_void;

    use nix::{ioctl_none_bad, ioctl_readwrite_bad};
    use vfio_bindings::bindings::vfio as sys;

    use crate::ioctls as nr;

    ioctl_readwrite_bad!(device_feature, nr::DEVICE_FEATURE, c_void);
    ioctl_readwrite_bad!(precopy_info, nr::MIG_GET_PRECOPY_INFO, sys::vfio_precopy_info);
    ioctl_none_bad!(device_reset, nr::DEVICE_RESET);
    ioctl_readwrite_bad!(device_info, nr::DEVICE_GET_INFO, sys::vfio_device_info);
    ioctl_readwrite_bad!(region_info, nr::DEVICE_GET_REGION_INFO, sys::vfio_region_info);
    ioctl_readwrite_bad!(irq_info, nr::DEVICE_GET_IRQ_INFO, sys::vfio_irq_info);
}

/// The size of `T` as the `argsz` or `size` field of an ioctl has it.
#[expect(clippy::as_conversions, reason = "no u32::try_from in const fn; the value is asserted to fit")]
pub(crate) const fn argsz<T>() -> u32 {
    const { assert!(size_of::<T>() <= 4096) };
    size_of::<T>() as u32
}

/// An address as ioctl structs carry it. Memory behind it may be accessed through the exposed provenance.
fn address<T>(pointer: *const T) -> u64 {
    // Lossless: no target of Linux has addresses of more than 64 bits.
    u64::try_from(pointer.expose_provenance()).unwrap_or_default()
}

/// The bits a bitmap has; `None` beyond u64.
fn bits(bitmap: &[u64]) -> Option<u64> {
    u64::try_from(size_of_val(bitmap)).ok()?.checked_mul(8)
}

/// A payload of `VFIO_DEVICE_FEATURE`: what follows the 8-byte header.
///
/// # Safety
///
/// Implementors are `repr(C)` structs of integers, without padding, as `vfio.h` lays out the payload of feature
/// `INDEX`: the kernel may read and write all their bytes and every bit pattern is a valid value. The kernel writes
/// through no address they hold.
pub(crate) unsafe trait Payload: Copy {
    /// The feature's number.
    const INDEX: u32;
}

// SAFETY: one u64, and vfio.h defines feature 1 with it.
unsafe impl Payload for sys::vfio_device_feature_migration {
    const INDEX: u32 = sys::VFIO_DEVICE_FEATURE_MIGRATION;
}

// SAFETY: a u32 and an i32, and vfio.h defines feature 2 with them. data_fd is a number, not an address.
unsafe impl Payload for sys::vfio_device_feature_mig_state {
    const INDEX: u32 = sys::VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
}

// SAFETY: one u64, and vfio.h defines feature 9 with it.
unsafe impl Payload for sys::vfio_device_feature_mig_data_size {
    const INDEX: u32 = sys::VFIO_DEVICE_FEATURE_MIG_DATA_SIZE;
}

/// Feature 12, which has no payload.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct PrecopyInfoV2;

// SAFETY: zero bytes, and vfio.h defines feature 12 without a payload.
unsafe impl Payload for PrecopyInfoV2 {
    const INDEX: u32 = sys::VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2;
}

/// What to do with a feature.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Op {
    Get,
    Set,
}

/// The argument of `VFIO_DEVICE_FEATURE`: header and payload in one typed object.
///
/// Aligned for every payload, so that neither side ever casts a header to something larger.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct Feature<P> {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) payload: P,
}

impl<P: Payload> Feature<P> {
    /// The kernel takes the payload to start at byte 8 and `argsz` to count every byte it may touch.
    const LAYOUT: () = assert!(offset_of!(Self, payload) == 8 && size_of::<Self>() == size_of::<P>().saturating_add(8));

    pub(crate) const fn new(op: Op, payload: P) -> Self {
        let () = Self::LAYOUT;
        let op = match op {
            Op::Get => sys::VFIO_DEVICE_FEATURE_GET,
            Op::Set => sys::VFIO_DEVICE_FEATURE_SET,
        };
        Self { argsz: argsz::<Self>(), flags: P::INDEX | op, payload }
    }

    /// The address of the whole message, valid for all its bytes.
    pub(crate) const fn as_mut_ptr(&mut self) -> *mut c_void {
        (&raw mut *self).cast()
    }
}

/// Gets or sets a feature and returns the payload as the kernel left it.
pub(crate) fn feature<P: Payload>(device: BorrowedFd<'_>, op: Op, payload: P) -> RawResult<P> {
    let mut message = Feature::new(op, payload);
    // SAFETY: the pointer covers all `argsz` bytes of `message`, borrowed for this call alone. VFIO reads and writes at
    // most `argsz` bytes there, and every bit pattern is a valid `P`, which holds no address to write through
    // (Payload's contract). On a container the number is DIRTY_PAGES, which reads the 8 header bytes and refuses these
    // flags.
    unsafe { raw::device_feature(device.as_raw_fd(), message.as_mut_ptr()) }.map_err(last_errno)?;
    Ok(message.payload)
}

/// Asks whether a feature exists with the operations in `flags` (GET and SET bits).
pub(crate) fn probe(device: BorrowedFd<'_>, index: u16, flags: u32) -> RawResult<()> {
    let mut header = sys::vfio_device_feature {
        argsz: argsz::<sys::vfio_device_feature>(),
        flags: u32::from(index) | flags | sys::VFIO_DEVICE_FEATURE_PROBE,
        ..Default::default()
    };
    // SAFETY: with PROBE set the kernel reads the 8-byte header, which `header` is, and neither needs nor touches a
    // payload.
    unsafe { raw::device_feature(device.as_raw_fd(), (&raw mut header).cast()) }.map_err(last_errno)?;
    Ok(())
}

/// Asks for a device state. Returns the new data fd, if the transition opened a session.
pub(crate) fn set_device_state(device: BorrowedFd<'_>, state: u32) -> RawResult<Option<OwnedFd>> {
    // data_fd is output only; -1 keeps a driver that leaves it alone from handing out fd 0.
    let request = sys::vfio_device_feature_mig_state { device_state: state, data_fd: -1 };
    // `feature` returns no payload with an error: data_fd means nothing then.
    let reply = feature(device, Op::Set, request)?;
    if reply.data_fd < 0 {
        return Ok(None);
    }
    // SAFETY: by vfio.h a successful SET of the device state with a data_fd >= 0 has installed that fd in this process
    // for the caller, who is its only owner and closes it.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(reply.data_fd) }))
}

/// `VFIO_MIG_GET_PRECOPY_INFO` on a saving fd.
pub(crate) fn precopy_info(data: BorrowedFd<'_>) -> RawResult<sys::vfio_precopy_info> {
    // flags must go in as 0: without the opt-in of feature 12 the kernel returns what it was given.
    let mut info = sys::vfio_precopy_info { argsz: argsz::<sys::vfio_precopy_info>(), ..Default::default() };
    // SAFETY: `info` is borrowed for this call alone, and the kernel reads and writes its 24 bytes, all integers. On a
    // container the number is EEH_PE_OP, which reads fewer bytes.
    unsafe { raw::precopy_info(data.as_raw_fd(), &raw mut info) }.map_err(last_errno)?;
    Ok(info)
}

/// `VFIO_DEVICE_RESET`.
pub(crate) fn device_reset(device: BorrowedFd<'_>) -> RawResult<()> {
    // SAFETY: the call takes no argument and touches no memory of this process.
    unsafe { raw::device_reset(device.as_raw_fd()) }.map_err(last_errno)?;
    Ok(())
}

/// `VFIO_DEVICE_GET_INFO`.
pub(crate) fn device_info(device: BorrowedFd<'_>) -> RawResult<sys::vfio_device_info> {
    let mut info = sys::vfio_device_info { argsz: argsz::<sys::vfio_device_info>(), ..Default::default() };
    // SAFETY: `info` is borrowed for this call alone, and the kernel writes at most `argsz` bytes of it, all integers.
    unsafe { raw::device_info(device.as_raw_fd(), &raw mut info) }.map_err(last_errno)?;
    Ok(info)
}

/// `VFIO_DEVICE_GET_REGION_INFO`.
pub(crate) fn region_info(device: BorrowedFd<'_>, index: u32) -> RawResult<sys::vfio_region_info> {
    let mut info = sys::vfio_region_info { argsz: argsz::<sys::vfio_region_info>(), index, ..Default::default() };
    // SAFETY: `info` is borrowed for this call alone, and the kernel writes at most `argsz` bytes of it, all integers.
    unsafe { raw::region_info(device.as_raw_fd(), &raw mut info) }.map_err(last_errno)?;
    Ok(info)
}

/// `VFIO_DEVICE_GET_IRQ_INFO`.
pub(crate) fn irq_info(device: BorrowedFd<'_>, index: u32) -> RawResult<sys::vfio_irq_info> {
    let mut info = sys::vfio_irq_info { argsz: argsz::<sys::vfio_irq_info>(), index, ..Default::default() };
    // SAFETY: `info` is borrowed for this call alone, and the kernel writes at most `argsz` bytes of it, all integers.
    unsafe { raw::irq_info(device.as_raw_fd(), &raw mut info) }.map_err(last_errno)?;
    Ok(info)
}
