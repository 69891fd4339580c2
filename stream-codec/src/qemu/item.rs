// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What the main stream is made of.

use alloc::vec::Vec;

use super::command::Command;
use super::configuration::{ConfigurationSubsection, encode_configuration, encode_file_header};
use super::error::Reason;
use super::event::Piece;
use super::ram::RamRecord;
use super::search::{EOF, VMDESC};
use super::section::{SectionHeader, encode_footer};
use super::vfio::VfioRecord;
use super::vmstate::VmState;

/// An item of the main stream. What stands between the header and the footer of a section belongs to it; without
/// footers a section ends where the next item is no part of a payload.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Item<'a> {
    /// `QEVM` and the file version, 3.
    FileHeader,
    /// The machine type, e.g. `pc-q35-10.0`.
    Configuration {
        /// Its name. A QEMU target accepts any prefix of its own.
        machine: &'a str,
    },
    /// A part of the configuration.
    ConfigurationSubsection(ConfigurationSubsection<'a>),
    /// A section starts.
    Section(SectionHeader<'a>),
    /// A part of a RAM section.
    Ram(RamRecord<'a>),
    /// A part of a VFIO section.
    Vfio(VfioRecord<'a>),
    /// A part of a section that the vmdesc describes.
    VmState(VmState<'a>),
    /// The whole payload of a section whose end was searched.
    Payload(&'a [u8]),
    /// A section ends.
    Footer {
        /// Its id.
        id: u32,
    },
    /// A command.
    Command(Command<'a>),
    /// The stream ends, or the package.
    EndOfStream,
    /// The vmdesc follows.
    Vmdesc {
        /// Length of its JSON text in bytes.
        length: u32,
    },
    /// Bytes of the vmdesc's JSON text.
    VmdescBytes(Piece<'a>),
}

impl Item<'_> {
    /// Appends the item. Of an [`Event`](super::Event) this gives its `raw` bytes.
    ///
    /// # Errors
    /// [`Reason`] if a name or list is too long for its length field.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Reason> {
        match self {
            Self::FileHeader => encode_file_header(out),
            Self::Configuration { machine } => encode_configuration(machine, out)?,
            Self::ConfigurationSubsection(subsection) => subsection.encode(out),
            Self::Section(header) => header.encode(out)?,
            Self::Ram(record) => record.encode(out)?,
            Self::Vfio(record) => record.encode(out),
            Self::VmState(part) => part.encode(out)?,
            Self::Payload(bytes) => out.extend_from_slice(bytes),
            Self::Footer { id } => encode_footer(*id, out),
            Self::Command(command) => command.encode(out)?,
            Self::EndOfStream => out.push(EOF),
            Self::Vmdesc { length } => {
                out.push(VMDESC);
                out.extend_from_slice(&length.to_be_bytes());
            }
            Self::VmdescBytes(piece) => out.extend_from_slice(piece.bytes),
        }
        Ok(())
    }
}
