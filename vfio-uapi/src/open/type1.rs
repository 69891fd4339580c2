// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What a container knows of its IOMMU, and its dirty pages.
//!
//! An iommufd that serves as a container has no dirty pages (ENOTTY): use [`Hwpt`](super::Hwpt) there.

use std::os::fd::AsFd;

use vfio_bindings::bindings::vfio as sys;

use super::Container;
use crate::ioctl::type1;
use crate::{Call, DirtyBitmap, DmaRange, Error, Result};

/// What the IOMMU of a container can do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct IommuInfo {
    /// The page sizes, one bit each: bit 12 is 4096 bytes. 0 if the kernel does not say.
    pub page_sizes: u64,
    /// What [`Container::dirty_pages`] takes; `None` if the container tracks no dirty pages.
    pub dirty_pages: Option<DirtyPagesInfo>,
}

/// What [`Container::dirty_pages`] takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct DirtyPagesInfo {
    /// The page sizes, one bit each. Kernels take the smallest alone.
    pub page_sizes: u64,
    /// The largest bitmap, in bytes.
    pub bitmap_bytes_max: u64,
}

impl DirtyPagesInfo {
    /// The one page size that a bitmap may have, in bytes; `None` if there is none.
    #[must_use]
    pub const fn page_size(self) -> Option<u64> {
        1_u64.checked_shl(self.page_sizes.trailing_zeros())
    }
}

/// Where the capabilities begin in the structure that offsets count from, and how long a header is.
const INFO_BYTES: usize = 24;
const HEADER_BYTES: usize = 8;
/// No kernel has so many capabilities; a chain that is longer goes round in circles.
const CAPABILITIES_MAX: usize = 64;

impl<F: AsFd> Container<F> {
    /// What the container's IOMMU can do (`VFIO_IOMMU_GET_INFO`). Needs an IOMMU set.
    ///
    /// # Errors
    ///
    /// EINVAL or ENOTTY without an IOMMU; a list of capabilities that cannot be read.
    pub fn iommu_info(&self) -> Result<IommuInfo> {
        let call = Call::IommuInfo;
        let info = type1::info(self.as_fd()).map_err(|errno| self.error(call, errno))?;
        let page_sizes = if info.flags & sys::VFIO_IOMMU_INFO_PGSIZES != 0 { info.iova_pgsizes } else { 0 };
        if info.flags & sys::VFIO_IOMMU_INFO_CAPS == 0 {
            return Ok(IommuInfo { page_sizes, dirty_pages: None });
        }
        let dirty_pages = find_dirty_pages(info.cap_offset, &info.capabilities)
            .map_err(|what| Error::answer(self.shared_label(), call, what))?;
        Ok(IommuInfo { page_sizes, dirty_pages })
    }

    /// Starts to track which pages the devices write (`VFIO_IOMMU_DIRTY_PAGES`). Succeeds if it runs already.
    ///
    /// If any device of the container cannot report the pages it writes, all mapped pages are always dirty. With mediated
    /// devices alone it is what they pinned or wrote.
    ///
    /// # Errors
    ///
    /// ENOTTY for an iommufd that serves as a container; EACCES before the IOMMU is set to TYPE1v2.
    pub fn start_dirty_pages(&self) -> Result<()> {
        type1::set_tracking(self.as_fd(), true).map_err(|errno| self.error(Call::DirtyPagesStart, errno))
    }

    /// Stops it. Succeeds if it does not run.
    ///
    /// # Errors
    ///
    /// As [`start_dirty_pages`](Self::start_dirty_pages).
    pub fn stop_dirty_pages(&self) -> Result<()> {
        type1::set_tracking(self.as_fd(), false).map_err(|errno| self.error(Call::DirtyPagesStop, errno))
    }

    /// Reads and clears the dirty pages of the bitmap's range. The bitmap holds this reading alone afterwards.
    ///
    /// The range may have holes, whose pages are clean, but may not cut a mapping.
    ///
    /// # Errors
    ///
    /// **Any error means that every page of the range is dirty**, and so says the bitmap then. EINVAL if the tracking was
    /// not started, the page size is not [the smallest](DirtyPagesInfo::page_size), or the range cuts a mapping.
    pub fn dirty_pages(&self, bitmap: &mut DirtyBitmap) -> Result<()> {
        let DmaRange { iova, length } = bitmap.range();
        let page_size = bitmap.page_size();
        let result = type1::dirty_pages(self.as_fd(), iova, length, page_size, bitmap.zeroed_words());
        self.read_dirty(Call::DirtyPages, bitmap, result)
    }

