// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How often a section is asked for its sizes.
//!
//! On mlx5 and virtio each query is a command to the firmware, for memory it is a walk over the dirty bitmap. QEMU asks
//! tens of thousands of times a second once nothing is left to read (`spec/qemu/scheduler.md`). Here: once in a window at
//! most, and twice as rarely each time that nothing had moved.

use core::time::Duration;

/// The longest pause, in windows.
const PAUSE_WINDOWS_MAX: u32 = 16;

/// One section's queries.
#[derive(Clone, Debug, Default)]
pub(super) struct Budget {
    asked_at: Option<Duration>,
    pause_windows: u32,
}

impl Budget {
    /// When it may be asked next; now, if it never was.
    pub(super) fn due_at(&self, window: Duration) -> Duration {
        let pause = window.saturating_mul(self.pause_windows.max(1));
        self.asked_at.map_or(Duration::ZERO, |at| at.saturating_add(pause))
    }

    pub(super) fn asked(&mut self, now: Duration) {
        self.asked_at = Some(now);
    }

    /// Whether anything was read, or the answer differs from the one before.
    pub(super) fn answered(&mut self, moved: bool) {
        self.pause_windows = if moved { 1 } else { self.pause_windows.max(1).saturating_mul(2).min(PAUSE_WINDOWS_MAX) };
    }

    /// A decision waits for the answer: once in a window again.
    pub(super) fn hurry(&mut self) {
        self.pause_windows = 1;
    }
}
