// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! iommufd: address spaces, page tables with dirty tracking, and the devices bound to it.
//!
//! No device here performs DMA: mappings are kept for their errors, and pages are dirty where a test says so.

use std::collections::BTreeMap;
use std::sync::Mutex;

use savevm_core::sim::Errno;

use crate::abi::{Argument, UserMemory, field, request};
use crate::machine::{Process, lock};
use crate::mappings::Mappings;
use crate::page_tables::{DirtyBits, MOCK_APERTURE, Query, TestCommand, bit_is_set};

const DESTROY: u32 = 0x3b80;
const IOAS_ALLOC: u32 = 0x3b81;
const IOAS_ALLOW_IOVAS: u32 = 0x3b82;
const IOAS_COPY: u32 = 0x3b83;
const IOAS_IOVA_RANGES: u32 = 0x3b84;
const IOAS_MAP: u32 = 0x3b85;
const IOAS_UNMAP: u32 = 0x3b86;
const HWPT_ALLOC: u32 = 0x3b89;
const GET_HW_INFO: u32 = 0x3b8a;
const HWPT_SET_DIRTY_TRACKING: u32 = 0x3b8b;
const HWPT_GET_DIRTY_BITMAP: u32 = 0x3b8c;
const TEST_CMD: u32 = 0x3ba0;

const PAGE_BYTES: u64 = 4096;
/// What a physical device's IOMMU maps. Two 48-bit halves would be x86; one range is enough to place RAM.
const APERTURE: (u64, u64) = (0, (1 << 48) - 1);
const HWPT_DIRTY_TRACKING: u32 = 2;
const HWPT_FLAGS: u32 = 0b1011;
const CAPABILITY_DIRTY_TRACKING: u64 = 1;

/// An open `/dev/iommu`.
pub(crate) struct Iommufd {
    objects: Mutex<Objects>,
}

#[derive(Default)]
struct Objects {
    by_id: BTreeMap<u32, Object>,
    last_id: u32,
}

enum Object {
    Ioas(Mappings),
    Hwpt(Hwpt),
    Device {
        iommu: Iommu,
        attached: Option<u32>,
    },
    /// A device of the test interface, by its id there; the other one is that of its [`Device`](Self::Device).
    Mock(u32),
}

struct Hwpt {
    ioas: u32,
    /// `None`: not allocated for it.
    dirty: Option<DirtyBits>,
    /// The kernel made it by itself.
    auto: bool,
}

/// What is behind a device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Iommu {
    /// Nothing: the device is a mediated one.
    None,
    Physical,
    /// The one of the test interface.
    Mock {
        tracks: bool,
    },
}

impl Iommu {
    fn tracks(self) -> bool {
        !matches!(self, Self::None | Self::Mock { tracks: false })
    }
}

impl Iommufd {
    pub(crate) fn new() -> Self {
        Self { objects: Mutex::default() }
    }

    /// A device that was bound; returns its id.
    pub(crate) fn add_device(&self, emulated: bool) -> u32 {
        let iommu = if emulated { Iommu::None } else { Iommu::Physical };
        lock(&self.objects).add(Object::Device { iommu, attached: None })
    }

    pub(crate) fn remove_device(&self, id: u32) {
        let mut objects = lock(&self.objects);
        objects.detach(id);
        objects.by_id.remove(&id);
    }

    /// Attaches device `id` to an address space or page table; returns what it ended up attached to.
    pub(crate) fn attach(&self, id: u32, table: u32) -> Result<u32, Errno> {
        lock(&self.objects).attach(id, table)
    }

    pub(crate) fn detach(&self, id: u32) {
        lock(&self.objects).detach(id);
    }

