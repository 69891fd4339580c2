// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The two ways to a device fd, and finding the devices there are.
//!
//! *By group*: [`Container`] and [`Group`], on every kernel. *By character device*: [`Iommufd`] and [`Cdev`], on
//! kernels that have both. Every type here wraps an fd, owned or borrowed: a sandboxed program hands in open fds, which
//! [`receive_fds`] takes from one that may open files, and needs no path. [`discover`], [`open_by_group`] and
//! [`open_by_cdev`] are for the latter.
//!
//! A device whose group is open cannot be bound through its character device, and the other way round (EBUSY).

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Call, Device, Error, Refusal, Result};

mod cdev;
mod container;
mod discover;
mod group;
mod handed;
#[cfg(test)]
#[cfg(not(miri))]
mod handed_test;
mod hwpt;
#[cfg(test)]
#[cfg(not(miri))]
mod hwpt_test;
mod iommufd;
mod mapped;
#[cfg(test)]
#[cfg(not(miri))]
mod test;
mod type1;

pub use cdev::{BindError, Cdev, CdevId};
pub use container::{Container, DmaAccess};
pub use discover::{Bus, VfioDevice, discover, discover_in, find};
pub use group::{Group, GroupStatus};
pub use handed::receive_fds;
pub use hwpt::{AfterRead, HwCapabilities, HwInfo, Hwpt, HwptFlags, IovaRanges, TrackedHwpt, Unchanged};
pub use iommufd::{Ioas, Iommufd};
pub use type1::{DirtyPagesInfo, IommuInfo};

pub use crate::ioctl::shared::SharedMemory;

/// Where sysfs and the device nodes are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Roots {
    /// The mount point of sysfs.
    pub sysfs: PathBuf,
    /// The directory of the device nodes.
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sysfs: PathBuf::from("/sys"), dev: PathBuf::from("/dev") }
    }
}

impl Roots {
    /// The node of the VFIO containers.
    #[must_use]
    pub fn container(&self) -> PathBuf {
        self.dev.join("vfio").join("vfio")
    }

    /// The node of iommufd.
    #[must_use]
    pub fn iommufd(&self) -> PathBuf {
        self.dev.join("iommu")
    }
}

/// A device opened by its group. Dropping the parts in any order is fine: the kernel keeps what the device needs.
#[derive(Debug)]
#[non_exhaustive]
pub struct OpenedByGroup {
    /// The container, with its IOMMU set to TYPE1v2.
    pub container: Container<OwnedFd>,
    /// The group, in the container.
    pub group: Group<OwnedFd>,
    /// The device.
    pub device: Device<OwnedFd>,
}

/// A device opened by its character device.
#[derive(Debug)]
#[non_exhaustive]
pub struct OpenedByCdev {
    /// The iommufd.
    pub iommufd: Iommufd<OwnedFd>,
    /// The address space the device is attached to.
    pub ioas: Ioas,
    /// The device's id in the iommufd.
    pub id: CdevId,
    /// The device, bound and attached.
    pub device: Device<OwnedFd>,
}

/// Opens a device by its group, with a container of its own.
///
/// For several devices in one container, take the same steps with [`Container`] and [`Group`]: open the container and
/// the groups, [`set_container`](Group::set_container) each, [`set_type1v2`](Container::set_type1v2) after the first,
/// then [`device`](Group::device).
///
/// # Errors
///
/// Any of the steps'. EBUSY if the group is open elsewhere.
pub fn open_by_group(roots: &Roots, found: &VfioDevice) -> Result<OpenedByGroup> {
    let node = found.group_node.as_deref().ok_or_else(|| {
        Error::refused(&Arc::from(found.name.as_str()), Call::Open, Refusal::NotFound("the device has no group node"))
    })?;
    let container = Container::open(&roots.container())?;
    let group = Group::open(node)?;
    group.set_container(&container)?;
    container.set_type1v2()?;
    let device = group.device(&found.name, None)?;
    Ok(OpenedByGroup { container, group, device })
}

/// Opens a device by its character device, with an iommufd and an address space of its own.
///
/// # Errors
///
/// Any of the steps'. EBUSY if the device's group is open.
pub fn open_by_cdev(roots: &Roots, found: &VfioDevice) -> Result<OpenedByCdev> {
    let node = found.cdev.as_deref().ok_or_else(|| {
        Error::refused(
            &Arc::from(found.name.as_str()),
            Call::Open,
            Refusal::NotFound("the kernel gave the device no character device"),
        )
    })?;
    let iommufd = Iommufd::open(&roots.iommufd())?;
    let ioas = iommufd.alloc_ioas()?;
    let (device, id) = Cdev::open(node, &found.name)?.bind(&iommufd).map_err(|failed| failed.error)?;
    device.attach(ioas.id())?;
    Ok(OpenedByCdev { iommufd, ioas, id, device })
}

/// Opens a device node for reading and writing.
fn open_node(path: &Path) -> Result<OwnedFd> {
    let file =
        OpenOptions::new().read(true).write(true).open(path).map_err(|error| path_error(Call::Open, path, &error))?;
    Ok(file.into())
}

fn path_error(call: Call, path: &Path, error: &std::io::Error) -> Error {
    Error::kernel(&label(path), call, error.raw_os_error().unwrap_or_default())
}

fn label(path: &Path) -> Arc<str> {
    Arc::from(path.to_string_lossy())
}
