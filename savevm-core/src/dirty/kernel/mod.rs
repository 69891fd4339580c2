// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's three interfaces for dirty pages, through `vfio-uapi`, and what each of them offers for a device.
//!
//! | tracker | reports | a read asks for |
//! |---|---|---|
//! | [`DeviceLog`] | what one device wrote | whole granules of the device, by 64 from the begin of what it tracks: cut ones would lose bits, and drivers that read their bitmap by words (pds) shift them |
//! | [`PageTable`] | what the devices attached to one page table wrote | mapped memory only: the kernel calls holes clean |
//! | [`ContainerLog`] | what the devices of a container pinned | whole mappings: the kernel refuses cut ones |
//!
//! A reading needs a bitmap beside the ledger's, of one bit per page of what is read at once
//! ([`DeviceLog::with_chunk_bytes`], [`PageTable::with_chunk_bytes`]; a container's is as large as a slot).

mod container;
mod device_log;
mod offer;
mod page_table;

use std::string::ToString;

use vfio_uapi::{DirtyBitmap, DmaRange, Error};

use super::marks::Marks;
use super::range::Range;
use super::tracker::{Doing, TrackError};

pub use container::{ContainerLog, unmap_dirty};
pub use device_log::DeviceLog;
pub use offer::{container_offer, device_log_offer, page_table_offer};
pub use page_table::PageTable;

/// The smallest page size of a report (`vfio.h`).
const PAGE_BYTES_MIN: u64 = super::region::PAGE_BYTES_MIN;

/// What is read at once: at least what no page of an IOMMU exceeds. A page that was read in part is cleared as a whole.
const CHUNK_BYTES: u64 = 1 << 39;

fn dma_range(range: Range) -> DmaRange {
    DmaRange { iova: range.start(), length: range.length() }
}

fn failed(tracker: &str, doing: Doing, error: &Error) -> TrackError {
    TrackError::new(tracker, doing, error.errno(), error.to_string())
}

/// A bitmap for a range.
fn bitmap(tracker: &str, doing: Doing, range: Range, page_bytes: u64) -> Result<DirtyBitmap, TrackError> {
    DirtyBitmap::new(dma_range(range), page_bytes).map_err(|why| TrackError::new(tracker, doing, None, why.to_string()))
}

/// Marks what a bitmap says.
fn hand_in(tracker: &str, doing: Doing, bitmap: &DirtyBitmap, marks: &mut Marks<'_>) -> Result<(), TrackError> {
    marks
        .words(bitmap.range().iova, bitmap.page_size(), bitmap.words())
        .map_err(|bad| TrackError::new(tracker, doing, None, bad.to_string()))
}

/// The pieces of a range between multiples of `chunk_bytes` behind `origin`.
fn chunks(range: Range, origin: u64, chunk_bytes: u64) -> impl Iterator<Item = Range> {
    let mut at = range.start();
    core::iter::from_fn(move || {
        let into_chunk = at.saturating_sub(origin).checked_rem(chunk_bytes)?;
        let boundary = at.saturating_add(chunk_bytes.checked_sub(into_chunk)?);
        let end = boundary.min(range.end());
        let piece = Range::new(at, end.checked_sub(at)?).ok()?;
        at = end;
        Some(piece)
    })
}

/// As many bytes as a caller allows at once, but not so few that a page of the IOMMU is cut.
fn chunk_bytes(wanted: u64) -> u64 {
    wanted.max(1 << 30).checked_next_power_of_two().unwrap_or(CHUNK_BYTES)
}

#[cfg(test)]
mod test {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn chunks_end_at_multiples() {
        let of = |start, length| Range::new(start, length).unwrap();
        let pieces = |start, length| chunks(of(start, length), 0, 0x4000).collect::<Vec<_>>();
        assert_eq!(pieces(0x3000, 0x6000), [of(0x3000, 0x1000), of(0x4000, 0x4000), of(0x8000, 0x1000)]);
        assert_eq!(pieces(0x4000, 0x4000), [of(0x4000, 0x4000)]);
        let pieces_from: Vec<_> = chunks(of(0x3000, 0x6000), 0x2000, 0x4000).collect();
        assert_eq!(pieces_from, [of(0x3000, 0x3000), of(0x6000, 0x3000)]);
        let last = u64::MAX - 0xfff;
        assert_eq!(pieces(last, 0xfff), [of(last, 0xfff)]);
        assert_eq!(
            (chunk_bytes(5), chunk_bytes((1 << 40) + 1), chunk_bytes(u64::MAX)),
            (1 << 30, 1 << 41, CHUNK_BYTES)
        );
    }
}
