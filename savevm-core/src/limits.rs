// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the caller allows.

use core::time::Duration;

/// Bounds that hold whatever a device or a peer says.
///
/// The memory of one side is `buffer_bytes_max`, a buffer for control frames per channel, the stacks of its threads, a
/// few KiB per device, and what its tap asks to have held back ([`crate::tap::Tap::hold_bytes_max`]). Nothing
/// else grows with what is received. Memory that goes past the buffers ([`memory_digest`](Self::memory_digest)) passes through a pipe for each
/// channel, which is the kernel's, has room for 1 MiB, and holds on to what the socket had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// The largest piece of device state in one frame, in bytes. A source cuts its state into pieces of at most this
    /// size; a target refuses larger ones.
    pub chunk_bytes_max: u32,
    /// What the buffers of one side may come to, in bytes, for all devices together. A target divides it evenly among
    /// the devices and grants the source no more; it cuts the pieces smaller where the share of a device would not be
    /// two of them. The bound holds in any order of arrival, with any slow device, and against any peer.
    ///
    /// Not more than this is under way to a target either. Over a long way it should be twice what the way carries in a round trip, or it
    /// limits the speed: 64 MiB are for 10 Gbit/s and 25 ms, if one device or memory moves alone. What is shared evenly is what each may
    /// have under way, whether the others move or not. A device has 128 pieces under way at most.
    pub buffer_bytes_max: u64,
    /// Whether each piece has a checksum of its own. Without (if both sides do without) damage on the way is found at
    /// the end of a device, by its digest, instead of before the piece is written; nothing damaged is ever run. Only of memory without
    /// [a digest](Self::memory_digest) nobody would notice.
    pub payload_checksums: bool,
    /// Whether guest memory has a digest over all of it, as every device has. Without (if both sides do without, and not in a file)
    /// the transport alone vouches for the bytes of memory, and their count is what is compared at the end; that is what QEMU does.
    /// It spares either side a pass over memory. Where there are no payload checksums either, a target need not see the bytes at all: they
    /// go from a TCP connection to the file that the memory is ([`GuestMemory::as_file`](crate::ram::GuestMemory::as_file)) inside the
    /// kernel, by `pipe2`, `fcntl(F_SETPIPE_SZ)` and `splice`, which a filter of system calls should let pass. Devices have their digests in any
    /// case.
    pub memory_digest: bool,
    /// The largest state of one device, in bytes: an end to a device, or a peer, that never ends.
    pub state_bytes_max: u64,
    /// The most devices in one migration.
    pub devices_max: u32,
    /// How long nothing may move while this side waits for the peer.
    pub silence_max: Duration,
}

impl Default for Limits {
    /// Pieces of 1 MiB with checksums, a digest of memory, 64 MiB of buffers, states of at most 1 TiB, 256 devices, 30 seconds of silence.
    fn default() -> Self {
        Self {
            chunk_bytes_max: 1 << 20,
            buffer_bytes_max: 64 << 20,
            payload_checksums: true,
            memory_digest: true,
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
