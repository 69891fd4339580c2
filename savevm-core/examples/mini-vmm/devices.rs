// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO devices that have the guest's memory for their DMA, and who says what they write there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use savevm_core::dirty::kernel::{
    ContainerLog, DeviceLog, PageTable, container_offer, device_log_offer, page_table_offer,
};
use savevm_core::dirty::{DirtyTracker, Offers, Range, Source, Untracked, choose};
use vfio_uapi::Device;
use vfio_uapi::open::{Cdev, Container, DmaAccess, Group, GroupStatus, HwptFlags, Iommufd, SharedMemory};

use crate::Outcome;
use crate::guest::{PAGE_BYTES, RAM_START};
use crate::nodes::Nodes;

/// Ranges that a device's log is started over, at most. There is one, as memory has no holes here.
const LOG_RANGES_MAX: usize = 1;

/// The region of a device's configuration space.
const CONFIG_SPACE: u32 = 7;

/// An open device.
pub(crate) struct Opened {
    pub(crate) device: Device<OwnedFd>,
    /// Vendor and device, as its configuration space has them.
    pub(crate) pci_id: String,
    /// Who reports its writes, and why.
    pub(crate) tracked_by: String,
}

/// Devices in one address space, and the trackers of all their writes.
#[derive(Default)]
pub(crate) struct Opening {
    pub(crate) devices: Vec<Opened>,
    pub(crate) trackers: Vec<Box<dyn DirtyTracker>>,
}

/// Opens devices by their PCI address or mdev UUID, whose nodes these are.
pub(crate) fn open(ids: &[&str], nodes: Nodes, memory: &SharedMemory) -> Outcome<Opening> {
    let groups: Vec<Group<&OwnedFd>> = nodes.devices.iter().map(Group::new).collect();
    // The kernel knows what they are; a character device that is not bound can only be bound.
    if groups.iter().all(|group| group.status().is_ok()) {
        by_group(ids, &Container::new(nodes.space), &groups, memory)
    } else {
        by_cdev(ids, &Iommufd::new(nodes.space), nodes.devices, memory)
    }
}

/// In an address space of iommufd. A device that does not log its writes gets a page table of its own that does.
fn by_cdev(ids: &[&str], iommufd: &Iommufd<OwnedFd>, nodes: Vec<OwnedFd>, memory: &SharedMemory) -> Outcome<Opening> {
    let ioas = iommufd.alloc_ioas()?;
    let mut opening = Opening::default();
    for (&name, node) in ids.iter().zip(nodes) {
        let (device, id) = Cdev::new(node, name).bind(iommufd).map_err(|failed| failed.error)?;
        device.attach(ioas.id())?;
        if opening.devices.is_empty() {
            iommufd.map_shared(&ioas, DmaAccess::READ | DmaAccess::WRITE, memory, RAM_START)?;
        }
        let mut offers = Offers::none(name);
        offers.device_log = device_log_offer(&device, Range::new(RAM_START, PAGE_BYTES)?);
        offers.page_table = page_table_offer(iommufd, id);
        let choice = choose(&offers, Untracked::Refuse)?;
        opening.trackers.push(match choice.source {
            Source::DeviceLog => Box::new(device_log(&device)?),
            _ => {
                let table = iommufd.alloc_hwpt(id, &ioas, HwptFlags::DIRTY_TRACKING)?;
                device.attach(table.id())?;
                Box::new(PageTable::new(Iommufd::new(again(iommufd)?), table, name, PAGE_BYTES))
            }
        });
        opening.devices.push(opened(device, choice.reason)?);
    }
    Ok(opening)
}

/// In a container, which reports for all of them together where they log nothing themselves.
fn by_group(
    ids: &[&str],
    container: &Container<OwnedFd>,
    groups: &[Group<&OwnedFd>],
    memory: &SharedMemory,
) -> Outcome<Opening> {
    container.check()?;
    for group in groups {
        // Two devices may have one.
        if !group.status()?.contains(GroupStatus::CONTAINER_SET) {
            group.set_container(container)?;
        }
    }
    container.set_type1v2()?;
    container.map_shared(DmaAccess::READ | DmaAccess::WRITE, memory, RAM_START)?;
    // A mediated device, which pins what it uses, has a UUID, and others an address in a domain and on a bus.
    let all_pin = ids.iter().all(|name| !name.contains(':'));
    let mut opening = Opening::default();
    let mut is_reporting = false;
    for (&name, group) in ids.iter().zip(groups) {
        let device = group.device(name, None)?;
        let mut offers = Offers::none(name);
        offers.device_log = device_log_offer(&device, Range::new(RAM_START, PAGE_BYTES)?);
        offers.container = container_offer(container, all_pin);
        let choice = choose(&offers, Untracked::Refuse)?;
        if choice.source == Source::DeviceLog {
            opening.trackers.push(Box::new(device_log(&device)?));
        } else if !core::mem::replace(&mut is_reporting, true) {
            let info = container.iommu_info()?.dirty_pages.ok_or("the container tracks no dirty pages")?;
            let log = ContainerLog::new(Container::new(again(container)?), info, "all devices");
            opening.trackers.push(Box::new(log.map_err(|_| "the container names no page size")?));
        }
        opening.devices.push(opened(device, choice.reason)?);
    }
    Ok(opening)
}

fn opened(device: Device<OwnedFd>, tracked_by: String) -> Outcome<Opened> {
    let mut id = [0; 4];
    device.region_read(&device.region_info(CONFIG_SPACE)?, 0, &mut id)?;
    let [vendor, product] = [[id[0], id[1]], [id[2], id[3]]].map(u16::from_le_bytes);
    Ok(Opened { device, pci_id: format!("{vendor:04x}:{product:04x}"), tracked_by })
}

fn device_log(device: &Device<OwnedFd>) -> Outcome<DeviceLog<OwnedFd>> {
    Ok(DeviceLog::new(Device::with_label(again(device)?, device.label()), PAGE_BYTES, LOG_RANGES_MAX))
}

/// Another descriptor of the same.
pub(crate) fn again(fd: &impl AsFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}
