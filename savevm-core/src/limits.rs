// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the caller allows.

/// Bounds that hold whatever a device or a peer says.
///
/// The memory of one side is one data buffer of `chunk_bytes_max`, one buffer for control frames, and a few hundred
/// bytes per device. Nothing else grows with what is received.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// The largest piece of device state in one frame, in bytes. A source cuts its state into pieces of at most this
    /// size; a target refuses larger ones.
    pub chunk_bytes_max: u32,
    /// The largest state of one device, in bytes: an end to a device, or a peer, that never ends.
    pub state_bytes_max: u64,
    /// The most devices in one migration.
    pub devices_max: u32,
}

impl Default for Limits {
    /// Pieces of 1 MiB, states of at most 1 TiB, 256 devices.
    fn default() -> Self {
        Self { chunk_bytes_max: 1 << 20, state_bytes_max: 1 << 40, devices_max: 256 }
    }
}

impl Limits {
    /// The length of a data buffer.
    #[must_use]
    pub(crate) fn chunk_len(&self) -> usize {
        usize::try_from(self.chunk_bytes_max.max(1)).unwrap_or(usize::MAX)
    }
}
