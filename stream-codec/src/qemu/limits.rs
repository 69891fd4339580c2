// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a reader is willing to take.

/// Bounds that the reader of a stream sets. Everything beyond is refused before a byte is allocated for it.
///
/// Payloads that are handed out in pieces (RAM pages, device state, large fields, the vmdesc) need no bound: nothing of
/// them is kept.
///
/// ```
/// use stream_codec::qemu::Limits;
///
/// let limits = Limits { section_bytes: 64 << 10, ..Limits::DEFAULT };
/// assert!(limits.buffer_bytes() > 64 << 10);
/// ```
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Limits {
    /// Most sections that are started and go on later (RAM, one per VFIO device, …). 1024 by default.
    pub sections: u32,
    /// Most RAM blocks. 1024 by default.
    pub ram_blocks: u32,
    /// Longest payload of a section whose end must be searched, in bytes: that much is buffered. 16 MiB by default.
    pub section_bytes: usize,
    /// Longest config state of a VFIO device, in bytes: that much is buffered. 64 KiB by default; a PCIe function with
    /// 2048 vectors needs 37 140.
    pub config_bytes: usize,
    /// Longest data of a command, in bytes: that much is buffered. 65 535 by default, the longest there is.
    pub command_bytes: usize,
}

/// The most that is looked at beyond the end of a section to tell its footer from data: a footer and the header of
/// the next section with an id string of 255 bytes.
pub(super) const LOOK_AHEAD_BYTES: usize = 5 + 5 + 256 + 8;

/// The longest multifd RAM packet, with pages of 1 KiB.
const PACKET_BYTES_MAX: usize = 320 + 8 * 512;

/// More than the place in the deepest vmdesc takes.
const PATH_BYTES_MAX: usize = 16 << 10;

impl Limits {
    /// The values named at the fields.
    pub const DEFAULT: Self = Self {
        sections: 1024,
        ram_blocks: 1024,
        section_bytes: 16 << 20,
        config_bytes: 64 << 10,
        command_bytes: 65_535,
    };

    /// The most memory that a decoder of this module holds for bytes of the stream, but for the names that the one of
    /// the main stream remembers.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        let longest = self.section_bytes.max(self.config_bytes).max(self.command_bytes).max(PACKET_BYTES_MAX);
        // A buffer that grows copies the old one: at most twice the longest item.
        longest.saturating_add(LOOK_AHEAD_BYTES).saturating_mul(2)
    }

    /// The most memory that a decoder of the main stream holds, names of sections and RAM blocks included.
    #[must_use]
    pub fn main_bytes(&self) -> usize {
        let names = usize::try_from(self.sections.saturating_add(self.ram_blocks)).unwrap_or(usize::MAX);
        self.buffer_bytes().saturating_add(names.saturating_mul(512)).saturating_add(PATH_BYTES_MAX)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
