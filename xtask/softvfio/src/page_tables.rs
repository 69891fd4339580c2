// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dirty bits of iommufd's page tables, and the test interface that sets them.
//!
//! What is dirty is what devices have written, and what a program asks to be through the interface of kernels that are built
//! with CONFIG_IOMMUFD_TEST.

use std::collections::BTreeSet;

use savevm_core::sim::Errno;

use crate::abi::{Argument, UserMemory, field};

/// The simulated IOMMU's pages and addresses.
pub(crate) const MOCK_PAGE_BYTES: u64 = 2048;
pub(crate) const MOCK_APERTURE: (u64, u64) = (1 << 24, (1 << 31) - 1);

/// The dirty bits of a page table that was allocated for them. They are in its entries: what stops is their setting.
#[derive(Debug, Default)]
pub(crate) struct DirtyBits {
    on: bool,
    pages: Pages,
}

/// Dirty pages, of any size that is a multiple of the simulated IOMMU's.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    /// In numbers of pages of that size.
    numbers: BTreeSet<u64>,
}

/// What a program wants to know of the dirty bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query {
    pub(crate) iova: u64,
    /// The last address.
    pub(crate) last: u64,
    pub(crate) page_bytes: u64,
    /// Where its bitmap is.
    pub(crate) bitmap: u64,
    pub(crate) clear: bool,
}

impl DirtyBits {
    /// Starting clears all bits, also when it is on already.
    pub(crate) fn set_tracking(&mut self, on: bool) {
        if on {
            self.pages.clear();
        }
        self.on = on;
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    pub(crate) fn pages(&mut self) -> &mut Pages {
        &mut self.pages
    }
}

impl Pages {
    /// `len` bytes at `iova` were written, and what keeps account of that does so in pages of `page_bytes`.
    pub(crate) fn mark(&mut self, iova: u64, len: u64, page_bytes: u64) {
        let page_bytes = page_bytes.max(MOCK_PAGE_BYTES);
        let Some(last) = len.checked_sub(1).map(|rest| iova.saturating_add(rest)) else { return };
        let first = iova.checked_div(page_bytes).unwrap_or_default().saturating_mul(page_bytes);
        let last = last.checked_div(page_bytes).unwrap_or_default().saturating_mul(page_bytes);
        let last = last.saturating_add(page_bytes.saturating_sub(1));
        self.numbers.extend(first / MOCK_PAGE_BYTES..=last / MOCK_PAGE_BYTES);
    }

    /// What is unmapped is forgotten.
    pub(crate) fn forget(&mut self, iova: u64, last: u64) {
        self.take(iova, last);
    }

    pub(crate) fn clear(&mut self) {
        self.numbers.clear();
    }

    /// Takes what is dirty of a range: addresses of pages of the simulated IOMMU's size.
    pub(crate) fn take(&mut self, iova: u64, last: u64) -> Vec<u64> {
        let range = iova / MOCK_PAGE_BYTES..=last / MOCK_PAGE_BYTES;
        let found: Vec<u64> = self.numbers.range(range).copied().collect();
        for page in &found {
            self.numbers.remove(page);
        }
        found.into_iter().map(|page| page.saturating_mul(MOCK_PAGE_BYTES)).collect()
    }

    /// Sets the program's bits. As in the kernel nothing of this can fail, bits that cannot be written are lost, and what
    /// was set is found also when tracking has stopped since.
    pub(crate) fn report(&mut self, memory: &(impl UserMemory + ?Sized), query: Query) {
        let range = query.iova / MOCK_PAGE_BYTES..=query.last / MOCK_PAGE_BYTES;
        let found: Vec<u64> = self.numbers.range(range).copied().collect();
        for page in found {
            let first = page.saturating_mul(MOCK_PAGE_BYTES).max(query.iova);
            let last = first.saturating_add(MOCK_PAGE_BYTES - 1).min(query.last);
            let bit = |address: u64| address.saturating_sub(query.iova).checked_div(query.page_bytes);
            if let (Some(first), Some(last)) = (bit(first), bit(last)) {
                for bit in first..=last {
                    let _ = set_bit(memory, query.bitmap, bit);
                }
            }
            if query.clear {
                self.numbers.remove(&page);
            }
        }
    }
}

fn set_bit(memory: &(impl UserMemory + ?Sized), bitmap: u64, bit: u64) -> Result<(), Errno> {
    let at = field(bitmap, bit / 8)?;
    let mut byte = [0];
    memory.copy_in(at, &mut byte)?;
    let [old] = byte;
    let set = 1_u8.checked_shl(u32::try_from(bit % 8).unwrap_or_default()).unwrap_or_default();
    memory.copy_out(at, &[old | set])
}

/// A command of the test interface: size, op@4, id@8, the operation's fields from 16 on, 72 bytes in all.
pub(crate) enum TestCommand {
    /// Attach device `id` to another table.
    Replace { id: u32, table: u32 },
    /// Make a device on `ioas`.
    Device { ioas: u32, tracks: bool },
    /// Mark pages of a table dirty.
    Dirty { table: u32, iova: u64, length: u64, page_bytes: u64, bitmap: u64 },
}

impl TestCommand {
    pub(crate) fn read(command: &Argument<72>) -> Result<Self, Errno> {
        const NO_DIRTY: u32 = 1;
        const KNOWN_FLAGS: u32 = 0b101;
        let id = command.u32(8);
        match command.u32(4) {
            10 => Ok(Self::Replace { id, table: command.u32(16) }),
            12 if command.u32(28) & !KNOWN_FLAGS != 0 => Err(Errno::EINVAL),
            12 => Ok(Self::Device { ioas: id, tracks: command.u32(28) & NO_DIRTY == 0 }),
            13 => {
                let [iova, length, page_bytes, bitmap] = [24, 32, 40, 48].map(|at| command.u64(at));
                let aligned = |value: u64| value.checked_rem(page_bytes) == Some(0);
                if length == 0 || bitmap == 0 || !aligned(iova) || !aligned(length) {
                    return Err(Errno::EINVAL);
                }
                Ok(Self::Dirty { table: id, iova, length, page_bytes, bitmap })
            }
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

/// Whether bit `bit` of a bitmap in user memory is set.
pub(crate) fn bit_is_set(memory: &(impl UserMemory + ?Sized), bitmap: u64, bit: u64) -> Result<bool, Errno> {
    let mut byte = [0];
    memory.copy_in(field(bitmap, bit / 8)?, &mut byte)?;
    let [byte] = byte;
    let shifted = byte.checked_shr(u32::try_from(bit % 8).unwrap_or_default()).unwrap_or_default();
    Ok(shifted & 1 != 0)
}
