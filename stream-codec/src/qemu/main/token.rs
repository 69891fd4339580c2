// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Items of the main stream, without what they borrow.

use core::ops::Range;

use crate::qemu::event::Progress;
use crate::qemu::item::Item;
use crate::qemu::ram::{self, Ram};
use crate::qemu::section::{Extent, SectionHeader, SectionKind, Table};
use crate::qemu::vmdesc::Vmdesc;
use crate::qemu::vmstate::{self, Walk};
use crate::qemu::{command, configuration, text, vfio};

/// An item, as a token.
#[derive(Clone, Debug)]
pub(super) enum Token {
    FileHeader,
    Configuration(Range<usize>),
    ConfigurationSubsection(configuration::Token),
    Section(Header),
    Ram(ram::Token),
    Vfio(vfio::Token),
    VmState(vmstate::Token),
    Payload,
    Footer { id: u32 },
    Command(command::Token),
    EndOfStream,
    Vmdesc { length: u32 },
    VmdescBytes(Progress),
}

#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) kind: SectionKind,
    pub(super) id: u32,
    /// Only of sections that name their device.
    pub(super) idstr: Option<Range<usize>>,
    pub(super) instance_id: u32,
    pub(super) version_id: u32,
    pub(super) extent: Extent,
}

/// What the decoder keeps of earlier items.
pub(super) struct Kept<'a> {
    pub(super) table: &'a Table,
    pub(super) ram: &'a Ram,
    pub(super) walk: &'a Walk,
    pub(super) vmdesc: &'a Vmdesc,
}

impl Token {
    pub(super) fn item<'a>(self, raw: &'a [u8], kept: &Kept<'a>) -> Item<'a> {
        match self {
            Self::FileHeader => Item::FileHeader,
            Self::Configuration(machine) => Item::Configuration { machine: text::at(raw, machine) },
            Self::ConfigurationSubsection(token) => Item::ConfigurationSubsection(token.item(raw)),
            Self::Section(header) => Item::Section(SectionHeader {
                kind: header.kind,
                id: header.id,
                idstr: match header.idstr {
                    Some(range) => text::at(raw, range),
                    None => kept.table.get(header.id).map_or("", |started| &started.idstr),
                },
                instance_id: header.instance_id,
                version_id: header.version_id,
                extent: header.extent,
            }),
            Self::Ram(token) => Item::Ram(kept.ram.item(token, raw)),
            Self::Vfio(token) => Item::Vfio(token.item(raw)),
            Self::VmState(token) => Item::VmState(kept.walk.item(kept.vmdesc, token, raw)),
            Self::Payload => Item::Payload(raw),
            Self::Footer { id } => Item::Footer { id },
            Self::Command(token) => Item::Command(token.item(raw)),
            Self::EndOfStream => Item::EndOfStream,
            Self::Vmdesc { length } => Item::Vmdesc { length },
            Self::VmdescBytes(progress) => Item::VmdescBytes(progress.piece(raw)),
        }
    }
}
