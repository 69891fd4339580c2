// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The forms a stream had over the years.

use core::fmt;

use crate::record::{FLAG_OPTIONAL, HEADER_BYTES, Header};
use crate::{FORMAT, TAG_STOP_COPY_SIZE};

/// What the first 16 bytes of a stream tell about the kernel that wrote it.
///
/// ```
/// use device_mlx5::Form;
///
/// let first = [8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0];
/// assert_eq!(Form::of(&first), Form::Current);
/// assert_eq!(Form::of(b"any other bytes."), Form::Bare);
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Form {
    /// Records, STOP_COPY_SIZE first: kernels from 6.3 on with PRE_COPY firmware, all from 6.9 on.
    Current,
    /// Records without STOP_COPY_SIZE: kernel 6.2 with PRE_COPY firmware. Such a target, in turn, takes no
    /// STOP_COPY_SIZE record.
    WithoutSize,
    /// Records of a kind that is not known.
    Unknown,
    /// No records: a bare firmware image of kernels 5.18 to 6.8 with firmware without PRE_COPY, or no stream of this driver
    /// at all. A bare image does not describe itself, so one that happens to start like a record cannot be told.
    Bare,
}

impl Form {
    /// Looks at the first bytes of a stream.
    #[must_use]
    pub fn of(first: &[u8; HEADER_BYTES]) -> Self {
        let header = Header::decode(first);
        let is_known = FORMAT.tag_name(header.tag).is_some();
        // The kernel writes no other flags. It ignores them on tags it knows, and a size beyond its limit it refuses.
        let is_plain = header.flags & !FLAG_OPTIONAL == 0;
        let is_small = header.record_bytes <= FORMAT.record_bytes_max;
        match (is_known, is_plain, is_small) {
            (true, true, _) | (true, _, true) if header.tag == TAG_STOP_COPY_SIZE => Self::Current,
            (true, true, _) | (true, _, true) => Self::WithoutSize,
            (false, true, true) => Self::Unknown,
            _ => Self::Bare,
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Current => "records (kernel 6.3 or newer)",
            Self::WithoutSize => "records without STOP_COPY_SIZE (kernel 6.2)",
            Self::Unknown => "records of an unknown kind",
            Self::Bare => "no records: a bare firmware image (kernel 6.8 or older), or another format",
        })
    }
}
