// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device's own log of the pages it writes.

use std::format;
use std::os::fd::AsFd;
use std::string::String;
use std::vec::Vec;

use vfio_uapi::Device;

use super::{CHUNK_BYTES, PAGE_BYTES_MIN, bitmap, chunk_bytes, chunks, dma_range, failed, hand_in};
use crate::dirty::marks::Marks;
use crate::dirty::range::Range;
use crate::dirty::tracker::{DirtyTracker, Doing, Extended, TrackError};

/// The DMA log of one device (`VFIO_DEVICE_FEATURE_DMA_LOGGING_*`).
#[derive(Debug)]
pub struct DeviceLog<F> {
    device: Device<F>,
    name: String,
    page_bytes: u64,
    ranges_max: usize,
    chunk_bytes: u64,
    /// What it was started over, and the page size the device chose. None while it does not run.
    running: Option<(Vec<Range>, u64)>,
}

/// Of a report's bitmap.
const PAGES_PER_WORD: u64 = 64;

impl<F: AsFd> DeviceLog<F> {
    /// Of a device, with the page size to ask it for; the device may choose another. The device is started over at most `ranges_max`
    /// ranges, with the smallest gaps closed: kernels with pages of 4 KiB take 256, devices less.
    pub fn new(device: Device<F>, page_bytes: u64, ranges_max: usize) -> Self {
        let name = format!("{} (DMA log of the device)", device.label());
        Self { device, name, page_bytes, ranges_max, chunk_bytes: CHUNK_BYTES, running: None }
    }

    /// Reads at most so many bytes of memory at once, rounded up to a power of two of at least 1 GiB. [Default: 512 GiB, for which
    /// the bitmap has 16 MiB]
    #[must_use]
    pub fn with_chunk_bytes(mut self, bytes: u64) -> Self {
        self.chunk_bytes = chunk_bytes(bytes);
        self
    }
}

impl<F: AsFd + Send> DirtyTracker for DeviceLog<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn start(&mut self, ranges: &[Range]) -> Result<(), TrackError> {
        let ranges = fit(ranges, self.ranges_max);
        let dma: Vec<_> = ranges.iter().copied().map(dma_range).collect();
        let granule = self
            .device
            .dma_logging_start(self.page_bytes, &dma)
            .map_err(|error| failed(&self.name, Doing::Start, &error))?;
        if !granule.is_power_of_two() {
            // What it would report cannot be told from what it would not.
            let _ = self.device.dma_logging_stop();
            let detail = format!("the device chose pages of {granule} bytes, which is no power of two");
            return Err(TrackError::new(&self.name, Doing::Start, None, detail));
        }
        self.running = Some((ranges, granule.max(PAGE_BYTES_MIN)));
        Ok(())
    }

    fn extend(&mut self, range: Range) -> Result<Extended, TrackError> {
        let covers = |covered: &Range| covered.overlap(range) == Some(range);
        match &self.running {
            Some((ranges, _)) if ranges.iter().any(covers) => Ok(Extended::Tracked),
            _ => Ok(Extended::NeedsRestart),
        }
    }

    /// Asks for whole granules of the device: one that was asked for in part is cleared in the device as a whole, and the next range's
    /// share of it would be lost.
    fn read(&mut self, range: Range, marks: &mut Marks<'_>) -> Result<(), TrackError> {
        let doing = Doing::Read(range);
        let error = |detail: &str| TrackError::new(&self.name, doing, None, detail);
        let (tracked, granule) = self.running.as_ref().ok_or_else(|| error("it was not started"))?;
        let whole = widened(range, *granule).ok_or_else(|| error("its last page reaches 2^64, which no log covers"))?;
        let word_bytes = granule.saturating_mul(PAGES_PER_WORD);
        let origin =
            tracked.iter().find(|tracked| tracked.overlap(range) == Some(range)).map(|tracked| tracked.start());
        let origin = origin.map_or(0, |start| round_down(start, *granule));
        let whole = from_word(whole, origin, word_bytes).ok_or_else(|| error("it lies before what is tracked"))?;
        for piece in chunks(whole, origin, self.chunk_bytes.max(word_bytes)) {
            let mut bitmap = bitmap(&self.name, doing, piece, *granule)?;
            self.device.dma_logging_report(&mut bitmap).map_err(|error| failed(&self.name, doing, &error))?;
            hand_in(&self.name, doing, &bitmap, marks)?;
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), TrackError> {
        self.running = None;
        self.device.dma_logging_stop().map_err(|error| failed(&self.name, Doing::Stop, &error))
    }
}

