// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory that is files: memfd, hugetlbfs, a file in /dev/shm.

use alloc::string::ToString;
use alloc::vec::Vec;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use super::error::{Access, MemoryError};
use super::memory::{GuestMemory, zero_by_reading};
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

    fn as_file(&self, region: usize) -> Option<BorrowedFd<'_>> {
        self.files.get(region).map(AsFd::as_fd)
    }

    /// Holes are zero without a look at them. None is made: a page that a device has mapped would be lost to it.
    fn zero(&self, region: usize, offset: u64, length: u64) -> Result<(), MemoryError> {
        let (mut at, end) = (offset, offset.saturating_add(length));
        while at < end {
            let (data, hole) = self.files.get(region).map_or((at, end), |file| next_data(file, at, end));
            if data < hole {
                zero_by_reading(self, region, data, hole.saturating_sub(data))?;
            }
            at = hole;
        }
        Ok(())
    }
}

/// The first stretch of a file, from `at` to `end`, that may be anything but zero; empty at `end` if there is none. All of it where the
/// file system does not say. The file's position moves, which nothing here uses.
#[cfg(target_os = "linux")]
fn next_data(file: &File, at: u64, end: u64) -> (u64, u64) {
    use nix::errno::Errno;
    use nix::unistd::{Whence, lseek};

    let seek = |from: u64, whence| lseek(file, i64::try_from(from).map_err(|_| Errno::EINVAL)?, whence);
    let place = |found: i64| u64::try_from(found).unwrap_or(u64::MAX).min(end);
    match seek(at, Whence::SeekData) {
        // Nothing but a hole up to the end of the file.
        Err(Errno::ENXIO) => (end, end),
        Err(_) => (at, end),
        Ok(data) if place(data) >= end => (end, end),
        Ok(data) => {
            let hole = seek(place(data), Whence::SeekHole).map_or(end, place);
            (place(data), if hole > place(data) { hole } else { end })
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn next_data(_: &File, at: u64, end: u64) -> (u64, u64) {
    (at, end)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod test {
    use std::os::unix::fs::MetadataExt;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    const BLOCK: u64 = 4096;

    /// Eight blocks, of which the second and the sixth are no holes.
    fn holed() -> FileMemory {
        let file: File = memfd_create("holed", MFdFlags::MFD_CLOEXEC).unwrap().into();
        file.set_len(8 * BLOCK).unwrap();
        for block in [1, 5] {
            file.write_all_at(&[7; 4096], block * BLOCK).unwrap();
        }
        let region = Region { name: "ram".into(), bytes: 8 * BLOCK, page_bytes: BLOCK };
        FileMemory::new(Vec::from([(region, file)])).unwrap()
    }

    fn contents(memory: &FileMemory) -> Vec<u8> {
        let mut all = alloc::vec![1; 8 * 4096];
        memory.read(0, 0, &mut all).unwrap();
        all
    }

    #[test]
    fn zeros_go_over_data_and_holes_stay() {
        for (offset, length) in [(0, 32768), (4096, 4096), (5000, 16384), (8192, 12288), (24576, 8192), (1, 32767)] {
            let memory = holed();
            let taken = memory.file(0).unwrap().metadata().unwrap().blocks();
            let mut expected = contents(&memory);
            assert_eq!(expected.iter().filter(|byte| **byte == 7).count(), 8192);
            expected[offset..offset + length].fill(0);
            memory.zero(0, offset as u64, length as u64).unwrap();
            assert!(contents(&memory) == expected, "{length} bytes at {offset}");
            assert_eq!(memory.file(0).unwrap().metadata().unwrap().blocks(), taken, "{length} bytes at {offset}");
        }
    }

    #[test]
    fn a_hole_is_not_read() {
        let memory = holed();
        let file = memory.file(0).unwrap();
        let stretches: Vec<_> = [0, 2 * BLOCK, 6 * BLOCK].map(|at| next_data(file, at, 8 * BLOCK)).into();
        assert_eq!(stretches, [(BLOCK, 2 * BLOCK), (5 * BLOCK, 6 * BLOCK), (8 * BLOCK, 8 * BLOCK)]);
        assert_eq!(next_data(file, 2 * BLOCK, 4 * BLOCK), (4 * BLOCK, 4 * BLOCK), "what is behind is not asked for");
        assert_eq!(next_data(file, BLOCK + 9, BLOCK + 99), (BLOCK + 9, BLOCK + 99));
    }
}
