// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The container with its type1 IOMMU: what is mapped for devices, and what of it is dirty.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use savevm_core::sim::Errno;

use crate::abi::{Argument, UserMemory, request};
use crate::config::Kernel;
use crate::dma;
use crate::machine::{Process, lock};
use crate::mappings::{Mapping, Mappings};
use crate::type1_dirty::{DirtyPages, check_bitmap};

const TYPE1: u64 = 1;
const TYPE1_V2: u64 = 3;
const UNMAP_ALL: u64 = 9;

const PAGE_SIZES: u64 = !0xfff;
const PAGE_BYTES: u64 = 4096;
const MAPPINGS_MAX: usize = 65535;
const BITMAP_BYTES_MAX: u64 = 0x1000_0000;

/// An open `/dev/vfio/vfio`.
pub(crate) struct Container {
    groups: AtomicU32,
    inner: Mutex<Inner>,
}

struct Inner {
    iommu: Option<u64>,
    mappings: Mappings,
    dirty: DirtyPages,
    /// Groups with an IOMMU, which does not say what was written.
    physical_groups: u32,
    /// What a GET_BITMAP beyond 2^64 ends with: EINVAL in 6.12, EOVERFLOW in 7.3.
    wrapped: Errno,
}

impl Inner {
    fn new(wrapped: Errno) -> Self {
        Self { iommu: None, mappings: Mappings::default(), dirty: DirtyPages::default(), physical_groups: 0, wrapped }
    }
}

impl Container {
    pub(crate) fn new(kernel: Kernel) -> Self {
        let wrapped = if kernel.has_drivers_of_7 { Errno::EOVERFLOW } else { Errno::EINVAL };
        Self { groups: AtomicU32::new(0), inner: Mutex::new(Inner::new(wrapped)) }
    }

    /// Takes in a group, of emulated devices or not.
    pub(crate) fn attach(&self, emulated: bool) {
        self.groups.fetch_add(1, Ordering::SeqCst);
        let mut inner = lock(&self.inner);
        inner.physical_groups = inner.physical_groups.saturating_add(u32::from(!emulated));
    }

    /// The IOMMU goes with the last group.
    pub(crate) fn detach(&self, emulated: bool) {
        let mut inner = lock(&self.inner);
        inner.physical_groups = inner.physical_groups.saturating_sub(u32::from(!emulated));
        if self.groups.fetch_sub(1, Ordering::SeqCst) == 1 {
            *inner = Inner::new(inner.wrapped);
        }
    }

    pub(crate) fn has_iommu(&self) -> bool {
        lock(&self.inner).iommu.is_some()
    }

    /// A device writes `data` at `iova`.
    pub(crate) fn dma_write(&self, memory: &dyn UserMemory, iova: u64, data: &[u8]) -> Result<(), Errno> {
        let Inner { mappings, dirty, .. } = &mut *lock(&self.inner);
        dma::deliver(mappings, memory, iova, data, |at, len| dirty.mark(at, len))
    }

    pub(crate) fn ioctl(&self, process: &dyn Process, number: u32, argument: u64) -> Result<i64, Errno> {
        let mut inner = lock(&self.inner);
        match number {
            request::GET_API_VERSION => Ok(0),
            request::CHECK_EXTENSION => Ok(i64::from(matches!(argument, TYPE1 | TYPE1_V2 | UNMAP_ALL))),
            request::SET_IOMMU => {
                if self.groups.load(Ordering::SeqCst) == 0 || inner.iommu.is_some() {
                    return Err(Errno::EINVAL);
                }
                if !matches!(argument, TYPE1 | TYPE1_V2) {
                    return Err(Errno::ENODEV);
                }
                inner.iommu = Some(argument);
                Ok(0)
            }
            _ => {
                let version = inner.iommu.ok_or(Errno::EINVAL)?;
                inner.type1(version, process, number, argument)
            }
        }
    }
}

