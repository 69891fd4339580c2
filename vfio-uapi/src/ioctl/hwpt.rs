// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The ioctls of iommufd for page tables and their dirty bits, with their structs.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::{RawResult, address, argsz, bits, last_errno};

mod raw {
    use nix::ioctl_readwrite_bad;

    use super::{GetDirtyBitmap, HwInfo, HwptAlloc, IovaRanges, SetDirtyTracking};
    use crate::ioctls as nr;

    ioctl_readwrite_bad!(iova_ranges, nr::IOMMU_IOAS_IOVA_RANGES, IovaRanges);
    ioctl_readwrite_bad!(hw_info, nr::IOMMU_GET_HW_INFO, HwInfo);
    ioctl_readwrite_bad!(hwpt_alloc, nr::IOMMU_HWPT_ALLOC, HwptAlloc);
    ioctl_readwrite_bad!(set_dirty_tracking, nr::IOMMU_HWPT_SET_DIRTY_TRACKING, SetDirtyTracking);
    ioctl_readwrite_bad!(get_dirty_bitmap, nr::IOMMU_HWPT_GET_DIRTY_BITMAP, GetDirtyBitmap);
}

/// `IOMMU_HWPT_DIRTY_TRACKING_ENABLE`.
pub(crate) const DIRTY_TRACKING_ENABLE: u32 = 1;
/// `IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR`.
pub(crate) const DIRTY_BITMAP_NO_CLEAR: u32 = 1;

/// `struct iommu_iova_range`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct IovaRange {
    pub(crate) start: u64,
    pub(crate) last: u64,
}

/// `struct iommu_ioas_iova_ranges`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct IovaRanges {
    pub(crate) size: u32,
    pub(crate) ioas_id: u32,
    pub(crate) num_iovas: u32,
    pub(crate) __reserved: u32,
    pub(crate) allowed_iovas: u64,
    pub(crate) out_iova_alignment: u64,
}

/// `struct iommu_hw_info`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct HwInfo {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) dev_id: u32,
    pub(crate) data_len: u32,
    pub(crate) data_uptr: u64,
    pub(crate) out_data_type: u32,
    pub(crate) out_max_pasid_log2: u8,
    pub(crate) __reserved: [u8; 3],
    pub(crate) out_capabilities: u64,
}

/// `struct iommu_hwpt_alloc`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct HwptAlloc {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) dev_id: u32,
    pub(crate) pt_id: u32,
    pub(crate) out_hwpt_id: u32,
    pub(crate) __reserved: u32,
    pub(crate) data_type: u32,
    pub(crate) data_len: u32,
    pub(crate) data_uptr: u64,
    pub(crate) fault_id: u32,
    pub(crate) __reserved2: u32,
}

/// `struct iommu_hwpt_set_dirty_tracking`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct SetDirtyTracking {
    pub(crate) size: u32,
    pub(crate) flags: u32,
    pub(crate) hwpt_id: u32,
    pub(crate) __reserved: u32,
}

/// `struct iommu_hwpt_get_dirty_bitmap`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct GetDirtyBitmap {
    pub(crate) size: u32,
    pub(crate) hwpt_id: u32,
    pub(crate) flags: u32,
    pub(crate) __reserved: u32,
    pub(crate) iova: u64,
    pub(crate) length: u64,
    pub(crate) page_size: u64,
    pub(crate) data: u64,
}

/// `IOMMU_IOAS_IOVA_RANGES` into `ranges`: how many ranges there are, and the alignment mappings need.
///
/// With more ranges than room the kernel says EMSGSIZE after it has filled the room and counted all: that is a success
/// here, with a count beyond the room.
pub(crate) fn iova_ranges(iommufd: BorrowedFd<'_>, ioas: u32, ranges: &mut [IovaRange]) -> RawResult<(u32, u64)> {
    let mut query = IovaRanges {
        size: argsz::<IovaRanges>(),
        ioas_id: ioas,
        // A room beyond u32 is used as far as the kernel can count.
        num_iovas: u32::try_from(ranges.len()).unwrap_or(u32::MAX),
        __reserved: 0,
        allowed_iovas: address(ranges.as_mut_ptr()),
        out_iova_alignment: 0,
    };
    // SAFETY: the kernel reads and writes the 32 bytes of `query`, and writes at most `num_iovas` elements of 16 bytes
    // at `ranges`, which has as many and is exclusively borrowed until the call has returned; all are integers.
    let result = unsafe { raw::iova_ranges(iommufd.as_raw_fd(), &raw mut query) }.map_err(last_errno);
    match result {
        Ok(_) | Err(nix::libc::EMSGSIZE) => Ok((query.num_iovas, query.out_iova_alignment)),
        Err(errno) => Err(errno),
    }
}

