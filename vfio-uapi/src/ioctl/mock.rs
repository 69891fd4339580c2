// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The simulated IOMMU of kernels built for tests (`CONFIG_IOMMUFD_TEST`), and memory to map: see [`crate::contract`].

use core::alloc::Layout;
use core::mem::{offset_of, size_of};
use std::alloc::{alloc_zeroed, handle_alloc_error};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;

use nix::ioctl_readwrite_bad;

use super::{RawResult, address, argsz, bits, last_errno};
use crate::Result;
use crate::open::{Container, DmaAccess, Ioas, Iommufd};

/// `IOMMU_TEST_CMD`.
const TEST_CMD: u32 = 0x3ba0;
/// `IOMMU_OPTION`, its `IOMMU_OPTION_HUGE_PAGES` and `IOMMU_OPTION_OP_SET`.
const OPTION: u32 = 0x3b87;
const HUGE_PAGES: u32 = 1;
const SET: u16 = 0;
/// `IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE`, `…_MOCK_DOMAIN_FLAGS` and `…_DIRTY`.
const OP_REPLACE: u32 = 10;
const OP_DEVICE: u32 = 12;
const OP_DIRTY: u32 = 13;

/// `struct iommu_test_cmd`. Its payload is that of the operation, of up to 48 bytes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Command<P> {
    size: u32,
    op: u32,
    id: u32,
    reserved: u32,
    payload: P,
    last: u64,
}

/// The payload that makes a device.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Device {
    out_stdev_id: u32,
    out_hwpt_id: u32,
    out_idev_id: u32,
    dev_flags: u32,
    unused: [u64; 4],
}

/// The payload that attaches a device to another page table.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Replace {
    pt_id: u32,
    unused: u32,
    more: [u64; 5],
}

/// The payload that marks pages dirty, as a device's writes would.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Dirty {
    flags: u32,
    unused: u32,
    iova: u64,
    length: u64,
    page_size: u64,
    uptr: u64,
    out_nr_dirty: u64,
}

/// `struct iommu_option`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct OptionValue {
    size: u32,
    option_id: u32,
    op: u16,
    reserved: u16,
    object_id: u32,
    val64: u64,
}

const _: () = {
    assert!(size_of::<OptionValue>() == 24 && offset_of!(OptionValue, object_id) == 12);
    assert!(size_of::<Command<Device>>() == 72 && size_of::<Command<Replace>>() == 72);
    assert!(size_of::<Command<Dirty>>() == 72 && offset_of!(Command<Dirty>, payload) == 16);
    assert!(offset_of!(Command<Dirty>, last) == 64);
};

ioctl_readwrite_bad!(option, OPTION, OptionValue);
ioctl_readwrite_bad!(device_command, TEST_CMD, Command<Device>);
ioctl_readwrite_bad!(replace_command, TEST_CMD, Command<Replace>);
ioctl_readwrite_bad!(dirty_command, TEST_CMD, Command<Dirty>);

/// Makes a device behind the simulated IOMMU and attaches it to `ioas`. Returns its own id, that of the page table the
/// kernel made for it, and its id as a bound device.
pub(crate) fn device(iommufd: BorrowedFd<'_>, ioas: u32, dev_flags: u32) -> RawResult<[u32; 3]> {
    let payload = Device { dev_flags, ..Default::default() };
    let mut command =
        Command { size: argsz::<Command<Device>>(), op: OP_DEVICE, id: ioas, payload, ..Default::default() };
    // SAFETY: the kernel reads and writes the 72 bytes of `command`, borrowed for this call alone, all integers.
    unsafe { device_command(iommufd.as_raw_fd(), &raw mut command) }.map_err(last_errno)?;
    let Device { out_stdev_id, out_hwpt_id, out_idev_id, .. } = command.payload;
    Ok([out_stdev_id, out_hwpt_id, out_idev_id])
}

