// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The entries of sysfs and `/dev` that the devices have, as a folder of real files.
//!
//! Links in it are relative and stay inside, as those of sysfs do, so the kernel itself can walk the folder. The
//! nodes below `dev` are plain files: only their names are used.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::config::Address;
use crate::machine::{File, Machine, Node};

/// Folders that belong to us alone: what is not in the tree does not exist.
const OWN: [&str; 6] = [
    "/dev/vfio",
    "/dev/iommu",
    "/sys/bus/mdev",
    "/sys/class/mdev_bus",
    "/sys/class/vfio-dev",
    "/sys/kernel/iommu_groups",
];
/// Folders listed as ours, while entries that are not ours are the machine's own.
const LISTED: [&str; 1] = ["/sys/bus/pci/devices"];
/// Folders in which what we have replaces what the machine has.
const SHARED: [&str; 3] = ["/sys/bus/pci/devices/", "/sys/bus/pci/drivers/", "/sys/devices/"];

/// Numbers for the character devices, from the range for local use.
const MAJOR_GROUP: u32 = 243;
const MAJOR_CDEV: u32 = 244;
const MAJOR_MISC: u32 = 10;
const MINOR_CONTAINER: u32 = 196;
const MINOR_IOMMUFD: u32 = 127;

/// The folder, made when a path of ours is used for the first time.
pub(crate) struct Tree {
    root: PathBuf,
    temporary: bool,
}

/// A character device: major and minor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct DeviceNumber {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// Whether a path can concern us at all; cheap, and does not need the tree.
pub(crate) fn concerns(path: &str) -> bool {
    OWN.iter().chain(&LISTED).chain(&SHARED).any(|folder| path.starts_with(folder))
}

impl Tree {
    /// Makes the tree in `root`, or in a folder of its own that goes with the process.
    pub(crate) fn make(root: Option<PathBuf>, machine: &Machine) -> io::Result<Self> {
        let tree = match root {
            Some(root) => {
                Self { root: fs::create_dir_all(&root).and_then(|()| root.canonicalize())?, temporary: false }
            }
            None => Self { root: temporary_folder()?, temporary: true },
        };
        tree.fill(machine)?;
        Ok(tree)
    }

