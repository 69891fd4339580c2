// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! DMA logging: which pages a device has written, by the device's own account.

use core::fmt;
use std::os::fd::AsFd;

use vfio_bindings::bindings::vfio as sys;

use crate::ioctl::dma_logging;
use crate::{Call, Device, Error, Refusal, Result};

mod bitmap;
mod ranges;
#[cfg(test)]
mod test;

pub use bitmap::{DirtyBitmap, DirtyPages};
pub use ranges::DirtyRanges;

/// The most ranges a kernel takes: one page of 16-byte descriptors, and pages are at most 64 KiB. With pages of 4 KiB
/// the limit is 256, and the kernel says E2BIG.
const RANGES_MAX: usize = 65536 / 16;

/// A range of I/O virtual addresses.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a range is its start and its length")]
pub struct DmaRange {
    /// The first address.
    pub iova: u64,
    /// The length, in bytes.
    pub length: u64,
}

impl DmaRange {
    /// Checks what the kernel forgets or answers too late: an empty range becomes a nonsense interval in the driver's
    /// tree, and one that reaches 2^64 overflows.
    fn check(self, page_size: u64) -> Result<Self, Refusal> {
        let Self { iova, length } = self;
        if length == 0 {
            return Err(Refusal::EmptyRange { iova });
        }
        if iova.checked_rem(page_size) != Some(0) || length.checked_rem(page_size) != Some(0) {
            return Err(Refusal::UnalignedRange { iova, length, page_size });
        }
        if iova.checked_add(length).is_none() {
            return Err(Refusal::RangeEnd { iova, length });
        }
        Ok(self)
    }

    /// The address after the last. Saturates where [`check`](Self::check) refuses.
    const fn end(self) -> u64 {
        self.iova.saturating_add(self.length)
    }
}

impl fmt::Display for DmaRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}..{:#x}", self.iova, self.end())
    }
}

fn check_page_size(page_size: u64, min: u64) -> Result<(), Refusal> {
    if page_size.is_power_of_two() && page_size >= min { Ok(()) } else { Err(Refusal::PageSize { page_size, min }) }
}

/// Checks the ranges of a START, in the order the kernel would.
fn check_ranges(page_size: u64, ranges: &[DmaRange]) -> Result<(), Refusal> {
    check_page_size(page_size, 1)?;
    if ranges.is_empty() {
        return Err(Refusal::NoRange);
    }
    if ranges.len() > RANGES_MAX {
        return Err(Refusal::TooManyRanges { count: ranges.len(), max: RANGES_MAX });
    }
    for range in ranges {
        range.check(page_size)?;
    }
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.iova);
    let mut lower: Option<DmaRange> = None;
    for range in sorted {
        if let Some(lower) = lower.filter(|lower| lower.end() > range.iova) {
            return Err(Refusal::Overlap { first: lower.iova, second: range.iova });
        }
        lower = Some(range);
    }
    Ok(())
}

impl<F: AsFd> Device<F> {
    /// Starts to log which pages in `ranges` the device writes (`DMA_LOGGING_START`), and returns the page size the
    /// device chose, of which `page_size` is a hint.
    ///
    /// One logging at a time: stop before starting again. Independent of the migration state. Covers what the device
    /// writes, not what it reads. A device that tracks fewer ranges than asked for merges some and may report pages in
    /// between.
    ///
    /// # Errors
    ///
    /// Refused are ranges that are empty, unaligned, overlapping or reach 2^64, and a page size that is no power of
    /// two: the kernel accepts some of these. EINVAL if logging runs already; E2BIG for more ranges than the kernel
    /// takes (256 with pages of 4 KiB); EOPNOTSUPP if the device cannot track as much.
    pub fn dma_logging_start(&self, page_size: u64, ranges: &[DmaRange]) -> Result<u64> {
        let call = Call::DmaLoggingStart;
        check_ranges(page_size, ranges).map_err(|reason| Error::refused(self.shared_label(), call, reason))?;
        let ranges: Vec<_> = ranges
            .iter()
            .map(|&DmaRange { iova, length }| sys::vfio_device_feature_dma_logging_range { iova, length })
            .collect();
        dma_logging::start(self.as_fd(), page_size, &ranges).map_err(|errno| self.error(call, errno))
    }

    /// Stops logging (`DMA_LOGGING_STOP`). Does nothing if it does not run.
    ///
    /// # Errors
    ///
    /// ENOTTY if the device cannot log its DMA; any errno of the driver.
    pub fn dma_logging_stop(&self) -> Result<()> {
        dma_logging::stop(self.as_fd()).map_err(|errno| self.error(Call::DmaLoggingStop, errno))
    }

    /// Fetches and clears the log of the bitmap's range (`DMA_LOGGING_REPORT`). The bitmap holds this report alone
    /// afterwards.
    ///
    /// Have the range begin at a multiple of 64 pages from the start of one that logging was started over, and stay within
    /// it: pds refuses what leaves it, and reports what begins elsewhere for other pages, with success.
    ///
    /// # Errors
    ///
    /// **Any error means that every page of the range is dirty**, and so says the bitmap then. Restart the logging or
    /// give the migration up. EOPNOTSUPP comes from kernels without `CONFIG_IOMMUFD_DRIVER`, although
    /// [`probe`](Self::probe) says that the feature is there.
    pub fn dma_logging_report(&self, bitmap: &mut DirtyBitmap) -> Result<()> {
        let DmaRange { iova, length } = bitmap.range();
        let page_size = bitmap.page_size();
        let result = dma_logging::report(self.as_fd(), iova, length, page_size, bitmap.zeroed_words());
        match result {
            Ok(()) => bitmap.clear_tail(),
            Err(_) => bitmap.mark_all(),
        }
        result.map_err(|errno| self.error(Call::DmaLoggingReport, errno))
    }
}
