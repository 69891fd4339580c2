// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a container of TYPE1v2 says about itself, and its dirty pages.

use core::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd};

use vfio_bindings::bindings::vfio as sys;

use super::{RawResult, argsz, bits, last_errno};

mod raw {
    use nix::ioctl_readwrite_bad;

    use super::{DirtyPages, Info, UnmapDirty};
    use crate::ioctls as nr;

    ioctl_readwrite_bad!(get_info, nr::IOMMU_GET_INFO, Info);
    ioctl_readwrite_bad!(dirty_pages, nr::IOMMU_DIRTY_PAGES, DirtyPages);
    ioctl_readwrite_bad!(unmap_dirty, nr::IOMMU_UNMAP_DMA, UnmapDirty);
}

/// Room for the capabilities: more than two hundred ranges of addresses, of which IOMMUs have two.
const CAPABILITY_BYTES: usize = 4096 - 24;

/// The argument of `VFIO_IOMMU_GET_INFO`: `struct vfio_iommu_type1_info` and room for what follows it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct Info {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) iova_pgsizes: u64,
    pub(crate) cap_offset: u32,
    pub(crate) pad: u32,
    pub(crate) capabilities: [u8; CAPABILITY_BYTES],
}

/// The argument of `VFIO_IOMMU_DIRTY_PAGES` with GET_BITMAP: header and payload in one typed object.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct DirtyPages {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) get: sys::vfio_iommu_type1_dirty_bitmap_get,
}

/// The argument of `VFIO_IOMMU_UNMAP_DMA` with GET_DIRTY_BITMAP: the bitmap's description follows the struct.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub(crate) struct UnmapDirty {
    pub(crate) argsz: u32,
    pub(crate) flags: u32,
    pub(crate) iova: u64,
    pub(crate) size: u64,
    pub(crate) bitmap: sys::vfio_bitmap,
}

/// `VFIO_IOMMU_GET_INFO`, with as many capabilities as fit.
pub(crate) fn info(container: BorrowedFd<'_>) -> RawResult<Info> {
    let mut info = Info {
        argsz: argsz::<Info>(),
        flags: 0,
        iova_pgsizes: 0,
        cap_offset: 0,
        pad: 0,
        capabilities: [0; CAPABILITY_BYTES],
    };
    // SAFETY: `info` is borrowed for this call alone, and the kernel reads and writes at most its `argsz` bytes, all
    // integers.
    unsafe { raw::get_info(container.as_raw_fd(), &raw mut info) }.map_err(last_errno)?;
    Ok(info)
}

/// `VFIO_IOMMU_DIRTY_PAGES` START or STOP.
pub(crate) fn set_tracking(container: BorrowedFd<'_>, start: bool) -> RawResult<()> {
    let flags = if start { sys::VFIO_IOMMU_DIRTY_PAGES_FLAG_START } else { sys::VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP };
    let nowhere = sys::vfio_bitmap { pgsize: 0, size: 0, data: core::ptr::null_mut() };
    let get = sys::vfio_iommu_type1_dirty_bitmap_get { iova: 0, size: 0, bitmap: nowhere };
    let mut message = DirtyPages { argsz: argsz::<DirtyPages>(), flags, get };
    // SAFETY: the kernel reads the header of `message` and, with these flags, nothing else. On a device the number is
    // VFIO_DEVICE_FEATURE, where flags without GET and SET reach no payload.
    unsafe { raw::dirty_pages(container.as_raw_fd(), &raw mut message) }.map_err(last_errno)?;
    Ok(())
}

/// The description of `bitmap` for `length` bytes in pages of `page_size`; `None` if it is too small for them.
pub(super) fn describe(length: u64, page_size: u64, bitmap: &mut [u64]) -> Option<sys::vfio_bitmap> {
    let pages = length.checked_div(page_size).filter(|_| length.checked_rem(page_size) == Some(0))?;
    if pages > bits(bitmap)? {
        return None;
    }
    let size = u64::try_from(size_of_val(bitmap)).ok()?;
    Some(sys::vfio_bitmap { pgsize: page_size, size, data: bitmap.as_mut_ptr() })
}

/// `VFIO_IOMMU_DIRTY_PAGES` GET_BITMAP of `[iova, iova + size)`, one bit per page.
///
/// A bitmap with fewer bits than the range has pages is refused with EINVAL before the call.
pub(crate) fn dirty_pages(
    container: BorrowedFd<'_>,
    iova: u64,
    size: u64,
    page_size: u64,
    bitmap: &mut [u64],
) -> RawResult<()> {
    let bitmap = describe(size, page_size, bitmap).ok_or(nix::libc::EINVAL)?;
    let get = sys::vfio_iommu_type1_dirty_bitmap_get { iova, size, bitmap };
    let flags = sys::VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP;
    let mut message = DirtyPages { argsz: argsz::<DirtyPages>(), flags, get };
    // SAFETY: the kernel reads the 48 bytes of `message`, and reads and writes whole words at the bitmap's address, as
    // many as its size says, which are exclusively borrowed until the call has returned (`describe` took them from the
    // slice of this function); any u64 is valid. On a device the number is VFIO_DEVICE_FEATURE, where flags without GET
    // and SET reach no payload.
    unsafe { raw::dirty_pages(container.as_raw_fd(), &raw mut message) }.map_err(last_errno)?;
    Ok(())
}

/// `VFIO_IOMMU_UNMAP_DMA` with the dirty pages of what is unmapped; returns the bytes that were unmapped.
///
/// A bitmap with fewer bits than the range has pages is refused with EINVAL before the call.
pub(crate) fn unmap_dirty(
    container: BorrowedFd<'_>,
    iova: u64,
    size: u64,
    page_size: u64,
    bitmap: &mut [u64],
) -> RawResult<u64> {
    let bitmap = describe(size, page_size, bitmap).ok_or(nix::libc::EINVAL)?;
    let flags = sys::VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP;
    let mut message = UnmapDirty { argsz: argsz::<UnmapDirty>(), flags, iova, size, bitmap };
    // SAFETY: the kernel reads the 48 bytes of `message` and writes its first 24, and reads and writes whole words at the
    // bitmap's address, as many as its size says, which are exclusively borrowed until the call has returned; any u64 is
    // valid. Unmapping only takes access away from devices.
    unsafe { raw::unmap_dirty(container.as_raw_fd(), &raw mut message) }.map_err(last_errno)?;
    Ok(message.size)
}
