// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! iommufd: address spaces, page tables with dirty tracking, and the devices bound to it.

mod mapping;
mod objects;
mod tracking;

use std::collections::BTreeMap;
use std::sync::Mutex;

use savevm_core::sim::Errno;

use crate::abi::{Argument, UserMemory, field, request};
use crate::bugs::KernelBugs;
use crate::machine::{Process, lock};
use crate::mappings::Mappings;
use crate::page_tables::{DirtyBits, MOCK_APERTURE, MOCK_PAGE_BYTES};

const DESTROY: u32 = 0x3b80;
const IOAS_ALLOC: u32 = 0x3b81;
const IOAS_ALLOW_IOVAS: u32 = 0x3b82;
const IOAS_COPY: u32 = 0x3b83;
const IOAS_IOVA_RANGES: u32 = 0x3b84;
const IOAS_MAP: u32 = 0x3b85;
const IOAS_UNMAP: u32 = 0x3b86;
const OPTION: u32 = 0x3b87;
const HWPT_ALLOC: u32 = 0x3b89;
const GET_HW_INFO: u32 = 0x3b8a;
const HWPT_SET_DIRTY_TRACKING: u32 = 0x3b8b;
const HWPT_GET_DIRTY_BITMAP: u32 = 0x3b8c;
const TEST_CMD: u32 = 0x3ba0;

const PAGE_BYTES: u64 = 4096;
/// What a physical device's IOMMU maps. Two 48-bit halves would be x86; one range is enough to place RAM.
const APERTURE: (u64, u64) = (0, (1 << 48) - 1);

/// An open `/dev/iommu`.
pub(crate) struct Iommufd {
    objects: Mutex<Objects>,
}

#[derive(Default)]
struct Objects {
    by_id: BTreeMap<u32, Object>,
    last_id: u32,
    bugs: KernelBugs,
}

enum Object {
    Ioas(Ioas),
    Hwpt(Hwpt),
    Device {
        iommu: Iommu,
        attached: Option<u32>,
    },
    /// A device of the test interface, by its id there; the other one is that of its [`Device`](Self::Device).
    Mock(u32),
}

#[derive(Default)]
struct Ioas {
    mappings: Mappings,
    /// The size of page table entries is held down to pages.
    small_pages: bool,
}

struct Hwpt {
    ioas: u32,
    iommu: Iommu,
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

    fn page_bytes(self) -> u64 {
        if matches!(self, Self::Mock { .. }) { MOCK_PAGE_BYTES } else { PAGE_BYTES }
    }

    /// The addresses that its page tables have room for.
    fn aperture(self) -> (u64, u64) {
        match self {
            Self::None => (0, u64::MAX),
            Self::Physical => APERTURE,
            Self::Mock { .. } => MOCK_APERTURE,
        }
    }
}

impl Iommufd {
    pub(crate) fn new(bugs: KernelBugs) -> Self {
        Self { objects: Mutex::new(Objects { bugs, ..Objects::default() }) }
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

    /// Device `id` writes `data` at `iova`.
    pub(crate) fn dma_write(&self, id: u32, memory: &dyn UserMemory, iova: u64, data: &[u8]) -> Result<(), Errno> {
        lock(&self.objects).dma_write(id, memory, iova, data)
    }

    pub(crate) fn ioctl(&self, process: &dyn Process, number: u32, argument: u64) -> Result<i64, Errno> {
        let mut objects = lock(&self.objects);
        match number {
            DESTROY => objects.destroy(process, argument)?,
            IOAS_ALLOC => {
                let mut alloc = structure::<12>(process, argument)?;
                supported(alloc.u32(4) == 0)?;
                let id = objects.add(Object::Ioas(Ioas::default()));
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
            OPTION => objects.option(process, argument)?,
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

#[cfg(test)]
mod test;
