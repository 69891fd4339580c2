// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The bytes of a plain stream: header, contents by position, trailer.

use std::vec::Vec;

use super::super::Dma;
use super::registers::State;

/// Magic, version, own length, seed; the rest is zero.
pub(super) const HEADER_BYTES: usize = 64;
/// Magic, total length, checksum, seed, generation, scratch, own checksum.
const TRAILER_BYTES: usize = 112;
/// Between scratch and checksum, of a device that performs DMA: base, bytes, control, writes, peer writes, and what has
/// arrived: how many, and the last.
const DMA_BYTES: usize = 56;

const HEADER_MAGIC: u64 = u64::from_le_bytes(*b"SVPLAIN\n");
const TRAILER_MAGIC: u64 = u64::from_le_bytes(*b"SVPLEND\n");
/// Without and with DMA.
const VERSIONS: [u32; 2] = [1, 2];

/// The length of a trailer of a device with or without DMA.
pub(super) const fn trailer_bytes(has_dma: bool) -> usize {
    if has_dma { TRAILER_BYTES.saturating_add(DMA_BYTES) } else { TRAILER_BYTES }
}

pub(super) fn header(seed: u64, has_dma: bool) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    let [without, with] = VERSIONS;
    // The word at 8: version, then the header's own length.
    let kind = u64::from(if has_dma { with } else { without }) | (64_u64 << 32);
    for (field, word) in header.chunks_exact_mut(8).zip([HEADER_MAGIC, kind, seed]) {
        field.copy_from_slice(&word.to_le_bytes());
    }
    header
}

/// The seed of a good header.
pub(super) fn parse_header(bytes: &[u8; HEADER_BYTES], has_dma: bool) -> Option<u64> {
    let seed = word(bytes, 2)?;
    (header(seed, has_dma) == *bytes).then_some(seed)
}

/// What a trailer says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Trailer {
    /// Length of the whole stream, trailer included.
    pub(super) total_bytes: u64,
    /// CRC-64/NVME over all bytes before the trailer.
    pub(super) digest: u64,
    pub(super) device: State,
}

impl Trailer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let State { seed, generation, scratch, dma } = &self.device;
        let words = [TRAILER_MAGIC, self.total_bytes, self.digest, *seed, *generation];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).chain(*scratch).collect();
        if let Some(dma) = dma {
            let Dma { base, bytes: window, control, writes, peer_writes, inbox_writes, inbox_last, .. } = *dma;
            let words = [base, window, control, writes, peer_writes, inbox_writes, inbox_last];
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        let own = checksum(&bytes);
        bytes.extend(own.to_le_bytes());
        bytes
    }

    /// A trailer, with or without DMA by its length.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let has_dma = bytes.len() == trailer_bytes(true);
        let (body, own) = bytes.split_last_chunk::<8>()?;
        if bytes.len() != trailer_bytes(has_dma) || u64::from_le_bytes(*own) != checksum(body) {
            return None;
        }
        if word(body, 0)? != TRAILER_MAGIC {
            return None;
        }
        let (scratch, rest) = body.get(40..)?.split_first_chunk::<64>()?;
        let seed = word(body, 3)?;
        let dma = match word(rest, 0) {
            None => None,
            Some(base) => Some(Dma {
                seed,
                base,
                bytes: word(rest, 1)?,
                control: word(rest, 2)?,
                writes: word(rest, 3)?,
                peer_writes: word(rest, 4)?,
                inbox_writes: word(rest, 5)?,
                inbox_last: word(rest, 6)?,
                ..Dma::default()
            }),
        };
        let device = State { seed, generation: word(body, 4)?, scratch: *scratch, dma };
        Some(Self { total_bytes: word(body, 1)?, digest: word(body, 2)?, device })
    }
}

fn checksum(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}

/// The `index`th little-endian 64-bit word of `bytes`.
pub(super) fn word(bytes: &[u8], index: usize) -> Option<u64> {
    bytes.chunks_exact(8).nth(index)?.try_into().ok().map(u64::from_le_bytes)
}

/// Fills `buffer` with contents that follow from a seed and the position in them, for any model's stream: the same
/// bytes whatever the pieces, and nothing to keep.
pub fn fill(seed: u64, position: u64, buffer: &mut [u8]) {
    let mut index = position / 8;
    let skip = usize::try_from(position % 8).unwrap_or(0);
    let mut rest = buffer;
    if skip > 0 {
        let first = mix(seed, index).to_le_bytes();
        let (head, tail) = rest.split_at_mut(rest.len().min(8_usize.saturating_sub(skip)));
        for (to, from) in head.iter_mut().zip(first.iter().skip(skip)) {
            *to = *from;
        }
        index = index.wrapping_add(1);
        rest = tail;
    }
    let mut words = rest.chunks_exact_mut(8);
    for word in &mut words {
        word.copy_from_slice(&mix(seed, index).to_le_bytes());
        index = index.wrapping_add(1);
    }
    for (to, from) in words.into_remainder().iter_mut().zip(mix(seed, index).to_le_bytes()) {
        *to = from;
    }
}

/// SplitMix64's output function over a counter: every position has its word without the ones before it.
fn mix(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod test {
    use std::vec;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn contents_do_not_depend_on_the_segmentation() {
        let mut whole = vec![0; 200];
        fill(7, 3, &mut whole);
        let mut pieces: Vec<u8> = Vec::new();
        for len in [1, 4, 8, 3, 17, 40, 127] {
            let mut piece = vec![0; len];
            fill(7, 3 + u64::try_from(pieces.len()).unwrap(), &mut piece);
            pieces.extend(piece);
        }
        assert_eq!(pieces, whole);
        let mut other = vec![0; 200];
        fill(8, 3, &mut other);
        assert_ne!(other, whole, "the seed matters");
    }

    #[test]
    fn every_bit_of_a_trailer_counts() {
        let dma = Dma { seed: 1, base: 4, bytes: 5, control: 6, writes: 7, peer_writes: 8, ..Dma::default() };
        let dma = Dma { inbox_writes: 9, inbox_last: 10, ..dma };
        for dma in [None, Some(dma)] {
            let device = State { seed: 1, generation: 2, scratch: [3; 64], dma };
            let trailer = Trailer { total_bytes: 1000, digest: 5, device };
            let good = trailer.encode();
            assert_eq!(good.len(), trailer_bytes(dma.is_some()));
            assert_eq!(Trailer::decode(&good), Some(trailer));
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Trailer::decode(&bad), None, "bit {bit}");
            }
        }
    }
}
