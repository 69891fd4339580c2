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
    pub(crate) device: Grant,
    /// If guest memory is among them.
    pub(crate) memory: Grant,
    /// Buffers for all that is granted.
    pub(crate) buffers: usize,
    /// And one for each channel, to read into before it is known what comes; none where the bound has no room for these and for as much
    /// again, which a channel's reader may have to keep.
    pub(crate) early: usize,
}

/// How many frames of one device, or of memory, may be under way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Grant {
    /// Enough where the way is short: what a source begins with, and what a target tells of half at a time.
    pub(crate) few: u64,
    /// What the target has buffers for, for a [longer way](super::reach).
    pub(crate) most: u64,
}

impl Grant {
    /// There are buffers for so many more.
    fn and(few: u64, more: u64) -> Self {
        Self { few, most: few.saturating_add(more).min(CREDIT_FRAMES_MAX) }
    }

    /// Never more than a few.
    #[cfg(test)]
    pub(super) const fn only(few: u64) -> Self {
        Self { few, most: few }
    }
}

impl Plan {
    /// A target's: every device gets the same share, of at least two buffers while there is a page for each.
    pub(crate) fn target(limits: &Limits, devices: usize, channels: usize) -> Result<Self, Cause> {
        let (devices, channels) = (count(devices).max(1), count(channels));
        let bound = limits.buffer_bytes_max;
        let share = bound.checked_div(devices).unwrap_or(0);
        let half = share / 2;
        let fitting = if half >= PAGE_BYTES { half.saturating_sub(half % PAGE_BYTES) } else { half.max(1) };
        let chunk = u64::from(limits.chunk_bytes_max.max(1)).min(fitting);
        let affordable = share.checked_div(chunk).unwrap_or(0).min(CREDIT_FRAMES_MAX);
        let (device, memory) = few(channels);
        let device = device.min(affordable);
        let memory = memory.min(affordable).max(device);
        if device == 0 {
            return Err(Cause::refused(format!(
                "{bound} bytes of buffers are too few for {devices} devices; raise the limit (buffer_bytes_max)"
            )));
        }
        let buffers = |device: u64, memory: u64| {
            let others = devices.saturating_sub(1).saturating_mul(device);
            others.saturating_add(memory)
        };
        let left = bound.checked_div(chunk).unwrap_or(0).saturating_sub(buffers(device, memory));
        let early = if left >= channels.saturating_mul(2) { channels } else { 0 };
        let spare = left.saturating_sub(early.saturating_mul(2)).checked_div(devices).unwrap_or(0);
        let [device, memory] = [device, memory].map(|few| Grant::and(few, spare));
        Ok(Self {
            chunk_bytes: u32::try_from(chunk).unwrap_or(u32::MAX),
            device,
            memory,
            buffers: size(buffers(device.most, memory.most)),
            early: size(early),
        })
    }

    /// A source's: two buffers per device and one per channel are as many as can be at work.
    pub(crate) fn source(limits: &Limits, chunk_bytes: u32, devices: usize, channels: usize) -> Self {
        let chunk_bytes = chunk_bytes.max(1);
        let wanted = count(devices).saturating_mul(2).saturating_add(count(channels));
        let affordable = limits.buffer_bytes_max.checked_div(chunk_bytes.into()).unwrap_or(0);
        let buffers = size(wanted.min(affordable).max(1));
        let [device, memory] = <[u64; 2]>::from(few(count(channels))).map(|few| Grant { few, most: 0 });
        Self { chunk_bytes, device, memory, buffers, early: 0 }
    }

    /// The length of a buffer in memory.
    pub(crate) fn chunk_len(&self) -> usize {
        usize::try_from(self.chunk_bytes).unwrap_or(usize::MAX)
    }
}

/// Of a device, and of memory.
fn few(channels: u64) -> (u64, u64) {
    (WINDOW_FRAMES.max(channels.saturating_mul(2)), MEMORY_WINDOW_FRAMES.saturating_mul(channels))
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
                        let (device, memory) = (plan.device, plan.memory);
                        assert!(plan.chunk_bytes <= chunk && 1 <= device.few && device.few <= memory.few);
                        for grant in [device, memory] {
                            assert!((grant.few..=CREDIT_FRAMES_MAX).contains(&grant.most));
                        }
                        let others = devices as u64 - 1;
                        assert_eq!(plan.buffers as u64, device.most * others + memory.most);
                    }
                }
            }
        }
    }

    #[test]
    fn chunks_shrink_before_windows_do() {
        let plan = Plan::target(&limits(1 << 20, 64 << 20), 4, 2).unwrap();
        assert_eq!((plan.chunk_bytes, plan.device.few, plan.memory.few), (1 << 20, 8, 16));
        let plan = Plan::target(&limits(1 << 20, 64 << 20), 256, 2).unwrap();
        assert_eq!((plan.chunk_bytes, plan.device), (128 << 10, Grant::only(2)));
        let plan = Plan::target(&limits(1 << 20, 64 << 20), 1, 16).unwrap();
        assert_eq!(plan.device.few, 32);
    }

    #[test]
    fn reading_early_takes_nothing_from_what_is_granted() {
        let early = |memory, devices, channels| {
            let plan = Plan::target(&limits(1 << 20, memory), devices, channels).unwrap();
            (plan.buffers, plan.early)
        };
        assert_eq!(early(64 << 20, 1, 1), (62, 1));
        assert_eq!(early(64 << 20, 4, 4), (3 * 12 + 20, 4));
        assert_eq!(early(64 << 20, 8, 1), (64, 0));
        assert_eq!(early(17 << 20, 1, 1), (17, 0), "one is not enough for a reader that has to keep another");
        assert_eq!(early(18 << 20, 1, 1), (16, 1));
    }

    #[test]
    fn what_is_left_is_for_a_long_way() {
        let most = |memory, devices, channels| {
            let plan = Plan::target(&limits(1 << 20, memory), devices, channels).unwrap();
            (plan.device.most, plan.memory.most)
        };
        assert_eq!(most(64 << 20, 1, 1), (8 + 46, 16 + 46));
        assert_eq!(most(64 << 20, 4, 2), (8 + 5, 16 + 5));
        assert_eq!(most(64 << 20, 16, 2), (4, 4), "nothing");
        assert_eq!(most(1 << 40, 1, 1), (CREDIT_FRAMES_MAX, CREDIT_FRAMES_MAX));
    }

    #[test]
    fn memory_is_granted_more_where_its_share_is_enough() {
        let frames = |memory, devices, channels| {
            let plan = Plan::target(&limits(1 << 20, memory), devices, channels).unwrap();
            (plan.device.few, plan.memory.few)
        };
        assert_eq!(frames(64 << 20, 1, 1), (8, 16));
        assert_eq!(frames(64 << 20, 1, 2), (8, 32));
        assert_eq!(frames(64 << 20, 3, 2), (8, 21));
        assert_eq!(frames(64 << 20, 16, 2), (4, 4));
        assert_eq!(frames(1 << 40, 1, 64), (128, CREDIT_FRAMES_MAX));
    }
}
