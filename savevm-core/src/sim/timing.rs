// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How slow a device is.

use core::time::Duration;
use std::vec::Vec;

use super::Step;

/// Delays of a simulated device, on top of those of its model. All zero by default.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Timing {
    /// For every step without an entry in `steps`.
    pub transition: Duration,
    /// For single steps.
    pub steps: Vec<(Step, Duration)>,
    /// For each MiB read.
    pub read_per_mib: Duration,
    /// For each MiB written.
    pub write_per_mib: Duration,
    /// For each PRECOPY_INFO and MIG_DATA_SIZE: a firmware command.
    pub query: Duration,
}

impl Timing {
    pub(super) fn step(&self, step: Step) -> Duration {
        let own = self.steps.iter().find(|(known, _)| *known == step);
        own.map_or(self.transition, |(_, delay)| *delay)
    }

    pub(super) fn read(&self, bytes: usize) -> Duration {
        scale(self.read_per_mib, bytes)
    }

    pub(super) fn write(&self, bytes: usize) -> Duration {
        scale(self.write_per_mib, bytes)
    }
}

fn scale(per_mib: Duration, bytes: usize) -> Duration {
    let bytes = u128::try_from(bytes).unwrap_or(u128::MAX);
    let nanos = per_mib.as_nanos().saturating_mul(bytes) >> 20_u32;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
