// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The character device of a VFIO device, before and after it is bound to an iommufd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::open_node;
use crate::ioctl::{RawResult, cdev};
use crate::{Call, Device, Error, Result};

/// A VFIO character device that is not bound yet: binding is all that works on it.
#[derive(Debug)]
pub struct Cdev<F>(Device<F>);

/// The id of a bound device in its iommufd.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct CdevId(u32);

impl CdevId {
    /// The id of a device that was bound elsewhere, for instance by the process that handed in its fd.
    #[must_use]
    pub const fn from_raw(id: u32) -> Self {
        Self(id)
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// A bind that failed, with the device to try again with.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
#[non_exhaustive]
pub struct BindError<F> {
    /// Why it failed.
    pub error: Error,
    /// The device, still not bound.
    pub cdev: Cdev<F>,
}

impl Cdev<OwnedFd> {
    /// Opens a character device by its node, `/dev/vfio/devices/vfioN`. `label` names the device in errors.
    ///
    /// # Errors
    ///
    /// Those of `open`.
    pub fn open(path: &Path, label: &str) -> Result<Self> {
        Ok(Self::new(open_node(path)?, label))
    }
}

impl<F> Cdev<F> {
    /// Wraps the fd of a character device. `label` names the device in errors.
    ///
    /// For one that is bound already, use [`Device::with_label`].
    pub fn new(fd: F, label: &str) -> Self {
        Self(Device::with_label(fd, label))
    }

    /// Gives the fd back.
    pub fn into_inner(self) -> F {
        self.0.into_inner()
    }
}

impl<F: AsFd> Cdev<F> {
    /// Binds the device to an iommufd (`VFIO_DEVICE_BIND_IOMMUFD`), which lasts until its last fd is closed.
    ///
    /// # Errors
    ///
    /// EBUSY if the device's group is open or another owner has its DMA; EINVAL if it is bound already.
    pub fn bind(self, iommufd: &impl AsFd) -> Result<(Device<F>, CdevId), BindError<F>> {
        let bound = cdev::bind(self.0.as_fd(), iommufd.as_fd());
        self.bound(bound)
    }

    /// Binds a virtual function with the token of its physical function, which belongs to vfio-pci (Linux 7.3).
    ///
    /// # Errors
    ///
    /// As [`bind`](Self::bind); EACCES for a wrong token, EINVAL for a token that is not needed or unknown to the
    /// kernel.
    pub fn bind_with_token(
        self,
        iommufd: &impl AsFd,
        vf_token: &[u8; 16],
    ) -> Result<(Device<F>, CdevId), BindError<F>> {
        let bound = cdev::bind_with_token(self.0.as_fd(), iommufd.as_fd(), vf_token);
        self.bound(bound)
    }

    fn bound(self, result: RawResult<u32>) -> Result<(Device<F>, CdevId), BindError<F>> {
        match result {
            Ok(id) => Ok((self.0, CdevId(id))),
            Err(errno) => Err(BindError { error: self.0.error(Call::BindIommufd, errno), cdev: self }),
        }
    }
}

impl<F: AsFd> AsFd for Cdev<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<F: AsFd> Device<F> {
    /// Attaches a device that is bound to an iommufd to an address space or page table there
    /// (`VFIO_DEVICE_ATTACH_IOMMUFD_PT`), in place of the one it had. Returns the id of what it is attached to now.
    ///
    /// Given an address space, a physical device gets a page table of its own, without dirty tracking, and its id is
    /// returned. A mediated device takes address spaces only and returns the id unchanged.
    ///
    /// # Errors
    ///
    /// ENOENT or EINVAL if the object does not exist or does not suit; EBUSY while a device of the group is being
    /// reset; ENOTTY for a device opened by its group.
    pub fn attach(&self, id: u32) -> Result<u32> {
        cdev::attach(self.as_fd(), id).map_err(|errno| self.error(Call::AttachPageTable, errno))
    }

    /// Detaches a device from its address space or page table. Succeeds if there is none.
    ///
    /// # Errors
    ///
    /// ENOTTY for a device opened by its group.
    pub fn detach(&self) -> Result<()> {
        cdev::detach(self.as_fd()).map_err(|errno| self.error(Call::DetachPageTable, errno))
    }

    /// Attaches one PASID of the device to an address space or page table (Linux 6.15). Returns the id of what it is
    /// attached to now.
    ///
    /// A page table has to be allocated with [`HwptFlags::PASID`](super::HwptFlags::PASID).
    ///
    /// # Errors
    ///
    /// As [`attach`](Self::attach); EOPNOTSUPP if the driver has no PASIDs: of all drivers only the plain vfio-pci has
    /// them, and no driver that can migrate. EINVAL also from kernels before 6.15.
    pub fn attach_pasid(&self, id: u32, pasid: u32) -> Result<u32> {
        cdev::attach_pasid(self.as_fd(), id, pasid).map_err(|errno| self.error(Call::AttachPageTable, errno))
    }

    /// Detaches one PASID of the device (Linux 6.15). Succeeds if it was not attached.
    ///
    /// # Errors
    ///
    /// As [`attach_pasid`](Self::attach_pasid).
    pub fn detach_pasid(&self, pasid: u32) -> Result<()> {
        cdev::detach_pasid(self.as_fd(), pasid).map_err(|errno| self.error(Call::DetachPageTable, errno))
    }
}