/// `IOMMU_GET_HW_INFO` without the part that only one kind of IOMMU has.
pub(crate) fn hw_info(iommufd: BorrowedFd<'_>, dev_id: u32) -> RawResult<HwInfo> {
    let mut info = HwInfo { size: argsz::<HwInfo>(), dev_id, ..Default::default() };
    // SAFETY: the kernel reads and writes the 40 bytes of `info`, all integers. It writes through data_uptr at most
    // data_len bytes, which is 0.
    unsafe { raw::hw_info(iommufd.as_raw_fd(), &raw mut info) }.map_err(last_errno)?;
    Ok(info)
}

/// `IOMMU_HWPT_ALLOC` of the kernel's own page table on an address space; returns its id.
pub(crate) fn hwpt_alloc(iommufd: BorrowedFd<'_>, flags: u32, dev_id: u32, ioas: u32) -> RawResult<u32> {
    let mut alloc = HwptAlloc { size: argsz::<HwptAlloc>(), flags, dev_id, pt_id: ioas, ..Default::default() };
    // SAFETY: the kernel reads and writes the 48 bytes of `alloc`, all integers. It reads through data_uptr at most
    // data_len bytes, which is 0.
    unsafe { raw::hwpt_alloc(iommufd.as_raw_fd(), &raw mut alloc) }.map_err(last_errno)?;
    Ok(alloc.out_hwpt_id)
}

/// `IOMMU_HWPT_SET_DIRTY_TRACKING`.
pub(crate) fn set_dirty_tracking(iommufd: BorrowedFd<'_>, hwpt_id: u32, enable: bool) -> RawResult<()> {
    let flags = if enable { DIRTY_TRACKING_ENABLE } else { 0 };
    let mut set = SetDirtyTracking { size: argsz::<SetDirtyTracking>(), flags, hwpt_id, __reserved: 0 };
    // SAFETY: the kernel reads the 16 bytes of `set`, all integers.
    unsafe { raw::set_dirty_tracking(iommufd.as_raw_fd(), &raw mut set) }.map_err(last_errno)?;
    Ok(())
}

/// Which dirty bits to read, and what of the request the caller chooses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DirtyRequest {
    pub(crate) hwpt_id: u32,
    pub(crate) flags: u32,
    pub(crate) iova: u64,
    pub(crate) length: u64,
    pub(crate) page_size: u64,
}

/// The argument of `IOMMU_HWPT_GET_DIRTY_BITMAP`, for which `bitmap` has to be large enough; `None` if it is not.
pub(super) fn dirty_message(request: DirtyRequest, bitmap: &mut [u64]) -> Option<GetDirtyBitmap> {
    let DirtyRequest { hwpt_id, flags, iova, length, page_size } = request;
    let pages = length.checked_div(page_size).filter(|_| length.checked_rem(page_size) == Some(0))?;
    if pages > bits(bitmap)? {
        return None;
    }
    let size = argsz::<GetDirtyBitmap>();
    let data = address(bitmap.as_mut_ptr());
    Some(GetDirtyBitmap { size, hwpt_id, flags, __reserved: 0, iova, length, page_size, data })
}

/// `IOMMU_HWPT_GET_DIRTY_BITMAP`, one bit per page of the request.
///
/// A bitmap with fewer bits than the range has pages is refused with EINVAL before the call.
pub(crate) fn get_dirty_bitmap(iommufd: BorrowedFd<'_>, request: DirtyRequest, bitmap: &mut [u64]) -> RawResult<()> {
    let mut message = dirty_message(request, bitmap).ok_or(nix::libc::EINVAL)?;
    // SAFETY: the kernel reads the 48 bytes of `message`. It sets bits in the first length/page_size bits at `bitmap`,
    // which is exclusively borrowed until the call has returned and has at least as many (dirty_message); any u64 is
    // valid.
    unsafe { raw::get_dirty_bitmap(iommufd.as_raw_fd(), &raw mut message) }.map_err(last_errno)?;
    Ok(())
}
