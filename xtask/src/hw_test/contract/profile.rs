// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What one driver does where the uAPI leaves room, so that a test can expect exactly that.

use nix::errno::Errno;

/// The driver's own rules.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Profile {
    /// The name `--profile` takes and reports show.
    pub name: &'static str,
    /// What leaving RESUMING does when bytes are missing.
    pub incomplete: Incomplete,
    /// What a write past the end of the stream does.
    pub overlong: Overlong,
    /// What reading says in PRE_COPY when nothing is left.
    pub drained: Drained,
    /// The state survives closing and reopening the device.
    pub state_survives_close: bool,
    /// A write to a resuming fd whose session has ended is refused; one driver crashes the kernel instead.
    pub dead_write_is_harmless: bool,
    /// The header the driver checks while it is written.
    pub header: Option<Header>,
    /// Damage of any byte is noticed when RESUMING is left. Where it is not, no test may damage contents.
    pub sealed: bool,
    /// `initial_bytes` falls by exactly what is read.
    pub exact_initial_bytes: bool,
    /// Saving twice in STOP_COPY without use in between gives the same bytes.
    pub repeatable: bool,
    /// So does saving by way of PRE_COPY, however much is read there.
    pub repeatable_live: bool,
    /// A second START of DMA logging succeeds.
    pub logging_starts_twice: Option<bool>,
    /// Registers that follow the migrated state.
    pub registers: Registers,
}

/// A stream header that is checked by the write which completes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    /// Its length.
    pub bytes: usize,
    /// What that write fails with.
    pub errno: Errno,
    /// Where a changed byte must be noticed: name and offset.
    pub fields: &'static [(&'static str, usize)],
}

/// What leaving RESUMING does when bytes are missing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Incomplete {
    /// EINVAL; the device stays in RESUMING and takes the rest.
    Refused,
    /// Either is possible; only the recovery is checked.
    Unknown,
}

/// What a write past the end of the stream does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Overlong {
    /// It fails with this errno, and nothing of it is stored.
    Refused(Errno),
    /// It is taken, and leaving RESUMING is EINVAL.
    NoticedAtTheEnd,
    /// Not known for this driver.
    Unknown,
}

/// What reading says in PRE_COPY when nothing is left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Drained {
    /// 0, as hisi, qat and mtty do.
    Zero,
    /// ENOMSG, as vfio.h says and mlx5 and virtio do.
    NoMessage,
    /// Either is right.
    Either,
}

/// Device registers a test can set and compare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Registers {
    /// The 16550 of the kernel's sample driver.
    Uart,
    /// The simulator's own account of its state in BAR0.
    Digest,
    /// None known.
    None,
}

/// The kernel's sample serial card.
const MTTY: Profile = Profile {
    name: "mtty",
    incomplete: Incomplete::Refused,
    overlong: Overlong::Refused(Errno::ENOMEM),
    drained: Drained::Zero,
    state_survives_close: true,
    dead_write_is_harmless: true,
    header: Some(Header {
        bytes: 24,
        errno: Errno::EFAULT,
        fields: &[
            ("magic", 0),
            ("magic (last byte)", 7),
            ("major version", 8),
            ("minor version", 12),
            ("number of ports", 16),
            ("flags", 20),
            ("flags (last byte)", 23),
        ],
    }),
    sealed: false,
    exact_initial_bytes: true,
    repeatable: true,
    repeatable_live: true,
    logging_starts_twice: Some(true),
    registers: Registers::Uart,
};

/// The simulator's own device, whose stream proves itself.
const PLAIN: Profile = Profile {
    name: "plain",
    incomplete: Incomplete::Refused,
    overlong: Overlong::NoticedAtTheEnd,
    drained: Drained::NoMessage,
    state_survives_close: false,
    dead_write_is_harmless: true,
    header: Some(Header { bytes: 64, errno: Errno::EINVAL, fields: &[("magic", 0), ("version", 8), ("padding", 63)] }),
    sealed: true,
    exact_initial_bytes: true,
    repeatable: true,
    repeatable_live: false,
    logging_starts_twice: Some(false),
    registers: Registers::Digest,
};

/// The same, made to end its pre-copy as the older drivers do.
const PLAIN_ZERO: Profile = Profile { name: "plain-zero", drained: Drained::Zero, ..PLAIN };

/// Any driver: only what vfio.h promises.
const GENERIC: Profile = Profile {
    name: "generic",
    incomplete: Incomplete::Unknown,
    overlong: Overlong::Unknown,
    drained: Drained::Either,
    state_survives_close: false,
    dead_write_is_harmless: false,
    header: None,
    sealed: false,
    exact_initial_bytes: false,
    repeatable: false,
    repeatable_live: false,
    logging_starts_twice: None,
    registers: Registers::None,
};

impl Profile {
    const ALL: [Self; 4] = [MTTY, PLAIN, PLAIN_ZERO, GENERIC];

    /// By its name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name == name)
    }

    /// The names [`named`](Self::named) knows.
    pub(crate) fn names() -> String {
        Self::ALL.map(|profile| profile.name).join(", ")
    }

    /// What is known of a device with this PCI id.
    pub(crate) fn of(vendor: u16, device: u16) -> Self {
        match (vendor, device) {
            (0x4348, 0x3253) => MTTY,
            // An id no vendor gave to a device; only the simulator's plain model has it.
            (0x1af4, 0x10f0) => PLAIN,
            _ => GENERIC,
        }
    }
}
