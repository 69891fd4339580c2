// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Records: what two drivers of the kernel share, whatever the device.
//!
//! ```text
//! offset  size  field
//!      0     8  record_size  payload bytes after this header
//!      8     4  flags        bit 0: optional, a reader that does not know the tag may skip the record
//!     12     4  tag
//!     16        payload      record_size bytes, no padding
//! ```
//!
//! All integers are little-endian. There is no magic, no end mark and no checksum: a stream ends where it ends.
//!
//! `mlx5-vfio-pci` ([`FORMAT`](crate::FORMAT)) and `virtio-vfio-pci` ([`VIRTIO`]) write the same header, and the tag of
//! their images is the same number. **The bytes do not say whose they are**: the driver's identity must travel beside the
//! stream.
//!
//! ```
//! use device_mlx5::Decoder;
//! use device_mlx5::record::{Header, Limits, RecordDecoder, RecordEvent, VIRTIO};
//!
//! let mut stream = Header { record_bytes: 3, flags: 0, tag: 0 }.encode().to_vec();
//! stream.extend_from_slice(b"abc");
//! let mut decoder = RecordDecoder::new(VIRTIO, Limits::DEFAULT);
//! let start = decoder.decode(&stream)?;
//! let Some(RecordEvent::Start(record)) = start.event else { panic!("no record") };
//! assert_eq!((start.consumed, record.header.record_bytes), (16, 3));
//! let payload = decoder.decode(&stream[16..])?.event;
//! assert_eq!(payload, Some(RecordEvent::Payload { record, position: 0, bytes: b"abc" }));
//! # Ok::<(), device_mlx5::Error>(())
//! ```

mod decoder;
mod error;
mod header;

pub use self::decoder::{RecordDecoder, RecordEvent};
pub use self::error::{Error, Reason};
pub use self::header::{FLAG_OPTIONAL, HEADER_BYTES, Header, Record};

/// A tag that a format knows.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a format is written as a constant")]
pub struct Tag {
    /// The number in the header.
    pub number: u32,
    /// Its name, for errors.
    pub name: &'static str,
}

/// What distinguishes one driver's records from another's.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a format is written as a constant")]
pub struct Format {
    /// Name of the driver, for errors.
    pub name: &'static str,
    /// The tags it knows. A record with another is skipped if it is optional and refused if it is not.
    pub tags: &'static [Tag],
    /// The tag of the records that carry state. A stream without any is incomplete.
    pub image_tag: u32,
    /// Largest payload of a record that the kernel accepts, in bytes.
    pub record_bytes_max: u64,
}

impl Format {
    /// The name of a tag, if the format knows it.
    #[must_use]
    pub fn tag_name(&self, number: u32) -> Option<&'static str> {
        self.tags.iter().find(|tag| tag.number == number).map(|tag| tag.name)
    }
}

/// The records of `virtio-vfio-pci`. Each holds a complete state, which replaces the one before.
///
/// The limit is below the kernel's: with 8 bytes more its arithmetic wraps in 32 bits.
pub const VIRTIO: Format = Format {
    name: "virtio",
    tags: &[Tag { number: 0, name: "DEVICE_DATA" }],
    image_tag: 0,
    record_bytes_max: 0xffff_fff7,
};

/// Bounds that the reader of a stream sets.
///
/// A decoder holds no payload, so they protect what comes after it: the kernel pins memory for a whole record once it has
/// seen the header, also for an optional record that it will skip.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "callers set limits as literals")]
pub struct Limits {
    /// Largest payload of one record in bytes. 1 GiB by default.
    pub record_bytes: u64,
    /// Longest stream in bytes, headers included. 1 TiB by default: pre-copy may go on for long.
    pub total_bytes: u64,
}

impl Limits {
    /// The values named at the fields.
    pub const DEFAULT: Self = Self { record_bytes: 1 << 30, total_bytes: 1 << 40 };

    /// No bound but those of the format itself.
    pub const FORMAT: Self = Self { record_bytes: u64::MAX, total_bytes: u64::MAX };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
