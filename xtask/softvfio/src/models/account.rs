// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! BAR0 of the vendors' devices: what a program needs to see whether a state arrived, where `plain` shows it too.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0x00 | 16 | the state: two words of the model's own |
//! | 0x10 | 8 | CRC-64/NVME over the stream loaded last |
//! | 0x18 | 8 | its length in bytes |
//! | 0x20 | 8 | CRC-64/NVME over the bytes of the session saved last |
//! | 0x28 | 8 | their number |
//! | 0x30 | 8 | number of streams loaded |
//! | 0x40 | 64 | scratch, writable; part of the state |

use savevm_core::digest::DigestSum;

/// Size of BAR0 in bytes.
pub(super) const BAR_BYTES: u64 = 4096;
/// Size of what is in it.
pub(super) const PAGE_BYTES: usize = 128;
pub(super) const SCRATCH_BYTES: usize = 64;
const SCRATCH: u64 = 0x40;

/// What was saved and loaded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Account {
    pub(super) loaded: DigestSum,
    pub(super) saved: DigestSum,
    pub(super) loads: u64,
}

impl Account {
    pub(super) fn count_load(&mut self, loaded: DigestSum) {
        self.loaded = loaded;
        self.loads = self.loads.saturating_add(1);
    }

    /// The registers in the order of their offsets.
    pub(super) fn page(&self, state: [u64; 2], scratch: &[u8; SCRATCH_BYTES]) -> [u8; PAGE_BYTES] {
        let [first, second] = state;
        let Self { loaded, saved, loads } = self;
        let words =
            [first, second, loaded.crc64_nvme, loaded.bytes, saved.crc64_nvme, saved.bytes, *loads, 0].into_iter();
        let mut page = [0; PAGE_BYTES];
        copy(&mut page, words.flat_map(u64::to_le_bytes).chain(*scratch));
        page
    }

    /// Takes a [`page`](Self::page) apart: account, state, scratch.
    pub(super) fn parse(page: &[u8; PAGE_BYTES]) -> Option<(Self, [u64; 2], [u8; SCRATCH_BYTES])> {
        let mut words = page.chunks_exact(8).filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?)));
        let mut next = || words.next();
        let state = [next()?, next()?];
        let (loaded_sum, loaded_bytes, saved_sum, saved_bytes) = (next()?, next()?, next()?, next()?);
        let account = Self {
            loaded: DigestSum::new(loaded_bytes, loaded_sum),
            saved: DigestSum::new(saved_bytes, saved_sum),
            loads: next()?,
        };
        Some((account, state, *page.last_chunk()?))
    }
}

/// Reads `page` at `offset`; behind it there are zeros.
pub(super) fn read(page: &[u8], offset: u64, buffer: &mut [u8]) {
    let from = usize::try_from(offset).ok().and_then(|offset| page.get(offset..)).unwrap_or_default();
    buffer.fill(0);
    copy(buffer, from.iter().copied());
}

/// Writes what of `data` falls on the scratch bytes; whether anything did.
pub(super) fn write(scratch: &mut [u8; SCRATCH_BYTES], offset: u64, data: &[u8]) -> bool {
    let mut touched = false;
    for (at, byte) in (offset..).zip(data) {
        let index = at.checked_sub(SCRATCH).and_then(|index| usize::try_from(index).ok());
        if let Some(slot) = index.and_then(|index| scratch.get_mut(index)) {
            *slot = *byte;
            touched = true;
        }
    }
    touched
}

/// As many bytes as there are on both sides.
pub(super) fn copy(to: &mut [u8], from: impl IntoIterator<Item = u8>) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from);
}
