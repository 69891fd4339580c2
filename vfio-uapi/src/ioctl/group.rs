// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The group's ioctls.

use core::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use vfio_bindings::bindings::vfio as sys;

use super::{RawResult, argsz, last_errno};

mod raw {
    use core::ffi::{c_char, c_int};

    use nix::{ioctl_none_bad, ioctl_readwrite_bad, ioctl_write_ptr_bad};
    use vfio_bindings::bindings::vfio as sys;

    use crate::ioctls as nr;

    ioctl_readwrite_bad!(get_status, nr::GROUP_GET_STATUS, sys::vfio_group_status);
    ioctl_write_ptr_bad!(set_container, nr::GROUP_SET_CONTAINER, c_int);
    ioctl_none_bad!(unset_container, nr::GROUP_UNSET_CONTAINER);
    ioctl_write_ptr_bad!(get_device_fd, nr::GROUP_GET_DEVICE_FD, c_char);
}

/// `VFIO_GROUP_GET_STATUS`: the flags.
pub(crate) fn status(group: BorrowedFd<'_>) -> RawResult<u32> {
    let mut status = sys::vfio_group_status { argsz: argsz::<sys::vfio_group_status>(), flags: 0 };
    // SAFETY: the kernel reads and writes the 8 bytes of `status`, borrowed for this call alone, all integers.
    unsafe { raw::get_status(group.as_raw_fd(), &raw mut status) }.map_err(last_errno)?;
    Ok(status.flags)
}

/// `VFIO_GROUP_SET_CONTAINER`.
pub(crate) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> RawResult<()> {
    let number = container.as_raw_fd();
    // SAFETY: the kernel reads one c_int, `number`, and takes its own reference to the open file behind it.
    unsafe { raw::set_container(group.as_raw_fd(), &raw const number) }.map_err(last_errno)?;
    Ok(())
}

/// `VFIO_GROUP_UNSET_CONTAINER`.
pub(crate) fn unset_container(group: BorrowedFd<'_>) -> RawResult<()> {
    // SAFETY: the call takes no argument and touches no memory of this process.
    unsafe { raw::unset_container(group.as_raw_fd()) }.map_err(last_errno)?;
    Ok(())
}

/// `VFIO_GROUP_GET_DEVICE_FD`.
pub(crate) fn device_fd(group: BorrowedFd<'_>, name: &CStr) -> RawResult<OwnedFd> {
    // SAFETY: the kernel reads up to and including the NUL that ends every CStr.
    let number = unsafe { raw::get_device_fd(group.as_raw_fd(), name.as_ptr()) }.map_err(last_errno)?;
    // SAFETY: a call that did not fail returns an fd it has just installed for its caller, the only owner.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
