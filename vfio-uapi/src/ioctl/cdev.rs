// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ioctls that tie a device to iommufd.

use std::os::fd::{AsRawFd, BorrowedFd};

use vfio_bindings::bindings::vfio as sys;

use super::{RawResult, last_errno};

mod raw {
    use nix::ioctl_readwrite_bad;
    use vfio_bindings::bindings::vfio as sys;

    use crate::ioctls as nr;

    ioctl_readwrite_bad!(bind, nr::DEVICE_BIND_IOMMUFD, sys::vfio_device_bind_iommufd);
    ioctl_readwrite_bad!(attach, nr::DEVICE_ATTACH_IOMMUFD_PT, sys::vfio_device_attach_iommufd_pt);
    ioctl_readwrite_bad!(detach, nr::DEVICE_DETACH_IOMMUFD_PT, sys::vfio_device_detach_iommufd_pt);
}

/// The structs' sizes without what newer kernels append: every kernel takes these, and a field unused is a field
/// unsent.
pub(crate) const BIND_ARGSZ: u32 = 16;
pub(crate) const ATTACH_ARGSZ: u32 = 12;
pub(crate) const DETACH_ARGSZ: u32 = 8;

/// `VFIO_DEVICE_BIND_IOMMUFD`; returns the device's id in iommufd.
pub(crate) fn bind(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> RawResult<u32> {
    let mut bind =
        sys::vfio_device_bind_iommufd { argsz: BIND_ARGSZ, iommufd: iommufd.as_raw_fd(), ..Default::default() };
    // SAFETY: the kernel reads and writes at most the first `argsz` bytes of the larger `bind`, all integers. It takes
    // its own reference to the iommufd. The token address is outside `argsz`, unused without its flag, and 0.
    unsafe { raw::bind(device.as_raw_fd(), &raw mut bind) }.map_err(last_errno)?;
    Ok(bind.out_devid)
}

/// `VFIO_DEVICE_BIND_IOMMUFD` with the VF token of the device's PF (7.3 kernels).
pub(crate) fn bind_with_token(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>, token: &[u8; 16]) -> RawResult<u32> {
    let mut bind = sys::vfio_device_bind_iommufd {
        argsz: super::argsz::<sys::vfio_device_bind_iommufd>(),
        flags: sys::VFIO_DEVICE_BIND_FLAG_TOKEN,
        iommufd: iommufd.as_raw_fd(),
        out_devid: 0,
        token_uuid_ptr: super::address(token.as_ptr()),
    };
    // SAFETY: the kernel reads and writes at most the 24 bytes of `bind`, all integers, and reads 16 bytes through
    // token_uuid_ptr, which `token` has and which are borrowed beyond the call.
    unsafe { raw::bind(device.as_raw_fd(), &raw mut bind) }.map_err(last_errno)?;
    Ok(bind.out_devid)
}

/// `VFIO_DEVICE_ATTACH_IOMMUFD_PT`; returns the id the device is attached to.
pub(crate) fn attach(device: BorrowedFd<'_>, pt_id: u32) -> RawResult<u32> {
    let mut attach = sys::vfio_device_attach_iommufd_pt { argsz: ATTACH_ARGSZ, pt_id, ..Default::default() };
    // SAFETY: the kernel reads and writes at most the first `argsz` bytes of the larger `attach`, all integers.
    unsafe { raw::attach(device.as_raw_fd(), &raw mut attach) }.map_err(last_errno)?;
    Ok(attach.pt_id)
}

/// `VFIO_DEVICE_ATTACH_IOMMUFD_PT` of one PASID; returns the id it is attached to.
pub(crate) fn attach_pasid(device: BorrowedFd<'_>, pt_id: u32, pasid: u32) -> RawResult<u32> {
    let mut attach = sys::vfio_device_attach_iommufd_pt {
        argsz: super::argsz::<sys::vfio_device_attach_iommufd_pt>(),
        flags: sys::VFIO_DEVICE_ATTACH_PASID,
        pt_id,
        pasid,
    };
    // SAFETY: the kernel reads and writes at most the 16 bytes of `attach`, all integers.
    unsafe { raw::attach(device.as_raw_fd(), &raw mut attach) }.map_err(last_errno)?;
    Ok(attach.pt_id)
}

/// `VFIO_DEVICE_DETACH_IOMMUFD_PT`.
pub(crate) fn detach(device: BorrowedFd<'_>) -> RawResult<()> {
    let mut detach = sys::vfio_device_detach_iommufd_pt { argsz: DETACH_ARGSZ, ..Default::default() };
    // SAFETY: the kernel reads at most the first `argsz` bytes of the larger `detach`, all integers.
    unsafe { raw::detach(device.as_raw_fd(), &raw mut detach) }.map_err(last_errno)?;
    Ok(())
}

/// `VFIO_DEVICE_DETACH_IOMMUFD_PT` of one PASID.
pub(crate) fn detach_pasid(device: BorrowedFd<'_>, pasid: u32) -> RawResult<()> {
    let mut detach = sys::vfio_device_detach_iommufd_pt {
        argsz: super::argsz::<sys::vfio_device_detach_iommufd_pt>(),
        flags: sys::VFIO_DEVICE_DETACH_PASID,
        pasid,
    };
    // SAFETY: the kernel reads at most the 12 bytes of `detach`, all integers.
    unsafe { raw::detach(device.as_raw_fd(), &raw mut detach) }.map_err(last_errno)?;
    Ok(())
}