    /// Takes the bitmap's range away from the devices, as [`unmap_dma`](Self::unmap_dma), and reads which of its pages are
    /// dirty in the same step. Returns the bytes that were mapped there.
    ///
    /// # Errors
    ///
    /// As [`dirty_pages`](Self::dirty_pages); part of the range may be unmapped then, and all of it counts as dirty.
    pub fn unmap_dma_dirty(&self, bitmap: &mut DirtyBitmap) -> Result<u64> {
        let DmaRange { iova, length } = bitmap.range();
        let page_size = bitmap.page_size();
        let result = type1::unmap_dirty(self.as_fd(), iova, length, page_size, bitmap.zeroed_words());
        self.read_dirty(Call::UnmapDmaDirty, bitmap, result)
    }

    fn read_dirty<T>(&self, call: Call, bitmap: &mut DirtyBitmap, result: Result<T, i32>) -> Result<T> {
        match result {
            Ok(_) => bitmap.clear_tail(),
            Err(_) => bitmap.mark_all(),
        }
        result.map_err(|errno| self.error(call, errno))
    }
}

/// Finds the migration capability in the chain that begins at `offset`. What cannot be told is an error: a chain that did
/// not fit looks like one without the capability.
fn find_dirty_pages(offset: u32, bytes: &[u8]) -> Result<Option<DirtyPagesInfo>, &'static str> {
    const BROKEN: &str = "the list of capabilities leaves the answer";
    if offset == 0 {
        return Err("there are more capabilities than an IOMMU can have");
    }
    let mut next = offset;
    for _ in 0..CAPABILITIES_MAX {
        if next == 0 {
            return Ok(None);
        }
        let at = usize::try_from(next).ok().and_then(|offset| offset.checked_sub(INFO_BYTES)).ok_or(BROKEN)?;
        let capability = bytes.get(at..).ok_or(BROKEN)?;
        let header = u64_at(capability, 0).ok_or(BROKEN)?;
        let [i0, i1, v0, v1, n0, n1, n2, n3] = header.to_ne_bytes();
        let (id, version) = (u16::from_ne_bytes([i0, i1]), u16::from_ne_bytes([v0, v1]));
        if u32::from(id) == sys::VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION && version == 1 {
            // After the header: flags and padding, then the two numbers.
            let page_sizes = u64_at(capability, HEADER_BYTES.saturating_add(8)).ok_or(BROKEN)?;
            let bitmap_bytes_max = u64_at(capability, HEADER_BYTES.saturating_add(16)).ok_or(BROKEN)?;
            return Ok(Some(DirtyPagesInfo { page_sizes, bitmap_bytes_max }));
        }
        next = u32::from_ne_bytes([n0, n1, n2, n3]);
    }
    Err("the list of capabilities has no end")
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod test {
    use super::*;

    /// Capabilities of (id, version, next, contents), one behind the other.
    fn chain(capabilities: &[(u16, u16, u32, &[u64])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (id, version, next, contents) in capabilities {
            bytes.extend(id.to_ne_bytes());
            bytes.extend(version.to_ne_bytes());
            bytes.extend(next.to_ne_bytes());
            bytes.extend(contents.iter().flat_map(|word| word.to_ne_bytes()));
        }
        bytes
    }

    #[test]
    fn the_migration_capability_is_found_behind_others() {
        let info = DirtyPagesInfo { page_sizes: 0x1000, bitmap_bytes_max: 0x1000_0000 };
        let found = Some(info);
        let migration: &[u64] = &[0, 0x1000, 0x1000_0000];
        assert_eq!(find_dirty_pages(24, &chain(&[(2, 1, 0, migration)])), Ok(found));
        assert_eq!(find_dirty_pages(24, &chain(&[(1, 1, 40, &[7]), (2, 1, 0, migration)])), Ok(found));
        assert_eq!(
            find_dirty_pages(24, &chain(&[(1, 1, 0, &[7]), (2, 1, 0, migration)])),
            Ok(None),
            "the chain has ended"
        );
        assert_eq!(find_dirty_pages(24, &chain(&[(2, 2, 0, migration)])), Ok(None), "another version");
        assert_eq!(info.page_size(), Some(4096));
    }

    #[test]
    fn chains_that_cannot_be_read_are_no_answer() {
        assert!(find_dirty_pages(0, &[]).is_err());
        for offset in [8, 23, 25, 4096, u32::MAX] {
            assert!(find_dirty_pages(offset, &chain(&[(1, 1, 0, &[])])).is_err(), "{offset}");
        }
        assert!(find_dirty_pages(24, &chain(&[(2, 1, 0, &[0, 0x1000])])).is_err(), "cut short");
        assert!(find_dirty_pages(24, &chain(&[(1, 1, 24, &[])])).is_err(), "a circle");
    }
}
