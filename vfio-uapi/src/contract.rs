// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Requests the rest of this crate would never make, for testing what a kernel driver answers to them.
//!
//! Only with the feature `contract`, and not part of what this crate promises. Every function is sound for any argument:
//! buffers are as large as the kernel may believe them to be, and no address of the caller's choosing is passed on.
//! Errors are raw errnos.

use std::os::fd::AsFd;

use crate::ioctl::hwpt::{self, DirtyRequest};
use crate::ioctl::{contract, dma_logging, iommufd, mock, type1};
use crate::open::{CdevId, Container, Ioas, Iommufd};

/// `VFIO_DEVICE_FEATURE` with any `argsz` up to 64 (more is sent as 64), any `flags`, and a payload from `buffer`'s
/// byte 8 on, which receives the answer.
///
/// Features whose payload holds an address (6, 8 and 11), or that this crate does not know, are refused with EPERM
/// unless the request cannot get as far as their payload: with PROBE, or with an index from 0xf000 on, which no
/// kernel has. So is the index 4 without GET or SET, which is another request on a container.
///
/// A SET of the device state is possible; the fd it may return is in the answer and belongs to nobody.
///
/// # Errors
///
/// The errno.
pub fn feature(device: &impl AsFd, argsz: u32, flags: u32, buffer: &mut [u8; 64]) -> Result<(), i32> {
    contract::feature(device.as_fd(), argsz, flags, buffer)
}

/// `VFIO_DEVICE_FEATURE` with a null pointer as its argument.
///
/// # Errors
///
/// The errno: EFAULT on a device.
pub fn feature_at_null(device: &impl AsFd) -> Result<(), i32> {
    contract::feature_at_null(device.as_fd())
}

/// `VFIO_MIG_GET_PRECOPY_INFO` with any `argsz` up to 64 (more is sent as 64) and any `flags`. Returns the 24 bytes of
/// the answer.
///
/// # Errors
///
/// The errno.
pub fn precopy_info(data: &impl AsFd, argsz: u32, flags: u32) -> Result<[u8; 24], i32> {
    contract::precopy_info(data.as_fd(), argsz, flags)
}

/// `DMA_LOGGING_START` of any `ranges`, each a start and a length. Returns the page size the device chose.
///
/// # Errors
///
/// The errno.
pub fn dma_logging_start(device: &impl AsFd, page_size: u64, ranges: &[[u64; 2]]) -> Result<u64, i32> {
    contract::dma_logging_start(device.as_fd(), page_size, ranges)
}

/// `DMA_LOGGING_REPORT` of any range and page size, into a bitmap that has a bit per page: else EINVAL, before the call.
///
/// # Errors
///
/// The errno.
pub fn dma_logging_report(
    device: &impl AsFd,
    iova: u64,
    length: u64,
    page_size: u64,
    bitmap: &mut [u64],
) -> Result<(), i32> {
    dma_logging::report(device.as_fd(), iova, length, page_size, bitmap)
}

/// `IOMMU_HWPT_ALLOC` with any flags and ids. Returns the id.
///
/// # Errors
///
/// The errno.
pub fn hwpt_alloc(iommufd: &impl AsFd, flags: u32, device: u32, ioas: u32) -> Result<u32, i32> {
    hwpt::hwpt_alloc(iommufd.as_fd(), flags, device, ioas)
}

/// `IOMMU_HWPT_SET_DIRTY_TRACKING` of any id.
///
/// # Errors
///
/// The errno.
pub fn set_dirty_tracking(iommufd: &impl AsFd, hwpt: u32, enable: bool) -> Result<(), i32> {
    hwpt::set_dirty_tracking(iommufd.as_fd(), hwpt, enable)
}

/// `IOMMU_HWPT_GET_DIRTY_BITMAP` of any id, flags, start, length and page size, into a bitmap that has a bit per page: else
/// EINVAL, before the call.
///
/// # Errors
///
/// The errno.
pub fn dirty_bitmap(
    iommufd: &impl AsFd,
    hwpt_id: u32,
    flags: u32,
    [iova, length, page_size]: [u64; 3],
    bitmap: &mut [u64],
) -> Result<(), i32> {
    hwpt::get_dirty_bitmap(iommufd.as_fd(), DirtyRequest { hwpt_id, flags, iova, length, page_size }, bitmap)
}

