// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the caller allows.

use core::time::Duration;

/// Bounds that hold whatever a device or a peer says.
///
/// The memory of one side is one data buffer of `chunk_bytes_max`, one buffer for control frames, a few hundred
/// bytes per device, and what its tap asks to have held back ([`crate::tap::Tap::hold_bytes_max`]). Nothing else grows
/// with what is received.
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
    /// How long the peer may say nothing while it is waited for. It takes effect where the transport's reads return
    /// with `WouldBlock` or `TimedOut`, as those of a socket with `SO_RCVTIMEO` do; shorter ones also make a cancel
    /// heard sooner.
    pub silence_max: Duration,
}

impl Default for Limits {
    /// Pieces of 1 MiB, states of at most 1 TiB, 256 devices, 30 seconds of silence.
    fn default() -> Self {
        Self {
            chunk_bytes_max: 1 << 20,
            state_bytes_max: 1 << 40,
            devices_max: 256,
            silence_max: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// The length of a data buffer.
    #[cfg(feature = "std")]
    #[must_use]
    pub(crate) fn chunk_len(&self) -> usize {
        usize::try_from(self.chunk_bytes_max.max(1)).unwrap_or(usize::MAX)
    }
}