/// Attaches such a device to another page table or address space.
pub(crate) fn replace(iommufd: BorrowedFd<'_>, device: u32, table: u32) -> RawResult<()> {
    let payload = Replace { pt_id: table, ..Default::default() };
    let mut command =
        Command { size: argsz::<Command<Replace>>(), op: OP_REPLACE, id: device, payload, ..Default::default() };
    // SAFETY: the kernel reads and writes the 72 bytes of `command`, borrowed for this call alone, all integers.
    unsafe { replace_command(iommufd.as_raw_fd(), &raw mut command) }.map_err(last_errno)?;
    Ok(())
}

/// Marks the pages of `[iova, iova + length)` that have a bit in `bitmap` dirty. Returns how many.
///
/// A bitmap with fewer bits than the range has pages is refused with EINVAL before the call.
pub(crate) fn dirty(
    iommufd: BorrowedFd<'_>,
    table: u32,
    [iova, length, page_size]: [u64; 3],
    bitmap: &[u64],
) -> RawResult<u64> {
    let pages = length.checked_div(page_size).ok_or(nix::libc::EINVAL)?;
    if bits(bitmap).is_none_or(|bits| pages > bits) {
        return Err(nix::libc::EINVAL);
    }
    let payload =
        Dirty { flags: 0, unused: 0, iova, length, page_size, uptr: address(bitmap.as_ptr()), out_nr_dirty: 0 };
    let mut command =
        Command { size: argsz::<Command<Dirty>>(), op: OP_DIRTY, id: table, payload, ..Default::default() };
    // SAFETY: the kernel reads and writes the 72 bytes of `command`, and reads one bit per page at `uptr`, of which
    // `bitmap` has as many; both are borrowed beyond the call.
    unsafe { dirty_command(iommufd.as_raw_fd(), &raw mut command) }.map_err(last_errno)?;
    Ok(command.payload.out_nr_dirty)
}

/// Has every page table of `ioas` map page by page, where the kernel would combine adjacent ones into one entry.
pub(crate) fn small_pages(iommufd: BorrowedFd<'_>, ioas: u32) -> RawResult<()> {
    let mut value = OptionValue {
        size: argsz::<OptionValue>(),
        option_id: HUGE_PAGES,
        op: SET,
        object_id: ioas,
        ..Default::default()
    };
    // SAFETY: the kernel reads and writes the 24 bytes of `value`, borrowed for this call alone, all integers.
    unsafe { option(iommufd.as_raw_fd(), &raw mut value) }.map_err(last_errno)?;
    Ok(())
}

/// Memory that nothing else will ever refer to, so that devices may have it for good.
fn memory(length: u64) -> *mut u8 {
    let bytes = usize::try_from(length).unwrap_or_default().max(1);
    let Ok(layout) = Layout::from_size_align(bytes, 4096) else {
        return core::ptr::null_mut();
    };
    // SAFETY: the layout has a size of at least one byte.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() {
        handle_alloc_error(layout);
    }
    memory
}

/// Memory that is never freed and that this process reads through the kernel alone.
#[derive(Debug)]
pub(crate) struct Memory {
    pointer: *mut u8,
    length: u64,
}

impl Memory {
    pub(crate) fn new(length: u64) -> Self {
        Self { pointer: memory(length), length }
    }

    /// Copies it, as it is at this moment.
    pub(crate) fn snapshot(&self) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(self.length).unwrap_or_default()];
        let at = u64::try_from(self.pointer.addr()).unwrap_or(u64::MAX);
        std::fs::File::open("/proc/self/mem")?.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// Maps it at `iova`.
    pub(crate) fn map(&self, iommufd: &Iommufd<impl AsFd>, ioas: &Ioas, iova: u64) -> Result<()> {
        // SAFETY: the memory was allocated by `memory`, is `length` bytes long, is never freed, and no reference to it exists.
        // A null pointer is an address like any other to the kernel, which finds no memory there.
        unsafe { iommufd.map(ioas, DmaAccess::READ | DmaAccess::WRITE, self.pointer, iova, self.length) }
    }

    /// The same in a container.
    pub(crate) fn map_dma(&self, container: &Container<impl AsFd>, iova: u64) -> Result<()> {
        // SAFETY: as for `map`.
        unsafe { container.map_dma(DmaAccess::READ | DmaAccess::WRITE, self.pointer, iova, self.length) }
    }
}