/// `VFIO_IOMMU_DIRTY_PAGES` GET_BITMAP of any start, length and page size, into a bitmap that has a bit per page: else
/// EINVAL, before the call.
///
/// # Errors
///
/// The errno.
pub fn dirty_pages(container: &impl AsFd, [iova, length, page_size]: [u64; 3], bitmap: &mut [u64]) -> Result<(), i32> {
    type1::dirty_pages(container.as_fd(), iova, length, page_size, bitmap)
}

/// `IOMMU_DESTROY` of any id.
///
/// # Errors
///
/// The errno.
pub fn destroy(iommufd: &impl AsFd, id: u32) -> Result<(), i32> {
    iommufd::destroy(iommufd.as_fd(), id)
}

/// A device behind the kernel's simulated IOMMU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MockDevice {
    /// Its own id.
    pub id: u32,
    /// The page table it is attached to.
    pub hwpt: u32,
    /// Its id as a bound device.
    pub device: CdevId,
}

/// Makes a device behind the kernel's simulated IOMMU, attached to `ioas`; if so wished one whose IOMMU cannot track.
///
/// # Errors
///
/// The errno: ENOTTY if the kernel was built without CONFIG_IOMMUFD_TEST.
pub fn mock_device(iommufd: &impl AsFd, ioas: u32, tracks: bool) -> Result<MockDevice, i32> {
    // MOCK_FLAGS_DEVICE_NO_DIRTY.
    let flags = u32::from(!tracks);
    let [id, hwpt, device] = mock::device(iommufd.as_fd(), ioas, flags)?;
    Ok(MockDevice { id, hwpt, device: CdevId::from_raw(device) })
}

/// Attaches such a device to another page table or address space.
///
/// # Errors
///
/// The errno.
pub fn mock_attach(iommufd: &impl AsFd, device: MockDevice, table: u32) -> Result<(), i32> {
    mock::replace(iommufd.as_fd(), device.id, table)
}

/// Has the simulated IOMMU mark those pages of a range dirty in page table `hwpt` that have a bit in `bitmap`; tracking has
/// to run. Returns their number.
///
/// # Errors
///
/// The errno; EINVAL before the call if the bitmap has fewer bits than the range has pages.
pub fn mock_dirty(iommufd: &impl AsFd, hwpt: u32, range: [u64; 3], bitmap: &[u64]) -> Result<u64, i32> {
    mock::dirty(iommufd.as_fd(), hwpt, range, bitmap)
}

/// `IOMMU_OPTION` of an address space without mappings: has its page tables map page by page. Otherwise the kernel may
/// combine pages that are adjacent in memory, and a dirty bit stands for all of an entry.
///
/// # Errors
///
/// The errno: EINVAL if something is mapped for a device.
pub fn small_pages(iommufd: &impl AsFd, ioas: &Ioas) -> Result<(), i32> {
    mock::small_pages(iommufd.as_fd(), ioas.id())
}

/// Maps memory of its own, which is never freed: `length` bytes at `iova`.
///
/// # Errors
///
/// As [`Iommufd::map`].
pub fn map(iommufd: &Iommufd<impl AsFd>, ioas: &Ioas, iova: u64, length: u64) -> crate::Result<()> {
    mock::Memory::new(length).map(iommufd, ioas, iova)
}

/// The same for a container.
///
/// # Errors
///
/// As [`Container::map_dma`].
pub fn map_dma(container: &Container<impl AsFd>, iova: u64, length: u64) -> crate::Result<()> {
    mock::Memory::new(length).map_dma(container, iova)
}

/// Memory that devices may have for good: it is never freed, and read through the kernel alone.
#[derive(Debug)]
pub struct Memory(mock::Memory);

impl Memory {
    /// `length` bytes of zeros.
    #[must_use]
    pub fn new(length: u64) -> Self {
        Self(mock::Memory::new(length))
    }

    /// Copies all of it, as it is at this moment.
    ///
    /// # Errors
    ///
    /// Those of `/proc/self/mem`.
    pub fn snapshot(&self) -> std::io::Result<Vec<u8>> {
        self.0.snapshot()
    }

    /// Maps it for the devices of an address space.
    ///
    /// # Errors
    ///
    /// As [`Iommufd::map`].
    pub fn map(&self, iommufd: &Iommufd<impl AsFd>, ioas: &Ioas, iova: u64) -> crate::Result<()> {
        self.0.map(iommufd, ioas, iova)
    }

    /// Maps it for the devices of a container.
    ///
    /// # Errors
    ///
    /// As [`Container::map_dma`].
    pub fn map_dma(&self, container: &Container<impl AsFd>, iova: u64) -> crate::Result<()> {
        self.0.map_dma(container, iova)
    }
}
