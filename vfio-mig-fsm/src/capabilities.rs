// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The capability flags of a device, and the states they bring.

use crate::{State, StateSet};

const STOP_COPY: u64 = 1;
const P2P: u64 = 2;
const PRE_COPY: u64 = 4;

/// The four legal sets of migration capabilities (`vfio_device_feature_migration.flags`).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Capabilities {
    /// `STOP_COPY`: the device can be saved while it is stopped.
    StopCopy,
    /// `STOP_COPY | P2P`: it can also stop starting peer-to-peer DMA before it stops.
    P2p,
    /// `STOP_COPY | PRE_COPY`: it can also be saved while it runs.
    PreCopy,
    /// `STOP_COPY | P2P | PRE_COPY`.
    P2pPreCopy,
}

impl Capabilities {
    /// Every set, smallest first.
    pub const ALL: [Self; 4] = [Self::StopCopy, Self::P2p, Self::PreCopy, Self::P2pPreCopy];

    /// The set the device announces with `flags`; `None` if `STOP_COPY` is missing, which the
    /// kernel demands of every device that can migrate.
    ///
    /// Unknown flags are ignored: a new flag adds states and never changes what these mean.
    #[must_use]
    pub const fn from_flags(flags: u64) -> Option<Self> {
        if flags & STOP_COPY == 0 {
            return None;
        }
        Some(match (flags & P2P != 0, flags & PRE_COPY != 0) {
            (false, false) => Self::StopCopy,
            (true, false) => Self::P2p,
            (false, true) => Self::PreCopy,
            (true, true) => Self::P2pPreCopy,
        })
    }

    /// The kernel's flags: 1, 3, 5 or 7.
    #[must_use]
    pub const fn flags(self) -> u64 {
        match self {
            Self::StopCopy => STOP_COPY,
            Self::P2p => STOP_COPY | P2P,
            Self::PreCopy => STOP_COPY | PRE_COPY,
            Self::P2pPreCopy => STOP_COPY | P2P | PRE_COPY,
        }
    }

    /// Whether the device has `RUNNING_P2P`, and with [`has_pre_copy`](Self::has_pre_copy) also
    /// `PRE_COPY_P2P`.
    #[must_use]
    pub const fn has_p2p(self) -> bool {
        self.flags() & P2P != 0
    }

    /// Whether the device has `PRE_COPY`.
    #[must_use]
    pub const fn has_pre_copy(self) -> bool {
        self.flags() & PRE_COPY != 0
    }

    /// Whether a device with this set can be in `state` by request.
    ///
    /// False for [`State::Error`], which a driver may enter but nobody can request.
    #[must_use]
    pub const fn supports(self, state: State) -> bool {
        let needed = match state {
            State::Error => return false,
            State::Stop | State::Running | State::StopCopy | State::Resuming => STOP_COPY,
            State::RunningP2p => STOP_COPY | P2P,
            State::PreCopy => STOP_COPY | PRE_COPY,
            State::PreCopyP2p => STOP_COPY | P2P | PRE_COPY,
        };
        self.flags() & needed == needed
    }

    /// The states this set [`supports`](Self::supports).
    #[must_use]
    pub const fn states(self) -> StateSet {
        let mut supported = StateSet::EMPTY;
        let mut states: &[State] = &State::ALL;
        while let [state, rest @ ..] = states {
            if self.supports(*state) {
                supported = supported.with(*state);
            }
            states = rest;
        }
        supported
    }
}

#[cfg(test)]
mod test {
    use super::Capabilities;

    #[test]
    fn flags_make_a_set_only_with_stop_copy() {
        let expected = [
            (0, None),
            (1, Some(Capabilities::StopCopy)),
            (2, None),
            (3, Some(Capabilities::P2p)),
            (4, None),
            (5, Some(Capabilities::PreCopy)),
            (6, None),
            (7, Some(Capabilities::P2pPreCopy)),
        ];
        for (flags, set) in expected {
            assert_eq!(Capabilities::from_flags(flags), set, "flags {flags}");
            assert_eq!(Capabilities::from_flags(flags | 1 << 3 | 1 << 63), set, "flags {flags}");
            if let Some(set) = set {
                assert_eq!(set.flags(), flags);
                assert_eq!(set.has_p2p(), flags & 2 != 0);
                assert_eq!(set.has_pre_copy(), flags & 4 != 0);
            }
        }
    }
}
