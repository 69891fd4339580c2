// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the simulated firmware puts into its images. To the driver they are opaque, and so they are to everyone else.
//!
//! ```text
//! 32 bytes   magic, number of the image in its session, its size, seed; little-endian, 8 each
//!            contents that follow from the seed
//! 80 bytes   generation (8), scratch (64), CRC-64/NVME over everything before (8)
//! ```
//!
//! Every image carries the whole visible state as it was when the image was saved; the last one loaded counts.

use device_mlx5::model::Firmware;
use savevm_core::digest::Digest;
use savevm_core::sim::{Errno, fill_contents};

use super::super::account::{SCRATCH_BYTES, copy};

const MAGIC: u64 = u64::from_le_bytes(*b"SVFWIMG\n");
const HEAD_BYTES: usize = 32;
const TAIL_BYTES: usize = 80;
const SUM_BYTES: u64 = 8;

/// An image has at least a head and a tail.
pub(super) const IMAGE_BYTES_MIN: u64 = 112;

/// The state of the device, as far as anybody can see it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Contents {
    pub(super) seed: u64,
    /// Counts what the guest did.
    pub(super) generation: u64,
    pub(super) scratch: [u8; SCRATCH_BYTES],
}

/// An image being read.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// 0 for a full one; the others build on the one before.
    number: u64,
    bytes: u64,
    contents: Contents,
    position: u64,
    digest: Digest,
}

impl Image {
    pub(super) fn new(number: u64, bytes: u64, contents: Contents) -> Self {
        Self { number, bytes, contents, position: 0, digest: Digest::new() }
    }

    pub(super) fn left_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.position)
    }

    /// Reads on; less than asked for at the ends of its parts.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let tail_at = self.bytes.saturating_sub(to_u64(TAIL_BYTES));
        let sum_at = self.bytes.saturating_sub(SUM_BYTES);
        let (begin, end) = match self.position {
            position if position < to_u64(HEAD_BYTES) => (0, to_u64(HEAD_BYTES)),
            position if position < tail_at => (to_u64(HEAD_BYTES), tail_at),
            position if position < sum_at => (tail_at, sum_at),
            _ => (sum_at, self.bytes),
        };
        let left = usize::try_from(end.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let len = left.min(buffer.len());
        let part = buffer.get_mut(..len).unwrap_or_default();
        let skip = usize::try_from(self.position.saturating_sub(begin)).unwrap_or(usize::MAX);
        let Contents { seed, generation, scratch } = self.contents;
        if begin == 0 {
            copy(part, head(self.number, self.bytes, seed).into_iter().skip(skip));
        } else if begin == sum_at {
            copy(part, self.digest.sum().crc64_nvme.to_le_bytes().into_iter().skip(skip));
        } else if begin == tail_at {
            copy(part, generation.to_le_bytes().into_iter().chain(scratch).skip(skip));
        } else {
            fill_contents(seed.wrapping_add(self.number), self.position, part);
        }
        self.position = self.position.saturating_add(to_u64(len));
        if begin != sum_at {
            self.digest.update(part);
        }
        len
    }
}

fn head(number: u64, bytes: u64, seed: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    copy(&mut head, [MAGIC, number, bytes, seed].into_iter().flat_map(u64::to_le_bytes));
    head
}

/// The resuming side of the firmware.
#[derive(Debug)]
pub(super) struct Loader {
    /// What the images loaded so far say.
    loaded: Option<Contents>,
    next_number: u64,
    head: [u8; HEAD_BYTES],
    tail: [u8; TAIL_BYTES],
    digest: Digest,
}

impl Loader {
    pub(super) fn new() -> Self {
        Self { loaded: None, next_number: 0, head: [0; HEAD_BYTES], tail: [0; TAIL_BYTES], digest: Digest::new() }
    }

    /// The state after the last image that was loaded, if any was.
    pub(super) fn loaded(&self) -> Option<Contents> {
        self.loaded
    }

    /// What the complete image says: its number and the state.
    fn judge(&self, image_bytes: u64) -> Option<(u64, Contents)> {
        let number = word(&self.head, 1)?;
        let seed = word(&self.head, 3)?;
        let (generation, sum) = (word(&self.tail, 0)?, word(&self.tail, 9)?);
        let scratch = *self.tail.get(8..)?.first_chunk()?;
        let builds_on = number == 0 || (self.loaded.is_some() && number == self.next_number);
        let is_sound = image_bytes >= IMAGE_BYTES_MIN
            && self.head == head(number, image_bytes, seed)
            && sum == self.digest.sum().crc64_nvme;
        (is_sound && builds_on).then_some((number, Contents { seed, generation, scratch }))
    }
}

impl Firmware for Loader {
    fn data(&mut self, image_bytes: u64, offset: u64, data: &[u8]) {
        if offset == 0 {
            self.digest = Digest::new();
        }
        let tail_at = image_bytes.saturating_sub(to_u64(TAIL_BYTES));
        let sum_at = image_bytes.saturating_sub(SUM_BYTES);
        place(&mut self.head, 0, offset, data);
        place(&mut self.tail, tail_at, offset, data);
        let summed = usize::try_from(sum_at.saturating_sub(offset)).unwrap_or(usize::MAX);
        self.digest.update(data.get(..summed).unwrap_or(data));
    }

    /// EINVAL, as for any parameter that the firmware refuses, for what is damaged or does not follow.
    fn load(&mut self, image_bytes: u64) -> Result<(), i32> {
        let (number, contents) = self.judge(image_bytes).ok_or(Errno::EINVAL.raw())?;
        self.loaded = Some(contents);
        self.next_number = number.saturating_add(1);
        Ok(())
    }
}

/// Copies what of `data`, which stands at `offset`, falls on `part`, which stands at `at`.
fn place(part: &mut [u8], at: u64, offset: u64, data: &[u8]) {
    let skip_data = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX);
    let skip_part = usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX);
    let (Some(to), Some(from)) = (part.get_mut(skip_part..), data.get(skip_data..)) else { return };
    copy(to, from.iter().copied());
}

fn word(bytes: &[u8], index: usize) -> Option<u64> {
    bytes.chunks_exact(8).nth(index)?.try_into().ok().map(u64::from_le_bytes)
}

fn to_u64(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
