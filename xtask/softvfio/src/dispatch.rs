// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From an open file to what answers for it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use savevm_core::sim::{Errno, SimSession};

use crate::machine::{Device, File, Machine, Origin, Process};
use crate::{cdev, data, device, group};

/// VFIO's ioctl type: the second byte of every request number.
const TYPE: u32 = 0x3b;

/// Whether `number` is a VFIO or iommufd request at all; others mean the same on every file.
pub(crate) fn is_ours(number: u32) -> bool {
    (number >> 8) & 0xff == TYPE
}

/// `ioctl` on one of our files.
pub(crate) fn ioctl(
    machine: &Machine,
    file: &Arc<File>,
    process: &dyn Process,
    number: u32,
    argument: u64,
) -> Result<i64, Errno> {
    match &**file {
        File::Container(container) => container.ioctl(process, number, argument),
        File::Group(open) => group::ioctl(machine, file, open, process, number, argument),
        File::Iommufd(iommufd) => iommufd.ioctl(process, number, argument),
        File::Session(session) => data::ioctl(Some(&session.session), process, number, argument),
        File::DeadSession => data::ioctl(None, process, number, argument),
        File::Device(open) => {
            if let Origin::Cdev(binding) = &open.origin {
                if let Some(answer) = cdev::ioctl(machine, open, binding, process, number, argument) {
                    return answer;
                }
            }
            device::ioctl(open, machine.kernel, process, number, argument)
        }
    }
}

/// What a positioned or sequential read or write reaches.
pub(crate) enum Target<'a> {
    Device(&'a Device),
    Session(&'a SimSession),
}

impl<'a> Target<'a> {
    /// `EINVAL` for files without data, as the kernel says for files without read and write.
    pub(crate) fn of(file: &'a File) -> Result<Self, Errno> {
        match file {
            File::Device(device) if device.is_bound() => Ok(Self::Device(device)),
            File::Session(session) => Ok(Self::Session(&session.session)),
            File::DeadSession => Err(Errno::ENODEV),
            _ => Err(Errno::EINVAL),
        }
    }
}

/// `pread` and `read` of registers; without a position, from where the last one ended.
pub(crate) fn registers_read(
    device: &Device,
    process: &dyn Process,
    position: Option<u64>,
    address: u64,
    len: usize,
) -> Result<usize, Errno> {
    let at = position.unwrap_or_else(|| device.position.load(Ordering::SeqCst));
    let done = device::read(&device.node.sim, process, at, address, len)?;
    advance(device, position, at, done);
    Ok(done)
}

/// `pwrite` and `write` of registers.
pub(crate) fn registers_write(
    device: &Device,
    process: &dyn Process,
    position: Option<u64>,
    address: u64,
    len: usize,
) -> Result<usize, Errno> {
    let at = position.unwrap_or_else(|| device.position.load(Ordering::SeqCst));
    let done = device::write(&device.node.sim, process, at, address, len)?;
    device.node.look();
    advance(device, position, at, done);
    Ok(done)
}

fn advance(device: &Device, position: Option<u64>, at: u64, done: usize) {
    if position.is_none() {
        let end = at.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        device.position.store(end, Ordering::SeqCst);
    }
}
