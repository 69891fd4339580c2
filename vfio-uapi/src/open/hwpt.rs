// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Page tables of an iommufd, and the dirty bits the IOMMU keeps in them (Linux 6.7).
//!
//! The way: [`Cdev::bind`](super::Cdev::bind), [`Iommufd::hw_info`], [`Iommufd::alloc_hwpt`] with
//! [`HwptFlags::DIRTY_TRACKING`], [`Device::attach`](crate::Device::attach) to its [`id`](Hwpt::id),
//! [`Iommufd::start_dirty_tracking`], then [`Iommufd::dirty_bitmap`] as often as needed.
//!
//! The kernel answers some requests for dirty bits with success and none: without tracking, where nothing is mapped, and
//! into memory that is not there. The types here leave no way to make them.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::CdevId;
use super::iommufd::{Ioas, Iommufd};
use super::mapped::Mapped;
use crate::ioctl::hwpt::{self, DIRTY_BITMAP_NO_CLEAR, DirtyRequest};
use crate::{Call, DirtyBitmap, DmaRange, Error, Refusal, Result};

bitflags::bitflags! {
    /// What the IOMMU behind a device can do.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub struct HwCapabilities: u64 {
        /// It tracks dirty pages.
        const DIRTY_TRACKING = 1;
        /// Translations of a PASID have an execute permission.
        const PCI_PASID_EXEC = 2;
        /// Translations of a PASID have a privileged mode.
        const PCI_PASID_PRIV = 4;
        /// The device's ATS is missing or cannot be used.
        const PCI_ATS_NOT_SUPPORTED = 8;
    }
}

bitflags::bitflags! {
    /// What a page table has to be able to do.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub struct HwptFlags: u32 {
        /// It can be the outer one of two.
        const NEST_PARENT = 1;
        /// Its dirty bits can be read. Binding: a device whose IOMMU cannot track is refused at
        /// [`attach`](crate::Device::attach).
        const DIRTY_TRACKING = 2;
        /// PASIDs can be attached to it (Linux 6.15).
        const PASID = 8;
    }
}

/// What iommufd knows of the IOMMU behind a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct HwInfo {
    /// What it can do; bits of later kernels included. Empty on kernels before 6.7.
    pub capabilities: HwCapabilities,
    /// The kind of IOMMU, by the number of `enum iommu_hw_info_type`; 0 is none in particular.
    pub kind: u32,
    /// How many bits PASIDs have; 0 if the device has none.
    pub pasid_bits: u8,
}

/// The addresses an address space can map.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct IovaRanges {
    /// First and last address of each range, ascending. It changes as devices are attached.
    pub ranges: Vec<(u64, u64)>,
    /// What start and length of a mapping have to be a multiple of, in bytes.
    pub alignment: u64,
}

/// A page table of an iommufd, allocated by request. It lives until it is destroyed or the iommufd is closed.
///
/// The one that the kernel makes by itself when a device is attached to an address space is not of this kind: it cannot
/// track.
#[derive(Debug)]
pub struct Hwpt {
    id: u32,
    flags: HwptFlags,
    mapped: Arc<Mapped>,
}

impl Hwpt {
    /// The page table with this id, which was allocated elsewhere with `flags` on `ioas`.
    #[must_use]
    pub fn from_id(id: u32, flags: HwptFlags, ioas: &Ioas) -> Self {
        Self { id, flags, mapped: Arc::clone(ioas.mapped()) }
    }

    /// The id, for [`Device::attach`](crate::Device::attach).
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// What it was allocated for.
    #[must_use]
    pub const fn flags(&self) -> HwptFlags {
        self.flags
    }
}

/// A page table whose dirty bits the IOMMU sets. Only of such can they be read.
///
/// Dropping it leaves the tracking on.
#[derive(Debug)]
#[must_use = "the tracking costs bandwidth until it is stopped"]
pub struct TrackedHwpt(Hwpt);

impl TrackedHwpt {
    /// The id.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.0.id
    }
}

/// What becomes of the dirty bits that are read.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "cleared or not")]
pub enum AfterRead {
    /// They are cleared: the next reading has what was written since.
    Clear,
    /// They stay. For ranges that are unmapped next, which clears them faster.
    Keep,
}

/// A call that failed, with what it was about, unchanged.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
#[non_exhaustive]
pub struct Unchanged<T> {
    /// Why it failed.
    pub error: Error,
    /// What it was about.
    pub object: T,
}

/// More ranges than any address space has: each reserved stretch of a device makes one.
const RANGES_MAX: usize = 1 << 16;

impl<F: AsFd> Iommufd<F> {
    /// The addresses `ioas` can map (`IOMMU_IOAS_IOVA_RANGES`).
    ///
    /// # Errors
    ///
    /// ENOENT if the address space does not exist.
    pub fn iova_ranges(&self, ioas: &Ioas) -> Result<IovaRanges> {
        let call = Call::IoasIovaRanges;
        let mut room = 8;
        loop {
            let mut ranges = vec![hwpt::IovaRange::default(); room];
            let (count, alignment) =
                hwpt::iova_ranges(self.as_fd(), ioas.id(), &mut ranges).map_err(|errno| self.error(call, errno))?;
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            if count <= room {
                ranges.truncate(count);
                let ranges = ranges.iter().map(|range| (range.start, range.last)).collect();
                return Ok(IovaRanges { ranges, alignment });
            }
            if count > RANGES_MAX {
                return Err(self.answer(call, "counts more ranges than an address space can have"));
            }
            // They can become more until the next call, but not for ever.
            room = count.saturating_mul(2);
        }
    }