    /// Removes the folder if it is the process's own.
    pub(crate) fn remove(&self) {
        if self.temporary {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    /// Where `path` lies in the tree, if it is ours.
    pub(crate) fn redirect(&self, path: &str) -> Option<PathBuf> {
        let path = path.trim_end_matches('/');
        let below =
            |folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let inside = self.root.join(path.strip_prefix('/')?);
        if OWN.iter().any(|folder| below(folder)) || LISTED.contains(&path) {
            return Some(inside);
        }
        let ours = SHARED.iter().any(|folder| path.starts_with(folder)) && inside.symlink_metadata().is_ok();
        ours.then_some(inside)
    }

    /// The path that a program would use for a file in the tree.
    pub(crate) fn outside(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.root).ok().map(|path| Path::new("/").join(path))
    }

    fn fill(&self, machine: &Machine) -> io::Result<()> {
        self.file("dev/vfio/vfio", "")?;
        for folder in ["sys/bus/pci/devices", "sys/bus/mdev/devices", "sys/class/vfio-dev", "sys/kernel/iommu_groups"] {
            fs::create_dir_all(self.root.join(folder))?;
        }
        if machine.kernel.iommufd {
            self.file("dev/iommu", "")?;
        }
        for node in &machine.nodes {
            self.device(node, machine.kernel.iommufd)?;
        }
        Ok(())
    }

    fn device(&self, node: &Node, cdev: bool) -> io::Result<()> {
        let facts = node.sim.facts();
        let name = node.address.name();
        let (bus, folder) = match &node.address {
            Address::Pci(_) => ("pci", format!("sys/devices/pci0000:00/{name}")),
            Address::Mdev(_) => ("mdev", format!("sys/devices/virtual/{0}/{0}/{name}", facts.driver)),
        };
        if bus == "pci" {
            self.pci_attributes(node, &folder)?;
        } else {
            self.mdev_type(node, &folder)?;
        }
        let driver = &facts.driver;
        let driver = format!("sys/bus/{bus}/drivers/{driver}");
        let group = format!("sys/kernel/iommu_groups/{}", node.group);
        let vfio = format!("{folder}/vfio-dev/vfio{}", node.cdev);
        self.file(&format!("{group}/type"), "DMA\n")?;
        self.file(&format!("{vfio}/uevent"), "")?;
        self.file(&format!("{folder}/uevent"), &format!("DRIVER={}\n", facts.driver))?;
        self.file(&format!("dev/vfio/{}", node.group), "")?;
        if cdev {
            self.file(&format!("{vfio}/dev"), &format!("{MAJOR_CDEV}:{}\n", node.cdev))?;
            self.file(&format!("dev/vfio/devices/vfio{}", node.cdev), "")?;
        }
        fs::create_dir_all(self.root.join(&driver))?;
        self.link(&format!("{driver}/{name}"), &folder)?;
        self.link(&format!("{folder}/driver"), &driver)?;
        self.link(&format!("{folder}/subsystem"), &format!("sys/bus/{bus}"))?;
        self.link(&format!("{folder}/iommu_group"), &group)?;
        self.link(&format!("{group}/devices/{name}"), &folder)?;
        self.link(&format!("sys/bus/{bus}/devices/{name}"), &folder)?;
        self.link(&format!("sys/class/vfio-dev/vfio{}", node.cdev), &vfio)?;
        self.link(&format!("{vfio}/device"), &folder)?;
        self.link(&format!("{vfio}/subsystem"), "sys/class/vfio-dev")
    }

    fn pci_attributes(&self, node: &Node, folder: &str) -> io::Result<()> {
        let facts = node.sim.facts();
        let mut resource = String::new();
        for index in 0..13 {
            let size = if index < 6 { facts.region_bytes(index) } else { 0 };
            let (start, end, flags) = if size > 0 {
                (0xfe00_0000_u64, 0xfe00_0000_u64.saturating_add(size.saturating_sub(1)), 0x40200)
            } else {
                (0, 0, 0)
            };
            resource.push_str(&format!("0x{start:016x} 0x{end:016x} 0x{flags:016x}\n"));
        }
        for (attribute, text) in [
            ("vendor", format!("0x{:04x}\n", facts.vendor_id)),
            ("device", format!("0x{:04x}\n", facts.device_id)),
            ("subsystem_vendor", format!("0x{:04x}\n", facts.vendor_id)),
            ("subsystem_device", format!("0x{:04x}\n", facts.device_id)),
            ("class", format!("0x{:06x}\n", facts.class)),
            ("revision", "0x00\n".to_owned()),
            ("irq", "0\n".to_owned()),
            ("numa_node", "-1\n".to_owned()),
            ("enable", "1\n".to_owned()),
            ("driver_override", "(null)\n".to_owned()),
            ("resource", resource),
        ] {
            self.file(&format!("{folder}/{attribute}"), &text)?;
        }
        Ok(())
    }

    fn mdev_type(&self, node: &Node, folder: &str) -> io::Result<()> {
        let facts = node.sim.facts();
        let parent = folder.rsplit_once('/').map_or("", |(parent, _)| parent);
        // mtty-1 or mtty-2, by the number of BARs.
        let bars = facts.regions.iter().filter(|region| region.index < 6).count();
        let kind = format!("{parent}/mdev_supported_types/{}-{bars}", facts.driver);
        self.file(&format!("{kind}/name"), &format!("{} {bars}\n", facts.driver))?;
        self.file(&format!("{kind}/device_api"), "vfio-pci\n")?;
        self.file(&format!("{kind}/available_instances"), "0\n")?;
        fs::create_dir_all(self.root.join(folder))?;
        self.link(&format!("{folder}/mdev_type"), &kind)?;
        self.link(&format!("{kind}/devices/{}", node.address.name()), folder)?;
        self.link(&format!("sys/class/mdev_bus/{}", facts.driver), parent)
    }

    fn file(&self, path: &str, text: &str) -> io::Result<()> {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        fs::write(path, text)
    }

    /// A relative link at `path` to `target`, both in the tree.
    fn link(&self, path: &str, target: &str) -> io::Result<()> {
        let at = self.root.join(path);
        fs::create_dir_all(at.parent().unwrap_or(&self.root))?;
        let up = "../".repeat(path.matches('/').count());
        match symlink(format!("{up}{target}"), at) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }
}

/// The device number of a node below `/dev`.
pub(crate) fn device_number(path: &str) -> Option<DeviceNumber> {
    let numbered = |major, text: &str| text.parse().ok().map(|minor| DeviceNumber { major, minor });
    match path.strip_prefix("/dev/")? {
        "iommu" => Some(DeviceNumber { major: MAJOR_MISC, minor: MINOR_IOMMUFD }),
        "vfio/vfio" => Some(DeviceNumber { major: MAJOR_MISC, minor: MINOR_CONTAINER }),
        path => match path.strip_prefix("vfio/devices/vfio") {
            Some(cdev) => numbered(MAJOR_CDEV, cdev),
            None => numbered(MAJOR_GROUP, path.strip_prefix("vfio/")?),
        },
    }
}

/// The device number of the node that an open file came from; `None` for files without a node.
pub(crate) fn file_number(file: &File) -> Option<DeviceNumber> {
    match file {
        File::Container(_) => Some(DeviceNumber { major: MAJOR_MISC, minor: MINOR_CONTAINER }),
        File::Iommufd(_) => Some(DeviceNumber { major: MAJOR_MISC, minor: MINOR_IOMMUFD }),
        File::Group(group) => Some(DeviceNumber { major: MAJOR_GROUP, minor: group.number }),
        File::Device(device) if device.is_cdev() => Some(DeviceNumber { major: MAJOR_CDEV, minor: device.node.cdev }),
        File::Device(_) | File::Session(_) | File::DeadSession => None,
    }
}

/// A folder named after the process: a program that `exec`s another takes it along.
///
/// A process that was killed could not remove its folder; whoever comes next does.
fn temporary_folder() -> io::Result<PathBuf> {
    let owner = Owner::of("self")?;
    let parent = std::env::temp_dir();
    sweep(&parent, &owner);
    let folder = parent.join(owner.folder_name());
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(&folder)?;
            // Somebody else's folder under our name is not to be trusted.
            if !found.is_dir() || found.uid() != owner.user || found.mode() & 0o077 != 0 {
                return Err(error);
            }
        }
        Err(error) => return Err(error),
    }
    folder.canonicalize()
}

