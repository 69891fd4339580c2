// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The end-to-end check of a device's bytes.

use core::fmt;

use super::DIGEST_BYTES_MAX;
use super::error::Reason;

/// How a [`Digest`] was computed. Numbers that have no name here are carried, not understood.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct DigestAlgorithm(pub u16);

impl DigestAlgorithm {
    /// No digest: zero bytes.
    pub const NONE: Self = Self(0);
    /// CRC-64/NVME over the device's bytes, little-endian: 8 bytes.
    pub const CRC64_NVME: Self = Self(1);
    /// SHA-256: 32 bytes.
    pub const SHA256: Self = Self(2);
    /// BLAKE3: 32 bytes.
    pub const BLAKE3: Self = Self(3);

    /// How many bytes a digest of this algorithm has, if the algorithm is known.
    #[must_use]
    pub const fn length(self) -> Option<usize> {
        match self {
            Self::NONE => Some(0),
            Self::CRC64_NVME => Some(8),
            Self::SHA256 | Self::BLAKE3 => Some(32),
            _ => None,
        }
    }
}

/// A digest over all bytes of a device's state, in the order in which they were read from it.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Digest {
    algorithm: DigestAlgorithm,
    length: u8,
    bytes: [u8; DIGEST_BYTES_MAX],
}

impl Digest {
    /// No digest.
    pub const NONE: Self = Self { algorithm: DigestAlgorithm::NONE, length: 0, bytes: [0; DIGEST_BYTES_MAX] };

    /// A digest of at most 32 bytes.
    ///
    /// # Errors
    /// [`Reason::Digest`] if the length does not fit the algorithm: exact for a known one, 1 to 32 for any other.
    pub fn new(algorithm: DigestAlgorithm, digest: &[u8]) -> Result<Self, Reason> {
        let wrong =
            || Reason::Digest { algorithm: algorithm.0, length: u16::try_from(digest.len()).unwrap_or(u16::MAX) };
        let fits = algorithm.length().map_or(!digest.is_empty(), |length| length == digest.len());
        let mut bytes = [0; DIGEST_BYTES_MAX];
        let slot = bytes.get_mut(..digest.len()).filter(|_| fits).ok_or_else(wrong)?;
        slot.copy_from_slice(digest);
        Ok(Self { algorithm, length: u8::try_from(digest.len()).map_err(|_| wrong())?, bytes })
    }

    /// A CRC-64/NVME.
    #[must_use]
    pub fn crc64_nvme(crc: u64) -> Self {
        // Eight bytes are what the algorithm has, so this cannot be the fallback.
        Self::new(DigestAlgorithm::CRC64_NVME, &crc.to_le_bytes()).unwrap_or(Self::NONE)
    }

    /// How it was computed.
    #[must_use]
    pub const fn algorithm(&self) -> DigestAlgorithm {
        self.algorithm
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Digest({self})")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.algorithm {
            DigestAlgorithm::NONE => return formatter.write_str("none"),
            DigestAlgorithm::CRC64_NVME => formatter.write_str("crc64-nvme:")?,
            DigestAlgorithm::SHA256 => formatter.write_str("sha256:")?,
            DigestAlgorithm::BLAKE3 => formatter.write_str("blake3:")?,
            DigestAlgorithm(number) => write!(formatter, "algorithm-{number}:")?,
        }
        self.bytes().iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

#[cfg(test)]
mod test {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn the_length_must_fit_the_algorithm() {
        let wrong = |algorithm, length| Err(Reason::Digest { algorithm, length });
        assert_eq!(Digest::new(DigestAlgorithm::NONE, &[]), Ok(Digest::NONE));
        assert_eq!(Digest::new(DigestAlgorithm::NONE, &[1]), wrong(0, 1));
        assert_eq!(Digest::new(DigestAlgorithm::CRC64_NVME, &[1; 7]), wrong(1, 7));
        assert_eq!(Digest::new(DigestAlgorithm::SHA256, &[1; 33]), wrong(2, 33));
        assert_eq!(Digest::new(DigestAlgorithm(900), &[]), wrong(900, 0));
        assert_eq!(Digest::new(DigestAlgorithm(900), &[1; 33]), wrong(900, 33));
        assert_eq!(Digest::new(DigestAlgorithm(900), &[1, 2]).unwrap().bytes(), [1, 2]);
    }

    #[test]
    fn a_crc_is_stored_little_endian() {
        let digest = Digest::crc64_nvme(0x0102_0304_0506_0708);
        assert_eq!(digest.bytes(), [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(digest.to_string(), "crc64-nvme:0807060504030201");
    }
}