impl Inner {
    fn type1(&mut self, version: u64, process: &dyn Process, number: u32, argument: u64) -> Result<i64, Errno> {
        match number {
            request::IOMMU_GET_INFO => self.info(process, argument)?,
            request::IOMMU_MAP_DMA => self.map(process, argument)?,
            request::IOMMU_UNMAP_DMA => self.unmap(process, argument)?,
            request::IOMMU_DIRTY_PAGES if version == TYPE1_V2 => self.dirty_pages(process, argument)?,
            request::IOMMU_DIRTY_PAGES => return Err(Errno::EACCES),
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }

    /// 24 bytes, then the migration capability (32) and the number of mappings still possible (12).
    fn info(&self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        const FIXED: u32 = 24;
        const WHOLE: u32 = 72;
        let given = Argument::<16>::read(process, address)?.u32(0);
        let mut info = Argument::<72>::new();
        let room = given >= WHOLE;
        info.set_u32(0, WHOLE);
        info.set_u32(4, 0b11);
        info.set_u64(8, PAGE_SIZES);
        if room {
            info.set_u32(16, FIXED);
            // Header: id and version in one word, then the offset of the next capability.
            info.set_u32(24, 2 | (1 << 16));
            info.set_u32(28, 56);
            info.set_u64(40, PAGE_BYTES);
            info.set_u64(48, BITMAP_BYTES_MAX);
            info.set_u32(56, 3 | (1 << 16));
            let left = MAPPINGS_MAX.saturating_sub(self.mappings.len());
            info.set_u32(64, u32::try_from(left).unwrap_or(u32::MAX));
        }
        let len = if room { WHOLE } else { given.min(FIXED) };
        let len = usize::try_from(len).unwrap_or(0);
        process.copy_out(address, info.bytes().get(..len).unwrap_or_default())
    }

    fn map(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        const WRITE: u32 = 2;
        let map = Argument::<32>::read(process, address)?;
        let (flags, vaddr, iova, size) = (map.u32(4), map.u64(8), map.u64(16), map.u64(24));
        let aligned = (iova | size | vaddr) & (PAGE_BYTES - 1) == 0;
        let end = iova.checked_add(size.wrapping_sub(1));
        if flags & !0b11 != 0 || flags == 0 || size == 0 || !aligned || end.is_none() {
            return Err(Errno::EINVAL);
        }
        if self.mappings.overlaps(iova, size) {
            return Err(Errno::EEXIST);
        }
        if self.mappings.len() >= MAPPINGS_MAX {
            return Err(Errno::ENOSPC);
        }
        self.mappings.insert(iova, Mapping { len: size, user: vaddr, writable: flags & WRITE != 0 });
        Ok(())
    }

    fn unmap(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        const GET_DIRTY_BITMAP: u32 = 1;
        const ALL: u32 = 2;
        let mut unmap = Argument::<24>::read(process, address)?;
        let (flags, iova, size) = (unmap.u32(4), unmap.u64(8), unmap.u64(16));
        let unmapped = match flags {
            ALL if iova == 0 && size == 0 => {
                self.dirty.forget(0, u64::MAX);
                self.mappings.clear()
            }
            0 | GET_DIRTY_BITMAP => {
                if (iova | size) & (PAGE_BYTES - 1) != 0
                    || size == 0
                    || iova.checked_add(size.wrapping_sub(1)).is_none()
                {
                    return Err(Errno::EINVAL);
                }
                if flags == GET_DIRTY_BITMAP {
                    let bitmap = Argument::<48>::read(process, address)?;
                    if !self.dirty.is_on() {
                        return Err(Errno::EINVAL);
                    }
                    check_bitmap(bitmap.u64(24), bitmap.u64(32), size)?;
                }
                if self.mappings.cuts(iova, size) {
                    return Err(Errno::EINVAL);
                }
                if flags == GET_DIRTY_BITMAP {
                    let data = Argument::<48>::read(process, address)?.u64(40);
                    self.report(process, [iova, size], data)?;
                }
                self.dirty.forget(iova, size);
                self.mappings.remove(iova, size)
            }
            _ => return Err(Errno::EINVAL),
        };
        unmap.set_u64(16, unmapped);
        unmap.write(process, address)
    }

    fn dirty_pages(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let header = Argument::<8>::read(process, address)?;
        match header.u32(4) {
            1 => self.dirty.set(true),
            2 => self.dirty.set(false),
            4 => return self.bitmap(process, address),
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    fn bitmap(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let get = Argument::<48>::read(process, address)?;
        let (iova, size, page, bytes, data) = (get.u64(8), get.u64(16), get.u64(24), get.u64(32), get.u64(40));
        if !self.dirty.is_on() {
            return Err(Errno::EINVAL);
        }
        if size == 0 || (iova | size) & (PAGE_BYTES - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        iova.checked_add(size.wrapping_sub(1)).ok_or(self.wrapped)?;
        check_bitmap(page, bytes, size)?;
        if self.mappings.cuts(iova, size) {
            return Err(Errno::EINVAL);
        }
        self.report(process, [iova, size], data)
    }

    fn report(&mut self, process: &dyn Process, [iova, size]: [u64; 2], data: u64) -> Result<(), Errno> {
        let all = self.physical_groups > 0;
        for mapping in self.mappings.within(iova, size) {
            self.dirty.report(process, [iova, data], mapping, all)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "container_test.rs"]
mod test;
