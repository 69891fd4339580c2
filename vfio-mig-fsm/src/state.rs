// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The eight states of `enum vfio_device_mig_state`.

use core::fmt;

/// A migration state of a device, with the kernel's number (`enum vfio_device_mig_state`).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u32)]
pub enum State {
    /// The device has failed; only `VFIO_DEVICE_RESET` leads out. A driver enters it by itself
    /// and it can never be requested.
    Error = 0,
    /// The device does nothing: no DMA, no interrupts, its state is frozen.
    Stop = 1,
    /// The device does everything. Drivers start here after open and after a reset.
    Running = 2,
    /// Stopped, and the rest of its state can be read from the saving data fd.
    StopCopy = 3,
    /// Stopped, and a state can be written to the resuming data fd.
    Resuming = 4,
    /// Running, but it starts no new peer-to-peer DMA. Userspace must not touch the device.
    RunningP2p = 5,
    /// Running, and its state can already be read from the saving data fd while it changes.
    PreCopy = 6,
    /// [`PreCopy`](Self::PreCopy) with the restrictions of [`RunningP2p`](Self::RunningP2p).
    PreCopyP2p = 7,
}

impl State {
    /// Every state, in the order of the kernel's numbers.
    pub const ALL: [Self; 8] = [
        Self::Error,
        Self::Stop,
        Self::Running,
        Self::StopCopy,
        Self::Resuming,
        Self::RunningP2p,
        Self::PreCopy,
        Self::PreCopyP2p,
    ];

    /// The state with the kernel's number `raw`; `None` for a number this crate does not know,
    /// which a newer kernel may report after a failed request.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::Error,
            1 => Self::Stop,
            2 => Self::Running,
            3 => Self::StopCopy,
            4 => Self::Resuming,
            5 => Self::RunningP2p,
            6 => Self::PreCopy,
            7 => Self::PreCopyP2p,
            _ => return None,
        })
    }

    /// The kernel's number, as in `vfio_device_feature_mig_state.device_state`.
    #[must_use]
    #[expect(clippy::as_conversions, reason = "the only const way to read the discriminant of a repr(u32) enum")]
    pub const fn raw(self) -> u32 {
        self as u32
    }

    /// The kernel's name without its prefix, such as `STOP_COPY` or `PRE_COPY_P2P`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Stop => "STOP",
            Self::Running => "RUNNING",
            Self::StopCopy => "STOP_COPY",
            Self::Resuming => "RESUMING",
            Self::RunningP2p => "RUNNING_P2P",
            Self::PreCopy => "PRE_COPY",
            Self::PreCopyP2p => "PRE_COPY_P2P",
        }
    }

    /// Whether the state belongs to the saving group: `PRE_COPY`, `PRE_COPY_P2P` and `STOP_COPY`
    /// share one data fd, which delivers one continuous stream.
    #[must_use]
    pub const fn is_saving(self) -> bool {
        matches!(self, Self::StopCopy | Self::PreCopy | Self::PreCopyP2p)
    }

    /// `==`, which is not `const` for an enum.
    pub(crate) const fn is(self, other: Self) -> bool {
        self.raw() == other.raw()
    }
}

impl fmt::Display for State {
    /// The [`name`](State::name).
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

#[cfg(test)]
mod test {
    extern crate std;

    use std::string::ToString as _;

    use super::State;

    /// Numbers and names of vfio.h.
    #[test]
    fn numbers_and_names_are_the_kernels() {
        let expected = [
            (0, "ERROR"),
            (1, "STOP"),
            (2, "RUNNING"),
            (3, "STOP_COPY"),
            (4, "RESUMING"),
            (5, "RUNNING_P2P"),
            (6, "PRE_COPY"),
            (7, "PRE_COPY_P2P"),
        ];
        for ((raw, name), listed) in expected.into_iter().zip(State::ALL) {
            let state = State::from_raw(raw).unwrap();
            assert_eq!(state, listed);
            assert_eq!(state.raw(), raw);
            assert_eq!(state.to_string(), name);
        }
        for raw in [8, 9, 1 << 16, u32::MAX] {
            assert_eq!(State::from_raw(raw), None);
        }
    }
}
