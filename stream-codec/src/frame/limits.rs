// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a reader is willing to take.

/// Bounds that the reader of a stream sets. Everything beyond is refused before a byte is allocated for it.
///
/// ```
/// use stream_codec::frame::Limits;
///
/// let limits = Limits { data_bytes: 256 << 10, devices: 4, ..Limits::DEFAULT };
/// assert_eq!(limits.control_bytes, 4096);
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Limits {
    /// Largest payload of one Data frame, in bytes. 1 MiB by default, the size at which both ends use least CPU.
    pub data_bytes: u32,
    /// Largest payload of any other frame, in bytes. 4096 by default. Hello needs 64.
    pub control_bytes: u32,
    /// Most devices in one stream; device numbers are below it. 256 by default. `u32::MAX` counts as one less.
    pub devices: u32,
    /// Most regions of guest memory. 256 by default.
    pub regions: u16,
    /// Most channels of one session, at most 64. 64 by default.
    pub channels: u16,
    /// Whether Data without a checksum is taken: for a side that offers [`Support::UNCHECKED`](super::Support::UNCHECKED).
    /// No by default.
    pub unchecked_data: bool,
    /// Longest device name, in bytes. At most 255, the default.
    pub name_bytes: u16,
    /// Longest migration identity of a device, in bytes. 1024 by default.
    pub identity_bytes: u16,
    /// Longest reason in an Abort, in bytes. 1024 by default.
    pub reason_bytes: u16,
}

impl Limits {
    /// The values named at the fields.
    pub const DEFAULT: Self = Self {
        data_bytes: 1 << 20,
        control_bytes: 4096,
        devices: 256,
        regions: 256,
        channels: 64,
        unchecked_data: false,
        name_bytes: super::NAME_BYTES_MAX,
        identity_bytes: 1024,
        reason_bytes: 1024,
    };

    /// No bound but those of the format itself: for writers, whose own program chose the values.
    pub const FORMAT: Self = Self {
        data_bytes: u32::MAX,
        control_bytes: u32::MAX,
        devices: u32::MAX,
        regions: u16::MAX,
        channels: u16::MAX,
        unchecked_data: true,
        name_bytes: super::NAME_BYTES_MAX,
        identity_bytes: u16::MAX,
        reason_bytes: u16::MAX,
    };

    /// Largest payload of any frame, in bytes: what a reader's buffer must hold.
    #[must_use]
    pub fn payload_bytes(&self) -> u32 {
        self.data_bytes.max(self.control_bytes)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