/// A process, so named that no other one ever is: numbers are reused, and mean something in their namespace only.
#[derive(Debug, Eq, PartialEq)]
struct Owner {
    user: u32,
    namespace: u64,
    process: u32,
    /// In clock ticks since boot.
    started: u64,
}

impl Owner {
    /// Process `id` of this namespace, as `/proc` names it.
    fn of(id: &str) -> io::Result<Self> {
        let unexpected = || io::Error::other(format!("/proc/{id} does not look as expected"));
        let folder = PathBuf::from("/proc").join(id);
        let user = fs::metadata(&folder)?.uid();
        let namespace = fs::metadata("/proc/self/ns/pid")?.ino();
        let stat = fs::read_to_string(folder.join("stat"))?;
        // The name in parentheses may contain anything; the fields after it are counted from 3.
        let (head, fields) = stat.rsplit_once(')').ok_or_else(unexpected)?;
        let process = head.split(' ').next().and_then(|text| text.parse().ok()).ok_or_else(unexpected)?;
        let started = fields.split_whitespace().nth(19).and_then(|text| text.parse().ok()).ok_or_else(unexpected)?;
        Ok(Self { user, namespace, process, started })
    }

    fn folder_name(&self) -> String {
        let Self { user, namespace, process, started } = self;
        format!("softvfio-{user}-{namespace}-{process}-{started}")
    }

    fn parse(folder_name: &str) -> Option<Self> {
        let mut numbers = folder_name.strip_prefix("softvfio-")?.split('-').map(str::parse::<u64>);
        let mut number = || numbers.next()?.ok();
        let (user, namespace, process, started) = (number()?, number()?, number()?, number()?);
        let owner = Self { user: user.try_into().ok()?, namespace, process: process.try_into().ok()?, started };
        (owner.folder_name() == folder_name).then_some(owner)
    }
}

/// Removes the folders of processes that are no more: of this user, and of this namespace, where it can be told.
fn sweep(parent: &Path, own: &Owner) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let Some(owner) = entry.file_name().to_str().and_then(Owner::parse) else { continue };
        let ours = owner.user == own.user && owner.namespace == own.namespace;
        let alive = match Owner::of(&owner.process.to_string()) {
            Ok(found) => found.started == owner.started,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        if ours && !alive {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
