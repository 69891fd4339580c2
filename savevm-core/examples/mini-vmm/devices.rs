// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO devices that have the guest's memory for their DMA, and who says what they write there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use savevm_core::dirty::kernel::{
    ContainerLog, DeviceLog, PageTable, container_offer, device_log_offer, page_table_offer,
};
use savevm_core::dirty::{DirtyTracker, Offers, Range, Source, Untracked, choose};
use vfio_uapi::Device;
use vfio_uapi::open::{
    Bus, Cdev, Container, DmaAccess, Group, HwptFlags, Iommufd, Roots, SharedMemory, VfioDevice, find,
};

use crate::Outcome;
use crate::guest::{PAGE_BYTES, RAM_START};

/// Ranges that a device's log is started over, at most. There is one, as memory has no holes here.
const LOG_RANGES_MAX: usize = 1;

/// An open device.
pub(crate) struct Opened {
    pub(crate) device: Device<OwnedFd>,
    pub(crate) driver: String,
    /// Who reports its writes, and why.
    pub(crate) tracked_by: String,
}

/// Devices in one address space, and the trackers of all their writes.
#[derive(Default)]
pub(crate) struct Opening {
    pub(crate) devices: Vec<Opened>,
    pub(crate) trackers: Vec<Box<dyn DirtyTracker>>,
}

/// Opens devices by their PCI address or mdev UUID.
pub(crate) fn open(ids: &[&str], memory: &SharedMemory) -> Outcome<Opening> {
    let roots = Roots::default();
    let look_for = |id: &&str| find(&roots, id)?.ok_or_else(|| format!("there is no VFIO device {id}").into());
    let found = ids.iter().map(look_for).collect::<Outcome<Vec<_>>>()?;
    if found.is_empty() {
        Ok(Opening::default())
    } else if found.iter().all(|device| device.cdev.is_some()) {
        by_cdev(&roots, &found, memory)
    } else {
        by_group(&roots, &found, memory)
    }
}

/// In an address space of iommufd. A device that does not log its writes gets a page table of its own that does.
fn by_cdev(roots: &Roots, found: &[VfioDevice], memory: &SharedMemory) -> Outcome<Opening> {
    let iommufd = Iommufd::open(&roots.iommufd())?;
    let ioas = iommufd.alloc_ioas()?;
    let mut opening = Opening::default();
    for found in found {
        let node = found.cdev.as_deref().ok_or("it has no character device")?;
        let (device, id) = Cdev::open(node, &found.name)?.bind(&iommufd).map_err(|failed| failed.error)?;
        device.attach(ioas.id())?;
        if opening.devices.is_empty() {
            iommufd.map_shared(&ioas, DmaAccess::READ | DmaAccess::WRITE, memory, RAM_START)?;
        }
        let mut offers = Offers::none(&found.name);
        offers.device_log = device_log_offer(&device, Range::new(RAM_START, PAGE_BYTES)?);
        offers.page_table = page_table_offer(&iommufd, id);
        let choice = choose(&offers, Untracked::Refuse)?;
        opening.trackers.push(match choice.source {
            Source::DeviceLog => Box::new(device_log(&device)?),
            _ => {
                let table = iommufd.alloc_hwpt(id, &ioas, HwptFlags::DIRTY_TRACKING)?;
                device.attach(table.id())?;
                Box::new(PageTable::new(Iommufd::new(again(&iommufd)?), table, &found.name, PAGE_BYTES))
            }
        });
        opening.devices.push(opened(device, found, choice.reason));
    }
    Ok(opening)
}

/// In a container, which reports for all of them together where they log nothing themselves.
fn by_group(roots: &Roots, found: &[VfioDevice], memory: &SharedMemory) -> Outcome<Opening> {
    let container = Container::open(&roots.container())?;
    let mut groups: Vec<(Option<u32>, Group<OwnedFd>)> = Vec::new();
    for found in found.iter() {
        if groups.iter().all(|(number, _)| *number != found.group) {
            let group = Group::open(found.group_node.as_deref().ok_or("it has no group node")?)?;
            group.set_container(&container)?;
            groups.push((found.group, group));
        }
    }
    container.set_type1v2()?;
    container.map_shared(DmaAccess::READ | DmaAccess::WRITE, memory, RAM_START)?;
    let all_pin = found.iter().all(|found| found.bus == Bus::Mdev);
    let mut opening = Opening::default();
    let mut is_reporting = false;
    for found in found {
        let group = groups.iter().find(|(number, _)| *number == found.group);
        let device = group.ok_or("its group is not open")?.1.device(&found.name, None)?;
        let mut offers = Offers::none(&found.name);
        offers.device_log = device_log_offer(&device, Range::new(RAM_START, PAGE_BYTES)?);
        offers.container = container_offer(&container, all_pin);
        let choice = choose(&offers, Untracked::Refuse)?;
        if choice.source == Source::DeviceLog {
            opening.trackers.push(Box::new(device_log(&device)?));
        } else if !core::mem::replace(&mut is_reporting, true) {
            let info = container.iommu_info()?.dirty_pages.ok_or("the container tracks no dirty pages")?;
            let log = ContainerLog::new(Container::new(again(&container)?), info, "all devices");
            opening.trackers.push(Box::new(log.map_err(|_| "the container names no page size")?));
        }
        opening.devices.push(opened(device, found, choice.reason));
    }
    Ok(opening)
}

fn opened(device: Device<OwnedFd>, found: &VfioDevice, tracked_by: String) -> Opened {
    Opened { device, driver: found.driver.clone().unwrap_or_default(), tracked_by }
}

fn device_log(device: &Device<OwnedFd>) -> Outcome<DeviceLog<OwnedFd>> {
    Ok(DeviceLog::new(Device::with_label(again(device)?, device.label()), PAGE_BYTES, LOG_RANGES_MAX))
}

/// Another descriptor of the same.
pub(crate) fn again(fd: &impl AsFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}
