// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The limits of the format. The kernel checks few of them, and some only once per device, so the reader must.
//!
//! ```
//! # use device_hisi::{Match, Stream, Version};
//! # let head = Match { version: Version::CURRENT, qp_num: 64, dev_id: 0xa251, que_iso_cfg: 0, qp_base: 64,
//! #     vf_qm_state: 0, qm_rsv_state: [0; 2] };
//! let stream = Stream::MatchOnly(Match { qp_num: 0, qm_rsv_state: [1, 0], ..head });
//! let findings = stream.check();
//! assert!(!findings.is_loadable());
//! assert_eq!(
//!     findings.to_string(),
//!     "error: qp_num at stream offset 8 is 0; a VF has 1 to 1024 queue pairs\n\
//!      warning: qm_rsv_state at stream offset 32 is reserved and not 0\n",
//! );
//! ```

use alloc::vec::Vec;
use core::fmt;

use thiserror::Error;

use crate::addresses::{AddressFault, QueueAddress};
use crate::state::{Match, State, Stream};
use crate::version::Version;
use crate::{VF_NOT_READY, VF_READY, device_name};

/// Most queue pairs of a VF, and of a PF with all its VFs together.
pub const QUEUES_MAX: u32 = 1024;

/// Highest number a queue can have: the hardware's field has 16 bits.
pub const QUEUE_NUMBER_MAX: u32 = 0xffff;

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Severity {
    /// Unusual. The kernel loads the state.
    Warning,
    /// The state must not be loaded: the kernel would refuse it, silently load nothing, or load something wrong.
    Error,
}

/// A value out of its limits. [`Finding::field`] and [`Finding::offset`] say where.
#[derive(Clone, Copy, Debug, Eq, Error, Hash, PartialEq)]
#[non_exhaustive]
pub enum Finding {
    /// The number of queue pairs is out of range.
    #[error("is {found}; a VF has 1 to {QUEUES_MAX} queue pairs")]
    QueueCount {
        /// `qp_num`.
        found: u32,
    },
    /// The first queue's number is out of range.
    #[error("is {found}; queue numbers end at {QUEUE_NUMBER_MAX}")]
    QueueBase {
        /// `qp_base`.
        found: u32,
    },
    /// The VF's queues end beyond the hardware's. A warning: the kernel does not enforce it.
    #[error("is {base}, so {count} queues end beyond the {QUEUES_MAX} of the hardware")]
    QueueRange {
        /// `qp_base`.
        base: u32,
        /// `qp_num`.
        count: u32,
    },
    /// The device id is none of the driver's.
    #[error("is {found:#06x}, none of the VFs of this driver (0xa251, 0xa256, 0xa259)")]
    DeviceId {
        /// `dev_id`.
        found: u32,
    },
    /// The guest driver's mark has no meaning.
    #[error("is {found}; 0 is ready, 1 is not ready")]
    VfState {
        /// `vf_qm_state`.
        found: u32,
    },
    /// A VF without guest driver has registers to load, which no kernel writes.
    #[error("says that there is no guest driver, yet registers follow")]
    NotReadyButComplete,
    /// The minor version is not 0. A warning: the kernel ignores it.
    #[error("is {found}; 0 is known")]
    MinorVersion {
        /// The minor version.
        found: u16,
    },
    /// Reserved bytes are set. A warning: they are kept.
    #[error("is reserved and not 0")]
    Reserved {
        /// Name of the field.
        field: &'static str,
        /// Its offset in bytes.
        offset: u64,
    },
    /// A queue's address contradicts the queue's context. A warning if it is the known fault of version 1 and the
    /// target's kernel repairs that; [`State::repaired`] does it otherwise.
    #[error("is {:#x}, {}the queue's context says {:#x}", address.stored, cause(*address), address.from_context)]
    Address {
        /// Name of the field.
        field: &'static str,
        /// Its offset in bytes.
        offset: u64,
        /// What stands where.
        address: QueueAddress,
        /// Whether the kernel that resumes takes the address from the context instead.
        is_recomputed: bool,
    },
    /// A queue has no address. The kernel then reports success and loads nothing at all.
    #[error("leaves the device without a queue: the kernel would silently load nothing")]
    NoAddress {
        /// Name of the field.
        field: &'static str,
        /// Its offset in bytes.
        offset: u64,
    },
}

