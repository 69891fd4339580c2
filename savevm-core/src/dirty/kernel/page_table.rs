// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty bits of an IOMMU, in a page table of iommufd.

use std::format;
use std::os::fd::AsFd;
use std::string::String;

use vfio_uapi::open::{AfterRead, Hwpt, Iommufd, TrackedHwpt};

use super::{CHUNK_BYTES, bitmap, chunk_bytes, chunks, failed, hand_in};
use crate::dirty::marks::Marks;
use crate::dirty::range::Range;
use crate::dirty::tracker::{DirtyTracker, Doing, Extended, TrackError};

/// The dirty bits of a page table that was allocated for tracking (`IOMMU_HWPT_GET_DIRTY_BITMAP`): what all devices attached to it write.
///
/// The ranges to be read must be known to the page table's address space as mapped
/// ([`Ioas::declare_mapped`](vfio_uapi::open::Ioas::declare_mapped)): the kernel calls a hole clean, so `vfio-uapi` refuses it.
#[derive(Debug)]
pub struct PageTable<F> {
    iommufd: Iommufd<F>,
    table: Table,
    name: String,
    page_bytes: u64,
    chunk_bytes: u64,
}

#[derive(Debug)]
enum Table {
    Off(Hwpt),
    On(TrackedHwpt),
    /// Only within a call.
    Between,
}

impl<F: AsFd> PageTable<F> {
    /// A page table that devices are attached to, to be read in pages of `page_bytes`. `name` is what to call it in errors.
    pub fn new(iommufd: Iommufd<F>, table: Hwpt, name: &str, page_bytes: u64) -> Self {
        let name = format!("{name} (page table {} of iommufd)", table.id());
        Self { iommufd, table: Table::Off(table), name, page_bytes, chunk_bytes: CHUNK_BYTES }
    }

    /// Reads at most so many bytes of memory at once, rounded up to a power of two of at least 1 GiB, and no less than the largest
    /// page of the IOMMU. [Default: 512 GiB, for which the bitmap has 16 MiB]
    #[must_use]
    pub fn with_chunk_bytes(mut self, bytes: u64) -> Self {
        self.chunk_bytes = chunk_bytes(bytes);
        self
    }
}

impl<F: AsFd + Send> DirtyTracker for PageTable<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, _: &[Range]) -> Result<(), TrackError> {
        let (table, result) = match core::mem::replace(&mut self.table, Table::Between) {
            Table::Off(table) => match self.iommufd.start_dirty_tracking(table) {
                Ok(tracked) => (Table::On(tracked), Ok(())),
                Err(unchanged) => (Table::Off(unchanged.object), Err(unchanged.error)),
            },
            on => (on, Ok(())),
        };
        self.table = table;
        result.map_err(|error| failed(&self.name, Doing::Start, &error))
    }

    fn extend(&mut self, _: Range) -> Result<Extended, TrackError> {
        Ok(Extended::Tracked)
    }

    fn read(&mut self, range: Range, marks: &mut Marks<'_>) -> Result<(), TrackError> {
        let doing = Doing::Read(range);
        let Table::On(tracked) = &self.table else {
            return Err(TrackError::new(&self.name, doing, None, "it was not started"));
        };
        for piece in chunks(range, 0, self.chunk_bytes) {
            let mut bitmap = bitmap(&self.name, doing, piece, self.page_bytes)?;
            let read = self.iommufd.dirty_bitmap(tracked, AfterRead::Clear, &mut bitmap);
            read.map_err(|error| failed(&self.name, doing, &error))?;
            hand_in(&self.name, doing, &bitmap, marks)?;
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), TrackError> {
        let (table, result) = match core::mem::replace(&mut self.table, Table::Between) {
            Table::On(tracked) => match self.iommufd.stop_dirty_tracking(tracked) {
                Ok(table) => (Table::Off(table), Ok(())),
                Err(unchanged) => (Table::On(unchanged.object), Err(unchanged.error)),
            },
            off => (off, Ok(())),
        };
        self.table = table;
        result.map_err(|error| failed(&self.name, Doing::Stop, &error))
    }
}
