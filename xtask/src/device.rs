// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From what a person calls a device to an opened one that can migrate.

use core::str::FromStr;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use savevm_core::DeviceError;
use savevm_core::kernel::KernelDevice;
use vfio_uapi::open::{self, Group, Roots, VfioDevice};

use crate::identity;

/// `DEVICE` or `NAME=DEVICE`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct DeviceSpec {
    /// The name both sides use, where one was given.
    pub(crate) name: Option<String>,
    /// A PCI address, an mdev UUID, or the path of a character device.
    pub(crate) id: String,
}

impl FromStr for DeviceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, id) = match text.split_once('=') {
            Some(("", _)) => return Err(format!("'{text}' has no name in front of '='")),
            Some((name, id)) => (Some(name.to_owned()), id),
            None => (None, text),
        };
        if id.is_empty() {
            return Err(format!(
                "'{text}' names no device; give a PCI address, an mdev UUID or /dev/vfio/devices/vfioN"
            ));
        }
        Ok(Self { name, id: id.to_owned() })
    }
}

/// Why there is no opened device.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("cannot list the VFIO devices: {0}")]
    Discover(vfio_uapi::Error),
    #[error("there is no VFIO device '{id}'; {there}")]
    Missing { id: String, there: String },
    #[error("two devices are called '{0}'; names must differ")]
    SameName(String),
    #[error("{0} is given twice; a device has one state, which can go to one place")]
    SameDevice(String),
    #[error("cannot open {id}: {error}{}", remedy(error))]
    Open { id: String, error: vfio_uapi::Error },
    #[error("{id} has no migration identity: {reason}")]
    NoIdentity { id: String, reason: String },
    #[error("{0}")]
    Device(#[from] DeviceError),
}

fn remedy(error: &vfio_uapi::Error) -> &'static str {
    match error.errno().map(nix::errno::Errno::from_raw) {
        Some(nix::errno::Errno::EBUSY) => "; another program has it open: stop that one first",
        Some(nix::errno::Errno::EACCES | nix::errno::Errno::EPERM) => {
            "; you may not open it: run as root, or give your user access to the node"
        }
        _ => "",
    }
}

/// Opens every device of a command line for migration.
pub(crate) fn open_all(specs: &[DeviceSpec]) -> Result<Vec<KernelDevice<OwnedFd>>, OpenError> {
    let (mut names, mut opened) = (BTreeSet::new(), BTreeSet::new());
    let mut opener = Opener::default();
    let mut devices = Vec::with_capacity(specs.len());
    for (index, spec) in specs.iter().enumerate() {
        let name = spec.name.clone().unwrap_or_else(|| format!("device{index}"));
        if !names.insert(name.clone()) {
            return Err(OpenError::SameName(name));
        }
        let found = find(&spec.id)?;
        // By its group the kernel would open it a second time.
        if !opened.insert(found.name.clone()) {
            return Err(OpenError::SameDevice(spec.id.clone()));
        }
        let device = opener.open(&found).map_err(|error| OpenError::Open { id: spec.id.clone(), error })?;
        let stated =
            identity::of_device(&found).map_err(|reason| OpenError::NoIdentity { id: spec.id.clone(), reason })?;
        devices.push(KernelDevice::new(device, name, stated.identity.to_string())?);
    }
    Ok(devices)
}

/// Opens devices of one process. A group can be open once (EBUSY), so devices that share one are opened through the
/// same fd of it.
#[derive(Default)]
pub(crate) struct Opener {
    groups: BTreeMap<u32, Group<OwnedFd>>,
}

impl Opener {
    /// Opens a device by its character device where the kernel has one, else by its group.
    ///
    /// Neither container nor iommufd need be kept: the device fd holds what it needs.
    pub(crate) fn open(&mut self, found: &VfioDevice) -> vfio_uapi::Result<vfio_uapi::Device<OwnedFd>> {
        let roots = Roots::default();
        if found.cdev.is_some() && roots.iommufd().exists() {
            return open::open_by_cdev(&roots, found).map(|opened| opened.device);
        }
        let number = found.group.unwrap_or(u32::MAX);
        if let Some(group) = self.groups.get(&number) {
            return group.device(&found.name, None);
        }
        let opened = open::open_by_group(&roots, found)?;
        self.groups.insert(number, opened.group);
        Ok(opened.device)
    }
}

/// Finds a device by PCI address, mdev UUID or character device.
pub(crate) fn find(id: &str) -> Result<VfioDevice, OpenError> {
    let roots = Roots::default();
    let all = open::discover_in(&roots).map_err(OpenError::Discover)?;
    let by_node = |device: &&VfioDevice| device.cdev.as_deref().is_some_and(|cdev| cdev.as_os_str() == id);
    if let Some(found) = all.iter().find(by_node) {
        return Ok(found.clone());
    }
    if let Some(found) = open::find(&roots, id).map_err(OpenError::Discover)? {
        return Ok(found);
    }
    let there = if all.is_empty() {
        "no device of this machine is bound to a vfio driver".to_owned()
    } else {
        let names: Vec<&str> = all.iter().map(|device| device.name.as_str()).collect();
        format!("there is {}", names.join(", "))
    };
    Err(OpenError::Missing { id: id.to_owned(), there })
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn a_device_may_be_given_a_name() {
        let spec: DeviceSpec = "net0=0000:3b:00.2".parse().unwrap();
        assert_eq!(spec, DeviceSpec { name: Some("net0".to_owned()), id: "0000:3b:00.2".to_owned() });
        assert_eq!("0000:3b:00.2".parse::<DeviceSpec>().unwrap().name, None);
        assert!("=x".parse::<DeviceSpec>().is_err());
        assert!("x=".parse::<DeviceSpec>().is_err());
    }
}
