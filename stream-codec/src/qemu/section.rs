// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Sections: what carries the state of one device.
//!
//! | offset | size | field | in |
//! |---|---|---|---|
//! | 0 | 1 | type: 1 START, 2 PART, 3 END, 4 FULL | all |
//! | 1 | 4 | section id, chosen by the sender | all |
//! | 5 | 1 + n | idstr, e.g. `ram` or `0000:00:10.0/vfio` | START, FULL |
//! | 6 + n | 4 | instance id | START, FULL |
//! | 10 + n | 4 | version id | START, FULL |
//!
//! The payload follows, without a length. A footer follows that: `7e` and the section id. Footers are on unless
//! `send-section-footer=off` (machine types up to 2.3).

use alloc::string::String;
use alloc::vec::Vec;

use super::error::Reason;
use super::text;

/// Type byte of a footer.
pub(super) const FOOTER: u8 = 0x7e;

/// The four kinds of sections.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum SectionKind {
    /// Opens a device that is sent in several sections.
    Start,
    /// More of such a device, while the guest runs.
    Part,
    /// The last of such a device, the guest being stopped.
    End,
    /// A whole device in one section.
    Full,
}

impl SectionKind {
    /// The kind with this type byte.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Start),
            2 => Some(Self::Part),
            3 => Some(Self::End),
            4 => Some(Self::Full),
            _ => None,
        }
    }

    /// The type byte.
    #[must_use]
    pub const fn raw(self) -> u8 {
        match self {
            Self::Start => 1,
            Self::Part => 2,
            Self::End => 3,
            Self::Full => 4,
        }
    }

    /// QEMU's name, e.g. `START`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "START",
            Self::Part => "PART",
            Self::End => "END",
            Self::Full => "FULL",
        }
    }

    /// Whether the header names the device.
    #[must_use]
    pub const fn is_named(self) -> bool {
        matches!(self, Self::Start | Self::Full)
    }
}

/// How the end of a section's payload is known.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Extent {
    /// The payload has a format of its own that says where it ends: RAM, and VFIO but for its config state.
    Format,
    /// The vmdesc says how long every field is.
    Vmdesc,
    /// The payload is buffered until a footer with its section id and the header of a next item follow.
    FooterSearch,
}

/// The header of a section.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SectionHeader<'a> {
    /// Its kind.
    pub kind: SectionKind,
    /// The number that ties PART, END and footer to a START or FULL.
    pub id: u32,
    /// The device's name. Of PART and END it is the one the START gave.
    pub idstr: &'a str,
    /// Tells devices of one name apart. Of PART and END it is the one the START gave.
    pub instance_id: u32,
    /// The version of the device's state. Of PART and END it is the one the START gave.
    pub version_id: u32,
    /// How the end of the payload is known.
    pub extent: Extent,
}

impl SectionHeader<'_> {
    /// Appends the header.
    ///
    /// # Errors
    /// [`Reason::Text`] if the idstr of a START or FULL section has more than 255 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Reason> {
        out.push(self.kind.raw());
        out.extend_from_slice(&self.id.to_be_bytes());
        if self.kind.is_named() {
            text::put(out, self.idstr, "idstr")?;
            out.extend_from_slice(&self.instance_id.to_be_bytes());
            out.extend_from_slice(&self.version_id.to_be_bytes());
        }
        Ok(())
    }
}

/// Appends the footer of section `id`.
pub fn encode_footer(id: u32, out: &mut Vec<u8>) {
    out.push(FOOTER);
    out.extend_from_slice(&id.to_be_bytes());
}

/// What the payload of a section is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Content {
    Ram,
    Vfio,
    Other,
}

impl Content {
    /// By the name: `ram`, and `<PCI path>/vfio` or `vfio` for devices without a path.
    pub(super) fn of(idstr: &str) -> Self {
        match idstr {
            "ram" => Self::Ram,
            "vfio" => Self::Vfio,
            path if path.ends_with("/vfio") => Self::Vfio,
            _ => Self::Other,
        }
    }
}

/// A section that was started and may go on.
#[derive(Clone, Debug)]
pub(super) struct Started {
    pub(super) id: u32,
    pub(super) idstr: String,
    pub(super) instance_id: u32,
    pub(super) version_id: u32,
}

/// The sections that were started.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    sections: Vec<Started>,
    names_bytes: usize,
}

impl Table {
    pub(super) fn get(&self, id: u32) -> Option<&Started> {
        self.sections.iter().find(|section| section.id == id)
    }

    /// Whether `id` may stand for this device: it does already, or for none.
    pub(super) fn check(&self, id: u32, idstr: &str, instance_id: u32) -> Result<bool, Reason> {
        match self.get(id) {
            None => Ok(true),
            Some(known) if known.idstr == idstr && known.instance_id == instance_id => Ok(false),
            Some(_) => Err(Reason::IdReused { id }),
        }
    }

    pub(super) fn insert(&mut self, section: Started, limit: u32) -> Result<(), Reason> {
        let value = u64::try_from(self.sections.len()).unwrap_or(u64::MAX).saturating_add(1);
        if value > limit.into() {
            return Err(Reason::Limit { what: "started sections", value, limit: limit.into() });
        }
        let bytes = section.idstr.len();
        self.sections.try_reserve(1).map_err(|_| Reason::NoMemory { bytes })?;
        self.names_bytes = self.names_bytes.saturating_add(section.idstr.capacity());
        self.sections.push(section);
        Ok(())
    }

    pub(super) fn held_bytes(&self) -> usize {
        let entries = self.sections.capacity().saturating_mul(size_of::<Started>());
        entries.saturating_add(self.names_bytes)
    }
}