    pub(crate) fn ioctl(&self, process: &dyn Process, number: u32, argument: u64) -> Result<i64, Errno> {
        let mut objects = lock(&self.objects);
        match number {
            DESTROY => objects.destroy(process, argument)?,
            IOAS_ALLOC => {
                let mut alloc = structure::<12>(process, argument)?;
                supported(alloc.u32(4) == 0)?;
                let id = objects.add(Object::Ioas(Mappings::default()));
                alloc.set_u32(8, id);
                alloc.write(process, argument)?;
            }
            IOAS_ALLOW_IOVAS => {
                let allow = structure::<24>(process, argument)?;
                objects.ioas(allow.u32(4))?;
            }
            IOAS_IOVA_RANGES => objects.iova_ranges(process, argument)?,
            IOAS_MAP => objects.map(process, argument)?,
            IOAS_COPY => objects.copy(process, argument)?,
            IOAS_UNMAP => objects.unmap(process, argument)?,
            HWPT_ALLOC => objects.hwpt_alloc(process, argument)?,
            GET_HW_INFO => objects.hw_info(process, argument)?,
            HWPT_SET_DIRTY_TRACKING => objects.set_dirty_tracking(process, argument)?,
            HWPT_GET_DIRTY_BITMAP => objects.dirty_bitmap(process, argument)?,
            TEST_CMD => objects.test(process, argument)?,
            // The container emulation of iommufd goes as far as a VMM's probing.
            request::GET_API_VERSION => {}
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }
}

/// Copies a structure in by iommufd's rules: its size first, then a tail that must be zero.
fn structure<const N: usize>(process: &dyn Process, address: u64) -> Result<Argument<N>, Errno> {
    structure_from(process, address, u32::try_from(N).unwrap_or(u32::MAX))
}

/// As [`structure`], for one that has grown: callers may have its first `min` bytes only.
fn structure_from<const N: usize>(process: &dyn Process, address: u64, min: u32) -> Result<Argument<N>, Errno> {
    let size = process.word(address)?;
    if size < min {
        return Err(Errno::EINVAL);
    }
    check_tail(process, address, u32::try_from(N).unwrap_or(u32::MAX), size)?;
    Argument::read_part(process, address, usize::try_from(size).unwrap_or(N))
}

fn check_tail(memory: &(impl UserMemory + ?Sized), address: u64, known: u32, size: u32) -> Result<(), Errno> {
    for offset in known..size.min(4096) {
        let mut byte = [0];
        memory.copy_in(field(address, u64::from(offset))?, &mut byte)?;
        if byte != [0] {
            return Err(Errno::E2BIG);
        }
    }
    Ok(())
}

fn supported(condition: bool) -> Result<(), Errno> {
    if condition { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

impl Objects {
    fn add(&mut self, object: Object) -> u32 {
        self.last_id = self.last_id.wrapping_add(1);
        self.by_id.insert(self.last_id, object);
        self.last_id
    }

    fn ioas(&mut self, id: u32) -> Result<&mut Mappings, Errno> {
        match self.by_id.get_mut(&id) {
            Some(Object::Ioas(mappings)) => Ok(mappings),
            _ => Err(Errno::ENOENT),
        }
    }

    fn attach(&mut self, id: u32, table: u32) -> Result<u32, Errno> {
        let Some(Object::Device { iommu, .. }) = self.by_id.get(&id) else {
            return Err(Errno::ENOENT);
        };
        let iommu = *iommu;
        let found = match self.by_id.get(&table) {
            Some(Object::Ioas(_)) if iommu == Iommu::None => table,
            Some(Object::Ioas(_)) => {
                self.detach(id);
                // The kernel makes a page table of its own, which cannot track dirty pages.
                self.add(Object::Hwpt(Hwpt { ioas: table, dirty: None, auto: true }))
            }
            Some(Object::Hwpt(hwpt)) if iommu != Iommu::None && (hwpt.dirty.is_none() || iommu.tracks()) => {
                self.detach(id);
                table
            }
            Some(_) => return Err(Errno::EINVAL),
            None => return Err(Errno::ENOENT),
        };
        if let Some(Object::Device { attached, .. }) = self.by_id.get_mut(&id) {
            *attached = Some(found);
        }
        Ok(found)
    }

    fn detach(&mut self, device: u32) {
        let Some(Object::Device { attached, .. }) = self.by_id.get_mut(&device) else {
            return;
        };
        let Some(table) = attached.take() else { return };
        let used = self
            .by_id
            .values()
            .any(|object| matches!(object, Object::Device { attached: Some(id), .. } if *id == table));
        // A page table of the kernel's own goes with its last device.
        if !used && matches!(self.by_id.get(&table), Some(Object::Hwpt(Hwpt { auto: true, .. }))) {
            self.by_id.remove(&table);
        }
    }

    /// The addresses `ioas` can map, by the IOMMUs attached to it; without any, all there are.
    fn aperture(&self, ioas: u32) -> (u64, u64) {
        let mut aperture = (0, u64::MAX);
        for object in self.by_id.values() {
            let Object::Device { iommu, attached: Some(table) } = object else { continue };
            if !matches!(self.by_id.get(table), Some(Object::Hwpt(hwpt)) if hwpt.ioas == ioas) {
                continue;
            }
            let (first, last) = if *iommu == Iommu::Physical { APERTURE } else { MOCK_APERTURE };
            aperture = (aperture.0.max(first), aperture.1.min(last));
        }
        aperture
    }

    fn destroy(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let id = structure::<8>(process, address)?.u32(4);
        let used = self.by_id.values().any(|object| match object {
            Object::Device { attached, .. } => *attached == Some(id),
            Object::Hwpt(hwpt) => hwpt.ioas == id,
            Object::Ioas(_) | Object::Mock(_) => false,
        });
        match self.by_id.get(&id) {
            None => Err(Errno::ENOENT),
            Some(Object::Device { .. }) => Err(Errno::EBUSY),
            Some(Object::Mock(device)) => {
                let device = *device;
                self.detach(device);
                self.by_id.remove(&device);
                self.by_id.remove(&id);
                Ok(())
            }
            Some(_) if used => Err(Errno::EBUSY),
            Some(_) => {
                self.by_id.remove(&id);
                Ok(())
            }
        }
    }

    /// size, ioas_id@4, num_iovas@8, allowed_iovas@16, out_iova_alignment@24.
    fn iova_ranges(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let mut ranges = structure::<32>(process, address)?;
        self.ioas(ranges.u32(4))?;
        let (first, last) = self.aperture(ranges.u32(4));
        let room = ranges.u32(8);
        if room > 0 {
            let mut range = Argument::<16>::new();
            range.set_u64(0, first);
            range.set_u64(8, last);
            range.write(process, ranges.u64(16))?;
        }
        ranges.set_u32(8, 1);
        ranges.set_u64(24, PAGE_BYTES);
        ranges.write(process, address)?;
        if room == 0 { Err(EMSGSIZE) } else { Ok(()) }
    }

    /// size, flags@4, ioas_id@8, reserved@12, user_va@16, length@24, iova@32.
    fn map(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        const FIXED_IOVA: u32 = 1;
        let mut map = structure::<40>(process, address)?;
        let (flags, user, length) = (map.u32(4), map.u64(16), map.u64(24));
        supported(flags & !0b111 == 0 && map.u32(12) == 0)?;
        let aperture = self.aperture(map.u32(8));
        let mappings = self.ioas(map.u32(8))?;
        let iova = if flags & FIXED_IOVA != 0 {
            map.u64(32)
        } else {
            mappings.free(length, PAGE_BYTES).ok_or(Errno::ENOSPC)?
        };
        let end = check_range(iova, length)?;
        if flags & 0b110 == 0 || user & (PAGE_BYTES - 1) != 0 || iova < aperture.0 || end > aperture.1 {
            return Err(Errno::EINVAL);
        }
        if mappings.overlaps(iova, length) {
            return Err(Errno::EEXIST);
        }
        mappings.insert(iova, length);
        map.set_u64(32, iova);
        map.write(process, address)
    }

    /// size, flags@4, dst_ioas@8, src_ioas@12, length@16, dst_iova@24, src_iova@32.
    fn copy(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        const FIXED_IOVA: u32 = 1;
        let mut copy = structure::<40>(process, address)?;
        let (flags, length, from) = (copy.u32(4), copy.u64(16), copy.u64(32));
        supported(flags & !0b111 == 0)?;
        let source = self.ioas(copy.u32(12))?;
        check_range(from, length)?;
        if source.within(from, length).is_empty() {
            return Err(Errno::ENOENT);
        }
        let target = self.ioas(copy.u32(8))?;
        let iova = if flags & FIXED_IOVA != 0 {
            copy.u64(24)
        } else {
            target.free(length, PAGE_BYTES).ok_or(Errno::ENOSPC)?
        };
        check_range(iova, length)?;
        if target.overlaps(iova, length) {
            return Err(Errno::EEXIST);
        }
        target.insert(iova, length);
        copy.set_u64(24, iova);
        copy.write(process, address)
    }

    /// size, ioas_id@4, iova@8, length@16. Everything at once: iova 0, length 2^64-1.
    fn unmap(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let mut unmap = structure::<24>(process, address)?;
        let (ioas, iova, length) = (unmap.u32(4), unmap.u64(8), unmap.u64(16));
        let mappings = self.ioas(ioas)?;
        let unmapped = if iova == 0 && length == u64::MAX {
            mappings.clear()
        } else {
            check_range(iova, length)?;
            if mappings.cuts(iova, length) || !mappings.overlaps(iova, length) {
                return Err(Errno::ENOENT);
            }
            mappings.remove(iova, length)
        };
        for object in self.by_id.values_mut() {
            if let Object::Hwpt(Hwpt { ioas: on, dirty: Some(dirty), .. }) = object {
                if *on == ioas {
                    dirty.forget(iova, iova.saturating_add(length.saturating_sub(1)));
                }
            }
        }
        unmap.set_u64(16, unmapped);
        unmap.write(process, address)
    }

    /// size, flags@4, dev_id@8, pt_id@12, out_hwpt_id@16, reserved@20, data_type@24.
    fn hwpt_alloc(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let mut alloc = structure_from::<48>(process, address, 24)?;
        let flags = alloc.u32(4);
        supported(flags & !HWPT_FLAGS == 0 && alloc.u32(20) == 0)?;
        supported(alloc.u32(24) == 0)?;
        let iommu = match self.by_id.get(&alloc.u32(8)) {
            Some(Object::Device { iommu, .. }) if *iommu != Iommu::None => *iommu,
            _ => return Err(Errno::ENOENT),
        };
        let ioas = alloc.u32(12);
        // The kernel says so of an id that is none as well.
        if !matches!(self.by_id.get(&ioas), Some(Object::Ioas(_))) {
            return Err(Errno::EINVAL);
        }
        let dirty = (flags & HWPT_DIRTY_TRACKING != 0).then(DirtyBits::default);
        supported(dirty.is_none() || iommu.tracks())?;
        let id = self.add(Object::Hwpt(Hwpt { ioas, dirty, auto: false }));
        alloc.set_u32(16, id);
        alloc.write(process, address)
    }

    /// size, flags@4, dev_id@8, data_len@12, data_uptr@16, type@24, capabilities@32. Not for emulated devices.
    fn hw_info(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let mut info = structure_from::<40>(process, address, 32)?;
        supported(info.u32(4) == 0)?;
        let iommu = match self.by_id.get(&info.u32(8)) {
            Some(Object::Device { iommu, .. }) if *iommu != Iommu::None => *iommu,
            _ => return Err(Errno::ENOENT),
        };
        info.set_u32(12, 0);
        info.set_u32(24, 0);
        info.set_u32(28, 0);
        info.set_u64(32, if iommu.tracks() { CAPABILITY_DIRTY_TRACKING } else { 0 });
        info.write(process, address)
    }

    fn hwpt(&mut self, id: u32) -> Result<&mut Hwpt, Errno> {
        match self.by_id.get_mut(&id) {
            Some(Object::Hwpt(hwpt)) => Ok(hwpt),
            _ => Err(Errno::ENOENT),
        }
    }

    /// size, flags@4, hwpt_id@8, reserved@12.
    fn set_dirty_tracking(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let set = structure::<16>(process, address)?;
        let flags = set.u32(4);
        supported(flags & !1 == 0)?;
        let dirty = self.hwpt(set.u32(8))?.dirty.as_mut().ok_or(Errno::EOPNOTSUPP)?;
        dirty.set_tracking(flags == 1);
        Ok(())
    }

    /// size, hwpt_id@4, flags@8, reserved@12, iova@16, length@24, page_size@32, data@40.
    fn dirty_bitmap(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let get = structure::<48>(process, address)?;
        supported(get.u32(8) & !1 == 0 && get.u32(12) == 0)?;
        let hwpt = self.hwpt(get.u32(4))?;
        let (iova, length, page_bytes) = (get.u64(16), get.u64(24), get.u64(32));
        let last = iova.checked_add(length.checked_sub(1).ok_or(Errno::EINVAL)?).ok_or(Errno::EOVERFLOW)?;
        let end = last.wrapping_add(1);
        // A page size need not be a power of two.
        let aligned = |value: u64| value.checked_rem(page_bytes) == Some(0);
        if (iova | end) & (PAGE_BYTES - 1) != 0 || !aligned(iova) || !aligned(end) {
            return Err(Errno::EINVAL);
        }
        let dirty = hwpt.dirty.as_mut().ok_or(Errno::EOPNOTSUPP)?;
        dirty.report(process, Query { iova, last, page_bytes, bitmap: get.u64(40), clear: get.u32(8) == 0 });
        Ok(())
    }

    fn test(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let mut command = structure_from::<72>(process, address, 68)?;
        match TestCommand::read(&command)? {
            TestCommand::Device { ioas, tracks } => {
                self.ioas(ioas)?;
                let device = self.add(Object::Device { iommu: Iommu::Mock { tracks }, attached: None });
                let table = self.attach(device, ioas)?;
                let mock = self.add(Object::Mock(device));
                command.set_u32(16, mock);
                command.set_u32(20, table);
                command.set_u32(24, device);
            }
            TestCommand::Replace { id, table } => {
                let Some(Object::Mock(device)) = self.by_id.get(&id) else {
                    return Err(Errno::ENOENT);
                };
                let found = self.attach(*device, table)?;
                command.set_u32(16, found);
            }
            TestCommand::Dirty { table, iova, length, page_bytes, bitmap } => {
                let hwpt = self.hwpt(table).map_err(|_| Errno::EINVAL)?;
                let dirty = hwpt.dirty.as_mut().filter(|dirty| dirty.is_on()).ok_or(Errno::EINVAL)?;
                let mut count = 0_u64;
                for page in 0..length.checked_div(page_bytes).unwrap_or_default() {
                    if bit_is_set(process, bitmap, page)? {
                        dirty.write(iova.saturating_add(page.saturating_mul(page_bytes)));
                        count = count.saturating_add(1);
                    }
                }
                command.set_u64(56, count);
            }
        }
        command.write(process, address)
    }
}

/// The room for ranges is too small; the number is returned all the same.
const EMSGSIZE: Errno = Errno::from_raw(90);

/// The last address of a page-aligned, non-empty range.
fn check_range(iova: u64, length: u64) -> Result<u64, Errno> {
    let last = length.checked_sub(1).ok_or(Errno::EINVAL)?;
    if (iova | length) & (PAGE_BYTES - 1) != 0 {
        return Err(Errno::EINVAL);
    }
    iova.checked_add(last).ok_or(Errno::EOVERFLOW)
}

#[cfg(test)]
#[path = "iommufd_test.rs"]
mod test;