/// The range with all of the pages of `granule` bytes that it has a part of.
fn widened(range: Range, granule: u64) -> Option<Range> {
    let start = round_down(range.start(), granule);
    let end = range.end().checked_next_multiple_of(granule)?;
    Range::new(start, end.checked_sub(start)?).ok()
}

/// The range from a multiple of `word_bytes` behind `origin` on. pds begins every report with a word of its bitmap, which is
/// that of the range it was started over: one that begins elsewhere comes out shifted, and the first pages are missing.
fn from_word(range: Range, origin: u64, word_bytes: u64) -> Option<Range> {
    let start = origin.checked_add(round_down(range.start().checked_sub(origin)?, word_bytes))?;
    Range::new(start, range.end().checked_sub(start)?).ok()
}

fn round_down(value: u64, multiple: u64) -> u64 {
    value.saturating_sub(value.checked_rem(multiple).unwrap_or_default())
}

/// Ascending ranges that do not touch, as at most `count_max`: the smallest gaps are closed.
fn fit(ranges: &[Range], count_max: usize) -> Vec<Range> {
    let gap = |pair: &[Range]| match pair {
        [low, high] => high.start().saturating_sub(low.end()),
        _ => 0,
    };
    let mut gaps: Vec<(u64, usize)> = ranges.windows(2).map(gap).zip(1..).collect();
    gaps.sort_unstable_by(|one, other| other.cmp(one));
    let mut kept: Vec<usize> = gaps.into_iter().take(count_max.saturating_sub(1)).map(|(_, index)| index).collect();
    kept.sort_unstable();
    kept.push(ranges.len());
    let mut begin = 0;
    let joined = kept.into_iter().filter_map(|end| {
        let group = ranges.get(core::mem::replace(&mut begin, end)..end)?;
        let (first, last) = (group.first()?, group.last()?);
        Range::new(first.start(), last.end().checked_sub(first.start())?).ok()
    });
    joined.collect()
}

#[cfg(test)]
mod test {
    use super::*;

    fn of(start: u64, length: u64) -> Range {
        Range::new(start, length).unwrap()
    }

    #[test]
    fn the_smallest_gaps_are_closed() {
        let ranges = [of(0, 10), of(12, 8), of(100, 10), of(111, 9), of(1000, 1)];
        assert_eq!(fit(&ranges, 5), ranges);
        assert_eq!(fit(&ranges, 4), [of(0, 10), of(12, 8), of(100, 20), of(1000, 1)]);
        assert_eq!(fit(&ranges, 3), [of(0, 20), of(100, 20), of(1000, 1)]);
        assert_eq!(fit(&ranges, 1), [of(0, 1001)]);
        assert_eq!(fit(&ranges, 0), [of(0, 1001)]);
        assert_eq!(fit(&[], 3), []);
    }

    #[test]
    fn reports_begin_with_a_word() {
        let word = 64 << 12;
        assert_eq!(from_word(of(0x1000 + word + 0x5000, 0x1000), 0x1000, word), Some(of(0x1000 + word, 0x6000)));
        assert_eq!(from_word(of(0x1000 + word, 0x1000), 0x1000, word), Some(of(0x1000 + word, 0x1000)));
        assert_eq!(from_word(of(0x1000, 0x1000), 0x1000, word), Some(of(0x1000, 0x1000)));
        assert_eq!(from_word(of(0x1000, 0x1000), 0x2000, word), None);
    }

    #[test]
    fn whole_granules_are_read() {
        assert_eq!(widened(of(0x3000, 0x1000), 1 << 21), Some(of(0, 1 << 21)));
        assert_eq!(widened(of(1 << 21, 1 << 21), 1 << 21), Some(of(1 << 21, 1 << 21)));
        assert_eq!(widened(of(u64::MAX - 0x1fff, 0x1000), 1 << 21), None);
    }
}
