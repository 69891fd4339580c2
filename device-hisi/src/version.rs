// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The two versions of the structure. There is no third up to Linux 7.3.

use core::fmt;

use crate::error::Reason;

/// The first eight bytes of version 1, as a little-endian integer.
pub const MAGIC_V1: u64 = 0xCDCD_CDCD_FEED_AACC;

/// The first eight bytes of version 2, as a little-endian integer.
pub const MAGIC_V2: u64 = 0xAACC_FEED_DECA_DEDE;

/// The major version that version 2 carries. The kernel accepts no other, so neither does this crate.
pub const MAJOR: u16 = 1;

/// The version of a structure, with what its four bytes at offset 28 hold.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Version {
    /// Written by kernels before 6.16 that lack the queue address fix. Its `eqe_dma` and `aeqe_dma` may be wrong.
    V1 {
        /// A reserved word, usually 0.
        reserved: u32,
    },
    /// Written by kernels from 6.16 on, and by stable kernels with the fix. Its major version is [`MAJOR`].
    V2 {
        /// Minor version, 0 so far. The kernel ignores it.
        minor: u16,
    },
}

impl Version {
    /// What a kernel with the fix writes.
    pub const CURRENT: Self = Self::V2 { minor: 0 };

    /// The magic at offset 0.
    #[must_use]
    pub const fn magic(self) -> u64 {
        match self {
            Self::V1 { .. } => MAGIC_V1,
            Self::V2 { .. } => MAGIC_V2,
        }
    }

    /// Whether this is version 1.
    #[must_use]
    pub const fn is_v1(self) -> bool {
        matches!(self, Self::V1 { .. })
    }

    /// The four bytes at offset 28.
    pub(crate) const fn word(self) -> u32 {
        match self {
            Self::V1 { reserved } => reserved,
            Self::V2 { minor } => {
                let ([m0, m1], [n0, n1]) = (MAJOR.to_le_bytes(), minor.to_le_bytes());
                u32::from_le_bytes([m0, m1, n0, n1])
            }
        }
    }

    /// The version with this magic and these four bytes at offset 28.
    pub(crate) const fn new(magic: u64, word: u32) -> Result<Self, Reason> {
        if let Err(reason) = check_magic(magic) {
            return Err(reason);
        }
        if magic == MAGIC_V1 {
            return Ok(Self::V1 { reserved: word });
        }
        let [m0, m1, n0, n1] = word.to_le_bytes();
        let (major, minor) = (u16::from_le_bytes([m0, m1]), u16::from_le_bytes([n0, n1]));
        if major == MAJOR { Ok(Self::V2 { minor }) } else { Err(Reason::Major { major, minor }) }
    }
}

/// Whether a stream that starts with this magic can be read at all.
pub(crate) const fn check_magic(magic: u64) -> Result<(), Reason> {
    match (magic, magic.swap_bytes()) {
        (MAGIC_V1 | MAGIC_V2, _) => Ok(()),
        (_, MAGIC_V1 | MAGIC_V2) => Err(Reason::ByteOrder { found: magic.to_le_bytes() }),
        _ => Err(Reason::Magic { found: magic.to_le_bytes() }),
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V1 { .. } => formatter.write_str("version 1"),
            Self::V2 { minor } => write!(formatter, "version 2 ({MAJOR}.{minor})"),
        }
    }
}
