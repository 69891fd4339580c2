// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Opening a device by group or by character device, and again after it was closed.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use vfio_uapi::Device;
use vfio_uapi::open::{self, Cdev, Container, Group, Ioas, Iommufd, Roots, VfioDevice};

use super::check::{Checked, failed, must};

/// What stays open while the device itself may be closed.
pub(crate) enum Opening {
    /// One group in a container of its own.
    Group {
        /// Its IOMMU is set for as long as it has a group.
        #[expect(dead_code, reason = "kept open beside the group, as a VMM does")]
        container: Container<OwnedFd>,
        /// Gives device fds, any number of them.
        group: Group<OwnedFd>,
        /// What the group calls the device.
        name: String,
    },
    /// A character device; each open is a device to bind anew.
    Cdev {
        /// What it is bound to.
        iommufd: Iommufd<OwnedFd>,
        /// What it is attached to.
        ioas: Ioas,
        /// The node.
        node: PathBuf,
        /// For error messages.
        name: String,
    },
}

/// Which way to open a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Access {
    /// `/dev/vfio/GROUP` and a container.
    Group,
    /// `/dev/vfio/devices/vfioX` and an iommufd.
    Cdev,
}

impl Access {
    /// For reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Cdev => "cdev",
        }
    }
}

impl Opening {
    /// Opens the device `found`. Without a wish, by group: every kernel has it.
    pub(crate) fn open(found: &VfioDevice, access: Option<Access>) -> Checked<(Self, Device<OwnedFd>)> {
        let roots = Roots::default();
        let by_group = access.map_or(found.group_node.is_some(), |access| access == Access::Group);
        if by_group {
            let opened = must("open by group", open::open_by_group(&roots, found))?;
            let (container, group) = (opened.container, opened.group);
            return Ok((Self::Group { container, group, name: found.name.clone() }, opened.device));
        }
        let node = found.cdev.clone().ok_or_else(|| failed(format!("{} has no character device", found.name)))?;
        let opened = must("open by character device", open::open_by_cdev(&roots, found))?;
        let (iommufd, ioas) = (opened.iommufd, opened.ioas);
        Ok((Self::Cdev { iommufd, ioas, node, name: found.name.clone() }, opened.device))
    }

    /// How it was opened.
    pub(crate) fn access(&self) -> Access {
        match self {
            Self::Group { .. } => Access::Group,
            Self::Cdev { .. } => Access::Cdev,
        }
    }

    /// One more fd of the device: beside the others by group, instead of a closed one by cdev.
    pub(crate) fn device(&self) -> Checked<Device<OwnedFd>> {
        match self {
            Self::Group { group, name, .. } => must("GROUP_GET_DEVICE_FD", group.device(name, None)),
            Self::Cdev { iommufd, ioas, node, name } => {
                let cdev = must("open of the character device", Cdev::open(node, name))?;
                let (device, _) = must("BIND_IOMMUFD", cdev.bind(iommufd).map_err(|refused| refused.error))?;
                must("ATTACH_IOMMUFD_PT", device.attach(ioas.id()))?;
                Ok(device)
            }
        }
    }
}
