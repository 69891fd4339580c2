// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest memory that is a file, mapped here for as long as the process lives, so that devices may have it.

use core::ptr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

use crate::Result;
use crate::open::{Container, DmaAccess, Ioas, Iommufd};

/// A piece of a file (a memfd, a file in hugetlbfs or /dev/shm), mapped into this process, shared, to be given to devices.
///
/// Giving memory to devices is unsafe where it may be freed or referred to while they have it. This never is: it stays mapped until the
/// process ends, whatever becomes of this value, and is reached through the file alone. So it is for memory that lives as long as
/// its VMM, as a guest's does.
#[derive(Debug)]
pub struct SharedMemory {
    /// With its provenance exposed.
    address: usize,
    length: u64,
}

impl SharedMemory {
    /// Maps `length` bytes of the file from `offset` on, for reading and writing. `offset` is a multiple of the page size.
    ///
    /// # Errors
    ///
    /// Those of `mmap`: EACCES if the file is not open for reading and writing, EINVAL if the offset is unaligned or nothing is to be
    /// mapped, ENOMEM without room.
    pub fn map(file: &impl AsFd, offset: u64, length: u64) -> io::Result<Self> {
        let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
        let (bytes, at) = (usize::try_from(length).map_err(invalid)?, offset.try_into().map_err(invalid)?);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: without an address and MAP_FIXED the kernel chooses one where nothing is mapped, so no memory of this process changes.
        let pointer = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd, at) };
        if pointer == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { address: pointer.expose_provenance(), length })
    }

    /// How many bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    fn pointer(&self) -> *mut u8 {
        ptr::with_exposed_provenance_mut(self.address)
    }
}

impl<F: AsFd> Container<F> {
    /// Lets the container's devices read or write all of `memory`, as `iova` (`VFIO_IOMMU_MAP_DMA`).
    ///
    /// # Errors
    ///
    /// As [`map_dma`](Self::map_dma); EFAULT if the file is shorter than what was mapped of it.
    pub fn map_shared(&self, access: DmaAccess, memory: &SharedMemory, iova: u64) -> Result<()> {
        // SAFETY: the memory is mapped for good, `length` bytes long, and no reference to it exists or will: `SharedMemory` makes none.
        unsafe { self.map_dma(access, memory.pointer(), iova, memory.length) }
    }
}

impl<F: AsFd> Iommufd<F> {
    /// Lets the devices attached to `ioas` read or write all of `memory`, as `iova` (`IOMMU_IOAS_MAP`).
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map); EFAULT if the file is shorter than what was mapped of it.
    pub fn map_shared(&self, ioas: &Ioas, access: DmaAccess, memory: &SharedMemory, iova: u64) -> Result<()> {
        // SAFETY: as for a container.
        unsafe { self.map(ioas, access, memory.pointer(), iova, memory.length) }
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod test {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    const PAGE: u64 = 4096;

    fn file(pages: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(pages * PAGE).unwrap();
        file
    }

    #[test]
    fn what_is_written_there_is_in_the_file() {
        let file = file(3);
        file.write_all_at(b"first", 2 * PAGE).unwrap();
        let mapped = || {
            let memory = SharedMemory::map(&file, PAGE, 2 * PAGE).unwrap();
            assert_eq!(memory.length(), 2 * PAGE);
            u64::try_from(memory.address).unwrap()
        };
        // The value is gone, and the memory still mapped, and the file's.
        let address = mapped();
        let process = File::options().read(true).write(true).open("/proc/self/mem").unwrap();
        let mut found = [0; 5];
        process.read_exact_at(&mut found, address + PAGE).unwrap();
        assert_eq!(&found, b"first");
        process.write_all_at(b"again", address + PAGE).unwrap();
        file.read_exact_at(&mut found, 2 * PAGE).unwrap();
        assert_eq!(&found, b"again");
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        let errno = |result: io::Result<SharedMemory>| result.unwrap_err().raw_os_error();
        assert_eq!(errno(SharedMemory::map(&file(1), 0, 0)), Some(libc::EINVAL));
        assert_eq!(errno(SharedMemory::map(&file(1), 1, PAGE)), Some(libc::EINVAL));
        assert_eq!(errno(SharedMemory::map(&file(1), u64::MAX, PAGE)), Some(libc::EINVAL));
        let mut named = tempfile::NamedTempFile::new().unwrap();
        named.write_all(&[0; 4096]).unwrap();
        let read_only = File::open(named.path()).unwrap();
        assert_eq!(errno(SharedMemory::map(&read_only, 0, PAGE)), Some(libc::EACCES));
        let error =
            Container::new(&read_only).map_shared(DmaAccess::WRITE, &SharedMemory::map(&file(1), 0, PAGE).unwrap(), 0);
        assert_eq!(error.unwrap_err().errno(), Some(libc::ENOTTY), "no container, but the call is made");
    }
}