    /// What the IOMMU behind a bound device can do (`IOMMU_GET_HW_INFO`).
    ///
    /// # Errors
    ///
    /// ENOENT for a mediated device, which has no IOMMU, and for an id that is none; ENOTTY before Linux 6.6.
    pub fn hw_info(&self, device: CdevId) -> Result<HwInfo> {
        let info = hwpt::hw_info(self.as_fd(), device.raw()).map_err(|errno| self.error(Call::HwInfo, errno))?;
        Ok(HwInfo {
            capabilities: HwCapabilities::from_bits_retain(info.out_capabilities),
            kind: info.out_data_type,
            pasid_bits: info.out_max_pasid_log2,
        })
    }

    /// Allocates a page table with the mappings of `ioas`, as the IOMMU behind `device` has them (`IOMMU_HWPT_ALLOC`).
    ///
    /// # Errors
    ///
    /// EOPNOTSUPP if the IOMMU cannot do what `flags` ask for; ENOENT for a mediated device, which has no IOMMU; EINVAL
    /// if `ioas` does not exist.
    pub fn alloc_hwpt(&self, device: CdevId, ioas: &Ioas, flags: HwptFlags) -> Result<Hwpt> {
        hwpt::hwpt_alloc(self.as_fd(), flags.bits(), device.raw(), ioas.id())
            .map(|id| Hwpt::from_id(id, flags, ioas))
            .map_err(|errno| self.error(Call::HwptAlloc, errno))
    }

    /// Clears all dirty bits of a page table and has the IOMMU set them from now on (`IOMMU_HWPT_SET_DIRTY_TRACKING`).
    ///
    /// Covers the writes of all devices attached to it, and of those alone: devices attached to another page table of
    /// the same address space are tracked there.
    ///
    /// # Errors
    ///
    /// Refused without [`HwptFlags::DIRTY_TRACKING`]. EOPNOTSUPP if the kernel knows better; ENOENT if the id is no page
    /// table's.
    pub fn start_dirty_tracking(&self, hwpt: Hwpt) -> Result<TrackedHwpt, Unchanged<Hwpt>> {
        let call = Call::SetDirtyTracking;
        if !hwpt.flags.contains(HwptFlags::DIRTY_TRACKING) {
            return Err(Unchanged { error: self.refused(call, Refusal::NoDirtyTracking), object: hwpt });
        }
        match hwpt::set_dirty_tracking(self.as_fd(), hwpt.id, true) {
            Ok(()) => Ok(TrackedHwpt(hwpt)),
            Err(errno) => Err(Unchanged { error: self.error(call, errno), object: hwpt }),
        }
    }

    /// Ends the tracking (`IOMMU_HWPT_SET_DIRTY_TRACKING`). Dirty bits not read until now are lost.
    ///
    /// # Errors
    ///
    /// ENOENT if the page table does not exist any more.
    pub fn stop_dirty_tracking(&self, tracked: TrackedHwpt) -> Result<Hwpt, Unchanged<TrackedHwpt>> {
        match hwpt::set_dirty_tracking(self.as_fd(), tracked.id(), false) {
            Ok(()) => Ok(tracked.0),
            Err(errno) => Err(Unchanged { error: self.error(Call::SetDirtyTracking, errno), object: tracked }),
        }
    }

    /// Reads the dirty bits of the bitmap's range (`IOMMU_HWPT_GET_DIRTY_BITMAP`). The bitmap holds this reading alone
    /// afterwards.
    ///
    /// The whole range has to be mapped: in a hole the kernel finds nothing and says that all is well. Known are the
    /// mappings made and removed through the [`Ioas`], and what was [declared](Ioas::declare_mapped).
    ///
    /// Bits of smaller IOMMU pages are merged into the bitmap's, and those of larger ones repeated. Before unmapping a
    /// range, read it with [`AfterRead::Keep`]: what was not read by then is lost.
    ///
    /// # Errors
    ///
    /// **Any error means that every page of the range is dirty**, and so says the bitmap then. Refused are ranges with a
    /// hole. EINVAL if the range is not aligned to the address space's [alignment](IovaRanges::alignment); ENOENT if the
    /// page table does not exist any more.
    pub fn dirty_bitmap(&self, tracked: &TrackedHwpt, after: AfterRead, bitmap: &mut DirtyBitmap) -> Result<()> {
        let result = self.read_dirty(&tracked.0, after, bitmap);
        match result {
            Ok(()) => bitmap.clear_tail(),
            Err(_) => bitmap.mark_all(),
        }
        result
    }

    fn read_dirty(&self, hwpt: &Hwpt, after: AfterRead, bitmap: &mut DirtyBitmap) -> Result<()> {
        let call = Call::GetDirtyBitmap;
        let DmaRange { iova, length } = bitmap.range();
        if let Some(hole) = hwpt.mapped.first_hole(iova, length) {
            return Err(self.refused(call, Refusal::NotMapped { iova: hole }));
        }
        let flags = match after {
            AfterRead::Clear => 0,
            AfterRead::Keep => DIRTY_BITMAP_NO_CLEAR,
        };
        let request = DirtyRequest { hwpt_id: hwpt.id, flags, iova, length, page_size: bitmap.page_size() };
        hwpt::get_dirty_bitmap(self.as_fd(), request, bitmap.zeroed_words()).map_err(|errno| self.error(call, errno))
    }

    /// Destroys a page table that no device is attached to.
    ///
    /// # Errors
    ///
    /// EBUSY while a device is attached; ENOENT if it does not exist.
    pub fn destroy_hwpt(&self, hwpt: Hwpt) -> Result<(), Unchanged<Hwpt>> {
        crate::ioctl::iommufd::destroy(self.as_fd(), hwpt.id)
            .map_err(|errno| Unchanged { error: self.error(Call::Destroy, errno), object: hwpt })
    }
}
