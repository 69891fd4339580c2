// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Device dirty logging, features 6 to 8: the checks of the kernel's core, and the log of a device that performs DMA.

use savevm_core::sim::Errno;

use crate::abi::{Argument, field};
use crate::config::Kernel;
use crate::machine::{Node, Process, lock};
use crate::page_tables::{Pages, Query};

/// As many range descriptors as fit in a page.
const RANGES_MAX: u32 = 256;
const RANGE_BYTES: u64 = 16;
const PAGE_BYTES: u64 = 4096;

/// What a device has written since it was asked last, of what it was told to look at.
#[derive(Default)]
pub(crate) struct DirtyLog {
    /// First addresses and ends.
    ranges: Vec<(u64, u64)>,
    page_bytes: u64,
    pages: Pages,
}

impl DirtyLog {
    fn start(&mut self, ranges: Vec<(u64, u64)>, page_bytes: u64) {
        *self = Self { ranges, page_bytes, pages: Pages::default() };
    }

    /// Nothing is looked at any more, and nothing known.
    pub(crate) fn stop(&mut self) {
        *self = Self::default();
    }

    /// The device has written.
    pub(crate) fn mark(&mut self, iova: u64, len: u64) {
        let end = iova.saturating_add(len);
        for (start, range_end) in &self.ranges {
            let (from, to) = (iova.max(*start), end.min(*range_end));
            if let Some(len) = to.checked_sub(from).filter(|len| *len > 0) {
                self.pages.mark(from, len, self.page_bytes);
            }
        }
    }
}

pub(crate) fn start(node: &Node, process: &dyn Process, payload: u64) -> Result<(), Errno> {
    let mut control = Argument::<24>::read_unchecked(process, payload)?;
    let (page_size, count, ranges) = (control.u64(0), control.u32(8), control.u64(16));
    if count == 0 {
        return Err(Errno::EINVAL);
    }
    if count > RANGES_MAX {
        return Err(Errno::E2BIG);
    }
    let mut seen: Vec<(u64, u64)> = Vec::new();
    for index in 0..u64::from(count) {
        let at = index.checked_mul(RANGE_BYTES).ok_or(Errno::EFAULT)?;
        let range = Argument::<16>::read_unchecked(process, field(ranges, at)?)?;
        let (iova, length) = (range.u64(0), range.u64(8));
        if !aligned(iova, page_size) || !aligned(length, page_size) {
            return Err(Errno::EINVAL);
        }
        let end = iova.checked_add(length).ok_or(Errno::EOVERFLOW)?;
        if seen.iter().any(|(other, other_end)| iova < *other_end && *other < end) {
            return Err(Errno::EINVAL);
        }
        seen.push((iova, end));
    }
    node.sim.dirty_logging_start()?;
    let page_bytes = node.sim.facts().dma.and_then(|dma| dma.log_page_bytes).unwrap_or(page_size);
    // A page size that is none (the core looks at alignment only) is not one to log by.
    let logged = if page_bytes.is_power_of_two() { page_bytes.max(PAGE_BYTES) } else { PAGE_BYTES };
    lock(&node.log).start(seen, logged);
    control.set_u64(0, page_bytes);
    control.write(process, payload).inspect_err(|_| {
        let _ = stop(node);
    })
}

pub(crate) fn stop(node: &Node) -> Result<(), Errno> {
    node.sim.dirty_logging_stop()?;
    lock(&node.log).stop();
    Ok(())
}

pub(crate) fn report(node: &Node, kernel: Kernel, process: &dyn Process, payload: u64) -> Result<(), Errno> {
    let report = Argument::<32>::read_unchecked(process, payload)?;
    let (iova, length, page_size) = (report.u64(0), report.u64(8), report.u64(16));
    if page_size < PAGE_BYTES || !page_size.is_power_of_two() {
        return Err(Errno::EINVAL);
    }
    let end = iova.checked_add(length).ok_or(Errno::EOVERFLOW)?;
    if !kernel.iommufd {
        // The bitmap helper is not compiled into such a kernel, although PROBE succeeds.
        return Err(Errno::EOPNOTSUPP);
    }
    node.sim.dirty_logging_report()?;
    if length > 0 {
        let query =
            Query { iova, last: end.saturating_sub(1), page_bytes: page_size, bitmap: report.u64(24), clear: true };
        lock(&node.log).pages.report(process, query);
    }
    Ok(())
}

/// As the kernel's mask of `page_size - 1`: a size that is no power of two passes for what its bits allow.
fn aligned(value: u64, page_size: u64) -> bool {
    value & page_size.wrapping_sub(1) == 0
}
