// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Page tables with dirty tracking.

use savevm_core::sim::Errno;

use crate::abi::UserMemory;
use crate::dma;
use crate::machine::Process;
use crate::page_tables::{DirtyBits, MOCK_PAGE_BYTES, Query, TestCommand, bit_is_set};

use super::{Hwpt, Iommu, Object, Objects, structure, structure_from, supported};

pub(super) const HWPT_DIRTY_TRACKING: u32 = 2;
const HWPT_FLAGS: u32 = 0b1011;
const CAPABILITY_DIRTY_TRACKING: u64 = 1;

impl Objects {
    /// size, flags@4, dev_id@8, pt_id@12, out_hwpt_id@16, reserved@20, data_type@24.
    pub(super) fn hwpt_alloc(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
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
        let id = self.add(Object::Hwpt(Hwpt { ioas, iommu, dirty, auto: false }));
        alloc.set_u32(16, id);
        alloc.write(process, address)
    }

    /// size, flags@4, dev_id@8, data_len@12, data_uptr@16, type@24, capabilities@32. Not for emulated devices.
    pub(super) fn hw_info(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
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

    pub(super) fn hwpt(&mut self, id: u32) -> Result<&mut Hwpt, Errno> {
        match self.by_id.get_mut(&id) {
            Some(Object::Hwpt(hwpt)) => Ok(hwpt),
            _ => Err(Errno::ENOENT),
        }
    }

    /// size, flags@4, hwpt_id@8, reserved@12.
    pub(super) fn set_dirty_tracking(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let set = structure::<16>(process, address)?;
        let flags = set.u32(4);
        supported(flags & !1 == 0)?;
        let dirty = self.hwpt(set.u32(8))?.dirty.as_mut().ok_or(Errno::EOPNOTSUPP)?;
        dirty.set_tracking(flags == 1);
        Ok(())
    }

    /// size, hwpt_id@4, flags@8, reserved@12, iova@16, length@24, page_size@32, data@40.
    pub(super) fn dirty_bitmap(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let get = structure::<48>(process, address)?;
        supported(get.u32(8) & !1 == 0 && get.u32(12) == 0)?;
        let bugs = self.bugs;
        let hwpt = self.hwpt(get.u32(4))?;
        let (iova, length, page_bytes) = (get.u64(16), get.u64(24), get.u64(32));
        if length == 0 && !bugs.zero_length {
            return Err(Errno::EINVAL);
        }
        let last = iova.checked_add(length.wrapping_sub(1)).ok_or(Errno::EOVERFLOW)?;
        // With the bug this is where it began.
        let end = last.wrapping_add(1);
        // The kernel masks with the page size less one: a size that is no power of two passes for what its bits allow.
        let mask = page_bytes.checked_sub(1).ok_or(Errno::EINVAL)?;
        let (ioas, tracks) = (hwpt.ioas, hwpt.dirty.is_some());
        if (iova | end) & (mask | self.alignment(ioas).wrapping_sub(1)) != 0 {
            return Err(Errno::EINVAL);
        }
        supported(tracks)?;
        // The walk ends at the first hole, and nobody is told.
        let Some(last) = self.ioas(ioas)?.mappings.mapped_up_to(iova, last) else { return Ok(()) };
        let clear = get.u32(8) == 0;
        match self.hwpt(get.u32(4))?.dirty.as_mut() {
            Some(dirty) if bugs.clean_untracked && !dirty.is_on() => {}
            // All there is was asked for, with a bitmap that has no bit.
            Some(dirty) if length == 0 && clear => dirty.pages().forget(iova, last),
            Some(dirty) if length > 0 => {
                dirty.pages().report(process, Query { iova, last, page_bytes, bitmap: get.u64(40), clear });
            }
            _ => {}
        }
        Ok(())
    }

    /// A device writes to what it is attached to. An emulated device's writes leave no trace there: nothing of iommufd tracks
    /// them.
    pub(super) fn dma_write(
        &mut self,
        device: u32,
        memory: &dyn UserMemory,
        iova: u64,
        data: &[u8],
    ) -> Result<(), Errno> {
        let Some(Object::Device { attached: Some(table), iommu }) = self.by_id.get(&device) else {
            return Err(Errno::EFAULT);
        };
        let (table, page_bytes) = (*table, iommu.page_bytes());
        let ioas = match self.by_id.get(&table) {
            Some(Object::Hwpt(hwpt)) => hwpt.ioas,
            _ => table,
        };
        let mut written = Vec::new();
        let mappings = &self.ioas(ioas).map_err(|_| Errno::EFAULT)?.mappings;
        let answer = dma::deliver(mappings, memory, iova, data, |at, len| written.push((at, len)));
        if let Some(Object::Hwpt(Hwpt { dirty: Some(dirty), .. })) = self.by_id.get_mut(&table) {
            if dirty.is_on() {
                written.into_iter().for_each(|(at, len)| dirty.pages().mark(at, len, page_bytes));
            }
        }
        answer
    }

    pub(super) fn test(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
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
                let ioas = hwpt.ioas;
                hwpt.dirty.as_ref().filter(|dirty| dirty.is_on()).ok_or(Errno::EINVAL)?;
                let mut pages = Vec::new();
                for page in 0..length.checked_div(page_bytes).unwrap_or_default() {
                    if bit_is_set(process, bitmap, page)? {
                        pages.push(iova.saturating_add(page.saturating_mul(page_bytes)));
                    }
                }
                // What is not mapped has no entry to be dirty; it counts all the same.
                command.set_u64(56, u64::try_from(pages.len()).unwrap_or(u64::MAX));
                let mappings = &self.ioas(ioas)?.mappings;
                pages.retain(|page| mappings.mapped_up_to(*page, *page).is_some());
                if let Some(dirty) = self.hwpt(table)?.dirty.as_mut() {
                    pages.into_iter().for_each(|page| dirty.pages().mark(page, 1, MOCK_PAGE_BYTES));
                }
            }
        }
        command.write(process, address)
    }
}
