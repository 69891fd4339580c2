// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The same for a subscriber of the `tracing` crate.
//!
//! Spans are kept, not entered: a [`Trace`] may be carried from one thread to another between two phases. Their parents
//! are named, so they nest all the same.

use core::fmt::Display;
use core::time::Duration;

use tracing::{Dispatch, Span, debug, debug_span, dispatcher, info, info_span, trace, trace_span, warn};

use super::Activity;
use crate::digest::DigestSum;
use crate::hooks::Phase;
use crate::restore::{Outcome, Restored};
use crate::sched::{Decision, Sizes};

/// What is filtered by, instead of the path of this file.
const TARGET: &str = "savevm_core";

/// One side of one migration.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    migration: Span,
    phase: Span,
}

impl Default for Trace {
    fn default() -> Self {
        Self { migration: Span::none(), phase: Span::none() }
    }
}

impl Trace {
    pub(crate) fn new(side: &'static str, devices: usize, channels: usize) -> Self {
        let migration = info_span!(target: TARGET, "migration", side, devices, channels);
        Self { migration, phase: Span::none() }
    }

    pub(crate) fn device(&self, index: usize, name: &str) -> DeviceTrace {
        DeviceTrace(info_span!(target: TARGET, parent: &self.migration, "device", device = name, index))
    }

    /// A phase begins, and the one before ends.
    pub(crate) fn begin(&mut self, phase: Phase) {
        self.phase = Span::none();
        let parent = &self.migration;
        self.phase = match phase {
            Phase::Hello => info_span!(target: TARGET, parent: parent, "hello"),
            Phase::Open => info_span!(target: TARGET, parent: parent, "open"),
            Phase::PreCopy => info_span!(target: TARGET, parent: parent, "pre-copy"),
            Phase::Switchover => info_span!(target: TARGET, parent: parent, "switchover"),
            Phase::StopCopy => info_span!(target: TARGET, parent: parent, "stop-copy"),
            Phase::Load => info_span!(target: TARGET, parent: parent, "load"),
            Phase::Commit => info_span!(target: TARGET, parent: parent, "commit"),
            Phase::Done => info_span!(target: TARGET, parent: parent, "done"),
        };
    }

    /// The migration does not happen: what follows is putting back.
    pub(crate) fn abort(&mut self, phase: Phase, cause: &dyn Display) {
        self.phase = Span::none();
        self.phase = info_span!(target: TARGET, parent: &self.migration, "abort", in_phase = phase.name());
        warn!(target: TARGET, parent: &self.phase, cause = %cause, "the migration does not happen");
    }

    /// What the VMM says in a hook belongs to the phase.
    pub(crate) fn in_phase<R>(&self, body: impl FnOnce() -> R) -> R {
        self.phase.in_scope(body)
    }

    pub(crate) fn restored(&self, devices: &[Restored]) {
        for Restored { device, outcome } in devices {
            let device = device.as_str();
            if let Outcome::Lost { .. } = outcome {
                warn!(target: TARGET, parent: &self.phase, device, outcome = %outcome, "not put back");
            } else {
                info!(target: TARGET, parent: &self.phase, device, outcome = %outcome, "put back");
            }
        }
    }

    /// Nothing follows, although the value lives on.
    pub(crate) fn end(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn decision(&self, at: Duration, decision: &Decision) {
        let estimate = decision.estimate();
        let downtime_ms = estimate.map(|estimate| milliseconds(estimate.downtime.expected));
        let downtime_ms_max = estimate.map(|estimate| milliseconds(estimate.downtime.high));
        let pending_bytes = estimate.map(|estimate| estimate.pending_bytes);
        let bandwidth = estimate.filter(|known| known.bandwidth_is_known).map(|known| known.bandwidth_bytes_per_s);
        info!(
            target: TARGET,
            parent: &self.phase,
            at_ms = milliseconds(at),
            decision = decision.name(),
            reason = %decision,
            downtime_ms,
            downtime_ms_max,
            pending_bytes,
            bandwidth_bytes_per_s = bandwidth,
            "decided"
        );
    }

    /// Target: a device of the offer fits what is here, or not.
    pub(crate) fn offered(&self, device: &str, verdict: Result<(), &str>) {
        match verdict {
            Ok(()) => {
                info!(target: TARGET, parent: &self.phase, device, decision = "accept", "it fits the device here")
            }
            Err(reason) => warn!(target: TARGET, parent: &self.phase, device, decision = "refuse", reason),
        }
    }

    /// After the commit: nobody can say whether the target runs.
    pub(crate) fn in_doubt(&self, cause: &dyn Display) {
        warn!(target: TARGET, parent: &self.phase, cause = %cause, "the target was told to run, and did not confirm");
    }
}

/// One device of one side.
#[derive(Clone, Debug)]
pub(crate) struct DeviceTrace(Span);

impl Default for DeviceTrace {
    fn default() -> Self {
        Self(Span::none())
    }
}

impl DeviceTrace {
    pub(crate) fn call<R>(&self, work: Activity, body: impl FnOnce() -> R) -> R {
        let span = match work {
            Activity::Describe => debug_span!(target: TARGET, parent: &self.0, "describe"),
            Activity::Transition(to) => debug_span!(target: TARGET, parent: &self.0, "transition", to = to.name()),
            Activity::Query => trace_span!(target: TARGET, parent: &self.0, "query"),
            Activity::Read { bytes_max } => trace_span!(target: TARGET, parent: &self.0, "read", bytes_max),
        };
        span.in_scope(body)
    }

    pub(crate) fn sizes(&self, sizes: &Sizes) {
        let Sizes { initial_bytes, dirty_bytes, stop_copy_bytes, reinit } = *sizes;
        debug!(target: TARGET, parent: &self.0, initial_bytes, dirty_bytes, stop_copy_bytes, reinit, "sizes");
    }

    /// Source: the device uses all channels, or its own again.
    pub(crate) fn spreads(&self, is_spread: bool) {
        if is_spread {
            let reason = "it spends its time in sending on its own channel";
            info!(target: TARGET, parent: &self.0, decision = "spread", reason, "uses all channels");
        } else {
            let reason = "all channels were hardly faster than its own";
            info!(target: TARGET, parent: &self.0, decision = "keep", reason, "uses its own channel");
        }
    }

    /// Target: the source may send frames up to this number.
    pub(crate) fn granted(&self, frames: u64) {
        let reason = "half of the window or more is free";
        trace!(target: TARGET, parent: &self.0, decision = "grant", reason, frames);
    }

    pub(crate) fn done(&self, what: &'static str, sum: DigestSum) {
        info!(target: TARGET, parent: &self.0, bytes = sum.bytes, digest = format_args!("{:016x}", sum.crc64_nvme), "{what}");
    }
}

/// What a thread takes over from the one that starts it: a subscriber that was set for that thread alone.
#[derive(Clone, Debug)]
pub(crate) struct Carried(Dispatch);

impl Carried {
    pub(crate) fn here() -> Self {
        Self(dispatcher::get_default(Dispatch::clone))
    }

    pub(crate) fn run<R>(&self, body: impl FnOnce() -> R) -> R {
        dispatcher::with_default(&self.0, body)
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
