// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Device dirty logging, features 6 to 8: the checks of the kernel's core, and the log of a device that performs DMA.

use savevm_core::sim::Errno;
use vfio_mig_fsm::State;

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

    /// What pds makes of a report: it must keep to one of the ranges, and begins with the next word of that one's bitmap.
    /// `None`: that is behind its end.
    fn shifted(&self, query: Query) -> Result<Option<Query>, Errno> {
        let tracked = self.ranges.iter().find(|(start, end)| *start <= query.iova && query.last < *end);
        let (start, end) = tracked.ok_or(Errno::EINVAL)?;
        let word_bytes = query.page_bytes.saturating_mul(64);
        let into_range = query.iova.saturating_sub(*start);
        let shift = into_range.checked_next_multiple_of(word_bytes).ok_or(Errno::EINVAL)?.saturating_sub(into_range);
        let (iova, last) = (query.iova.saturating_add(shift), query.last.saturating_add(shift));
        let last = last.min(end.saturating_sub(1));
        Ok((iova <= last).then_some(Query { iova, last, ..query }))
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

/// Whether leaving the state that the device is in ends its log: STOP_COPY does for pds.
pub(crate) fn ends_with_state(node: &Node) -> bool {
    node.bugs.stop_ends_log && node.sim.export().0 == State::StopCopy.raw()
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
    let query = Query { iova, last: end.saturating_sub(1), page_bytes: page_size, bitmap: report.u64(24), clear: true };
    let mut log = lock(&node.log);
    let query = match node.bugs.shifted_report {
        true if length == 0 || !aligned(length, page_size) => return Err(Errno::EINVAL),
        true => log.shifted(query)?,
        false => (length > 0).then_some(query),
    };
    if let Some(query) = query {
        log.pages.report(process, query);
    }
    Ok(())
}

/// As the kernel's mask of `page_size - 1`: a size that is no power of two passes for what its bits allow.
fn aligned(value: u64, page_size: u64) -> bool {
    value & page_size.wrapping_sub(1) == 0
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod test {
    use super::*;

    #[test]
    fn reports_shift_to_the_next_word_of_their_range() {
        let mut log = DirtyLog::default();
        log.start(vec![(0x10_0000, 0x20_0000), (0x20_0000, 0x28_0000)], PAGE_BYTES);
        let shifted = |iova, len| {
            let query = Query { iova, last: iova + len - 1, page_bytes: PAGE_BYTES, bitmap: 0, clear: true };
            log.shifted(query).map(|query| query.map(|query| (query.iova, query.last + 1)))
        };
        assert_eq!(shifted(0x10_0000, 0x1000), Ok(Some((0x10_0000, 0x10_1000))));
        assert_eq!(shifted(0x14_0000, 0x1000), Ok(Some((0x14_0000, 0x14_1000))));
        assert_eq!(shifted(0x10_1000, 0x1000), Ok(Some((0x14_0000, 0x14_1000))));
        assert_eq!(shifted(0x1c_0000, 0x4_0000), Ok(Some((0x1c_0000, 0x20_0000))));
        assert_eq!(shifted(0x1b_f000, 0x4_1000), Ok(Some((0x1c_0000, 0x20_0000))), "not behind its range");
        assert_eq!(shifted(0x1c_1000, 0x1000), Ok(None));
        for (iova, len) in [(0x1f_f000, 0x2000), (0x8_0000, 0x1000), (0xf_f000, 0x2000), (0x28_0000, 0x1000)] {
            assert_eq!(shifted(iova, len), Err(Errno::EINVAL), "{iova:#x}");
        }
    }
}
