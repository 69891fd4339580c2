// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Ends the suite process from within when a test takes too long: in a guest nobody else can.

use core::time::Duration;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// A test took longer than its limit.
pub(crate) const EXIT_TIMEOUT: i32 = 4;

/// Must be patted at least once per limit.
pub(crate) struct Watchdog {
    last: Arc<Mutex<Instant>>,
}

impl Watchdog {
    /// Watches until the process ends.
    pub(crate) fn start(limit: Duration) -> Self {
        let last = Arc::new(Mutex::new(Instant::now()));
        let seen = Arc::clone(&last);
        thread::spawn(move || {
            loop {
                let since = seen.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
                let Some(left) = limit.checked_sub(since).filter(|left| !left.is_zero()) else {
                    // Standard error is the console of a guest: the parent shows it with the test.
                    eprintln!("The test took longer than {} s.", limit.as_secs());
                    process::exit(EXIT_TIMEOUT);
                };
                thread::sleep(left);
            }
        });
        Self { last }
    }

    /// A new test begins.
    pub(crate) fn pat(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}
