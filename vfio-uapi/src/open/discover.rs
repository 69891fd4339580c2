// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Finding VFIO devices in sysfs.

use core::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{Roots, path_error};
use crate::{Call, Result};

/// No sysfs attribute read here is longer.
const ATTRIBUTE_BYTES_MAX: u64 = 64;

/// The bus a device is on.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Bus {
    /// Mediated devices.
    Mdev,
    /// PCI.
    Pci,
    /// Any other, such as platform, fsl-mc or ccw.
    Other,
}

impl fmt::Display for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mdev => "mdev",
            Self::Pci => "pci",
            Self::Other => "other",
        })
    }
}

/// A device a vfio driver is bound to.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct VfioDevice {
    /// The name the kernel knows the device by: a PCI address, or the UUID of a mediated device.
    pub name: String,
    /// The bus it is on.
    pub bus: Bus,
    /// Its directory in sysfs.
    pub sysfs: PathBuf,
    /// The vfio driver, for instance `mlx5_vfio_pci`.
    pub driver: Option<String>,
    /// The PCI vendor id.
    pub vendor_id: Option<u16>,
    /// The PCI device id.
    pub device_id: Option<u16>,
    /// The type of a mediated device, for instance `mtty-2`.
    pub mdev_type: Option<String>,
    /// The device a mediated device is made of, for instance `mtty` or a PCI address.
    pub mdev_parent: Option<String>,
    /// The number of its IOMMU group.
    pub group: Option<u32>,
    /// The node of its group, if there is one.
    pub group_node: Option<PathBuf>,
    /// Its character device, if the kernel made one.
    pub cdev: Option<PathBuf>,
}

/// All devices of this machine that a vfio driver is bound to, by bus and name.
///
/// # Errors
///
/// As [`discover_in`].
pub fn discover() -> Result<Vec<VfioDevice>> {
    discover_in(&Roots::default())
}

/// All devices below `roots` that a vfio driver is bound to, by bus and name.
///
/// Mediated devices, PCI devices with a vfio driver, and whatever else has an entry in `/sys/class/vfio-dev`. A missing
/// directory is an empty one, and a device that goes away meanwhile is left out.
///
/// # Errors
///
/// [`Call::Sysfs`] with the path and errno of what could not be read.
pub fn discover_in(roots: &Roots) -> Result<Vec<VfioDevice>> {
    let mut found = Vec::new();
    for (bus, directory) in [(Bus::Mdev, "bus/mdev/devices"), (Bus::Pci, "bus/pci/devices")] {
        for path in entries(&roots.sysfs.join(directory))? {
            found.extend(device(roots, bus, &path)?.filter(|device| is_vfio(bus, &path, device)));
        }
    }
    for class in entries(&roots.sysfs.join("class/vfio-dev"))? {
        // …/DEVICE/vfio-dev/vfioN: the link leads to the class device, and its `device` link or grandparent is the
        // device.
        let Some(path) = resolve(&class)?.and_then(|path| Some(path.parent()?.parent()?.to_path_buf())) else {
            continue;
        };
        found.extend(device(roots, Bus::Other, &path)?.filter(|device| !known(&found, device)));
    }
    found.sort_by(|a, b| (a.bus, &a.name).cmp(&(b.bus, &b.name)));
    Ok(found)
}

/// The VFIO device of this name: a PCI address, with or without its domain, or a UUID.
///
/// # Errors
///
/// As [`discover_in`].
pub fn find(roots: &Roots, name: &str) -> Result<Option<VfioDevice>> {
    let name = name.to_ascii_lowercase();
    let with_domain = format!("0000:{name}");
    Ok(discover_in(roots)?.into_iter().find(|device| device.name == name || device.name == with_domain))
}

fn known(found: &[VfioDevice], device: &VfioDevice) -> bool {
    found.iter().any(|other| other.name == device.name)
}

