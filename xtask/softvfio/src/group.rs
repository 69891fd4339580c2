// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The group file: container membership and device files.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use savevm_core::sim::Errno;

use crate::abi::{Argument, UserMemory, field, request};
use crate::dma::Route;
use crate::machine::{Access, File, Group, Machine, Process, lock};

const VIABLE: u32 = 1;
const CONTAINER_SET: u32 = 2;
/// Longest device name: the kernel takes a page, a name is never that long.
const NAME_BYTES_MAX: u64 = 4096;

pub(crate) fn ioctl(
    machine: &Machine,
    file: &Arc<File>,
    group: &Group,
    process: &dyn Process,
    number: u32,
    argument: u64,
) -> Result<i64, Errno> {
    match number {
        request::GROUP_GET_STATUS => {
            let mut status = Argument::<8>::read(process, argument)?;
            let set = if lock(&group.container).is_some() { CONTAINER_SET } else { 0 };
            status.set_u32(4, VIABLE | set);
            status.write(process, argument)?;
            Ok(0)
        }
        request::GROUP_SET_CONTAINER => set_container(group, process, argument),
        request::GROUP_UNSET_CONTAINER => unset_container(machine, group),
        request::GROUP_GET_DEVICE_FD => device_fd(machine, file, group, process, argument),
        _ => Err(Errno::ENOTTY),
    }
}

fn set_container(group: &Group, process: &dyn Process, argument: u64) -> Result<i64, Errno> {
    let fd = i32::from_ne_bytes(process.word(argument)?.to_ne_bytes());
    if fd < 0 {
        return Err(Errno::EINVAL);
    }
    let file = process.file(fd)?;
    let mut container = lock(&group.container);
    if container.is_some() {
        return Err(Errno::EINVAL);
    }
    match file.as_deref() {
        Some(File::Container(found)) => found.attach(group.emulated),
        Some(File::Iommufd(_)) => {}
        _ => return Err(Errno::EBADFD),
    }
    *container = file;
    Ok(0)
}

fn unset_container(machine: &Machine, group: &Group) -> Result<i64, Errno> {
    let mut container = lock(&group.container);
    if container.is_none() {
        return Err(Errno::EINVAL);
    }
    let in_use = |number| {
        let mut members = machine.nodes.iter().filter(|node| node.group == number);
        members.any(|node| node.group_opens.load(Ordering::SeqCst) > 0)
    };
    if in_use(group.number) {
        return Err(Errno::EBUSY);
    }
    detach(container.take(), group.emulated);
    Ok(0)
}

fn detach(container: Option<Arc<File>>, emulated: bool) {
    if let Some(File::Container(container)) = container.as_deref() {
        container.detach(emulated);
    }
}

impl Group {
    /// Leaves the container, at the end of the group file.
    pub(crate) fn leave(&self) {
        detach(lock(&self.container).take(), self.emulated);
    }
}

fn device_fd(
    machine: &Machine,
    file: &Arc<File>,
    group: &Group,
    process: &dyn Process,
    argument: u64,
) -> Result<i64, Errno> {
    let name = read_string(process, argument)?;
    // "<bdf> vf_token=<uuid>" is for VFs of a PF that is itself on VFIO; there are none.
    let mut members = machine.nodes.iter().filter(|node| node.group == group.number);
    let node = members.find(|node| node.address.name() == name).ok_or(Errno::ENODEV)?;
    let ready = match lock(&group.container).as_deref() {
        Some(File::Container(container)) => container.has_iommu(),
        Some(_) => true,
        None => false,
    };
    if !ready {
        return Err(Errno::EINVAL);
    }
    let device = Machine::open_device(node, Some(Arc::clone(file)))?;
    if let Some(container) = lock(&group.container).as_ref() {
        *lock(&node.route) = Route::container(container);
    }
    process.install(Arc::new(device), Access::ReadWrite).map(i64::from)
}

fn read_string(memory: &(impl UserMemory + ?Sized), address: u64) -> Result<String, Errno> {
    let mut text = Vec::new();
    for offset in 0..NAME_BYTES_MAX {
        let mut byte = [0];
        memory.copy_in(field(address, offset)?, &mut byte)?;
        match byte {
            [0] => return String::from_utf8(text).map_err(|_| Errno::ENODEV),
            [byte] => text.push(byte),
        }
    }
    Err(Errno::EINVAL)
}
