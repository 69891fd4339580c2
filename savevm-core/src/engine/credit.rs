// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the target has room for, as the source knows it: one gate per device.

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
    is_closed: bool,
}

impl Credit {
    /// `u64::MAX` where there is nobody to grant any.
    pub(crate) fn new(frames: u64) -> Self {
        Self { state: Mutex::new(State { frames, first: frames, is_closed: false }), raised: Condvar::new() }
    }

    /// The target has room for this many frames in all.
    pub(crate) fn raise(&self, frames: u64) {
        let mut state = lock(&self.state);
        state.frames = state.frames.max(frames);
        if state.first == 0 {
            state.first = frames;
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
