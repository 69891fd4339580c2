// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The decoder of the main stream.

mod grammar;
mod token;

use alloc::string::String;
use alloc::vec::Vec;

use self::grammar::Main;
use super::engine::{Engine, decoder};
use super::item::Item;
use super::limits::Limits;
use super::vmdesc::Vmdesc;

/// Whether sections end with a footer.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Footers {
    /// The end of the first section shows it. A search for an end counts on footers.
    #[default]
    Detect,
    /// All have one.
    Present,
    /// None has one (`send-section-footer=off`).
    Absent,
}

/// What a reader must know of a main stream beforehand, for the stream does not say it.
#[derive(Clone, Debug)]
pub struct MainOptions {
    /// Bounds of what is kept in memory.
    pub limits: Limits,
    /// The fields of FULL sections, if known. Without it their ends are searched.
    pub vmdesc: Option<Vmdesc>,
    /// Whether sections end with a footer.
    pub footers: Footers,
    /// Whether a vmdesc follows the end of the stream. It does not with `suppress-vmdesc=on` and after a postcopy. If
    /// it is expected and does not come, a search waits for it after the last section.
    pub vmdesc_follows: bool,
    /// Binary logarithm of the target's page size, 12 by default. A stream that says otherwise is right.
    pub page_bits: u32,
    /// Names of RAM blocks whose entry in the list of blocks has a page size: those whose pages are not of the host's
    /// size, with postcopy.
    pub blocks_with_page_size: Vec<String>,
    /// Where in the file the stream starts: the `offset` of a `file:` address, for `mapped-ram`.
    pub file_offset: u64,
}

impl Default for MainOptions {
    fn default() -> Self {
        Self {
            limits: Limits::DEFAULT,
            vmdesc: None,
            footers: Footers::Detect,
            vmdesc_follows: true,
            page_bits: 12,
            blocks_with_page_size: Vec::new(),
            file_offset: 0,
        }
    }
}

decoder! {
    /// Reads the main stream: a file, or the first connection from the source.
    ///
    /// Where it can seek, a program first finds the vmdesc in the last bytes ([`Vmdesc::locate`]) and gives it as an
    /// option: then every field of every FULL section is an event, and nothing needs to be buffered. Where it cannot,
    /// the decoder buffers each FULL section up to [`Limits::section_bytes`] until it finds the end, and yields it as
    /// [`Item::Payload`]; [`VmStateReader`](super::VmStateReader) reads its fields once the vmdesc has come. Which way
    /// it went says [`SectionHeader::extent`](super::SectionHeader::extent).
    ///
    /// ```
    /// use stream_codec::decode::Decoder;
    /// use stream_codec::qemu::{Command, Item, MainDecoder, MainOptions};
    ///
    /// let stream = b"QEVM\0\0\0\x03\x08\0\x0b\0\0";
    /// let mut decoder = MainDecoder::new(MainOptions::default());
    /// let step = decoder.decode(stream).unwrap();
    /// assert_eq!((step.consumed, step.event.unwrap().item), (8, Item::FileHeader));
    /// let event = decoder.decode(&stream[8..]).unwrap().event.unwrap();
    /// assert_eq!((event.offset, event.item), (8, Item::Command(Command::SwitchoverStart)));
    /// ```
    MainDecoder(Main) -> Item
}

impl MainDecoder {
    /// A decoder at the start of a stream.
    #[must_use]
    pub fn new(options: MainOptions) -> Self {
        Self(Engine::new(Main::new(options), "file magic"))
    }
}
