// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the caller decides.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use vfio_mig_fsm::{Capabilities, State};

use super::units;

/// What has state to move.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Kind {
    /// A VFIO device.
    Device,
    /// Guest memory.
    Memory,
    /// Another process that holds device state: vDPA, vhost-user, vfio-user.
    Backend,
    /// State of the VMM that can only be read when nothing runs.
    VmState,
}

/// One section of the migration.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Section {
    /// The name by which reports mean it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The states it has. A section that can be read while the guest runs has PRE_COPY.
    #[cfg_attr(feature = "serde", serde(with = "super::wire::capabilities"))]
    pub capabilities: Capabilities,
    /// Where it was found, and where an abort brings it back to: RUNNING, or STOP for a guest that was paused.
    #[cfg_attr(feature = "serde", serde(with = "super::wire::state"))]
    pub home: State,
    /// Its share of the channel, relative to the other sections'. At least 1.
    pub weight: u32,
    /// Whether the target acknowledges its initial bytes before the switchover.
    pub acknowledged: bool,
    /// Whether it tells that a new initial phase began; if so it is asked once more behind the P2P barrier.
    pub reinitialises: bool,
    /// How many bytes the target takes before it credits any back; `None` for a target that grants no credit.
    pub credit_bytes: Option<u64>,
    /// Whether whoever reads it sends what was read before reading on: the forecast then adds up the two times. Otherwise they are taken
    /// to go on beside each other, as is everything of a log that does not have this.
    #[cfg_attr(feature = "serde", serde(default))]
    pub in_turn: bool,
    /// What is known of it beforehand.
    pub profile: Profile,
}

impl Section {
    /// A section of this kind, with the kind's defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, kind: Kind, capabilities: Capabilities) -> Self {
        let is_device = matches!(kind, Kind::Device | Kind::Backend);
        Self {
            name: name.into(),
            kind,
            capabilities,
            home: State::Running,
            weight: 1,
            acknowledged: is_device && capabilities.has_pre_copy(),
            reinitialises: kind == Kind::Device && capabilities.has_pre_copy(),
            credit_bytes: None,
            in_turn: false,
            profile: if is_device { Profile::device() } else { Profile::default() },
        }
    }

    /// Whether it is read while the guest runs. A device found in STOP is not: the path to PRE_COPY would run it.
    #[must_use]
    pub fn precopies(&self) -> bool {
        self.capabilities.has_pre_copy() && self.home == State::Running
    }
}

/// How long something takes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Timing {
    /// As likely too short as too long.
    pub expected: Duration,
    /// One standard deviation, in thousandths of `expected`.
    pub spread_per_mille: u32,
}

impl Timing {
    /// A time and its spread.
    #[must_use]
    pub const fn new(expected: Duration, spread_per_mille: u32) -> Self {
        Self { expected, spread_per_mille }
    }

    /// What is no more than a guess gives way to what was seen. Otherwise half of what was known, half of what was seen; and as sure as
    /// they agree.
    pub(crate) fn learn(&mut self, took: Duration) {
        let before = self.expected;
        if before.is_zero() || self.spread_per_mille >= GUESS_PER_MILLE {
            *self = Self::new(took, 250);
            return;
        }
        let off = units::scale(1000, units::nanos(before.abs_diff(took)), units::nanos(before).max(1)).min(1000);
        self.expected = Duration::from_nanos(units::nanos(before).midpoint(units::nanos(took)));
        self.spread_per_mille = self.spread_per_mille.midpoint(u32::try_from(off).unwrap_or(1000)).max(20);
    }
}

/// From this spread on a time is a guess.
const GUESS_PER_MILLE: u32 = 500;

/// What is known of a section before it moves, from earlier migrations of its like: [`SaveScheduler::learned`](super::SaveScheduler::learned)
/// gives one to keep.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Profile {
    /// To its P2P state. The vCPUs run meanwhile.
    pub quiesce: Timing,
    /// To STOP_COPY.
    pub stop: Timing,
    /// At the target, from the last byte to the acknowledgement.
    pub load: Timing,
    /// At the target, from the word that it may run to its answer that it does. 0 where that is not known.
    #[cfg_attr(feature = "serde", serde(default))]
    pub run: Timing,
    /// How fast the source reads it while it is stopped.
    pub read_bytes_per_s: Option<u64>,
    /// How fast the target writes it.
    pub write_bytes_per_s: Option<u64>,
    /// What STOP_COPY yields, in thousandths of what was announced. 0 means: not known.
    pub size_per_mille: u32,
    /// One standard deviation of that.
    pub size_spread_per_mille: u32,
}

impl Profile {
    /// A device of which nothing is known: tens of milliseconds, give or take half.
    #[must_use]
    pub const fn device() -> Self {
        Self {
            quiesce: Timing::new(Duration::from_millis(20), 500),
            stop: Timing::new(Duration::from_millis(20), 500),
            load: Timing::new(Duration::from_millis(40), 500),
            run: Timing::new(Duration::ZERO, 0),
            read_bytes_per_s: None,
            write_bytes_per_s: None,
            size_per_mille: 0,
            size_spread_per_mille: 50,
        }
    }
}

