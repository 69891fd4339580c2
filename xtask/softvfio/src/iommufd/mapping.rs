// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Address spaces: what is mapped in them, and by which rules.

use savevm_core::sim::Errno;

use crate::abi::Argument;
use crate::machine::Process;
use crate::mappings::Mapping;

use super::{Hwpt, Object, Objects, PAGE_BYTES, structure, supported};

const FIXED_IOVA: u32 = 1;
const WRITABLE: u32 = 2;

impl Objects {
    /// size, ioas_id@4, num_iovas@8, allowed_iovas@16, out_iova_alignment@24.
    pub(super) fn iova_ranges(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let mut ranges = structure::<32>(process, address)?;
        self.ioas(ranges.u32(4))?;
        let (first, last) = self.aperture(ranges.u32(4));
        let room = ranges.u32(8);
        if room > 0 {
            let mut range = Argument::<16>::new();
            range.set_u64(0, first);
            range.set_u64(8, last);
            range.write(process, ranges.u64(16))?;
        }
        ranges.set_u32(8, 1);
        ranges.set_u64(24, self.alignment(ranges.u32(4)));
        ranges.write(process, address)?;
        if room == 0 { Err(EMSGSIZE) } else { Ok(()) }
    }

    /// size, flags@4, ioas_id@8, reserved@12, user_va@16, length@24, iova@32.
    pub(super) fn map(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let mut map = structure::<40>(process, address)?;
        let (flags, user, length) = (map.u32(4), map.u64(16), map.u64(24));
        supported(flags & !0b111 == 0 && map.u32(12) == 0)?;
        let (aperture, alignment) = (self.aperture(map.u32(8)), self.alignment(map.u32(8)));
        let mappings = &mut self.ioas(map.u32(8))?.mappings;
        let iova = if flags & FIXED_IOVA != 0 {
            map.u64(32)
        } else {
            mappings.free(length, PAGE_BYTES).ok_or(Errno::ENOSPC)?
        };
        let end = check_range(iova, length, alignment)?;
        if flags & 0b110 == 0 || user & alignment.wrapping_sub(1) != 0 || iova < aperture.0 || end > aperture.1 {
            return Err(Errno::EINVAL);
        }
        if mappings.overlaps(iova, length) {
            return Err(Errno::EEXIST);
        }
        mappings.insert(iova, Mapping { len: length, user, writable: flags & WRITABLE != 0 });
        map.set_u64(32, iova);
        map.write(process, address)
    }

    /// size, flags@4, dst_ioas@8, src_ioas@12, length@16, dst_iova@24, src_iova@32.
    pub(super) fn copy(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let mut copy = structure::<40>(process, address)?;
        let (flags, length, from) = (copy.u32(4), copy.u64(16), copy.u64(32));
        supported(flags & !0b111 == 0)?;
        let source = &self.ioas(copy.u32(12))?.mappings;
        check_range(from, length, 1)?;
        let pieces = source.pieces(from, length);
        let copied = pieces.iter().fold(0_u64, |sum, (_, piece)| sum.saturating_add(piece.len));
        if copied != length {
            return Err(Errno::ENOENT);
        }
        let alignment = self.alignment(copy.u32(8));
        let target = &mut self.ioas(copy.u32(8))?.mappings;
        let iova = if flags & FIXED_IOVA != 0 {
            copy.u64(24)
        } else {
            target.free(length, PAGE_BYTES).ok_or(Errno::ENOSPC)?
        };
        check_range(iova, length, alignment)?;
        if target.overlaps(iova, length) {
            return Err(Errno::EEXIST);
        }
        for (at, piece) in pieces {
            let offset = at.saturating_sub(from);
            target.insert(iova.saturating_add(offset), Mapping { writable: flags & WRITABLE != 0, ..piece });
        }
        copy.set_u64(24, iova);
        copy.write(process, address)
    }

    /// size, ioas_id@4, iova@8, length@16. Everything at once: iova 0, length 2^64-1.
    pub(super) fn unmap(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        let mut unmap = structure::<24>(process, address)?;
        let (ioas, iova, length) = (unmap.u32(4), unmap.u64(8), unmap.u64(16));
        let mappings = &mut self.ioas(ioas)?.mappings;
        let unmapped = if iova == 0 && length == u64::MAX {
            mappings.clear()
        } else {
            check_range(iova, length, 1)?;
            if mappings.cuts(iova, length) || !mappings.overlaps(iova, length) {
                return Err(Errno::ENOENT);
            }
            mappings.remove(iova, length)
        };
        for object in self.by_id.values_mut() {
            if let Object::Hwpt(Hwpt { ioas: on, dirty: Some(dirty), .. }) = object {
                if *on == ioas {
                    dirty.pages().forget(iova, iova.saturating_add(length.saturating_sub(1)));
                }
            }
        }
        unmap.set_u64(16, unmapped);
        unmap.write(process, address)
    }

    /// size, option_id@4, op@8 (16 bits), reserved@10 (16 bits), object_id@12, val64@16. Of the options there is the one
    /// that holds the entries of page tables down to pages. Here they never are larger; what is left of it is alignment.
    pub(super) fn option(&mut self, process: &dyn Process, address: u64) -> Result<(), Errno> {
        const HUGE_PAGES: u32 = 1;
        const SET: u32 = 0;
        const GET: u32 = 1;
        let mut option = structure::<24>(process, address)?;
        let (op, id, value) = (option.u32(8), option.u32(12), option.u64(16));
        supported(option.u32(4) == HUGE_PAGES && op <= 0xffff)?;
        let has_tables = self.tables(id).next().is_some();
        let ioas = self.ioas(id)?;
        match (op, value) {
            (GET, _) => option.set_u64(16, u64::from(!ioas.small_pages)),
            (SET, 0) if !ioas.small_pages && has_tables && ioas.mappings.len() > 0 => return Err(Errno::EINVAL),
            (SET, 0 | 1) => ioas.small_pages = value == 0,
            (SET, _) => return Err(Errno::EINVAL),
            _ => return Err(Errno::EOPNOTSUPP),
        }
        option.write(process, address)
    }
}

/// The room for ranges is too small; the number is returned all the same.
pub(super) const EMSGSIZE: Errno = Errno::from_raw(90);

/// The last address of an aligned, non-empty range.
fn check_range(iova: u64, length: u64, alignment: u64) -> Result<u64, Errno> {
    let last = length.checked_sub(1).ok_or(Errno::EINVAL)?;
    if (iova | length) & alignment.wrapping_sub(1) != 0 {
        return Err(Errno::EINVAL);
    }
    iova.checked_add(last).ok_or(Errno::EOVERFLOW)
}
