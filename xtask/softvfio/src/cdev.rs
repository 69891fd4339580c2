// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The cdev file: binding to an iommufd and attaching to its address spaces.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use savevm_core::sim::Errno;

use crate::abi::{Argument, UserMemory, field, request};
use crate::dma::Route;
use crate::machine::{Device, File, Machine, Process, lock};

/// What a bound cdev holds.
pub(crate) struct Binding {
    iommufd: Arc<File>,
    device_id: u32,
}

/// Bytes of BIND's structure: in 6.12, and with the token of 7.x.
const BIND_BYTES: u32 = 16;
const BIND_EXTENDED_BYTES: u32 = 24;
const BIND_TOKEN: u32 = 1;
const PASID: u32 = 1;

/// Answers what is particular to a cdev; `None`: as on any device file.
pub(crate) fn ioctl(
    machine: &Machine,
    device: &Device,
    binding: &Mutex<Option<Binding>>,
    process: &dyn Process,
    number: u32,
    argument: u64,
) -> Option<Result<i64, Errno>> {
    let mut binding = lock(binding);
    if number == request::DEVICE_BIND_IOMMUFD {
        return Some(bind(machine, device, &mut binding, process, argument));
    }
    let Some(bound) = binding.as_ref() else {
        return Some(Err(Errno::EINVAL));
    };
    match number {
        request::DEVICE_ATTACH_IOMMUFD_PT => Some(attach(machine, bound, process, argument)),
        request::DEVICE_DETACH_IOMMUFD_PT => Some(detach(machine, bound, process, argument)),
        _ => None,
    }
}

fn bind(
    machine: &Machine,
    device: &Device,
    binding: &mut Option<Binding>,
    process: &dyn Process,
    argument: u64,
) -> Result<i64, Errno> {
    let mut bind = Argument::<16>::read(process, argument)?;
    let known_flags = if machine.kernel.extended_bind {
        check_tail(process, argument, bind.u32(0))?;
        BIND_TOKEN
    } else {
        0
    };
    let (flags, fd) = (bind.u32(4), bind.i32(8));
    if fd < 0 || flags & !known_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let node = &device.node;
    if machine.group_is_open(node.group) {
        return Err(Errno::EBUSY);
    }
    // No device here has a token, so giving one is wrong as well.
    if binding.is_some() || flags & BIND_TOKEN != 0 {
        return Err(Errno::EINVAL);
    }
    let file = process.file(fd)?.ok_or(Errno::EBADFD)?;
    let File::Iommufd(iommufd) = &*file else {
        return Err(Errno::EBADFD);
    };
    if node.bound.swap(true, Ordering::SeqCst) {
        return Err(Errno::EINVAL);
    }
    if let Err(errno) = node.open() {
        node.bound.store(false, Ordering::SeqCst);
        return Err(errno);
    }
    let device_id = iommufd.add_device(node.is_mdev());
    *lock(&node.route) = Route::Iommufd(Arc::downgrade(&file), device_id);
    bind.set_u32(12, device_id);
    let written = bind.write(process, argument);
    *binding = Some(Binding { iommufd: file, device_id });
    if let Err(errno) = written {
        release(device, binding);
        return Err(errno);
    }
    Ok(0)
}

/// 7.x: what lies beyond the structure that it knows must be zero.
fn check_tail(memory: &(impl UserMemory + ?Sized), argument: u64, size: u32) -> Result<(), Errno> {
    for offset in BIND_EXTENDED_BYTES.max(BIND_BYTES)..size.min(4096) {
        let mut byte = [0];
        memory.copy_in(field(argument, u64::from(offset))?, &mut byte)?;
        if byte != [0] {
            return Err(Errno::E2BIG);
        }
    }
    Ok(())
}

/// Undoes a binding; the last one closes the device.
fn release(device: &Device, binding: &mut Option<Binding>) {
    if binding.take().is_some() {
        device.node.bound.store(false, Ordering::SeqCst);
        device.node.close();
    }
}

fn attach(machine: &Machine, bound: &Binding, process: &dyn Process, argument: u64) -> Result<i64, Errno> {
    let mut attach = Argument::<12>::read(process, argument)?;
    check_pasid(machine, attach.u32(0), attach.u32(4), 16)?;
    let id = bound.iommufd()?.attach(bound.device_id, attach.u32(8))?;
    attach.set_u32(8, id);
    attach.write(process, argument)?;
    Ok(0)
}

/// Succeeds also when nothing was attached.
fn detach(machine: &Machine, bound: &Binding, process: &dyn Process, argument: u64) -> Result<i64, Errno> {
    let detach = Argument::<8>::read(process, argument)?;
    check_pasid(machine, detach.u32(0), detach.u32(4), 12)?;
    bound.iommufd()?.detach(bound.device_id);
    Ok(0)
}

/// 6.12 has no flags here; 7.x has PASID, which no migration-capable driver offers.
fn check_pasid(machine: &Machine, size: u32, flags: u32, size_with_pasid: u32) -> Result<(), Errno> {
    let known = if machine.kernel.extended_bind { PASID } else { 0 };
    if flags & !known != 0 || flags & PASID != 0 && size < size_with_pasid {
        return Err(Errno::EINVAL);
    }
    if flags & PASID != 0 { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
}

impl Binding {
    fn iommufd(&self) -> Result<&crate::iommufd::Iommufd, Errno> {
        match &*self.iommufd {
            File::Iommufd(iommufd) => Ok(iommufd),
            _ => Err(Errno::EBADFD),
        }
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        if let Ok(iommufd) = self.iommufd() {
            iommufd.remove_device(self.device_id);
        }
    }
}
