// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! iommufd: the address spaces of devices opened by their character device.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use super::mapped::Mapped;
use super::{label, open_node};
use crate::{Call, DmaRange, Error, Refusal, Result, ioctl};

/// An iommufd.
#[derive(Debug)]
pub struct Iommufd<F> {
    fd: F,
    label: Arc<str>,
}

/// An address space of an iommufd. It lives until it is destroyed or the iommufd is closed.
///
/// It remembers what [`Iommufd::map`] mapped, because the kernel keeps silent where dirty pages are asked for and nothing
/// is mapped.
#[derive(Debug)]
pub struct Ioas {
    id: u32,
    mapped: Arc<Mapped>,
}

impl Ioas {
    /// The address space with this id, which was allocated elsewhere. What is mapped in it is not known here: see
    /// [`declare_mapped`](Self::declare_mapped).
    #[must_use]
    pub fn from_id(id: u32) -> Self {
        Self { id, mapped: Arc::default() }
    }

    /// The id, for [`Device::attach`](crate::Device::attach).
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Says that a range is mapped, by other means than [`Iommufd::map`]. [`Iommufd::dirty_bitmap`] believes it: pages of
    /// it that are not mapped are reported clean.
    pub fn declare_mapped(&self, range: DmaRange) {
        self.mapped.insert(range.iova, range.length);
    }

    /// Says that nothing in a range is mapped any more, by other means than [`Iommufd::unmap`].
    pub fn declare_unmapped(&self, range: DmaRange) {
        self.mapped.remove(range.iova, range.length);
    }

    pub(super) const fn mapped(&self) -> &Arc<Mapped> {
        &self.mapped
    }

    pub(crate) fn record_mapping(&self, iova: u64, length: u64) {
        self.mapped.insert(iova, length);
    }
}

impl Iommufd<OwnedFd> {
    /// Opens a new iommufd by its node, `/dev/iommu`.
    ///
    /// # Errors
    ///
    /// ENOENT if the kernel has none.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { fd: open_node(path)?, label: label(path) })
    }
}

impl<F> Iommufd<F> {
    /// Wraps the fd of an iommufd.
    pub fn new(fd: F) -> Self {
        Self { fd, label: Arc::from("iommufd") }
    }

    /// Gives the fd back.
    pub fn into_inner(self) -> F {
        self.fd
    }

    pub(crate) fn error(&self, call: Call, errno: i32) -> Error {
        Error::kernel(&self.label, call, errno)
    }

    pub(crate) fn refused(&self, call: Call, reason: Refusal) -> Error {
        Error::refused(&self.label, call, reason)
    }

    pub(crate) fn answer(&self, call: Call, what: &'static str) -> Error {
        Error::answer(&self.label, call, what)
    }
}

impl<F: AsFd> Iommufd<F> {
    /// Allocates an address space (`IOMMU_IOAS_ALLOC`).
    ///
    /// Attaching a physical device to it makes the kernel create a page table without dirty tracking.
    ///
    /// # Errors
    ///
    /// ENOTTY if this is no iommufd.
    pub fn alloc_ioas(&self) -> Result<Ioas> {
        ioctl::iommufd::ioas_alloc(self.as_fd()).map(Ioas::from_id).map_err(|errno| self.error(Call::IoasAlloc, errno))
    }

    /// Takes the mappings within `[iova, iova + length)` away from the devices, and returns the bytes that were mapped.
    ///
    /// Dirty bits of a page table that were not read until then are lost: see [`dirty_bitmap`](Self::dirty_bitmap).
    ///
    /// # Errors
    ///
    /// ENOENT if nothing is mapped there; EINVAL if the range cuts a mapping.
    pub fn unmap(&self, ioas: &Ioas, iova: u64, length: u64) -> Result<u64> {
        let unmapped = ioctl::iommufd::ioas_unmap(self.as_fd(), ioas.id, iova, length)
            .map_err(|errno| self.error(Call::IoasUnmap, errno))?;
        ioas.mapped.remove(iova, length);
        Ok(unmapped)
    }

    /// Destroys an address space that no device is attached to.
    ///
    /// # Errors
    ///
    /// EBUSY while a device is attached; ENOENT if it does not exist.
    pub fn destroy(&self, ioas: Ioas) -> Result<()> {
        ioctl::iommufd::destroy(self.as_fd(), ioas.id).map_err(|errno| self.error(Call::Destroy, errno))
    }
}

impl<F: AsFd> AsFd for Iommufd<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
