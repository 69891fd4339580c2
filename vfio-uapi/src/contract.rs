// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Requests the rest of this crate would never make, for testing what a kernel driver answers to them.
//!
//! Only with the feature `contract`, and not part of what this crate promises. Every function is sound for any argument:
//! buffers are as large as the kernel may believe them to be, and no address of the caller's choosing is passed on.
//! Errors are raw errnos.

use std::os::fd::AsFd;

use crate::ioctl::{contract, dma_logging};

/// `VFIO_DEVICE_FEATURE` with any `argsz` up to 64 (more is sent as 64), any `flags`, and a payload from `buffer`'s
/// byte 8 on, which receives the answer.
///
/// Features whose payload holds an address (6, 8 and 11), or that this crate does not know, are refused with EPERM
/// unless the request cannot get as far as their payload: with PROBE, or with an index from 0xf000 on, which no
/// kernel has. So is the index 4 without GET or SET, which is another request on a container.
///
/// A SET of the device state is possible; the fd it may return is in the answer and belongs to nobody.
///
/// # Errors
///
/// The errno.
pub fn feature(device: &impl AsFd, argsz: u32, flags: u32, buffer: &mut [u8; 64]) -> Result<(), i32> {
    contract::feature(device.as_fd(), argsz, flags, buffer)
}

/// `VFIO_DEVICE_FEATURE` with a null pointer as its argument.
///
/// # Errors
///
/// The errno: EFAULT on a device.
pub fn feature_at_null(device: &impl AsFd) -> Result<(), i32> {
    contract::feature_at_null(device.as_fd())
}

/// `VFIO_MIG_GET_PRECOPY_INFO` with any `argsz` up to 64 (more is sent as 64) and any `flags`. Returns the 24 bytes of
/// the answer.
///
/// # Errors
///
/// The errno.
pub fn precopy_info(data: &impl AsFd, argsz: u32, flags: u32) -> Result<[u8; 24], i32> {
    contract::precopy_info(data.as_fd(), argsz, flags)
}

/// `DMA_LOGGING_START` of any `ranges`, each a start and a length. Returns the page size the device chose.
///
/// # Errors
///
/// The errno.
pub fn dma_logging_start(device: &impl AsFd, page_size: u64, ranges: &[[u64; 2]]) -> Result<u64, i32> {
    contract::dma_logging_start(device.as_fd(), page_size, ranges)
}

/// `DMA_LOGGING_REPORT` of any range and page size, into a bitmap that has a bit per page: else EINVAL, before the call.
///
/// # Errors
///
/// The errno.
pub fn dma_logging_report(
    device: &impl AsFd,
    iova: u64,
    length: u64,
    page_size: u64,
    bitmap: &mut [u64],
) -> Result<(), i32> {
    dma_logging::report(device.as_fd(), iova, length, page_size, bitmap)
}
