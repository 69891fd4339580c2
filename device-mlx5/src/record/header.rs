// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The 16 bytes in front of every payload.

/// Size of a record header in bytes.
pub const HEADER_BYTES: usize = 16;

/// A reader that does not know the tag may skip the record.
pub const FLAG_OPTIONAL: u32 = 1;

/// A record header.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "these are the fields on the wire")]
pub struct Header {
    /// `record_size`: payload bytes that follow.
    pub record_bytes: u64,
    /// [`FLAG_OPTIONAL`], or 0 for a record that must be understood. The kernel ignores all other bits, and this one too
    /// on tags it knows.
    pub flags: u32,
    /// What the record is.
    pub tag: u32,
}

impl Header {
    /// Takes the bytes apart. Any bytes are a header; whether it is acceptable, the decoder decides.
    #[must_use]
    pub const fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, f0, f1, f2, f3, t0, t1, t2, t3] = *bytes;
        Self {
            record_bytes: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            flags: u32::from_le_bytes([f0, f1, f2, f3]),
            tag: u32::from_le_bytes([t0, t1, t2, t3]),
        }
    }

    /// The bytes on the wire.
    #[must_use]
    pub const fn encode(&self) -> [u8; HEADER_BYTES] {
        let [s0, s1, s2, s3, s4, s5, s6, s7] = self.record_bytes.to_le_bytes();
        let ([f0, f1, f2, f3], [t0, t1, t2, t3]) = (self.flags.to_le_bytes(), self.tag.to_le_bytes());
        [s0, s1, s2, s3, s4, s5, s6, s7, f0, f1, f2, f3, t0, t1, t2, t3]
    }

    /// Whether a reader that does not know the tag may skip the record.
    #[must_use]
    pub const fn is_optional(&self) -> bool {
        self.flags & FLAG_OPTIONAL != 0
    }

    /// The flags that have no known meaning.
    #[must_use]
    pub const fn unknown_flags(&self) -> u32 {
        self.flags & !FLAG_OPTIONAL
    }
}

/// A record and where it stands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct Record {
    /// Stream offset of the header in bytes.
    pub offset: u64,
    /// How many records came before, skipped ones included.
    pub index: u64,
    /// The header, as found.
    pub header: Header,
}

impl Record {
    pub(crate) const fn new(offset: u64, index: u64, header: Header) -> Self {
        Self { offset, index, header }
    }
}
