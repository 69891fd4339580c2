// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The few ioctls of iommufd that give a device an address space, with their structs.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::{RawResult, argsz, last_errno};
use crate::open::{DmaAccess, Ioas, Iommufd};
use crate::{Call, Result};

mod raw {
    use nix::ioctl_readwrite_bad;

    use super::{Destroy, IoasAlloc, IoasMap, IoasUnmap};
    use crate::ioctls as nr;

    ioctl_readwrite_bad!(destroy, nr::IOMMU_DESTROY, Destroy);
    ioctl_readwrite_bad!(ioas_alloc, nr::IOMMU_IOAS_ALLOC, IoasAlloc);
    ioctl_readwrite_bad!(ioas_map, nr::IOMMU_IOAS_MAP, IoasMap);
    ioctl_readwrite_bad!(ioas_unmap, nr::IOMMU_IOAS_UNMAP, IoasUnmap);
}

/// `IOMMU_IOAS_MAP_FIXED_IOVA`: the caller chose the IOVA.
pub(crate) const MAP_FIXED_IOVA: u32 = 1;
/// `IOMMU_IOAS_MAP_WRITEABLE`.
pub(crate) const MAP_WRITEABLE: u32 = 2;
/// `IOMMU_IOAS_MAP_READABLE`.
pub(crate) const MAP_READABLE: u32 = 4;

/// `struct iommu_destroy`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Destroy {
    pub(crate) size: u32,
    pub(crate) id: u32,
}

/// `struct iommu_ioas_alloc`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct IoasAlloc {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) out_ioas_id: u32,
}

/// `struct iommu_ioas_map`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct IoasMap {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) ioas_id: u32,
    pub(crate) __reserved: u32,
    pub(crate) user_va: u64,
    pub(crate) length: u64,
    pub(crate) iova: u64,
}

/// `struct iommu_ioas_unmap`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct IoasUnmap {
    pub(crate) size: u32,
    pub(crate) ioas_id: u32,
    pub(crate) iova: u64,
    pub(crate) length: u64,
}

/// `IOMMU_DESTROY`.
pub(crate) fn destroy(iommufd: BorrowedFd<'_>, id: u32) -> RawResult<()> {
    let mut destroy = Destroy { size: argsz::<Destroy>(), id };
    // SAFETY: the kernel reads the 8 bytes of `destroy`. Destroying an object only takes access away from devices.
    unsafe { raw::destroy(iommufd.as_raw_fd(), &raw mut destroy) }.map_err(last_errno)?;
    Ok(())
}

/// `IOMMU_IOAS_ALLOC`; returns the id.
pub(crate) fn ioas_alloc(iommufd: BorrowedFd<'_>) -> RawResult<u32> {
    let mut alloc = IoasAlloc { size: argsz::<IoasAlloc>(), ..Default::default() };
    // SAFETY: the kernel reads and writes the 12 bytes of `alloc`, borrowed for this call alone, all integers.
    unsafe { raw::ioas_alloc(iommufd.as_raw_fd(), &raw mut alloc) }.map_err(last_errno)?;
    Ok(alloc.out_ioas_id)
}

impl<F: AsFd> Iommufd<F> {
    /// Lets the devices attached to `ioas` read or write `length` bytes of this process at `address`, as `iova`
    /// (`IOMMU_IOAS_MAP`).
    ///
    /// All three are multiples of the IOMMU's page size. The kernel pins the memory until it is unmapped.
    ///
    /// # Errors
    ///
    /// EEXIST if the range overlaps a mapping; EINVAL if it is unaligned or outside the IOMMU's reach; ENOENT for an
    /// unknown address space; ENOMEM beyond RLIMIT_MEMLOCK.
    ///
    /// # Safety
    ///
    /// Until the range is unmapped or the iommufd and all its devices are closed, the memory belongs to the devices: no
    /// reference to it may exist that a device's write (or, for a mutable one, read) would contradict, and it must not
    /// be freed or put to another use.
    pub unsafe fn map(&self, ioas: &Ioas, access: DmaAccess, address: *mut u8, iova: u64, length: u64) -> Result<()> {
        let readable = if access.contains(DmaAccess::READ) { MAP_READABLE } else { 0 };
        let writeable = if access.contains(DmaAccess::WRITE) { MAP_WRITEABLE } else { 0 };
        let mut map = IoasMap {
            size: argsz::<IoasMap>(),
            flags: MAP_FIXED_IOVA | readable | writeable,
            ioas_id: ioas.id(),
            __reserved: 0,
            user_va: super::address(address),
            length,
            iova,
        };
        // SAFETY: the kernel reads and writes the 40 bytes of `map`, all integers. That devices may read and write the
        // memory at `address` from now on is what the caller vouches for.
        unsafe { raw::ioas_map(self.as_fd().as_raw_fd(), &raw mut map) }
            .map_err(last_errno)
            .map_err(|errno| self.error(Call::IoasMap, errno))?;
        ioas.record_mapping(iova, length);
        Ok(())
    }
}

/// `IOMMU_IOAS_UNMAP`; returns the bytes that were unmapped.
pub(crate) fn ioas_unmap(iommufd: BorrowedFd<'_>, ioas_id: u32, iova: u64, length: u64) -> RawResult<u64> {
    let mut unmap = IoasUnmap { size: argsz::<IoasUnmap>(), ioas_id, iova, length };
    // SAFETY: the kernel reads and writes the 24 bytes of `unmap`, all integers. Unmapping only takes access away from
    // devices.
    unsafe { raw::ioas_unmap(iommufd.as_raw_fd(), &raw mut unmap) }.map_err(last_errno)?;
    Ok(unmap.length)
}
