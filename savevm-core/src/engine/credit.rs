// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the target has room for, as the source knows it: one gate per device.

use std::time::Instant;

use super::pace::{Pace, Written};
use crate::sync::{Condvar, Mutex, lock, wait};

/// Frames of one device below the credit may be sent.
#[derive(Debug)]
pub(crate) struct Credit {
    state: Mutex<State>,
    raised: Condvar,
}

#[derive(Debug)]
struct State {
    frames: u64,
    /// The first credit that was given; 0 before.
    first: u64,
    pace: Pace,
    is_closed: bool,
}

impl Credit {
    /// `u64::MAX` where there is nobody to grant any.
    pub(crate) fn new(frames: u64) -> Self {
        let state = State { frames, first: frames, pace: Pace::new(), is_closed: false };
        Self { state: Mutex::new(state), raised: Condvar::new() }
    }

    /// The target has room for this many frames in all.
    pub(crate) fn raise(&self, frames: u64) {
        let mut state = lock(&self.state);
        state.frames = state.frames.max(frames);
        if state.first == 0 {
            state.first = frames;
        } else {
            let written = state.frames.saturating_sub(state.first);
            state.pace.written(written, Instant::now());
        }
        drop(state);
        self.raised.notify_one();
    }

    /// Waits until frame `sequence` may be sent; false if that will never be.
    pub(crate) fn wait(&self, sequence: u64) -> bool {
        let mut state = lock(&self.state);
        while !state.is_closed && sequence >= state.frames {
            state = wait(&self.raised, state);
        }
        !state.is_closed
    }

    /// As [`wait`](Self::wait), where each frame before is sent, or in a channel's queue, and they have so many bytes: for what the
    /// credits then tell of the target.
    pub(crate) fn wait_after(&self, sequence: u64, sent_bytes: u64, is_queued: bool) -> bool {
        let mut state = lock(&self.state);
        state.pace.sent(sequence, sent_bytes, is_queued);
        let is_held = !state.is_closed && sequence >= state.frames;
        if is_held {
            let since = Instant::now();
            while !state.is_closed && sequence >= state.frames {
                state = wait(&self.raised, state);
            }
            state.pace.held(since.elapsed());
        }
        !state.is_closed
    }

    /// What the target has written since this was asked last.
    pub(crate) fn take_written(&self) -> Written {
        lock(&self.state).pace.take()
    }

    /// How many frames of those sent the target has written: all but what the first credit let through, where each one
    /// that is written raises it.
    pub(crate) fn written(&self) -> u64 {
        let state = lock(&self.state);
        state.frames.saturating_sub(state.first)
    }

    /// Waits until the target has written more than this many; false if that will never be.
    pub(crate) fn wait_written(&self, frames: u64) -> bool {
        let mut state = lock(&self.state);
        while !state.is_closed && state.frames.saturating_sub(state.first) <= frames {
            state = wait(&self.raised, state);
        }
        !state.is_closed
    }

    /// Nobody waits any more.
    pub(crate) fn close(&self) {
        lock(&self.state).is_closed = true;
        self.raised.notify_all();
    }
}
