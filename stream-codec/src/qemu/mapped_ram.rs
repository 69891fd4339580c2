// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! RAM at fixed places in a file (capability `mapped-ram`).
//!
//! In the list of blocks every entry is followed by a header of 28 bytes:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | version, 1 |
//! | 4 | 8 | page size in bytes |
//! | 12 | 8 | file offset of the bitmap |
//! | 20 | 8 | file offset of the pages, a multiple of 1 MiB |
//!
//! The bitmap has one bit per page, in 64-bit words as a little-endian host stores them. A page whose bit is not set is
//! zero, **whatever its place in the file holds**: a hole, or what the page was before the guest cleared it. The next
//! entry follows the place of the block's last page. Both offsets are zero for a block whose memory is shared and not
//! sent (`x-ignore-shared`): then the next entry follows directly.

use alloc::vec::Vec;

use super::engine::Stop;
use super::error::Reason;
use super::event::Progress;
use crate::cursor::Cursor;

/// The header version this reader knows.
pub const MAPPED_RAM_VERSION: u32 = 1;

/// The header of a block's place in the file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MappedRamHeader {
    /// Page size in bytes.
    pub page_bytes: u64,
    /// Where in the file the bitmap stands.
    pub bitmap_offset: u64,
    /// Where in the file the first page stands.
    pub pages_offset: u64,
}

impl MappedRamHeader {
    /// Appends the header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAPPED_RAM_VERSION.to_be_bytes());
        out.extend_from_slice(&self.page_bytes.to_be_bytes());
        out.extend_from_slice(&self.bitmap_offset.to_be_bytes());
        out.extend_from_slice(&self.pages_offset.to_be_bytes());
    }

    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Stop> {
        let found = cursor.u32_be("version of mapped-ram")?;
        if found != MAPPED_RAM_VERSION {
            return Err(Reason::Version { what: "version of mapped-ram", found, known: MAPPED_RAM_VERSION }.into());
        }
        Ok(Self {
            page_bytes: cursor.u64_be("page size of mapped-ram")?,
            bitmap_offset: cursor.u64_be("bitmap offset of mapped-ram")?,
            pages_offset: cursor.u64_be("pages offset of mapped-ram")?,
        })
    }

    /// Length of the bitmap of a block of `used_bytes`, in bytes. `None` if there is no such bitmap.
    #[must_use]
    pub fn bitmap_bytes(&self, used_bytes: u64) -> Option<u64> {
        used_bytes.checked_div(self.page_bytes)?.div_ceil(64).checked_mul(8)
    }
}

/// What lies in the file between the header and the next entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum AreaKind {
    Gap,
    Bitmap,
    Pages,
}

/// The parts that are still to come, in order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    parts: [(AreaKind, Progress); 4],
}

impl Area {
    /// The area of a block whose header ends at the file offset `here`.
    pub(super) fn new(header: &MappedRamHeader, used_bytes: u64, here: u64) -> Result<Self, Reason> {
        use AreaKind::{Bitmap, Gap, Pages};
        if header.bitmap_offset == 0 && header.pages_offset == 0 {
            return Ok(Self { parts: [(Gap, Progress::new(0)); 4] });
        }
        let page_bytes = header.page_bytes;
        let wrong = |what, value, expected| Reason::Value { what, value, expected };
        let bitmap = header.bitmap_bytes(used_bytes);
        let bitmap = bitmap.ok_or(wrong("page size of mapped-ram", page_bytes, "that of the target"))?;
        let before = header.bitmap_offset.checked_sub(here);
        let before = before.ok_or(wrong("bitmap offset of mapped-ram", header.bitmap_offset, "behind the header"))?;
        let after = header.pages_offset.checked_sub(header.bitmap_offset).and_then(|room| room.checked_sub(bitmap));
        let after = after.ok_or(wrong("pages offset of mapped-ram", header.pages_offset, "behind the bitmap"))?;
        let parts = [(Gap, before), (Bitmap, bitmap), (Gap, after), (Pages, used_bytes)];
        Ok(Self { parts: parts.map(|(kind, length)| (kind, Progress::new(length))) })
    }

    /// The part that comes next, unless all are done.
    pub(super) fn current(&mut self) -> Option<&mut (AreaKind, Progress)> {
        self.parts.iter_mut().find(|(_, progress)| progress.left() > 0)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const HEADER: MappedRamHeader = MappedRamHeader { page_bytes: 4096, bitmap_offset: 139, pages_offset: 1 << 20 };

    #[test]
    fn a_bitmap_is_made_of_whole_words() {
        for (pages, bytes) in [(0, 0), (1, 8), (64, 8), (65, 16), (16384, 2048)] {
            assert_eq!(HEADER.bitmap_bytes(pages * 4096), Some(bytes), "{pages} pages");
        }
        assert_eq!(MappedRamHeader { page_bytes: 0, ..HEADER }.bitmap_bytes(1), None);
    }

    #[test]
    fn parts_lie_in_the_order_of_their_offsets() {
        let mut area = Area::new(&HEADER, 65 * 4096, 100).unwrap();
        let mut seen = Vec::new();
        while let Some((kind, progress)) = area.current() {
            seen.push((*kind, progress.left()));
            progress.position = progress.length;
        }
        let gap = (1 << 20) - 139 - 16;
        assert_eq!(
            seen,
            [(AreaKind::Gap, 39), (AreaKind::Bitmap, 16), (AreaKind::Gap, gap), (AreaKind::Pages, 65 * 4096)]
        );
    }

    #[test]
    fn parts_that_overlap_are_refused() {
        for (header, here) in [
            (HEADER, 140),
            (MappedRamHeader { pages_offset: 146, ..HEADER }, 139),
            (MappedRamHeader { pages_offset: 0, ..HEADER }, 139),
            (MappedRamHeader { page_bytes: 0, ..HEADER }, 139),
        ] {
            assert!(matches!(Area::new(&header, 4096, here), Err(Reason::Value { .. })), "{header:?}");
        }
        let shared = MappedRamHeader { bitmap_offset: 0, pages_offset: 0, ..HEADER };
        assert!(Area::new(&shared, u64::MAX, 139).unwrap().current().is_none());
    }
}
