// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The dirty pages that a type1 container knows of.

use savevm_core::sim::Errno;

use crate::abi::{UserMemory, field};
use crate::page_tables::Pages;

const PAGE_BYTES: u64 = 4096;
const BITMAP_BYTES_MAX: u64 = 0x1000_0000;

/// Whether a container tracks, and what was written since it was asked last.
#[derive(Default)]
pub(crate) struct DirtyPages {
    is_on: bool,
    pages: Pages,
}

impl DirtyPages {
    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Starting again changes nothing; what was found is gone with the end.
    pub(crate) fn set(&mut self, on: bool) {
        self.is_on = on;
        if !on {
            self.pages.clear();
        }
    }

    /// An emulated device wrote: its driver does that through the container.
    pub(crate) fn mark(&mut self, iova: u64, len: u64) {
        if self.is_on {
            self.pages.mark(iova, len, PAGE_BYTES);
        }
    }

    /// What is unmapped is forgotten.
    pub(crate) fn forget(&mut self, iova: u64, len: u64) {
        self.pages.forget(iova, iova.saturating_add(len.saturating_sub(1)));
    }

    /// Writes the bits of the mapping of `len` bytes at `start` into a bitmap that begins with the bit of `iova`, and clears
    /// them. `all`: a device is beside that cannot say what it writes, so everything mapped is dirty, always.
    ///
    /// As in the kernel all words that the mapping has bits in are overwritten; only those bits of the first one that belong
    /// to what is before it stay.
    pub(crate) fn report(
        &mut self,
        memory: &(impl UserMemory + ?Sized),
        [iova, bitmap]: [u64; 2],
        (start, len): (u64, u64),
        all: bool,
    ) -> Result<(), Errno> {
        let first = start.saturating_sub(iova) / PAGE_BYTES;
        let shift = first % 64;
        let bits = (len / PAGE_BYTES).saturating_add(shift);
        let mut words = vec![0_u64; usize::try_from(bits.div_ceil(64)).map_err(|_| Errno::ENOMEM)?];
        let mut set = |bit: u64| {
            let word = usize::try_from(bit / 64).ok().and_then(|word| words.get_mut(word));
            let mask = u32::try_from(bit % 64).ok().and_then(|bit| 1_u64.checked_shl(bit));
            if let (Some(word), Some(mask)) = (word, mask) {
                *word |= mask;
            }
        };
        if all {
            (shift..bits).for_each(&mut set);
        }
        for page in self.pages.take(start, start.saturating_add(len.saturating_sub(1))) {
            set((page.saturating_sub(start) / PAGE_BYTES).saturating_add(shift));
        }
        let at = field(bitmap, (first / 64).saturating_mul(8))?;
        if let (Some(word), true) = (words.first_mut(), shift > 0) {
            let mut old = [0; 8];
            memory.copy_in(at, &mut old)?;
            let kept = u64::MAX.checked_shl(u32::try_from(shift).unwrap_or_default()).unwrap_or_default();
            *word |= u64::from_ne_bytes(old) & !kept;
        }
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        memory.copy_out(at, &bytes)
    }
}

/// Whether a bitmap is one for `size` bytes in pages of the smallest size there is.
pub(crate) fn check_bitmap(page_bytes: u64, bitmap_bytes: u64, size: u64) -> Result<(), Errno> {
    let needed = (size / PAGE_BYTES).div_ceil(64).saturating_mul(8);
    if page_bytes != PAGE_BYTES || bitmap_bytes < needed || bitmap_bytes > BITMAP_BYTES_MAX {
        return Err(Errno::EINVAL);
    }
    Ok(())
}
