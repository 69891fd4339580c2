// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A simulated section: what it really holds, how long it really takes, and what it says.

use savevm_core::sched::Sizes;
use vfio_mig_fsm::{Capabilities, State};

use super::Ns;

/// What a section is really like.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) capabilities: Capabilities,
    pub(super) home: State,
    pub(super) initial_bytes: u64,
    /// What STOP_COPY yields beyond what was dirty.
    pub(super) stop_bytes: u64,
    /// How fast the guest makes dirty bytes, in up to three stretches of time: each with its end.
    pub(super) dirty_bytes_per_s: [(Ns, u64); 3],
    /// More cannot be dirty.
    pub(super) dirty_bytes_max: u64,
    pub(super) start_ns: Ns,
    pub(super) quiesce_ns: Ns,
    pub(super) stop_ns: Ns,
    pub(super) load_ns: Ns,
    pub(super) read_bytes_per_s: u64,
    pub(super) write_bytes_per_s: u64,
    pub(super) query_ns: Ns,
    /// What it announces as its stop-copy size, relative to the truth.
    pub(super) size_factor: f64,
    /// Begins anew at that time, if it can.
    pub(super) reinit_at: Option<Ns>,
    /// Begins anew each time it goes quiet, so often.
    pub(super) reinits_when_quiet: u32,
}

/// A section in motion.
#[derive(Clone, Debug)]
pub(super) struct Truth {
    pub(super) shape: Shape,
    pub(super) state: State,
    initial_bytes: u64,
    dirty_bytes: u64,
    stop_bytes: u64,
    /// Fractions of a byte do not get lost.
    dirty_rest: f64,
    updated_at: Ns,
    reinit: bool,
    pub(super) read_bytes: u64,
    pub(super) read_digest: u64,
    pub(super) written_bytes: u64,
    pub(super) written_digest: u64,
    pub(super) target: State,
    pub(super) chunks: u64,
}

/// An order-sensitive digest of a stream, of which only the lengths of its chunks are simulated.
pub(super) fn digest(before: u64, sequence: u64, bytes: u64) -> u64 {
    (before ^ bytes.rotate_left(17) ^ sequence).wrapping_mul(0x0100_0000_01b3).rotate_left(9)
}

impl Truth {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            state: shape.home,
            initial_bytes: shape.initial_bytes,
            dirty_bytes: 0,
            stop_bytes: shape.stop_bytes,
            dirty_rest: 0.0,
            updated_at: 0,
            reinit: false,
            read_bytes: 0,
            read_digest: 0,
            written_bytes: 0,
            written_digest: 0,
            target: State::Running,
            chunks: 0,
            shape,
        }
    }

    fn is_tracked(&self) -> bool {
        matches!(self.state, State::PreCopy | State::PreCopyP2p)
    }

    /// Lets the guest run until `now`.
    pub(super) fn advance(&mut self, now: Ns, guest_runs: bool) {
        let mut from = self.updated_at;
        self.updated_at = now;
        if !guest_runs || !self.is_tracked() {
            return;
        }
        if self.shape.reinit_at.is_some_and(|at| at <= now) {
            self.shape.reinit_at = None;
            self.begin_anew();
        }
        for (until, rate) in self.shape.dirty_bytes_per_s {
            let end = until.min(now);
            if end > from {
                self.dirty_rest += rate as f64 * (end - from) as f64 / 1e9;
                from = end;
            }
        }
        let whole = self.dirty_rest as u64;
        self.dirty_rest -= whole as f64;
        self.dirty_bytes = (self.dirty_bytes + whole).min(self.shape.dirty_bytes_max);
    }

    fn begin_anew(&mut self) {
        self.reinit = true;
        self.initial_bytes = self.shape.initial_bytes;
        self.dirty_bytes = 0;
    }

    /// The section is in `to` now.
    pub(super) fn enter(&mut self, to: State) {
        if to == State::PreCopyP2p && self.state == State::PreCopy && self.shape.reinits_when_quiet > 0 {
            self.shape.reinits_when_quiet -= 1;
            self.begin_anew();
        }
        if to == State::StopCopy && !self.is_tracked() {
            // Nothing was sent: the whole state is left.
            self.initial_bytes = self.shape.initial_bytes;
        }
        self.state = to;
    }

    pub(super) fn left_bytes(&self) -> u64 {
        match self.state {
            State::StopCopy => self.initial_bytes + self.dirty_bytes + self.stop_bytes,
            _ if self.is_tracked() => self.initial_bytes + self.dirty_bytes,
            _ => 0,
        }
    }

    /// What a switchover now would have to move.
    pub(super) fn pending_bytes(&self) -> u64 {
        self.initial_bytes + self.dirty_bytes + self.stop_bytes
    }

    /// Takes at most `bytes_max` out.
    pub(super) fn read(&mut self, bytes_max: u64) -> u64 {
        let mut wanted = bytes_max.min(self.left_bytes());
        let taken = wanted;
        for pool in [&mut self.initial_bytes, &mut self.dirty_bytes, &mut self.stop_bytes] {
            let part = wanted.min(*pool);
            *pool -= part;
            wanted -= part;
        }
        if taken > 0 {
            self.read_bytes += taken;
            self.read_digest = digest(self.read_digest, self.chunks, taken);
            self.chunks += 1;
        }
        taken
    }

    pub(super) fn sizes(&mut self) -> Sizes {
        let (initial, dirty) = if self.is_tracked() { (self.initial_bytes, self.dirty_bytes) } else { (0, 0) };
        let stop = (self.pending_bytes() as f64 * self.shape.size_factor) as u64;
        let sizes = Sizes::new(initial, dirty, stop);
        if core::mem::take(&mut self.reinit) { sizes.reinitialised() } else { sizes }
    }

    pub(super) fn write(&mut self, sequence: u64, bytes: u64) -> u64 {
        self.written_bytes += bytes;
        self.written_digest = digest(self.written_digest, sequence, bytes);
        self.written_digest
    }

    pub(super) fn is_read_out(&self) -> bool {
        self.left_bytes() == 0
    }
}
