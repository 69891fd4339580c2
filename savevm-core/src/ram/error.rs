// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Memory that cannot be read or written.

use alloc::string::String;
use core::fmt;

/// Guest memory did not do what was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("guest memory {region}: {access} {length} bytes at {offset:#x} failed: {detail}")]
#[non_exhaustive]
pub struct MemoryError {
    /// The region's name.
    pub region: String,
    /// What was asked.
    pub access: Access,
    /// Where in the region.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// The errno, where the failure came with one.
    pub errno: Option<i32>,
    /// What it means, for a person.
    pub detail: String,
}

impl MemoryError {
    /// A failure, with the errno where there is one.
    #[must_use]
    pub fn new(
        region: impl Into<String>,
        access: Access,
        (offset, length): (u64, u64),
        errno: Option<i32>,
        detail: impl Into<String>,
    ) -> Self {
        Self { region: region.into(), access, offset, length, errno, detail: detail.into() }
    }
}

/// What was asked of memory.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "memory is read or written")]
pub enum Access {
    /// Reading.
    Read,
    /// Writing.
    Write,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "reading",
            Self::Write => "writing",
        })
    }
}
