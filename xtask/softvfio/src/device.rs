// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The device file: information, interrupts, reset, regions.

use savevm_core::sim::{Errno, Facts, SimDevice};

use crate::abi::{Argument, UserMemory, request};
use crate::config::Kernel;
use crate::feature::feature;
use crate::machine::{Device, Process};

/// Regions lie at `index << 40` of the device file.
const REGION_SHIFT: u32 = 40;
const REGION_MASK: u64 = (1 << REGION_SHIFT) - 1;
const REGION_READ_WRITE: u32 = 3;

/// Largest piece of a region access that is copied at once.
const PIECE_BYTES: usize = 4096;

pub(crate) fn ioctl(
    device: &Device,
    kernel: Kernel,
    process: &dyn Process,
    number: u32,
    argument: u64,
) -> Result<i64, Errno> {
    let facts = device.node.sim.facts();
    match number {
        request::DEVICE_FEATURE => return feature(&device.node, kernel, process, argument),
        request::DEVICE_GET_INFO => {
            let mut info = Argument::<16>::read(process, argument)?;
            info.set_u32(4, facts.info_flags);
            info.set_u32(8, facts.region_count);
            info.set_u32(12, facts.irq_count);
            info.write(process, argument)?;
        }
        request::DEVICE_GET_REGION_INFO => region_info(facts, process, argument)?,
        request::DEVICE_GET_IRQ_INFO => irq_info(facts, process, argument)?,
        request::DEVICE_SET_IRQS => set_irqs(facts, process, argument)?,
        request::DEVICE_RESET => device.node.sim.reset()?,
        _ => return Err(Errno::ENOTTY),
    }
    Ok(0)
}

fn region_info(facts: &Facts, process: &dyn Process, argument: u64) -> Result<(), Errno> {
    let mut info = Argument::<32>::read(process, argument)?;
    let index = info.u32(8);
    if index >= facts.region_count {
        return Err(Errno::EINVAL);
    }
    let size = facts.region_bytes(index);
    // mtty reports every index as readable and writable, vfio-pci only those with a size.
    let flags = if size > 0 || facts.emulated_iommu { REGION_READ_WRITE } else { 0 };
    info.set_u32(4, flags);
    info.set_u32(12, 0);
    info.set_u64(16, size);
    info.set_u64(24, u64::from(index).checked_shl(REGION_SHIFT).unwrap_or(0));
    info.write(process, argument)
}

fn irq_info(facts: &Facts, process: &dyn Process, argument: u64) -> Result<(), Errno> {
    let mut info = Argument::<16>::read(process, argument)?;
    let index = info.u32(8);
    if index >= facts.irq_count {
        return Err(Errno::EINVAL);
    }
    let (flags, count) = match facts.irqs.iter().find(|irq| irq.index == index) {
        Some(irq) => (irq.flags, irq.count),
        None if facts.emulated_iommu => return Err(Errno::EINVAL),
        None => (0, 0),
    };
    info.set_u32(4, flags);
    info.set_u32(12, count);
    info.write(process, argument)
}

/// Accepted and forgotten: no device here raises an interrupt.
fn set_irqs(facts: &Facts, process: &dyn Process, argument: u64) -> Result<(), Errno> {
    let set = Argument::<20>::read(process, argument)?;
    let (flags, index, start, count) = (set.u32(4), set.u32(8), set.u32(12), set.u32(16));
    let (data, action) = (flags & 0x07, flags & 0x38);
    let known = flags & !0x3f == 0 && data.is_power_of_two() && action.is_power_of_two();
    let end = start.checked_add(count).ok_or(Errno::EINVAL)?;
    let vectors = facts.irqs.iter().find(|irq| irq.index == index).map_or(0, |irq| irq.count);
    // Disabling all (no data, count zero) is allowed for an index without vectors, too.
    let in_range = index < facts.irq_count && (count == 0 && data == 1 || end <= vectors);
    if !known || !in_range {
        return Err(Errno::EINVAL);
    }
    let item_bytes: u32 = match data {
        2 => 1,
        4 => 4,
        _ => 0,
    };
    let data_bytes = item_bytes.checked_mul(count).and_then(|bytes| bytes.checked_add(20)).ok_or(Errno::EINVAL)?;
    if set.u32(0) < data_bytes {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// `pread` of the device file. Returns the bytes read: fewer at the end of a region.
pub(crate) fn read(
    device: &SimDevice,
    memory: &(impl UserMemory + ?Sized),
    position: u64,
    address: u64,
    len: usize,
) -> Result<usize, Errno> {
    pieces(position, address, len, |index, offset, address, len| {
        let mut piece = [0; PIECE_BYTES];
        let piece = piece.get_mut(..len).unwrap_or_default();
        let read = device.region_read(index, offset, piece)?;
        memory.copy_out(address, piece.get(..read).unwrap_or_default())?;
        Ok(read)
    })
}

/// `pwrite` of the device file. Returns the bytes written: fewer at the end of a region.
pub(crate) fn write(
    device: &SimDevice,
    memory: &(impl UserMemory + ?Sized),
    position: u64,
    address: u64,
    len: usize,
) -> Result<usize, Errno> {
    pieces(position, address, len, |index, offset, address, len| {
        let mut piece = [0; PIECE_BYTES];
        let piece = piece.get_mut(..len).unwrap_or_default();
        memory.copy_in(address, piece)?;
        device.region_write(index, offset, piece)
    })
}

/// Splits an access into pieces and calls `access(region, offset, address, len)` for each until one falls short.
fn pieces(
    position: u64,
    address: u64,
    len: usize,
    mut access: impl FnMut(u32, u64, u64, usize) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let index = position.checked_shr(REGION_SHIFT).and_then(|index| u32::try_from(index).ok()).ok_or(Errno::EINVAL)?;
    let mut done = 0_usize;
    while done < len {
        let progress = u64::try_from(done).map_err(|_| Errno::EINVAL)?;
        let offset = (position & REGION_MASK).checked_add(progress).ok_or(Errno::EINVAL)?;
        let address = address.checked_add(progress).ok_or(Errno::EFAULT)?;
        let piece = len.saturating_sub(done).min(PIECE_BYTES);
        match access(index, offset, address, piece) {
            Ok(moved) => {
                done = done.saturating_add(moved);
                if moved < piece {
                    break;
                }
            }
            // An error after some bytes is for the next call to meet.
            Err(_) if done > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}
