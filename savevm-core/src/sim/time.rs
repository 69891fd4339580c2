// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where the simulation gets its time from.

use core::time::Duration;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The time of a simulated device: dirty rates read it, delays wait on it.
pub trait Clock: Send + Sync {
    /// Time since an arbitrary fixed moment; never runs backwards.
    fn now(&self) -> Duration;

    /// Lets `duration` pass.
    fn sleep(&self, duration: Duration);
}

/// Real time.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock that starts at zero now.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// Virtual time: a sleep advances it at once, and so may a test.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: Mutex<Duration>,
}

impl ManualClock {
    /// A clock that stands at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the time on by `duration`.
    pub fn advance(&self, duration: Duration) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        *now = now.saturating_add(duration);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }
}
