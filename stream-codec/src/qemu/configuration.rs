// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The start of a stream: the file header, and the CONFIGURATION that both ends must agree on.
//!
//! | item | bytes |
//! |---|---|
//! | file header | `QEVM`, u32 version 3 |
//! | CONFIGURATION | `07`, u32 length, name of the machine type |
//! | `configuration/target-page-bits` | subsection header, u32 bits |
//! | `configuration/capabilities` | subsection header, u32 count, count × (u8 length, name) |
//! | `configuration/uuid` | subsection header, 16 bytes |
//!
//! A subsection header is `05`, u8 length, name, u32 version. A QEMU target looks for the byte `05` after the machine
//! type, so it does not finish the header before one more byte has arrived.

use alloc::vec::Vec;
use core::ops::Range;

use super::engine::Stop;
use super::error::Reason;
use super::text;
use crate::cursor::Cursor;
use crate::frame::TextFault;

/// `QEVM`, the first four bytes of a main stream.
pub const FILE_MAGIC: u32 = 0x5145_564d;

/// The file version that QEMU writes and this reader knows.
pub const FILE_VERSION: u32 = 3;

/// Type byte of the configuration.
pub(super) const CONFIGURATION: u8 = 7;

/// Type byte of a subsection.
pub(super) const SUBSECTION: u8 = 5;

/// Longest name of a machine type this reader takes, in bytes.
const MACHINE_BYTES_MAX: u16 = 1024;

/// Most capabilities this reader takes. QEMU validates two.
const CAPABILITIES_MAX: u32 = 256;

const PAGE_BITS: &str = "configuration/target-page-bits";
const CAPABILITIES: &str = "configuration/capabilities";
const UUID: &str = "configuration/uuid";

/// A part of the configuration that is there only when it matters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum ConfigurationSubsection<'a> {
    /// The binary logarithm of the target's page size, if that varies.
    TargetPageBits(u32),
    /// The capabilities that are on, of those that must agree.
    Capabilities(Capabilities<'a>),
    /// The VM's UUID, with the capability `validate-uuid`.
    Uuid([u8; 16]),
}

/// A list of capabilities.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Capabilities<'a> {
    /// The names as they are sent: u8 length and that many bytes each, without the count.
    pub encoded: &'a [u8],
}

impl<'a> Capabilities<'a> {
    /// The names, e.g. `mapped-ram`.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut cursor = Cursor::new(self.encoded);
        core::iter::from_fn(move || text::counted(&mut cursor, "capability").ok().map(|(name, _)| name))
    }

    /// Whether this one is on.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.iter().any(|listed| listed == name)
    }
}

impl ConfigurationSubsection<'_> {
    /// Appends the subsection with its header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let name = match self {
            Self::TargetPageBits(_) => PAGE_BITS,
            Self::Capabilities(_) => CAPABILITIES,
            Self::Uuid(_) => UUID,
        };
        out.push(SUBSECTION);
        out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&1u32.to_be_bytes());
        match self {
            Self::TargetPageBits(bits) => out.extend_from_slice(&bits.to_be_bytes()),
            Self::Capabilities(list) => {
                let count = u32::try_from(list.iter().count()).unwrap_or(u32::MAX);
                out.extend_from_slice(&count.to_be_bytes());
                out.extend_from_slice(list.encoded);
            }
            Self::Uuid(uuid) => out.extend_from_slice(uuid),
        }
    }
}

/// Appends the file header.
pub fn encode_file_header(out: &mut Vec<u8>) {
    out.extend_from_slice(&FILE_MAGIC.to_be_bytes());
    out.extend_from_slice(&FILE_VERSION.to_be_bytes());
}

