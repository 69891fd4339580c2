// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Headers in the order the format demands.

use thiserror::Error;

use crate::record::{FLAG_OPTIONAL, HEADER_BYTES, Header};
use crate::{FORMAT, STOP_COPY_SIZE_BYTES, TAG_FW_DATA, TAG_STOP_COPY_SIZE};

/// Why something cannot be written next. The caller's program is at fault, and nothing was counted.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum EncodeError {
    /// STOP_COPY_SIZE comes first, and once.
    #[error("STOP_COPY_SIZE after {records} records; it comes first")]
    StopCopySizeNotFirst {
        /// How many records there are.
        records: u64,
    },
    /// No kernel accepts a record of this size.
    #[error("a record of {bytes} bytes; the kernel accepts {limit}", limit = FORMAT.record_bytes_max)]
    TooLarge {
        /// Payload in bytes.
        bytes: u64,
    },
    /// An optional record needs a tag of its own.
    #[error("tag {tag} of an optional record is one of the format's")]
    KnownTag {
        /// The tag.
        tag: u32,
    },
    /// The payload of the record before is not complete.
    #[error("{bytes} bytes of the last record are missing")]
    Missing {
        /// How many bytes.
        bytes: u64,
    },
    /// More payload than the header announced.
    #[error("{bytes} bytes of payload, {left} were left")]
    TooMuch {
        /// How many bytes.
        bytes: u64,
        /// How many were left.
        left: u64,
    },
    /// An empty image before any other, and no STOP_COPY_SIZE above 0: the kernel refuses it.
    #[error("an empty image before any other")]
    EmptyImage,
    /// A stream without state.
    #[error("the stream has no image, or empty ones only")]
    NoImage,
}

/// Writes headers and counts payloads, so that what comes out is a stream that [`StreamDecoder`](crate::StreamDecoder)
/// accepts. Payloads go where the caller sends them, uncopied. See [`StreamDecoder`](crate::StreamDecoder) for an example.
#[derive(Clone, Copy, Debug, Default)]
pub struct Encoder {
    records: u64,
    missing_bytes: u64,
    has_image: bool,
    /// STOP_COPY_SIZE makes the kernel allocate a buffer for any image.
    has_size: bool,
}

impl Encoder {
    /// An encoder at the start of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self { records: 0, missing_bytes: 0, has_image: false, has_size: false }
    }

    /// The STOP_COPY_SIZE record, whole. The driver writes it as an optional record.
    ///
    /// # Errors
    /// [`EncodeError::StopCopySizeNotFirst`].
    pub fn stop_copy_size(&mut self, bytes: u64) -> Result<[u8; 24], EncodeError> {
        if self.records > 0 {
            return Err(EncodeError::StopCopySizeNotFirst { records: self.records });
        }
        self.records = 1;
        self.has_size = bytes > 0;
        let header = Header { record_bytes: STOP_COPY_SIZE_BYTES, flags: FLAG_OPTIONAL, tag: TAG_STOP_COPY_SIZE };
        let mut record = [0; 24];
        let content = header.encode().into_iter().chain(bytes.to_le_bytes());
        record.iter_mut().zip(content).for_each(|(slot, byte)| *slot = byte);
        Ok(record)
    }

    /// The header of a firmware image of `bytes`.
    ///
    /// # Errors
    /// [`EncodeError::Missing`], [`EncodeError::TooLarge`] or [`EncodeError::EmptyImage`].
    pub fn image(&mut self, bytes: u64) -> Result<[u8; HEADER_BYTES], EncodeError> {
        if bytes == 0 && !self.has_image && !self.has_size {
            return Err(EncodeError::EmptyImage);
        }
        let header = self.record(Header { record_bytes: bytes, flags: 0, tag: TAG_FW_DATA })?;
        self.has_image |= bytes > 0;
        Ok(header)
    }

    /// The header of a record that readers skip.
    ///
    /// # Errors
    /// [`EncodeError::KnownTag`], [`EncodeError::Missing`] or [`EncodeError::TooLarge`].
    pub fn optional(&mut self, tag: u32, bytes: u64) -> Result<[u8; HEADER_BYTES], EncodeError> {
        if FORMAT.tag_name(tag).is_some() {
            return Err(EncodeError::KnownTag { tag });
        }
        self.record(Header { record_bytes: bytes, flags: FLAG_OPTIONAL, tag })
    }

    /// Counts payload of the record whose header came last.
    ///
    /// # Errors
    /// [`EncodeError::TooMuch`].
    pub const fn payload(&mut self, bytes: u64) -> Result<(), EncodeError> {
        match self.missing_bytes.checked_sub(bytes) {
            Some(left) => {
                self.missing_bytes = left;
                Ok(())
            }
            None => Err(EncodeError::TooMuch { bytes, left: self.missing_bytes }),
        }
    }

    /// Ends the stream. There is nothing to write.
    ///
    /// # Errors
    /// [`EncodeError::Missing`] or [`EncodeError::NoImage`].
    pub const fn finish(self) -> Result<(), EncodeError> {
        match (self.missing_bytes, self.has_image) {
            (0, true) => Ok(()),
            (0, false) => Err(EncodeError::NoImage),
            (bytes, _) => Err(EncodeError::Missing { bytes }),
        }
    }

    fn record(&mut self, header: Header) -> Result<[u8; HEADER_BYTES], EncodeError> {
        let bytes = header.record_bytes;
        if self.missing_bytes > 0 {
            return Err(EncodeError::Missing { bytes: self.missing_bytes });
        }
        if bytes > FORMAT.record_bytes_max {
            return Err(EncodeError::TooLarge { bytes });
        }
        self.records = self.records.saturating_add(1);
        self.missing_bytes = bytes;
        Ok(header.encode())
    }
}
