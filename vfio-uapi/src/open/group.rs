// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The group: the devices an IOMMU cannot tell apart.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use super::{label, open_node};
use crate::{Call, Device, Error, Refusal, Result, ioctl};

/// A VFIO group.
#[derive(Debug)]
pub struct Group<F> {
    fd: F,
    label: Arc<str>,
}

bitflags::bitflags! {
    /// The flags of `VFIO_GROUP_GET_STATUS`. Bits this crate does not know are kept.
    #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
    pub struct GroupStatus: u32 {
        /// All devices of the group belong to vfio drivers, or to none.
        const VIABLE = 1;
        /// The group is in a container.
        const CONTAINER_SET = 2;
        const _ = !0;
    }
}

impl Group<OwnedFd> {
    /// Opens a group by its node, `/dev/vfio/N`.
    ///
    /// # Errors
    ///
    /// EBUSY if it is open elsewhere, or a device of it is in use through its character device.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { fd: open_node(path)?, label: label(path) })
    }
}

impl<F> Group<F> {
    /// Wraps the fd of a group.
    pub fn new(fd: F) -> Self {
        Self { fd, label: Arc::from("group") }
    }

    /// Gives the fd back.
    pub fn into_inner(self) -> F {
        self.fd
    }

    fn error(&self, call: Call, errno: i32) -> Error {
        Error::kernel(&self.label, call, errno)
    }
}

impl<F: AsFd> Group<F> {
    /// Whether the group can be used, and whether it is in a container.
    ///
    /// # Errors
    ///
    /// ENOTTY if this is no group.
    pub fn status(&self) -> Result<GroupStatus> {
        ioctl::group::status(self.as_fd())
            .map(GroupStatus::from_bits_retain)
            .map_err(|errno| self.error(Call::GroupStatus, errno))
    }

    /// Puts the group into a container, or into an iommufd that plays one.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotViable`] if a device of the group belongs to another driver; EINVAL if the group is in a container
    /// already; EBADFD if `container` is none.
    pub fn set_container(&self, container: &impl AsFd) -> Result<()> {
        if !self.status()?.contains(GroupStatus::VIABLE) {
            return Err(Error::refused(&self.label, Call::SetContainer, Refusal::NotViable));
        }
        ioctl::group::set_container(self.as_fd(), container.as_fd())
            .map_err(|errno| self.error(Call::SetContainer, errno))
    }

    /// Takes the group out of its container.
    ///
    /// # Errors
    ///
    /// EBUSY while a device of the group is open; EINVAL without a container.
    pub fn unset_container(&self) -> Result<()> {
        ioctl::group::unset_container(self.as_fd()).map_err(|errno| self.error(Call::UnsetContainer, errno))
    }

    /// Opens a device of the group: a PCI address such as `0000:06:0d.0`, or the UUID of a mediated device.
    ///
    /// A virtual function whose physical function belongs to vfio-pci needs the UUID of that one's `vf_token`. A device
    /// can be opened several times; all share one migration state.
    ///
    /// # Errors
    ///
    /// ENODEV if the group has no such device; EINVAL before the container has its IOMMU; EACCES for a wrong token.
    pub fn device(&self, name: &str, vf_token: Option<&str>) -> Result<Device<OwnedFd>> {
        let call = Call::GetDeviceFd;
        let request = device_request(name, vf_token).ok_or_else(|| Error::refused(&self.label, call, Refusal::Name))?;
        let fd = ioctl::group::device_fd(self.as_fd(), &request).map_err(|errno| self.error(call, errno))?;
        Ok(Device::with_label(fd, name))
    }
}

impl<F: AsFd> AsFd for Group<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The string the kernel takes: the name, and options after a blank. A blank or NUL inside a part would change it.
pub(super) fn device_request(name: &str, vf_token: Option<&str>) -> Option<CString> {
    let sound = |part: &str| !part.is_empty() && !part.bytes().any(|byte| byte == 0 || byte.is_ascii_whitespace());
    match vf_token {
        _ if !sound(name) => None,
        None => CString::new(name).ok(),
        Some(token) if sound(token) => CString::new(format!("{name} vf_token={token}")).ok(),
        Some(_) => None,
    }
}
