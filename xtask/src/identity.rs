// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The migration identity of what sysfs shows: a device, or a type of which a device can be made.
//!
//! No device is opened for it.

mod formats;
#[cfg(test)]
mod test;

use std::fs;
use std::path::{Path, PathBuf};

use savevm_core::identity::{Format, Identity, Namespace, ParseError, Version};
use vfio_uapi::open::{Bus, Roots, VfioDevice};

use crate::hw_test::KernelVersion;

/// An identity, and what to know about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Stated {
    pub(crate) identity: Identity,
    /// What the identity leaves out or takes for granted, in sentences.
    pub(crate) notes: Vec<String>,
}

/// The identity of a device of this machine; otherwise a sentence says why it has none.
pub(crate) fn of_device(found: &VfioDevice) -> Result<Stated, String> {
    let kernel = running_kernel();
    let driver = found.driver.as_deref().ok_or("No driver is bound to it.")?;
    match (found.bus, found.vendor_id, found.device_id) {
        (Bus::Mdev, ..) => {
            let kind = found.mdev_type.as_deref().ok_or("Its type is not in sysfs.")?;
            let parent = found.sysfs.parent().ok_or("Its parent is not in sysfs.")?;
            mediated(parent, driver, kind, kernel)
        }
        (Bus::Pci, Some(vendor), Some(device)) => {
            let revision = attribute(&found.sysfs.join("revision"));
            physical(vendor, device, driver, revision.as_deref().map(|text| text.trim_start_matches("0x")), kernel)
        }
        (Bus::Pci, ..) => Err("Its PCI ids are not in sysfs.".to_owned()),
        // spec/kernel/others.md: the drivers with migration are those of PCI devices, and mtty.
        (bus, ..) => Err(format!("It is on the bus {bus}; only PCI devices and mediated ones can migrate.")),
    }
}

/// The identity that a new device of this type of mediated devices would have.
pub(crate) fn of_mdev_type(roots: &Roots, kind: &str) -> Result<Stated, String> {
    let (parent, directory) = find_type(roots, kind)?;
    let driver = driver_of_type(roots, &parent, &directory)
        .ok_or_else(|| format!("which driver makes devices of type {kind} is not in sysfs until there is one"))?;
    let mut stated = mediated(&parent, &driver, kind, running_kernel())?;
    if attribute(&directory.join("available_instances")).as_deref() == Some("0") {
        stated.notes.push(format!("No further device of type {kind} can be made now: available_instances is 0."));
    }
    Ok(stated)
}

fn physical(
    vendor: u16,
    device: u16,
    driver: &str,
    revision: Option<&str>,
    kernel: KernelVersion,
) -> Result<Stated, String> {
    if driver == "vfio-pci" {
        let advice = "bind the variant driver of its vendor, such as mlx5_vfio_pci or hisi_acc_vfio_pci";
        return Err(format!("It is bound to vfio-pci, the driver without migration; {advice}."));
    }
    let (format, notes) = stream_format(driver, kernel)?;
    let identity = Identity::new(Namespace::Pci(vendor), driver, &format!("{device:04x}"), format).map_err(unfit)?;
    let identity = match revision {
        // The driver compares it, after part of the state has been sent (others.md, xe: DESCRIPTOR).
        Some(revision) if formats::checks_revision(driver) => identity.require("revision", revision),
        Some(revision) => identity.inform("revision", revision),
        None => Ok(identity),
    };
    Ok(Stated { identity: identity.map_err(unfit)?, notes })
}

fn mediated(parent: &Path, driver: &str, kind: &str, kernel: KernelVersion) -> Result<Stated, String> {
    let (format, notes) = stream_format(driver, kernel)?;
    let namespace = Namespace::Mdev(parent_driver(parent, kind));
    let identity = Identity::new(namespace, driver, kind, format).map_err(unfit)?;
    let identity = match formats::ports(driver, kind) {
        Some(ports) => identity.require("ports", ports).map_err(unfit)?,
        None => identity,
    };
    Ok(Stated { identity, notes })
}

fn stream_format(driver: &str, kernel: KernelVersion) -> Result<(Format, Vec<String>), String> {
    match formats::find(driver, kernel) {
        Some(row) => {
            let format = Format::new(row.name, row.writes).and_then(|format| format.reading(row.reads.0, row.reads.1));
            Ok((format.map_err(unfit)?, row.note.iter().map(|note| (*note).to_owned()).collect()))
        }
        None => {
            let note = format!(
                "The stream format of driver {driver} is not known to this program; make sure yourself that the drivers \
                 of both sides read each other's streams."
            );
            Ok((Format::new(driver, Version::new(0, 0)).map_err(unfit)?, vec![note]))
        }
    }
}

fn unfit(error: ParseError) -> String {
    format!("A name in sysfs is not fit for an identity ({error}).")
}

/// What the kernel calls the parent's driver: the driver, or else the bus or class (`dev_driver_string`). With a `-` it
/// begins the name of every type, which is where to look if the links are missing.
fn parent_driver(parent: &Path, kind: &str) -> String {
    let linked = link_name(&parent.join("driver")).or_else(|| link_name(&parent.join("subsystem")));
    linked.unwrap_or_else(|| kind.split('-').next().unwrap_or(kind).to_owned())
}

/// The parent that offers a type, and the type's directory.
fn find_type(roots: &Roots, kind: &str) -> Result<(PathBuf, PathBuf), String> {
    if kind.is_empty() || kind.contains('/') || kind.starts_with('.') {
        return Err(format!("'{kind}' names no type; give one such as mtty-2"));
    }
    let class = roots.sysfs.join("class/mdev_bus");
    let mut there = Vec::new();
    for parent in entries(&class) {
        let Ok(parent) = fs::canonicalize(parent) else { continue };
        let types = parent.join("mdev_supported_types");
        let directory = types.join(kind);
        if directory.is_dir() {
            return Ok((parent, directory));
        }
        there.extend(entries(&types).iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())));
    }
    there.sort();
    there.dedup();
    let there = if there.is_empty() {
        "no driver of this machine makes mediated devices".to_owned()
    } else {
        format!("there is {}", there.join(", "))
    };
    Err(format!("there is no type '{kind}' of mediated devices; {there}"))
}

/// The driver a device of the type will be bound to: that of one which is there, or of the parent's name, or the only
/// one there is.
fn driver_of_type(roots: &Roots, parent: &Path, directory: &Path) -> Option<String> {
    let bound = entries(&directory.join("devices")).iter().find_map(|device| link_name(&device.join("driver")));
    if bound.is_some() {
        return bound;
    }
    let drivers = entries(&roots.sysfs.join("bus/mdev/drivers"));
    let mut names: Vec<String> =
        drivers.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    let namesake = parent_driver(parent, directory.file_name()?.to_str()?);
    if names.contains(&namesake) {
        return Some(namesake);
    }
    names.pop().filter(|_| names.is_empty())
}

fn running_kernel() -> KernelVersion {
    KernelVersion::parse(&attribute(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default())
}

/// The entries of a directory; none if it cannot be read.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn attribute(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The last part of a link's target.
fn link_name(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}