impl Finding {
    /// The kernel's name of the field.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::QueueCount { .. } => "qp_num",
            Self::QueueBase { .. } | Self::QueueRange { .. } => "qp_base",
            Self::DeviceId { .. } => "dev_id",
            Self::VfState { .. } | Self::NotReadyButComplete => "vf_qm_state",
            Self::MinorVersion { .. } => "minor_ver",
            Self::Reserved { field, .. } | Self::Address { field, .. } | Self::NoAddress { field, .. } => field,
        }
    }

    /// The stream offset of the field in bytes.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        match self {
            Self::QueueCount { .. } => 8,
            Self::DeviceId { .. } => 12,
            Self::QueueBase { .. } | Self::QueueRange { .. } => 20,
            Self::VfState { .. } | Self::NotReadyButComplete => 24,
            Self::MinorVersion { .. } => 30,
            Self::Reserved { offset, .. } | Self::Address { offset, .. } | Self::NoAddress { offset, .. } => *offset,
        }
    }

    /// Whether the state may be loaded all the same.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::QueueRange { .. } | Self::MinorVersion { .. } | Self::Reserved { .. } => Severity::Warning,
            Self::Address { address, is_recomputed: true, .. }
                if matches!(address.fault(), Some(AddressFault::KernelFault)) =>
            {
                Severity::Warning
            }
            _ => Severity::Error,
        }
    }
}

const fn cause(address: QueueAddress) -> &'static str {
    match address.fault() {
        Some(AddressFault::KernelFault) => "the known fault of kernels 6.8 to 6.15; ",
        _ => "but ",
    }
}

/// What [`Stream::check`] found, in the order of the fields. Displayed one per line.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Whether none of the findings is an error.
    #[must_use]
    pub fn is_loadable(&self) -> bool {
        self.errors().next().is_none()
    }

    /// All findings.
    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter()
    }

    /// The findings for which the state must not be loaded.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter().filter(|finding| finding.severity() == Severity::Error)
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, is_wrong: bool, finding: Finding) {
        if is_wrong {
            self.0.push(finding);
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|finding| {
            let severity = match finding.severity() {
                Severity::Warning => "warning",
                Severity::Error => "error",
            };
            writeln!(formatter, "{severity}: {} at stream offset {} {finding}", finding.field(), finding.offset())
        })
    }
}

impl Stream {
    /// Compares every field with its limits.
    ///
    /// Lengths, magic and major version are not among them: a stream with others cannot be decoded. The target's kernel
    /// is taken to know version 2, and therefore to repair the addresses of version 1.
    #[must_use]
    pub fn check(&self) -> Findings {
        self.findings(true)
    }

    /// The findings, for a target whose kernel repairs version 1 or not.
    pub(crate) fn findings(&self, target_repairs: bool) -> Findings {
        let mut findings = Findings::default();
        check_head(self.head(), &mut findings);
        if let Self::Full(state) = self {
            check_state(state, target_repairs && state.head.version.is_v1(), &mut findings);
        }
        findings.0.sort_by_key(Finding::offset);
        findings
    }
}

fn check_head(head: &Match, findings: &mut Findings) {
    let Match { version, qp_num: count, dev_id, que_iso_cfg: _, qp_base: base, vf_qm_state, qm_rsv_state } = *head;
    findings.add(!(1..=QUEUES_MAX).contains(&count), Finding::QueueCount { found: count });
    findings.add(device_name(dev_id).is_none(), Finding::DeviceId { found: dev_id });
    if base > QUEUE_NUMBER_MAX {
        findings.add(true, Finding::QueueBase { found: base });
    } else {
        // Saturation cannot hide anything: the limit is far below.
        findings.add(base.saturating_add(count) > QUEUES_MAX, Finding::QueueRange { base, count });
    }
    findings.add(!matches!(vf_qm_state, VF_READY | VF_NOT_READY), Finding::VfState { found: vf_qm_state });
    match version {
        Version::V1 { reserved } => findings.add(reserved != 0, Finding::Reserved { field: "major_ver", offset: 28 }),
        Version::V2 { minor } => findings.add(minor != 0, Finding::MinorVersion { found: minor }),
    }
    findings.add(qm_rsv_state != [0; 2], Finding::Reserved { field: "qm_rsv_state", offset: 32 });
}

fn check_state(state: &State, is_recomputed: bool, findings: &mut Findings) {
    findings.add(state.head.vf_qm_state == VF_NOT_READY, Finding::NotReadyButComplete);
    findings.add(state.qm_rsv_regs != [0; 5], Finding::Reserved { field: "qm_rsv_regs", offset: 120 });
    findings.add(state.padding != 0, Finding::Reserved { field: "padding", offset: 140 });

    let queues = [("eqe_dma", 144, state.event_queue()), ("aeqe_dma", 152, state.async_event_queue())];
    for (field, offset, address) in queues {
        findings.add(address.fault().is_some(), Finding::Address { field, offset, address, is_recomputed });
        let used = if is_recomputed { address.from_context } else { address.stored };
        findings.add(used == 0, Finding::NoAddress { field, offset });
    }
    for (field, offset, used) in [("sqc_dma", 160, state.sqc_dma), ("cqc_dma", 168, state.cqc_dma)] {
        findings.add(used == 0, Finding::NoAddress { field, offset });
    }
}
