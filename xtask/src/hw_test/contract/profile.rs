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
    /// When it is compared at all.
    pub compared: Compared,
}

/// When a header is compared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Compared {
    /// In every session.
    Always,
    /// Until it has fitted once. Up to 6.12 a new binding of the driver makes it compare again, from 7.3 on a new open of
    /// the device; a reset does not.
    UntilItFits,
}

/// What leaving RESUMING does when bytes are missing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Incomplete {
    /// EINVAL; the device stays in RESUMING and takes the rest.
    Refused,
    /// Nothing is noticed: the device goes on with what has come.
    Accepted,
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
    /// It is taken, and nothing is noticed.
    Accepted,
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
    /// The account that simulated devices give of their state in BAR0.
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
        compared: Compared::Always,
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
    header: Some(Header {
        bytes: 64,
        errno: Errno::EINVAL,
        fields: &[("magic", 0), ("version", 8), ("padding", 63)],
        compared: Compared::Always,
    }),
    sealed: true,
    exact_initial_bytes: true,
    repeatable: true,
    repeatable_live: false,
    logging_starts_twice: Some(false),
    registers: Registers::Digest,
};

/// The same, made to end its pre-copy as the older drivers do.
const PLAIN_ZERO: Profile = Profile { name: "plain-zero", drained: Drained::Zero, ..PLAIN };

/// HiSilicon's accelerators: one structure of 176 bytes, which begins with the 40 that are compared.
const HISI: Profile = Profile {
    name: "hisi",
    incomplete: Incomplete::Refused,
    overlong: Overlong::Refused(Errno::ENOMEM),
    drained: Drained::Zero,
    state_survives_close: false,
    dead_write_is_harmless: true,
    header: Some(Header {
        bytes: 40,
        errno: Errno::EFAULT,
        fields: &[
            ("magic", 0),
            ("magic (last byte)", 7),
            ("number of queues", 8),
            ("device id", 12),
            ("queue isolation", 16),
            ("major version", 28),
        ],
        compared: Compared::UntilItFits,
    }),
    sealed: false,
    exact_initial_bytes: true,
    repeatable: true,
    repeatable_live: true,
    logging_starts_twice: None,
    registers: Registers::None,
};

/// The same with the simulator's registers, which a real one has not.
const HISI_SOFT: Profile = Profile { name: "hisi-soft", registers: Registers::Digest, ..HISI };

/// The same without guest driver: the compared 40 bytes are all, of which one depends on when it is read. There is room
/// for 136 more, but the driver ends with 40 or 176 only.
const HISI_NOT_READY: Profile =
    Profile { name: "hisi-not-ready", overlong: Overlong::NoticedAtTheEnd, repeatable_live: false, ..HISI };

/// NVIDIA's ConnectX: records with images, which the firmware loads as they come, and nobody looks whether all have.
const MLX5: Profile = Profile {
    name: "mlx5",
    incomplete: Incomplete::Accepted,
    overlong: Overlong::Accepted,
    drained: Drained::NoMessage,
    state_survives_close: false,
    dead_write_is_harmless: true,
    // The first record's. Its tag is that of an optional record, so that only the size can be wrong.
    header: Some(Header {
        bytes: 16,
        errno: Errno::ENOMEM,
        fields: &[("size of the first record (byte 4)", 4), ("size of the first record (last byte)", 7)],
        compared: Compared::Always,
    }),
    sealed: false,
    exact_initial_bytes: true,
    repeatable: false,
    repeatable_live: false,
    logging_starts_twice: Some(false),
    registers: Registers::None,
};

/// The same with the simulator's registers, and a firmware that makes the same images of the same state.
const MLX5_SOFT: Profile = Profile { name: "mlx5-soft", repeatable: true, registers: Registers::Digest, ..MLX5 };

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
    const ALL: [Self; 9] = [MTTY, PLAIN, PLAIN_ZERO, HISI, HISI_SOFT, HISI_NOT_READY, MLX5, MLX5_SOFT, GENERIC];

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
            (0x19e5, 0xa251 | 0xa256 | 0xa259) => HISI,
            (0x15b3, 0x101e) => MLX5,
            _ => GENERIC,
        }
    }
}
