// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a VMM lends of its guest's memory.

use super::error::MemoryError;
use crate::dirty::RegionTable;

/// Guest memory, by regions. Source and target each have one, with equal tables.
///
/// It is read while the guest writes to it. A piece that changes while it is read may come out torn: its page is dirty again then and is
/// read once more.
pub trait GuestMemory: Sync {
    /// The regions, in the order in which both sides number them. Does not change while a migration runs.
    fn regions(&self) -> &RegionTable;

    /// Fills `buffer` with what stands at `offset` of the region with this number.
    ///
    /// # Errors
    /// When not all of it can be read.
    fn read(&self, region: usize, offset: u64, buffer: &mut [u8]) -> Result<(), MemoryError>;

    /// Writes all of `bytes` at `offset` of the region with this number. Called on a target only, before its guest runs, and by
    /// several threads at once, no two of which have the same bytes.
    ///
    /// # Errors
    /// When not all of it can be written.
    fn write(&self, region: usize, offset: u64, bytes: &[u8]) -> Result<(), MemoryError>;

    /// Writes zeros. As it comes, only over what is not zero, so that memory that was never touched takes none.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn zero(&self, region: usize, offset: u64, length: u64) -> Result<(), MemoryError> {
        zero_by_reading(self, region, offset, length)
    }

    /// The file that a region is, from its beginning, where what is written to the file at an offset is in the memory there: a memfd, or
    /// a file in /dev/shm. A target has bytes go there from a socket without a buffer in between, where nothing else is to be done
    /// with them ([`Limits::memory_digest`](crate::Limits::memory_digest)), under the rules of [`write`](Self::write). It must be open for
    /// writing; where it takes nothing from a pipe (one that is open for appending does not) everything is written. As it comes, there is
    /// none.
    #[cfg(unix)]
    fn as_file(&self, region: usize) -> Option<std::os::fd::BorrowedFd<'_>> {
        let _ = region;
        None
    }
}

/// Writes zeros over what is not zero.
pub(super) fn zero_by_reading(
    memory: &(impl GuestMemory + ?Sized),
    region: usize,
    offset: u64,
    length: u64,
) -> Result<(), MemoryError> {
    let mut piece = [0; PIECE_LEN];
    let mut done = 0_u64;
    while done < length {
        let piece_len = usize::try_from(length.saturating_sub(done)).unwrap_or(PIECE_LEN).min(PIECE_LEN);
        let at = offset.saturating_add(done);
        let Some(found) = piece.get_mut(..piece_len) else { break };
        memory.read(region, at, found)?;
        for (block_at, block) in (at..).step_by(BLOCK_LEN).zip(found.chunks_mut(BLOCK_LEN)) {
            if block.iter().fold(0, |any, byte| any | byte) != 0 {
                block.fill(0);
                memory.write(region, block_at, block)?;
            }
        }
        done = done.saturating_add(u64::try_from(piece_len).unwrap_or(u64::MAX));
    }
    Ok(())
}

/// What is read at a time.
const PIECE_LEN: usize = 16 * BLOCK_LEN;
/// The smallest page there is.
const BLOCK_LEN: usize = 4096;
