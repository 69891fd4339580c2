// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! QEMU's migration streams, as QEMU 10.0 to 11.1 writes and reads them.
//!
//! All integers are big-endian. There are no checksums, and most parts do not say how long they are.
//!
//! | connection | direction | decoder |
//! |---|---|---|
//! | main, or file | source to target | [`MainDecoder`] |
//! | main | target to source | [`ReturnPathDecoder`] |
//! | multifd | source to target | [`MultifdDecoder`] |
//!
//! A target tells main and multifd connections apart by their first four bytes: [`ChannelKind`].
//!
//! # The main stream
//!
//! ```text
//! stream  := "QEVM" u32=3 [configuration] item* 00 [vmdesc]
//! item    := section | command
//! section := type u32 id [u8 n, idstr, u32 instance_id, u32 version_id]  payload  [7e u32 id]
//! command := 08 u16 number u16 length data
//! vmdesc  := 06 u32 length JSON
//! ```
//!
//! | type | section | header names the device | payload |
//! |---|---|---|---|
//! | 1 | START | yes | of a device sent in several sections |
//! | 2 | PART | no | more of it while the guest runs |
//! | 3 | END | no | the last of it |
//! | 4 | FULL | yes | a whole device |
//!
//! Events come in the order of the stream and cover it without gap: see [`Event`]. [`Item`] lists them, and the types
//! in it carry the layout of each part: [`RamRecord`], [`VfioRecord`], [`VmState`], [`Command`].
//!
//! ```
//! use stream_codec::decode::{Decoder, Step};
//! use stream_codec::qemu::{Item, MainDecoder, MainOptions, SectionHeader, Vmdesc, VmdescLimits};
//!
//! # let file = include_bytes!("../testdata/qemu/none.bin");
//! let vmdesc = Vmdesc::locate(file).map(|json| Vmdesc::parse(&file[json], &VmdescLimits::DEFAULT).unwrap());
//! let mut decoder = MainDecoder::new(MainOptions { vmdesc, ..MainOptions::default() });
//! let (mut rest, mut names) = (&file[..], Vec::new());
//! while let Step { consumed, event: Some(event) } = decoder.decode(rest).unwrap() {
//!     if let Item::Section(SectionHeader { kind, idstr, .. }) = event.item {
//!         names.push(format!("{} {idstr} at {}", kind.name(), event.offset));
//!     }
//!     rest = &rest[consumed..];
//! }
//! decoder.finish().unwrap();
//! assert_eq!(names, ["START ram at 17", "END ram at 60", "FULL timer at 78", "FULL globalstate at 126"]);
//! ```
//!
//! # Writing
//!
//! Every item has an `encode` that appends its bytes. A QEMU target accepts a stream of a file header, a configuration,
//! sections with footers and unique ids other than zero, the end and a vmdesc, whose content it ignores.

mod command;
mod configuration;
mod device_state;
mod engine;
mod error;
mod event;
mod item;
mod json;
mod limits;
mod main;
mod mapped_ram;
mod multifd;
mod pci_config;
mod ram;
mod return_path;
mod search;
mod section;
mod text;
mod vfio;
mod vmdesc;
mod vmstate;

pub use self::command::{Command, PageSizes, RamDiscard};
pub use self::configuration::{
    Capabilities, ConfigurationSubsection, FILE_MAGIC, FILE_VERSION, encode_configuration, encode_file_header,
};
pub use self::device_state::{DeviceStateHeader, VFIO_PACKET_HEADER_BYTES, VfioPacketHeader};
pub use self::error::{Error, Reason};
pub use self::event::{Event, Piece};
pub use self::item::Item;
pub use self::json::{JsonError, JsonReason};
pub use self::limits::Limits;
pub use self::main::{Footers, MainDecoder, MainOptions};
pub use self::mapped_ram::{MAPPED_RAM_VERSION, MappedRamHeader};
pub use self::multifd::{
    Compression, DEVICE_STATE_PACKET_BYTES, INITIAL_PACKET_BYTES, InitialPacket, MULTIFD_MAGIC, MULTIFD_VERSION,
    MultifdDecoder, MultifdItem, MultifdOptions, RamPacket, packet_pages,
};
pub use self::pci_config::PciConfigState;
pub use self::ram::{RAM_VERSION, RamBlock, RamPage, RamRecord};
pub use self::return_path::{RETURN_PATH_DATA_BYTES_MAX, ReturnPathDecoder, ReturnPathItem};
pub use self::section::{Extent, SectionHeader, SectionKind, encode_footer};
pub use self::vfio::{
    ConfigState, VFIO_DEV_CONFIG_LOAD_READY, VFIO_DEV_CONFIG_STATE, VFIO_DEV_DATA_STATE, VFIO_DEV_INIT_DATA_SENT,
    VFIO_DEV_SETUP_STATE, VFIO_END_OF_STATE, VFIO_VERSION, VfioRecord,
};
pub use self::vmdesc::{DeviceDescription, Vmdesc, VmdescLimits};
pub use self::vmstate::{Path, PathStep, Value, VmField, VmState, VmStateReader, WHOLE_FIELD_BYTES_MAX};

/// What a connection from a source is for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum ChannelKind {
    /// The main stream.
    Main,
    /// A multifd channel.
    Multifd,
}

impl ChannelKind {
    /// Tells by the first four bytes of a connection. `None` if they are of neither kind.
    ///
    /// ```
    /// use stream_codec::qemu::ChannelKind;
    /// assert_eq!(ChannelKind::from_first_bytes(*b"QEVM"), Some(ChannelKind::Main));
    /// assert_eq!(ChannelKind::from_first_bytes([0x11, 0x22, 0x33, 0x44]), Some(ChannelKind::Multifd));
    /// ```
    #[must_use]
    pub const fn from_first_bytes(bytes: [u8; 4]) -> Option<Self> {
        match u32::from_be_bytes(bytes) {
            FILE_MAGIC => Some(Self::Main),
            MULTIFD_MAGIC => Some(Self::Multifd),
            _ => None,
        }
    }
}
