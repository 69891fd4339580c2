// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parts of a main stream.

use arbitrary::Arbitrary;
use stream_codec::qemu::{
    Capabilities, Command, ConfigurationSubsection, Extent, Item, PageSizes, RamDiscard, SectionHeader, SectionKind,
};

use super::{RamPart, VfioPart, clipped};

/// Something on a main stream.
#[derive(Arbitrary, Debug)]
pub enum MainPart<'a> {
    /// Bytes as they are.
    Raw(&'a [u8]),
    FileHeader,
    Configuration(&'a str),
    PageBits(u8),
    /// Names with their lengths, and how many there are said to be.
    Capabilities(Vec<&'a str>),
    WellKnownCapabilities {
        ignore_shared: bool,
        mapped_ram: bool,
    },
    Uuid([u8; 16]),
    Section {
        kind: Kind,
        id: u8,
        name: Name<'a>,
        instance_id: u8,
        version_id: u8,
    },
    Ram(RamPart<'a>),
    Vfio(VfioPart<'a>),
    Footer(u8),
    Command(CommandPart<'a>),
    EndOfStream,
    Vmdesc(&'a [u8]),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Kind {
    Start,
    Part,
    End,
    Full,
}

impl From<Kind> for SectionKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Start => Self::Start,
            Kind::Part => Self::Part,
            Kind::End => Self::End,
            Kind::Full => Self::Full,
        }
    }
}

/// Names that mean something, and others.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Name<'a> {
    Ram,
    Vfio,
    PathVfio,
    Cpu,
    Other(&'a str),
}

impl<'a> Name<'a> {
    pub fn text(self) -> &'a str {
        match self {
            Self::Ram => "ram",
            Self::Vfio => "vfio",
            Self::PathVfio => "00:01.0/vfio",
            Self::Cpu => "cpu",
            Self::Other(text) => clipped(text, 255),
        }
    }

    /// The version that the reader knows.
    fn version(self) -> u32 {
        match self {
            Self::Ram => 4,
            Self::Cpu => 7,
            _ => 1,
        }
    }
}

/// A section's header. Of PART and END only the kind and the id are written.
pub fn header<'a>(kind: SectionKind, id: u32, idstr: &'a str, instance_id: u32, version_id: u32) -> Item<'a> {
    Item::Section(SectionHeader { kind, id, idstr, instance_id, version_id, extent: Extent::Format })
}

/// A command.
#[derive(Arbitrary, Debug)]
pub enum CommandPart<'a> {
    OpenReturnPath,
    Ping(u32),
    Advise(Option<(u64, u64)>),
    Listen,
    Run,
    Discard {
        block: &'a str,
        ranges: Vec<(u64, u64)>,
    },
    Packaged(u8),
    /// A package with its length, or a wrong one.
    Package {
        parts: Vec<MainPart<'a>>,
        lie: i8,
    },
    Colo,
    Resume,
    RecvBitmap(&'a str),
    SwitchoverStart,
    /// Number, length and data as they are.
    Raw {
        number: u8,
        length: u16,
        data: &'a [u8],
    },
}

impl CommandPart<'_> {
    fn append(&self, out: &mut Vec<u8>) {
        let command = match self {
            Self::OpenReturnPath => Command::OpenReturnPath,
            Self::Ping(value) => Command::Ping(*value),
            Self::Advise(sizes) => Command::PostcopyAdvise(
                sizes.map(|(host_bytes_mask, target_bytes)| PageSizes { host_bytes_mask, target_bytes }),
            ),
            Self::Listen => Command::PostcopyListen,
            Self::Run => Command::PostcopyRun,
            Self::Packaged(length) => Command::Packaged { length: (*length).into() },
            Self::Colo => Command::EnableColo,
            Self::Resume => Command::PostcopyResume,
            Self::RecvBitmap(block) => Command::RecvBitmap { block: clipped(block, 255) },
            Self::SwitchoverStart => Command::SwitchoverStart,
            Self::Discard { block, ranges } => {
                let encoded: Vec<u8> = ranges
                    .iter()
                    .flat_map(|(start, length)| [start.to_be_bytes(), length.to_be_bytes()])
                    .flatten()
                    .collect();
                let _ = Command::PostcopyRamDiscard(RamDiscard { block: clipped(block, 255), encoded: &encoded })
                    .encode(out);
                return;
            }
            Self::Package { parts, lie } => {
                let mut inner = Vec::new();
                parts.iter().for_each(|part| part.append(&mut inner));
                let length = (inner.len() as u32).saturating_add_signed((*lie).into());
                Command::Packaged { length }.encode(out).expect("it has four bytes");
                out.extend_from_slice(&inner);
                return;
            }
            Self::Raw { number, length, data } => {
                out.push(8);
                out.extend_from_slice(&u16::from(*number).to_be_bytes());
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(data);
                return;
            }
        };
        let _ = command.encode(out);
    }
}

impl MainPart<'_> {
    /// Writes the part, or nothing if it cannot be written.
    pub fn append(&self, out: &mut Vec<u8>) {
        let item = match self {
            Self::Raw(bytes) => return out.extend_from_slice(bytes),
            Self::Ram(part) => return part.append(out),
            Self::Vfio(part) => return part.append(out),
            Self::Command(part) => return part.append(out),
            Self::Capabilities(names) => {
                let mut encoded = Vec::new();
                for name in names {
                    let name = clipped(name, 255);
                    encoded.push(name.len() as u8);
                    encoded.extend_from_slice(name.as_bytes());
                }
                let list = Capabilities { encoded: &encoded };
                return ConfigurationSubsection::Capabilities(list).encode(out);
            }
            Self::WellKnownCapabilities { ignore_shared, mapped_ram } => {
                let names = [(*ignore_shared, &b"\x0fx-ignore-shared"[..]), (*mapped_ram, b"\x0amapped-ram")];
                let encoded = names.iter().filter(|(is_on, _)| *is_on).flat_map(|(_, name)| name.iter().copied());
                let encoded: Vec<u8> = encoded.collect();
                let list = Capabilities { encoded: &encoded };
                return ConfigurationSubsection::Capabilities(list).encode(out);
            }
            Self::Vmdesc(json) => {
                let item = Item::Vmdesc { length: json.len() as u32 };
                item.encode(out).expect("it has four bytes");
                return out.extend_from_slice(json);
            }
            Self::FileHeader => Item::FileHeader,
            Self::Configuration(machine) => Item::Configuration { machine },
            Self::PageBits(bits) => {
                Item::ConfigurationSubsection(ConfigurationSubsection::TargetPageBits((*bits).into()))
            }
            Self::Uuid(uuid) => Item::ConfigurationSubsection(ConfigurationSubsection::Uuid(*uuid)),
            Self::Section { kind, id, name, instance_id, version_id } => {
                let version_id = if *version_id == 0 { name.version() } else { (*version_id).into() };
                header((*kind).into(), (*id).into(), name.text(), (*instance_id).into(), version_id)
            }
            Self::Footer(id) => Item::Footer { id: (*id).into() },
            Self::EndOfStream => Item::EndOfStream,
        };
        let _ = item.encode(out);
    }
}