/// Appends the CONFIGURATION without subsections.
///
/// # Errors
/// [`Reason::Text`] if the name has more than 1024 bytes.
pub fn encode_configuration(machine: &str, out: &mut Vec<u8>) -> Result<(), Reason> {
    check_machine_length(machine.len())?;
    out.push(CONFIGURATION);
    out.extend_from_slice(&u32::try_from(machine.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(machine.as_bytes());
    Ok(())
}

fn check_machine_length(length: usize) -> Result<(), Reason> {
    if length > usize::from(MACHINE_BYTES_MAX) {
        let fault = TextFault::TooLong { length, limit: MACHINE_BYTES_MAX };
        return Err(Reason::Text { what: "machine type", fault });
    }
    Ok(())
}

pub(super) fn read_file_header(cursor: &mut Cursor<'_>) -> Result<(), Stop> {
    let found = cursor.u32_be("file magic")?;
    if found != FILE_MAGIC {
        return Err(Reason::Magic { what: "QEMU migration stream", found }.into());
    }
    let found = cursor.u32_be("file version")?;
    if found != FILE_VERSION {
        return Err(Reason::Version { what: "file version", found, known: FILE_VERSION }.into());
    }
    Ok(())
}

/// Reads the configuration and returns where the machine's name stands in it.
pub(super) fn read_configuration(cursor: &mut Cursor<'_>) -> Result<Range<usize>, Stop> {
    cursor.u8("configuration")?;
    let length = usize::try_from(cursor.u32_be("length of the machine type")?).unwrap_or(usize::MAX);
    check_machine_length(length)?;
    let start = cursor.position();
    text::line(cursor.take(length, "machine type")?, "machine type")?;
    Ok(start..cursor.position())
}

/// A subsection of the configuration, as a token.
#[derive(Clone, Debug)]
pub(super) enum Token {
    PageBits(u32),
    Capabilities { list: Range<usize>, ignore_shared: bool, mapped_ram: bool },
    Uuid([u8; 16]),
}

impl Token {
    pub(super) fn item<'a>(&self, raw: &'a [u8]) -> ConfigurationSubsection<'a> {
        match self {
            Self::PageBits(bits) => ConfigurationSubsection::TargetPageBits(*bits),
            Self::Capabilities { list, .. } => {
                let encoded = raw.get(list.clone()).unwrap_or_default();
                ConfigurationSubsection::Capabilities(Capabilities { encoded })
            }
            Self::Uuid(uuid) => ConfigurationSubsection::Uuid(*uuid),
        }
    }
}

pub(super) fn read_subsection(cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
    cursor.u8("subsection")?;
    let (name, _) = text::named(cursor, "name of a subsection")?;
    let found = cursor.u32_be("version of a subsection")?;
    if found != 1 {
        return Err(Reason::Version { what: "version of a configuration subsection", found, known: 1 }.into());
    }
    match name {
        PAGE_BITS => read_page_bits(cursor),
        CAPABILITIES => read_capabilities(cursor),
        UUID => Ok(Token::Uuid(cursor.take_array("UUID")?)),
        _ => {
            Err(Reason::Unknown { what: "configuration subsection, length of its name", value: wide(name.len()) }
                .into())
        }
    }
}

fn wide(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn read_page_bits(cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
    let bits = cursor.u32_be("target page bits")?;
    // The flags of a RAM record need ten bits; no target has pages above 64 KiB.
    if !(10..=16).contains(&bits) {
        let value = bits.into();
        return Err(Reason::Value { what: "target page bits", value, expected: "10 to 16" }.into());
    }
    Ok(Token::PageBits(bits))
}

fn read_capabilities(cursor: &mut Cursor<'_>) -> Result<Token, Stop> {
    let count = cursor.u32_be("number of capabilities")?;
    if count > CAPABILITIES_MAX {
        let (value, limit) = (count.into(), CAPABILITIES_MAX.into());
        return Err(Reason::Limit { what: "capabilities", value, limit }.into());
    }
    let start = cursor.position();
    let (mut ignore_shared, mut mapped_ram) = (false, false);
    for _ in 0..count {
        let (name, _) = text::named(cursor, "capability")?;
        ignore_shared |= name == "x-ignore-shared";
        mapped_ram |= name == "mapped-ram";
    }
    Ok(Token::Capabilities { list: start..cursor.position(), ignore_shared, mapped_ram })
}