/// A PCI device counts if a vfio driver has it; a mediated device is one by its nature.
fn is_vfio(bus: Bus, path: &Path, device: &VfioDevice) -> bool {
    let by_driver = device.driver.as_deref().is_some_and(|driver| driver.contains("vfio"));
    // Since 6.1 every vfio driver registers its devices in this directory, whatever its name.
    bus == Bus::Mdev || by_driver || path.join("vfio-dev").is_dir()
}

/// Reads one device; `None` if it has gone or its name is not text.
fn device(roots: &Roots, bus: Bus, path: &Path) -> Result<Option<VfioDevice>> {
    let Some(sysfs) = resolve(path)? else {
        return Ok(None);
    };
    let Some(name) = file_name(path) else {
        return Ok(None);
    };
    let group = link_name(&sysfs.join("iommu_group"))?.and_then(|group| group.parse().ok());
    let mdev_type = link_name(&sysfs.join("mdev_type"))?;
    let mdev_parent = if bus == Bus::Mdev { sysfs.parent().and_then(file_name) } else { None };
    let cdev = entries(&sysfs.join("vfio-dev"))?.iter().find_map(|class| cdev_node(roots, class));
    Ok(Some(VfioDevice {
        driver: link_name(&sysfs.join("driver"))?,
        vendor_id: id(&sysfs.join("vendor"))?,
        device_id: id(&sysfs.join("device"))?,
        group_node: group.and_then(|group| group_node(roots, group)),
        name,
        bus,
        sysfs,
        mdev_type,
        mdev_parent,
        group,
        cdev,
    }))
}

/// The node of a group; without an IOMMU it has another name.
fn group_node(roots: &Roots, group: u32) -> Option<PathBuf> {
    let directory = roots.dev.join("vfio");
    [directory.join(group.to_string()), directory.join(format!("noiommu-{group}"))]
        .into_iter()
        .find(|node| node.exists())
}

fn cdev_node(roots: &Roots, class: &Path) -> Option<PathBuf> {
    let node = roots.dev.join("vfio/devices").join(class.file_name()?);
    node.exists().then_some(node)
}

/// The entries of a directory; none if there is no such directory.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: io::Error| path_error(Call::Sysfs, directory, &error);
    let Some(entries) = present(fs::read_dir(directory)).map_err(failed)? else {
        return Ok(Vec::new());
    };
    entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}

/// Follows a path to the directory behind its links; `None` if it has gone.
fn resolve(path: &Path) -> Result<Option<PathBuf>> {
    present(fs::canonicalize(path)).map_err(|error| path_error(Call::Sysfs, path, &error))
}

/// The last part of a link's target; `None` if there is no link.
fn link_name(link: &Path) -> Result<Option<String>> {
    let target = present(fs::read_link(link)).map_err(|error| path_error(Call::Sysfs, link, &error))?;
    Ok(target.as_deref().and_then(file_name))
}

/// A hexadecimal id such as `0x15b3`; `None` if there is no such file.
fn id(path: &Path) -> Result<Option<u16>> {
    let failed = |error: io::Error| path_error(Call::Sysfs, path, &error);
    let Some(file) = present(fs::File::open(path)).map_err(failed)? else {
        return Ok(None);
    };
    let mut text = String::new();
    match present(file.take(ATTRIBUTE_BYTES_MAX).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
        Err(error) => return Err(failed(error)),
    }
    Ok(text.trim().strip_prefix("0x").and_then(|digits| u16::from_str_radix(digits, 16).ok()))
}

/// Turns "there is none" (or no longer) into `None`.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.raw_os_error() {
            // EINVAL is readlink's answer to what is no link, EISDIR that of a read of a directory.
            Some(
                nix::libc::ENOENT | nix::libc::ENOTDIR | nix::libc::ENODEV | nix::libc::EINVAL | nix::libc::EISDIR,
            ) => Ok(None),
            _ => Err(error),
        },
    }
}

fn file_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}
