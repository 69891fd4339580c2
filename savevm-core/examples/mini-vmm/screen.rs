// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is shown while everything moves, and the VMM's part in it.

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use savevm_core::{Hooks, Phase};

use crate::guest::Guest;

/// How often numbers are shown.
const PACE: Duration = Duration::from_millis(250);

/// One side's hooks.
pub(crate) struct Screen<'g> {
    side: &'static str,
    names: Vec<String>,
    guest: Option<&'g Arc<Guest>>,
    bytes: Vec<u64>,
    started: Instant,
    shown: Instant,
}

impl<'g> Screen<'g> {
    /// For these devices and memory. The source has a guest to pause.
    pub(crate) fn new(side: &'static str, devices: &[&str], guest: Option<&'g Arc<Guest>>) -> Self {
        let names: Vec<String> = devices.iter().copied().chain(["memory"]).map(str::to_owned).collect();
        let (bytes, now) = (vec![0; names.len()], Instant::now());
        Self { side, names, guest, bytes, started: now, shown: now }
    }

    pub(crate) fn line(&self, text: &str) {
        println!("{:>8.1} ms  {:6}  {text}", self.started.elapsed().as_secs_f64() * 1000.0, self.side);
    }

    fn show(&self) {
        let each: Vec<String> =
            self.names.iter().zip(&self.bytes).map(|(name, bytes)| format!("{name} {} KiB", bytes >> 10)).collect();
        self.line(&format!("  {}", each.join(", ")));
    }
}

impl Hooks for Screen<'_> {
    fn phase(&mut self, phase: Phase) {
        self.line(phase.name());
    }

    fn progress(&mut self, index: usize, bytes: u64) {
        if let Some(slot) = self.bytes.get_mut(index) {
            *slot = bytes;
        }
        if self.side == "source" && self.shown.elapsed() > PACE {
            self.shown = Instant::now();
            self.show();
        }
    }

    fn pause_guest(&mut self) -> Result<(), String> {
        if let Some(guest) = self.guest {
            guest.pause();
        }
        self.show();
        Ok(())
    }

    fn resume_guest(&mut self) {
        if let Some(guest) = self.guest {
            guest.resume();
        }
    }
}
