// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Firmware images and their place in a migration.

use core::fmt;

use crate::record::Record;

/// A firmware image: one FW_DATA record.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct Image {
    /// Its record. `record.header.record_bytes` is its size.
    pub record: Record,
    /// How many images came before.
    pub number: u64,
    /// What it is for, as far as the caller said in which state it was read.
    pub part: Part,
}

impl Image {
    pub(crate) const fn new(record: Record, number: u64, part: Part) -> Self {
        Self { record, number, part }
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.record.header.record_bytes
    }
}

/// What an image is for. Nothing in the stream says it; it follows from the state the device was in.
///
/// Images must be loaded in order, all of them: an incremental one changes what those before have loaded.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Part {
    /// The caller did not say.
    Unknown,
    /// The first, saved on entering PRE_COPY.
    Initial,
    /// Later ones in PRE_COPY: what has changed since.
    Incremental,
    /// Those that start in STOP_COPY. What is left of the queue of PRE_COPY counts as final too: it cannot be told apart.
    Final,
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Unknown => "image",
            Self::Initial => "initial image",
            Self::Incremental => "incremental image",
            Self::Final => "final image",
        })
    }
}

/// The state of the device that bytes are read from, for
/// [`StreamDecoder::set_phase`](crate::StreamDecoder::set_phase).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Phase {
    /// Not known, as in a file.
    Unknown,
    /// PRE_COPY or PRE_COPY_P2P.
    PreCopy,
    /// STOP_COPY.
    StopCopy,
}
