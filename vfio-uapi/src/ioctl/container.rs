// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The container's ioctls.

use core::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use vfio_bindings::bindings::vfio as sys;

use super::{RawResult, argsz, last_errno};
use crate::open::{Container, DmaAccess};
use crate::{Call, Result};

mod raw {
    use nix::{ioctl_none_bad, ioctl_readwrite_bad, ioctl_write_int_bad};
    use vfio_bindings::bindings::vfio as sys;

    use crate::ioctls as nr;

    ioctl_none_bad!(get_api_version, nr::GET_API_VERSION);
    ioctl_write_int_bad!(check_extension, nr::CHECK_EXTENSION);
    ioctl_write_int_bad!(set_iommu, nr::SET_IOMMU);
    ioctl_readwrite_bad!(map_dma, nr::IOMMU_MAP_DMA, sys::vfio_iommu_type1_dma_map);
    ioctl_readwrite_bad!(unmap_dma, nr::IOMMU_UNMAP_DMA, sys::vfio_iommu_type1_dma_unmap);
}

/// `VFIO_GET_API_VERSION`.
pub(crate) fn api_version(container: BorrowedFd<'_>) -> RawResult<c_int> {
    // SAFETY: the call takes no argument and touches no memory of this process.
    unsafe { raw::get_api_version(container.as_raw_fd()) }.map_err(last_errno)
}

/// `VFIO_CHECK_EXTENSION`: 0 if the container lacks it.
pub(crate) fn check_extension(container: BorrowedFd<'_>, extension: c_int) -> RawResult<c_int> {
    // SAFETY: the argument is a number, passed by value; no memory of this process is touched.
    unsafe { raw::check_extension(container.as_raw_fd(), extension) }.map_err(last_errno)
}

/// `VFIO_SET_IOMMU`.
pub(crate) fn set_iommu(container: BorrowedFd<'_>, model: c_int) -> RawResult<()> {
    // SAFETY: the argument is a number, passed by value; no memory of this process is touched.
    unsafe { raw::set_iommu(container.as_raw_fd(), model) }.map_err(last_errno)?;
    Ok(())
}

impl<F: AsFd> Container<F> {
    /// Lets the container's devices read or write `length` bytes of this process at `address`, as `iova`
    /// (`VFIO_IOMMU_MAP_DMA`).
    ///
    /// All three are multiples of the IOMMU's page size. The kernel pins the memory until it is unmapped.
    ///
    /// # Errors
    ///
    /// EEXIST if the range overlaps a mapping; EINVAL if it is unaligned or outside the IOMMU's reach; ENOMEM beyond
    /// RLIMIT_MEMLOCK.
    ///
    /// # Safety
    ///
    /// Until the range is unmapped or the container and all its devices are closed, the memory belongs to the devices:
    /// no reference to it may exist that a device's write (or, for a mutable one, read) would contradict, and it must
    /// not be freed or put to another use.
    pub unsafe fn map_dma(&self, access: DmaAccess, address: *mut u8, iova: u64, length: u64) -> Result<()> {
        let mut map = sys::vfio_iommu_type1_dma_map {
            argsz: argsz::<sys::vfio_iommu_type1_dma_map>(),
            flags: access.bits(),
            vaddr: super::address(address),
            iova,
            size: length,
        };
        // SAFETY: the kernel reads the 32 bytes of `map`. That devices may read and write the memory at `address` from
        // now on is what the caller vouches for.
        unsafe { raw::map_dma(self.as_fd().as_raw_fd(), &raw mut map) }
            .map_err(last_errno)
            .map_err(|errno| self.error(Call::MapDma, errno))?;
        Ok(())
    }
}

/// `VFIO_IOMMU_UNMAP_DMA`; returns the bytes that were unmapped.
pub(crate) fn unmap_dma(container: BorrowedFd<'_>, iova: u64, size: u64) -> RawResult<u64> {
    let mut unmap = sys::vfio_iommu_type1_dma_unmap {
        argsz: argsz::<sys::vfio_iommu_type1_dma_unmap>(),
        // With GET_DIRTY_BITMAP the kernel would read behind the struct.
        flags: 0,
        iova,
        size,
        ..Default::default()
    };
    // SAFETY: the kernel reads and writes the 24 bytes of `unmap`, borrowed for this call alone. Unmapping only takes
    // access away from devices.
    unsafe { raw::unmap_dma(container.as_raw_fd(), &raw mut unmap) }.map_err(last_errno)?;
    Ok(unmap.size)
}
