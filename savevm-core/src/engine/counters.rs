// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the engine counted.

use std::vec::Vec;

/// How one side's data plane was used, as values.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Counters {
    /// The most bytes of buffers in use at once. Never above `buffer_bytes_bound`.
    pub buffer_bytes_peak: u64,
    /// What the buffers could have come to: at most [`Limits::buffer_bytes_max`](crate::Limits::buffer_bytes_max).
    pub buffer_bytes_bound: u64,
    /// How many buffers were ever made: in a steady state the number stands still.
    pub buffers_made: u64,
    /// The largest piece of state in one frame that both sides agreed on, in bytes.
    pub chunk_bytes: u32,
    /// What went out on each channel, by the channel's index. Zeros on the side that receives.
    pub channels: Vec<ChannelCounters>,
}

/// How one channel was used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct ChannelCounters {
    /// Pieces of device state.
    pub frames: u64,
    /// Bytes of device state.
    pub bytes: u64,
}
