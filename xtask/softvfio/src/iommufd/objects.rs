// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What an iommufd holds, and which device is attached to what.

use savevm_core::sim::Errno;

use crate::machine::Process;

use super::{Hwpt, Ioas, Iommu, Object, Objects, PAGE_BYTES, structure};

impl Objects {
    pub(super) fn add(&mut self, object: Object) -> u32 {
        self.last_id = self.last_id.wrapping_add(1);
        self.by_id.insert(self.last_id, object);
        self.last_id
    }

    pub(super) fn ioas(&mut self, id: u32) -> Result<&mut Ioas, Errno> {
        match self.by_id.get_mut(&id) {
            Some(Object::Ioas(ioas)) => Ok(ioas),
            _ => Err(Errno::ENOENT),
        }
    }

    pub(super) fn attach(&mut self, id: u32, table: u32) -> Result<u32, Errno> {
        let Some(Object::Device { iommu, .. }) = self.by_id.get(&id) else {
            return Err(Errno::ENOENT);
        };
        let iommu = *iommu;
        let found = match self.by_id.get(&table) {
            Some(Object::Ioas(_)) if iommu == Iommu::None => table,
            Some(Object::Ioas(_)) => {
                self.detach(id);
                // The kernel makes a page table of its own, which cannot track dirty pages.
                self.add(Object::Hwpt(Hwpt { ioas: table, iommu, dirty: None, auto: true }))
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

    pub(super) fn detach(&mut self, device: u32) {
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

    /// The addresses `ioas` can map, by the page tables on it; without any, all there are.
    pub(super) fn aperture(&self, ioas: u32) -> (u64, u64) {
        let tables = self.tables(ioas).map(|hwpt| hwpt.iommu.aperture());
        tables.fold((0, u64::MAX), |all, one| (all.0.max(one.0), all.1.min(one.1)))
    }

    /// What addresses and lengths in `ioas` are multiples of: the smallest page of the page tables on it, and a whole one
    /// where an emulated device pins pages or entries are held down to them.
    pub(super) fn alignment(&self, ioas: u32) -> u64 {
        let tables = self.tables(ioas).map(|hwpt| hwpt.iommu.page_bytes()).max().unwrap_or(1);
        let pins = self
            .by_id
            .values()
            .any(|object| matches!(object, Object::Device { attached: Some(table), .. } if *table == ioas));
        let small = matches!(self.by_id.get(&ioas), Some(Object::Ioas(Ioas { small_pages: true, .. })));
        if pins || small { tables.max(PAGE_BYTES) } else { tables }
    }

    pub(super) fn tables(&self, ioas: u32) -> impl Iterator<Item = &Hwpt> {
        self.by_id.values().filter_map(move |object| match object {
            Object::Hwpt(hwpt) if hwpt.ioas == ioas => Some(hwpt),
            _ => None,
        })
    }

    pub(super) fn destroy(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
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
}
