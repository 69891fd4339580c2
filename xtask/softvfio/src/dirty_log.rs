// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Device dirty logging, features 6 and 8: the checks of the kernel's core. No device here performs DMA, so no page
//! is ever dirty.

use savevm_core::sim::Errno;

use crate::abi::{Argument, field};
use crate::config::Kernel;
use crate::machine::{Node, Process};

/// As many range descriptors as fit in a page.
const RANGES_MAX: u32 = 256;
const RANGE_BYTES: u64 = 16;
const PAGE_BYTES: u64 = 4096;

pub(crate) fn start(node: &Node, process: &dyn Process, payload: u64) -> Result<(), Errno> {
    let control = Argument::<24>::read_unchecked(process, payload)?;
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
    control.write(process, payload).inspect_err(|_| {
        let _ = node.sim.dirty_logging_stop();
    })
}

pub(crate) fn report(node: &Node, kernel: Kernel, process: &dyn Process, payload: u64) -> Result<(), Errno> {
    let report = Argument::<32>::read_unchecked(process, payload)?;
    let (iova, length, page_size) = (report.u64(0), report.u64(8), report.u64(16));
    if page_size < PAGE_BYTES || !page_size.is_power_of_two() {
        return Err(Errno::EINVAL);
    }
    iova.checked_add(length).ok_or(Errno::EOVERFLOW)?;
    if !kernel.iommufd {
        // The bitmap helper is not compiled into such a kernel, although PROBE succeeds.
        return Err(Errno::EOPNOTSUPP);
    }
    node.sim.dirty_logging_report()
}

/// As the kernel's mask of `page_size - 1`: a size that is no power of two passes for what its bits allow.
fn aligned(value: u64, page_size: u64) -> bool {
    value & page_size.wrapping_sub(1) == 0
}
