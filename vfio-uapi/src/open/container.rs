// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The container: an IOMMU address space that groups join.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use vfio_bindings::bindings::vfio as sys;

use super::{label, open_node};
use crate::{Call, Error, Refusal, Result, ioctl};

/// `VFIO_TYPE1v2_IOMMU` as CHECK_EXTENSION and SET_IOMMU take it.
const TYPE1V2: i32 = 3;
/// `VFIO_API_VERSION`.
const API_VERSION: i32 = 0;

/// A VFIO container.
#[derive(Debug)]
pub struct Container<F> {
    fd: F,
    label: Arc<str>,
}

bitflags::bitflags! {
    /// What devices may do with mapped memory.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub struct DmaAccess: u32 {
        /// Devices may read it.
        const READ = sys::VFIO_DMA_MAP_FLAG_READ;
        /// Devices may write it.
        const WRITE = sys::VFIO_DMA_MAP_FLAG_WRITE;
    }
}

impl Container<OwnedFd> {
    /// Opens a container by its node and checks that this crate can use it.
    ///
    /// # Errors
    ///
    /// Those of `open` and of [`check`](Self::check).
    pub fn open(path: &Path) -> Result<Self> {
        let container = Self { fd: open_node(path)?, label: label(path) };
        container.check()?;
        Ok(container)
    }
}

impl<F> Container<F> {
    /// Wraps the fd of a container. An iommufd serves as one too.
    pub fn new(fd: F) -> Self {
        Self { fd, label: Arc::from("container") }
    }

    /// Gives the fd back.
    pub fn into_inner(self) -> F {
        self.fd
    }

    pub(crate) const fn shared_label(&self) -> &Arc<str> {
        &self.label
    }

    pub(crate) fn error(&self, call: Call, errno: i32) -> Error {
        Error::kernel(&self.label, call, errno)
    }
}

impl<F: AsFd> Container<F> {
    /// Checks that the container has API version 0 and the TYPE1v2 IOMMU.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoType1V2`] if it has not; ENOTTY if this is no container.
    pub fn check(&self) -> Result<()> {
        let version =
            ioctl::container::api_version(self.as_fd()).map_err(|errno| self.error(Call::ApiVersion, errno))?;
        let type1v2 = ioctl::container::check_extension(self.as_fd(), TYPE1V2)
            .map_err(|errno| self.error(Call::CheckExtension, errno))?;
        if version == API_VERSION && type1v2 != 0 {
            Ok(())
        } else {
            Err(Error::refused(&self.label, Call::CheckExtension, Refusal::NoType1V2))
        }
    }

    /// Gives the container its IOMMU, of type TYPE1v2. Needs a group in the container, and works once.
    ///
    /// # Errors
    ///
    /// EINVAL without a group or the second time.
    pub fn set_type1v2(&self) -> Result<()> {
        ioctl::container::set_iommu(self.as_fd(), TYPE1V2).map_err(|errno| self.error(Call::SetIommu, errno))
    }

    /// Takes the mapping of `[iova, iova + length)` away from the devices, and returns the bytes that were mapped
    /// there.
    ///
    /// # Errors
    ///
    /// EINVAL if the range is unaligned or cuts a mapping.
    pub fn unmap_dma(&self, iova: u64, length: u64) -> Result<u64> {
        ioctl::container::unmap_dma(self.as_fd(), iova, length).map_err(|errno| self.error(Call::UnmapDma, errno))
    }
}

impl<F: AsFd> AsFd for Container<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
