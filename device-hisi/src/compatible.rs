// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Whether a source's state fits a target VF.
//!
//! The kernel compares too, but not reliably: up to 6.12 once per driver binding, later once per open of the device. Every
//! further resume on the same VF goes unchecked, and the end of RESUMING checks nothing. So compare before the first
//! write.

use alloc::vec::Vec;
use core::fmt;

use thiserror::Error;

use crate::device_name;
use crate::state::Match;

/// What the kernel of a target compares a match part with.
///
/// The easy way to learn it: take the target VF to PRE_COPY, read its own 40 bytes, go back to RUNNING, and convert.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Target {
    /// PCI device id of the VF.
    pub dev_id: u32,
    /// Number of queue pairs of the VF.
    pub qp_num: u32,
    /// The PF's queue isolation register.
    pub que_iso_cfg: u32,
    /// Whether the kernel knows version 2. One that writes it does; one that writes version 1 is taken not to.
    pub reads_v2: bool,
}

impl From<&Match> for Target {
    fn from(own: &Match) -> Self {
        let Match { version, qp_num, dev_id, que_iso_cfg, .. } = *own;
        Self { dev_id, qp_num, que_iso_cfg, reads_v2: !version.is_v1() }
    }
}

/// A reason why a state does not fit. Except for the version, the kernel says EFAULT to the write in each case.
#[derive(Clone, Copy, Debug, Eq, Error, Hash, PartialEq)]
#[non_exhaustive]
pub enum Mismatch {
    /// The source writes version 2, the target's kernel reads version 1 only. Update the target's kernel.
    #[error("the state is version 2, which the target's kernel does not know")]
    Version,
    /// Different accelerators.
    #[error("the source is {}, the target {}", Device(*source_id), Device(*target_id))]
    DeviceId {
        /// PCI device id of the source.
        source_id: u32,
        /// PCI device id of the target.
        target_id: u32,
    },
    /// Different numbers of queue pairs. Configure the target's VF like the source's.
    #[error("the source has {source_count} queue pairs, the target {target_count}")]
    QueueCount {
        /// Queue pairs of the source.
        source_count: u32,
        /// Queue pairs of the target.
        target_count: u32,
    },
    /// The target's VF has no queues: its PF gave it none, or the hardware did not answer.
    #[error("the target has no queue pairs")]
    NoQueues,
    /// The PFs isolate queues differently. Configure the target's PF like the source's.
    #[error("the source's PF has queue isolation {source_config:#x}, the target's {target_config:#x}")]
    QueueIsolation {
        /// The register of the source's PF.
        source_config: u32,
        /// The register of the target's PF.
        target_config: u32,
    },
}

struct Device(u32);

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match device_name(self.0) {
            Some(name) => write!(formatter, "a {name} VF ({:#06x})", self.0),
            None => write!(formatter, "an unknown device ({:#06x})", self.0),
        }
    }
}

/// Compares a source's match part with a target. An empty list means that they fit.
///
/// ```
/// # use device_hisi::{Match, Version};
/// # let source = Match { version: Version::CURRENT, qp_num: 64, dev_id: 0xa251, que_iso_cfg: 0, qp_base: 64,
/// #     vf_qm_state: 0, qm_rsv_state: [0; 2] };
/// use device_hisi::compatible::{Target, compatible};
///
/// let target = Target { dev_id: 0xa256, qp_num: 16, ..Target::from(&source) };
/// let reasons = compatible(&source, &target);
/// assert_eq!(reasons[0].to_string(), "the source is a ZIP VF (0xa251), the target a SEC VF (0xa256)");
/// assert_eq!(reasons[1].to_string(), "the source has 64 queue pairs, the target 16");
/// ```
#[must_use]
pub fn compatible(source: &Match, target: &Target) -> Vec<Mismatch> {
    let Target { dev_id: target_id, qp_num: target_count, que_iso_cfg: target_config, reads_v2 } = *target;
    let Match { dev_id: source_id, qp_num: source_count, que_iso_cfg: source_config, version, .. } = *source;
    let mut reasons = Vec::new();
    if !version.is_v1() && !reads_v2 {
        reasons.push(Mismatch::Version);
    }
    if source_id != target_id {
        reasons.push(Mismatch::DeviceId { source_id, target_id });
    }
    if target_count == 0 {
        reasons.push(Mismatch::NoQueues);
    } else if source_count != target_count {
        reasons.push(Mismatch::QueueCount { source_count, target_count });
    }
    if source_config != target_config {
        reasons.push(Mismatch::QueueIsolation { source_config, target_config });
    }
    reasons
}
