// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The running digest of one device's state: how many bytes passed, and their CRC-64/NVME.
//!
//! It finds damage, loss and reordering between the two data fds. It is no proof against a peer that forges: a
//! transport that must be trusted is authenticated by TLS, which the VMM brings.

use core::fmt;

use crc_fast::CrcAlgorithm;

/// Byte count and CRC-64/NVME of everything fed so far.
#[derive(Clone, Copy)]
pub struct Digest {
    /// What was appended, and all before it.
    before: DigestSum,
    /// Fed since then.
    bytes: u64,
    crc: crc_fast::Digest,
}

impl Digest {
    /// The digest of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { before: DigestSum::default(), bytes: 0, crc: crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme) }
    }

    /// Feeds the next bytes. Segmentation does not matter, order does.
    pub fn update(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.crc.update(bytes);
    }

    /// Feeds bytes that somebody else has summed up.
    pub fn append(&mut self, sum: DigestSum) {
        *self = Self { before: self.sum().then(sum), ..Self::new() };
    }

    /// Count and checksum so far.
    #[must_use]
    pub fn sum(&self) -> DigestSum {
        let fed = DigestSum { bytes: self.bytes, crc64_nvme: self.crc.finalize() };
        if self.before.bytes == 0 { fed } else { self.before.then(fed) }
    }

    /// How many bytes so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.before.bytes.saturating_add(self.bytes)
    }
}

impl Default for Digest {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.sum(), f)
    }
}

/// What both sides compare before the source gives the device up.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct DigestSum {
    /// Bytes of device state.
    pub bytes: u64,
    /// CRC-64/NVME over them, in stream order.
    pub crc64_nvme: u64,
}

impl DigestSum {
    /// A sum as received from the peer.
    #[must_use]
    pub const fn new(bytes: u64, crc64_nvme: u64) -> Self {
        Self { bytes, crc64_nvme }
    }

    /// The sum of these bytes alone.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut digest = Digest::new();
        digest.update(bytes);
        digest.sum()
    }

    /// The sum over these bytes and those of `next` behind them, without the bytes: in microseconds, however many they are.
    #[must_use]
    pub fn then(self, next: Self) -> Self {
        let bytes = self.bytes.saturating_add(next.bytes);
        Self { bytes, crc64_nvme: times(self.crc64_nvme, power(next.bytes)) ^ next.crc64_nvme }
    }
}

/// The polynomial of CRC-64/NVME without its highest term, reflected: the highest bit is x⁰.
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;
/// x⁸, which so many zero bits behind a message multiply its checksum by.
const ONE_BYTE: u64 = 1 << 55;

/// The product of two polynomials, modulo that of the checksum.
fn times(mut left: u64, mut right: u64) -> u64 {
    let mut product = 0;
    while left != 0 {
        // Without a branch: which bits are set nobody can predict.
        product ^= right & (left >> 63).wrapping_neg();
        right = (right >> 1) ^ (POLYNOMIAL & (right & 1).wrapping_neg());
        left <<= 1;
    }
    product
}

/// x to the eighth of so many bytes, by squares.
fn power(mut bytes: u64) -> u64 {
    let (mut power, mut square) = (1 << 63, ONE_BYTE);
    while bytes != 0 {
        if bytes & 1 == 1 {
            power = times(power, square);
        }
        square = times(square, square);
        bytes >>= 1;
    }
    power
}

impl fmt::Display for DigestSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, CRC-64 {:016x}", self.bytes, self.crc64_nvme)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    /// The check value of CRC-64/NVME in the CRC catalogue, over the nine digits.
    #[test]
    fn check_value_of_the_catalogue() {
        let mut digest = Digest::new();
        digest.update(b"123456789");
        assert_eq!(digest.sum(), DigestSum::new(9, 0xae8b_1486_0a79_9888));
    }

    #[test]
    fn sums_of_pieces_make_the_sum_of_the_whole() {
        let bytes: std::vec::Vec<u8> =
            (0..70_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        for cut in [0, 1, 7, 8, 4096, 65_537, 70_000] {
            let (left, right) = bytes.split_at(cut);
            assert_eq!(DigestSum::of(left).then(DigestSum::of(right)), DigestSum::of(&bytes), "cut at {cut}");
        }
        assert_eq!(DigestSum::default().then(DigestSum::of(&bytes)), DigestSum::of(&bytes), "before the first piece");
    }

    #[test]
    fn a_digest_goes_on_behind_what_others_summed_up() {
        let mut digest = Digest::new();
        digest.append(DigestSum::of(b"de"));
        digest.update(b"vice");
        digest.append(DigestSum::of(b" st"));
        digest.append(DigestSum::of(b""));
        digest.update(b"ate");
        assert_eq!((digest.sum(), digest.bytes()), (DigestSum::of(b"device state"), 12));
    }

    #[test]
    fn segmentation_is_free_and_order_is_not() {
        let (mut whole, mut pieces, mut swapped) = (Digest::new(), Digest::new(), Digest::new());
        whole.update(b"device state");
        pieces.update(b"device");
        pieces.update(b"");
        pieces.update(b" state");
        swapped.update(b" state");
        swapped.update(b"device");
        assert_eq!(whole.sum(), pieces.sum());
        assert_ne!(whole.sum(), swapped.sum());
    }
}
