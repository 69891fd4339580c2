// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What errnos mean for containers and iommufds.

use nix::errno::Errno;

use super::{Call, Meaning};

pub(super) fn container(call: Call, errno: Errno) -> Meaning {
    Some(match (call, errno) {
        (Call::SetIommu, Errno::EINVAL) => "no group is in the container yet, or its IOMMU is set already",
        (Call::SetIommu, Errno::ENODEV) => "no IOMMU driver of that type serves the container's groups",
        (Call::MapDma, Errno::EEXIST) => "the range overlaps a mapping",
        (Call::MapDma, Errno::ENOSPC) => "the limit of mappings is reached",
        (Call::MapDma, Errno::ENOMEM) => "the memory exceeds RLIMIT_MEMLOCK",
        (Call::MapDma | Call::UnmapDma, Errno::EINVAL) => {
            "address or length is unaligned, outside the IOMMU's range, cuts a mapping, or no IOMMU is set"
        }
        (Call::IommuInfo, Errno::EINVAL) => "no IOMMU is set",
        (_, Errno::ENOTTY) => "this is no VFIO container",
        _ => return None,
    })
}

/// A reading that fails leaves nothing known: whatever the reason, its advice is the same.
pub(super) fn dirty_pages(call: Call, errno: Errno) -> Meaning {
    Some(match (call, errno) {
        (_, Errno::EACCES) => "the container's IOMMU is not set, or not of TYPE1v2",
        (_, Errno::ENOTTY) => "this is no VFIO container, or an iommufd in its place, which has no dirty pages",
        (Call::DirtyPages | Call::UnmapDmaDirty, Errno::EINVAL) => {
            "the tracking was not started, the page size is not the IOMMU's smallest, the range is unaligned or cuts a \
             mapping, or the bitmap is too large; treat every page as dirty"
        }
        (Call::DirtyPages | Call::UnmapDmaDirty, _) => {
            "the dirty pages could not be read; treat every page as dirty and restart the tracking or the migration"
        }
        _ => return None,
    })
}

pub(super) fn iommufd(call: Call, errno: Errno) -> Meaning {
    Some(match (call, errno) {
        (_, Errno::ENOENT) => "no such object or mapping",
        (Call::Destroy, Errno::EBUSY) => "the object is in use",
        (Call::IoasMap, Errno::EEXIST) => "the range overlaps a mapping",
        (Call::IoasMap, Errno::ENOMEM) => "the memory exceeds RLIMIT_MEMLOCK",
        (Call::IoasMap | Call::IoasUnmap, Errno::EINVAL) => {
            "address or length is unaligned or outside the IOMMU's range"
        }
        (_, Errno::E2BIG | Errno::EOPNOTSUPP) => "the kernel is too old for this call",
        (_, Errno::ENOTTY) => "this is no iommufd",
        _ => return None,
    })
}

pub(super) fn hwpt(call: Call, errno: Errno) -> Meaning {
    Some(match (call, errno) {
        (_, Errno::ENOTTY) => "this is no iommufd, or the kernel is too old for this call (dirty tracking: before 6.7)",
        (Call::HwInfo | Call::HwptAlloc, Errno::ENOENT) => {
            "the device is not bound to this iommufd, or is a mediated one, which has no IOMMU"
        }
        (Call::HwptAlloc, Errno::EOPNOTSUPP) => "the IOMMU cannot track dirty pages or lacks another of the flags",
        (Call::HwptAlloc, Errno::EINVAL) => "no such address space, or it does not suit the device",
        (Call::SetDirtyTracking, Errno::EOPNOTSUPP) => {
            "the page table was not allocated for dirty tracking; the kernel's own page table never is"
        }
        (Call::SetDirtyTracking, Errno::ENOENT) => "no such page table",
        (Call::GetDirtyBitmap, Errno::EINVAL) => {
            "the range is not aligned to the address space or the page size; treat every page as dirty"
        }
        (Call::GetDirtyBitmap, Errno::ENOENT) => "no such page table; treat every page as dirty",
        (Call::GetDirtyBitmap, Errno::EOPNOTSUPP) => {
            "the page table was not allocated for dirty tracking; treat every page as dirty"
        }
        (Call::GetDirtyBitmap, _) => {
            "the dirty bits could not be read; treat every page as dirty and restart the tracking or the migration"
        }
        _ => return None,
    })
}
