// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Dividing the memory a caller allows.

use std::format;

use stream_codec::frame::CREDIT_FRAMES_MAX;

use crate::error::Cause;
use crate::limits::Limits;

/// Chunks per device that keep both ends busy; more fall out of the cache (`spec/perf/limits.md` section 3).
const WINDOW_FRAMES: u64 = 8;

/// Chunks of guest memory per channel. Nobody keeps them: they are written as they come, so what is under way is in the connection,
/// which holds more than a device's window where it is TCP on one machine (6 MiB at the target alone). With less the source stands
/// still while the connection still has something to deliver.
const MEMORY_WINDOW_FRAMES: u64 = 16;

const PAGE_BYTES: u64 = 4096;

/// How large the buffers of one side are, and how many there may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Plan {
    /// Size of a buffer: the largest payload of a Data frame.
    pub(crate) chunk_bytes: u32,
    /// What each device is granted.
    pub(crate) window_frames: u64,
    /// What guest memory is granted, if it is among them.
    pub(crate) memory_frames: u64,
    /// Buffers for all that is granted.
    pub(crate) buffers: usize,
    /// And one for each channel, to read into before it is known what comes; none where the bound has no room for these and for as much
    /// again, which a channel's reader may have to keep.
    pub(crate) early: usize,
}

impl Plan {
    /// A target's: every device gets the same share, of at least two buffers while there is a page for each.
    pub(crate) fn target(limits: &Limits, devices: usize, channels: usize) -> Result<Self, Cause> {
        let (devices, channels) = (count(devices).max(1), count(channels));
        let memory = limits.buffer_bytes_max;
        let share = memory.checked_div(devices).unwrap_or(0);
        let half = share / 2;
        let fitting = if half >= PAGE_BYTES { half.saturating_sub(half % PAGE_BYTES) } else { half.max(1) };
        let chunk = u64::from(limits.chunk_bytes_max.max(1)).min(fitting);
        let affordable = share.checked_div(chunk).unwrap_or(0).min(CREDIT_FRAMES_MAX);
        let window_frames = affordable.min(WINDOW_FRAMES.max(channels.saturating_mul(2)));
        let memory_frames = affordable.min(MEMORY_WINDOW_FRAMES.saturating_mul(channels)).max(window_frames);
        if window_frames == 0 {
            return Err(Cause::refused(format!(
                "{memory} bytes of buffers are too few for {devices} devices; raise the limit (buffer_bytes_max)"
            )));
        }
        let others = devices.saturating_sub(1).saturating_mul(window_frames);
        let buffers = others.saturating_add(memory_frames);
        let left = memory.checked_div(chunk).unwrap_or(0).saturating_sub(buffers);
        let early = if left >= channels.saturating_mul(2) { channels } else { 0 };
        let chunk_bytes = u32::try_from(chunk).unwrap_or(u32::MAX);
        Ok(Self { chunk_bytes, window_frames, memory_frames, buffers: size(buffers), early: size(early) })
    }

    /// A source's: two buffers per device and one per channel are as many as can be at work.
    pub(crate) fn source(limits: &Limits, chunk_bytes: u32, devices: usize, channels: usize) -> Self {
        let chunk_bytes = chunk_bytes.max(1);
        let wanted = count(devices).saturating_mul(2).saturating_add(count(channels));
        let affordable = limits.buffer_bytes_max.checked_div(chunk_bytes.into()).unwrap_or(0);
        let buffers = size(wanted.min(affordable).max(1));
        Self { chunk_bytes, window_frames: 0, memory_frames: 0, buffers, early: 0 }
    }

    /// The length of a buffer in memory.
    pub(crate) fn chunk_len(&self) -> usize {
        usize::try_from(self.chunk_bytes).unwrap_or(usize::MAX)
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(all(test, not(loom)))]
mod test {
    use super::*;

    fn limits(chunk_bytes_max: u32, buffer_bytes_max: u64) -> Limits {
        Limits { chunk_bytes_max, buffer_bytes_max, ..Limits::default() }
    }

    #[test]
    fn no_plan_exceeds_the_bound() {
        for memory in [1, 2, 7, 4096, 8192, 100_000, 1 << 20, 64 << 20] {
            for devices in [1, 2, 3, 8, 256] {
                for channels in [1, 2, 64] {
                    for chunk in [1, 4096, 1 << 20, u32::MAX] {
                        let Ok(plan) = Plan::target(&limits(chunk, memory), devices, channels) else {
                            assert!(memory < devices as u64, "{memory} bytes for {devices} devices");
                            continue;
                        };
                        assert!((plan.buffers + 2 * plan.early) as u64 * u64::from(plan.chunk_bytes) <= memory);
                        assert!(plan.chunk_bytes <= chunk && (1..=128).contains(&plan.window_frames));
                        assert!((plan.window_frames..=CREDIT_FRAMES_MAX).contains(&plan.memory_frames));
                        let others = devices as u64 - 1;
                        assert_eq!(plan.buffers as u64, plan.window_frames * others + plan.memory_frames);
                    }
                }
            }
        }
    }

    #[test]
    fn chunks_shrink_before_windows_do() {
        let plan = Plan::target(&limits(1 << 20, 64 << 20), 4, 2).unwrap();
        assert_eq!((plan.chunk_bytes, plan.window_frames, plan.memory_frames), (1 << 20, 8, 16));
        let plan = Plan::target(&limits(1 << 20, 64 << 20), 256, 2).unwrap();
        assert_eq!((plan.chunk_bytes, plan.window_frames), (128 << 10, 2));
        let plan = Plan::target(&limits(1 << 20, 64 << 20), 1, 16).unwrap();
        assert_eq!(plan.window_frames, 32);
    }

    #[test]
    fn reading_early_takes_nothing_from_what_is_granted() {
        let early = |memory, devices, channels| {
            let plan = Plan::target(&limits(1 << 20, memory), devices, channels).unwrap();
            (plan.buffers, plan.early)
        };
        assert_eq!(early(64 << 20, 1, 1), (16, 1));
        assert_eq!(early(64 << 20, 4, 4), (3 * 8 + 16, 4));
        assert_eq!(early(64 << 20, 8, 1), (64, 0));
        assert_eq!(early(17 << 20, 1, 1), (16, 0), "one is not enough for a reader that has to keep another");
        assert_eq!(early(18 << 20, 1, 1), (16, 1));
    }

    #[test]
    fn memory_is_granted_more_where_its_share_is_enough() {
        let frames = |memory, devices, channels| {
            let plan = Plan::target(&limits(1 << 20, memory), devices, channels).unwrap();
            (plan.window_frames, plan.memory_frames)
        };
        assert_eq!(frames(64 << 20, 1, 1), (8, 16));
        assert_eq!(frames(64 << 20, 1, 2), (8, 32));
        assert_eq!(frames(64 << 20, 3, 2), (8, 21));
        assert_eq!(frames(64 << 20, 16, 2), (4, 4));
        assert_eq!(frames(1 << 40, 1, 64), (128, CREDIT_FRAMES_MAX));
    }
}
