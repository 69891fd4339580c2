// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The connection: a queue in front of a capacity that changes by time.

use super::Ns;
use super::rng::Rng;

/// How long a capacity holds.
const STEP_NS: Ns = 50_000_000;

/// What the link is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkShape {
    pub(super) bytes_per_s: f64,
    pub(super) latency_ns: Ns,
    /// Deviation of the capacity from step to step, relative.
    pub(super) noise: f64,
    /// How likely a step is one in which 40 % are gone.
    pub(super) dips: f64,
    /// How far chunks on different channels overtake each other.
    pub(super) jitter_ns: Ns,
}

/// A link in motion.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) shape: LinkShape,
    rng: Rng,
    jitter: Rng,
    /// Relative capacity of each step so far.
    capacity: Vec<f32>,
    level: f64,
    dip_steps: u32,
    free_at: Ns,
    /// What is left of the channels.
    pub(super) intact: f64,
}

impl Link {
    pub(super) fn new(shape: LinkShape, rng: Rng) -> Self {
        let jitter = rng.clone();
        Self { shape, rng, jitter, capacity: Vec::new(), level: 0.0, dip_steps: 0, free_at: 0, intact: 1.0 }
    }

    fn bytes_per_s(&mut self, at: Ns) -> f64 {
        let step = (at / STEP_NS) as usize;
        while self.capacity.len() <= step {
            // AR(1): what is will mostly be.
            self.level = 0.85 * self.level + 0.527 * self.shape.noise * self.rng.normal();
            if self.dip_steps == 0 && self.rng.chance(self.shape.dips) {
                self.dip_steps = self.rng.within(4, 20) as u32;
            }
            let dip = if self.dip_steps > 0 { 0.6 } else { 1.0 };
            self.dip_steps = self.dip_steps.saturating_sub(1);
            self.capacity.push(((1.0 + self.level) * dip).clamp(0.2, 1.3) as f32);
        }
        self.shape.bytes_per_s * f64::from(self.capacity[step]) * self.intact
    }

    /// Queues a chunk; when the transport has taken it.
    pub(super) fn send(&mut self, now: Ns, bytes: u64) -> Ns {
        let mut at = now.max(self.free_at);
        let mut left = bytes as f64;
        loop {
            let rate = self.bytes_per_s(at);
            let step_end = (at / STEP_NS + 1) * STEP_NS;
            let room = rate * (step_end - at) as f64 / 1e9;
            if left <= room {
                at += (left / rate * 1e9) as Ns;
                break;
            }
            left -= room;
            at = step_end;
        }
        self.free_at = at;
        at
    }

    /// When a message or chunk that left at `sent_at` arrives.
    pub(super) fn arrival(&mut self, sent_at: Ns, is_chunk: bool) -> Ns {
        let jitter = if is_chunk && self.shape.jitter_ns > 0 { self.jitter.within(0, self.shape.jitter_ns) } else { 0 };
        sent_at + self.shape.latency_ns + jitter
    }
}