/// Who starts the switchover.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Switchover {
    /// The scheduler, when its estimate fits.
    Automatic,
    /// The caller, by `quiesce` and `stop`; the estimate is for it to read.
    Manual,
}

/// What to do when the estimate does not fit and waiting may not help.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Verdict {
    /// Read on.
    Wait,
    /// Switch over in spite of the estimate.
    Switch,
    /// Give up; the guest stays here.
    Abort,
}

/// What to do when the estimate does not fit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Policy {
    /// The costs that no reading reduces exceed the limit alone.
    pub infeasible: Verdict,
    /// What is left has stopped falling.
    pub level: Verdict,
    /// What is left grows.
    pub rising: Verdict,
    /// How long pre-copy may take, and what then.
    pub precopy_max: Duration,
    /// What happens after `precopy_max`. `Wait` means: no limit.
    pub late: Verdict,
    /// How often devices may begin anew behind the barrier before the switchover goes on regardless.
    pub reinit_max: u32,
    /// Give up a switchover that takes longer than this and run here again.
    pub switchover_max: Option<Duration>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            infeasible: Verdict::Abort,
            level: Verdict::Wait,
            rising: Verdict::Wait,
            precopy_max: Duration::from_secs(120),
            late: Verdict::Abort,
            reinit_max: 8,
            switchover_max: None,
        }
    }
}

/// A migration's sections and limits.
#[derive(Clone, Debug, Eq, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Config {
    /// What moves.
    pub sections: Vec<Section>,
    /// The longest one read may be where nothing is known of the link.
    pub chunk_bytes_max: u64,
    /// The longest one read may be on a link that is known to be fast: all sections together are then given what it carries in 20 ms, and
    /// each no more than it can be read in that time, so that who reads stops less often to ask. While the guest stands each is given as
    /// much, within `inflight_bytes_max`. Less than `chunk_bytes_max` counts as that. A cap makes reads shorter.
    #[cfg_attr(feature = "serde", serde(default))]
    pub turn_bytes_max: u64,
    /// The largest piece in which what one read yields is sent and written, one beside the other; `None` where that is the whole of it. A
    /// read of more than a piece is of whole ones.
    #[cfg_attr(feature = "serde", serde(default))]
    pub piece_bytes_max: Option<u64>,
    /// How much may be read, or being read, and not yet sent, all sections together. At least one chunk.
    pub inflight_bytes_max: u64,
    /// How often things are measured and decided. QEMU uses the same 100 ms.
    pub window: Duration,
    /// Cap while the guest runs.
    pub rate_bytes_per_s: Option<u64>,
    /// Cap while the guest stands.
    pub switchover_rate_bytes_per_s: Option<u64>,
    /// The bandwidth, where the caller knows it; what is measured does not override it.
    pub bandwidth_bytes_per_s: Option<u64>,
    /// What to assume before anything was measured: what an earlier migration saw, or the caller knows roughly. `None` where nobody
    /// has an idea; then a fast link is expected and one of an eighth of its speed provided for.
    pub bandwidth_guess_bytes_per_s: Option<u64>,
    /// The least share, in thousandths, of the sections whose initial bytes are not acknowledged.
    pub initial_share_per_mille: u32,
    /// Who starts the switchover.
    pub switchover: Switchover,
    /// The downtime promised.
    pub downtime_max: Duration,
    /// How sure to be of the promise, in thousandths.
    pub confidence_per_mille: u32,
    /// Pausing and resuming vCPUs, and the messages of the commit.
    pub overhead: Timing,
    /// What to do when the promise cannot be kept.
    pub policy: Policy,
}

impl Config {
    /// These sections, with defaults for everything else.
    #[must_use]
    pub fn new(sections: Vec<Section>) -> Self {
        Self {
            sections,
            chunk_bytes_max: 1 << 20,
            turn_bytes_max: 0,
            piece_bytes_max: None,
            inflight_bytes_max: 8 << 20,
            window: Duration::from_millis(100),
            rate_bytes_per_s: None,
            switchover_rate_bytes_per_s: None,
            bandwidth_bytes_per_s: None,
            bandwidth_guess_bytes_per_s: None,
            initial_share_per_mille: 250,
            switchover: Switchover::Automatic,
            downtime_max: Duration::from_millis(300),
            confidence_per_mille: 990,
            overhead: Timing::new(Duration::from_millis(2), 300),
            policy: Policy::default(),
        }
    }

    /// What is on its way at once.
    pub(super) fn piece_bytes_max(&self) -> u64 {
        self.piece_bytes_max.unwrap_or(self.chunk_bytes_max).min(self.chunk_bytes_max)
    }

    /// So many bytes, or a few less: part of a piece costs as many calls and messages as a whole one, and who receives pieces of one
    /// length knows what to expect.
    pub(super) fn whole_pieces(&self, bytes: u64) -> u64 {
        let part = self.piece_bytes_max.and_then(|_| bytes.checked_rem(self.piece_bytes_max())).unwrap_or(0);
        let whole = bytes.saturating_sub(part);
        if whole == 0 { bytes } else { whole }
    }
}
