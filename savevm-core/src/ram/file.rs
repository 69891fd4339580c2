// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory that is files: memfd, hugetlbfs, a file in /dev/shm.

use alloc::string::ToString;
use alloc::vec::Vec;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::error::{Access, MemoryError};
use super::memory::GuestMemory;
use crate::dirty::{Region, RegionError, RegionTable};

/// A file per region, read and written by offset. What the guest, mapped to the same files, writes is seen at once.
#[derive(Debug)]
pub struct FileMemory {
    table: RegionTable,
    files: Vec<File>,
}

impl FileMemory {
    /// The regions, each with its file, from the file's beginning.
    ///
    /// # Errors
    /// When a region makes no sense, or two have one name.
    pub fn new(regions: Vec<(Region, File)>) -> Result<Self, RegionError> {
        let count = regions.len();
        let (regions, files) = regions.into_iter().unzip();
        Ok(Self { table: RegionTable::new(regions, count)?, files })
    }

    /// The file of a region.
    #[must_use]
    pub fn file(&self, region: usize) -> Option<&File> {
        self.files.get(region)
    }

    fn access(
        &self,
        region: usize,
        access: Access,
        (offset, length): (u64, usize),
        act: impl FnOnce(&File) -> io::Result<()>,
    ) -> Result<(), MemoryError> {
        let name = self.table.regions().get(region).map_or("", |region| region.name.as_str());
        let extent = (offset, u64::try_from(length).unwrap_or(u64::MAX));
        let Some(file) = self.files.get(region) else {
            let detail = alloc::format!("there is no region {region}");
            return Err(MemoryError::new(name, access, extent, None, detail));
        };
        act(file).map_err(|error| MemoryError::new(name, access, extent, error.raw_os_error(), error.to_string()))
    }
}

impl GuestMemory for FileMemory {
    fn regions(&self) -> &RegionTable {
        &self.table
    }

    fn read(&self, region: usize, offset: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let extent = (offset, buffer.len());
        self.access(region, Access::Read, extent, |file| file.read_exact_at(buffer, offset))
    }

    fn write(&self, region: usize, offset: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        // A file would grow: memory never does.
        let end = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let is_inside = self.table.regions().get(region).is_some_and(|region| end <= region.bytes);
        self.access(region, Access::Write, (offset, bytes.len()), |file| {
            if is_inside { file.write_all_at(bytes, offset) } else { Err(io::ErrorKind::InvalidInput.into()) }
        })
    }
}
