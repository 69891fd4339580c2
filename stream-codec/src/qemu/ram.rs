// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The payload of a RAM section (idstr `ram`, version 4).
//!
//! A payload is a row of records, each a u64 whose low bits are flags and whose rest is an offset in bytes, the last
//! with the flag EOS.
//!
//! | flag | name | followed by |
//! |---|---|---|
//! | 0x002 | ZERO | u8 fill, always 0 |
//! | 0x004 | MEM_SIZE | the list of blocks; the offset is the bytes of all together |
//! | 0x008 | PAGE | one page |
//! | 0x010 | EOS | nothing: the payload ends |
//! | 0x020 | CONTINUE | with ZERO, PAGE, XBZRLE: the page is in the same block as the one before |
//! | 0x040 | XBZRLE | u8 1, u16 length, that many bytes |
//! | 0x080 | HOOK | RDMA only; refused |
//! | 0x200 | MULTIFD_FLUSH | nothing: the pages so far on all multifd channels come first |
//!
//! Without CONTINUE the name of the block (u8 length, name) stands right after the u64 of a page record.
//!
//! An entry of the list of blocks is a name, a u64 length in bytes, a u64 page size (only of blocks with odd pages when
//! postcopy is on), a u64 address (only with `x-ignore-shared`) and, with `mapped-ram`, the
//! [header](super::MappedRamHeader) of its place in the file.

mod reader;

use alloc::vec::Vec;

pub(super) use self::reader::{Layout, Ram, Token};
use super::error::Reason;
use super::event::Piece;
use super::mapped_ram::MappedRamHeader;
use super::text;

/// The version of a RAM section that this reader knows.
pub const RAM_VERSION: u32 = 4;

const ZERO: u64 = 0x02;
const MEM_SIZE: u64 = 0x04;
const PAGE: u64 = 0x08;
const EOS: u64 = 0x10;
const CONTINUE: u64 = 0x20;
const XBZRLE: u64 = 0x40;
const MULTIFD_FLUSH: u64 = 0x200;

/// The one encoding of an XBZRLE page.
const ENCODING_XBZRLE: u8 = 1;

/// A record of a RAM section, or a part of one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum RamRecord<'a> {
    /// The list of blocks follows.
    MemSize {
        /// The bytes of all blocks together.
        total_bytes: u64,
    },
    /// An entry of the list of blocks.
    Block(RamBlock<'a>),
    /// Where the block just listed stands in the file.
    MappedRam(MappedRamHeader),
    /// Bytes of the file that nobody uses.
    Gap(Piece<'a>),
    /// The bitmap of the block just listed: which pages are in the file.
    Bitmap(Piece<'a>),
    /// The place of the pages of the block just listed.
    Pages(Piece<'a>),
    /// A page of zeros.
    ZeroPage {
        /// Which page.
        page: RamPage<'a>,
        /// The byte after the record. QEMU writes zero.
        fill: u8,
    },
    /// A page whose bytes follow.
    Page(RamPage<'a>),
    /// A page whose difference to what was sent before follows.
    XbzrlePage {
        /// Which page.
        page: RamPage<'a>,
        /// Length of the encoded difference in bytes.
        length: u16,
    },
    /// Bytes of the page just announced.
    PageBytes(Piece<'a>),
    /// The pages that were sent on multifd channels before this come first.
    MultifdFlush,
    /// The payload of the section ends.
    EndOfSection,
}

/// A block of RAM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RamBlock<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its used length in bytes.
    pub used_bytes: u64,
    /// Its page size in bytes, if the stream says so.
    pub page_bytes: Option<u64>,
    /// Its address in the guest, with `x-ignore-shared`.
    pub address: Option<u64>,
}

/// A page of RAM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RamPage<'a> {
    /// Name of its block.
    pub block: &'a str,
    /// Where in the block it is, in bytes.
    pub offset: u64,
    /// Whether the record leaves the name out because it is that of the page before.
    pub same_block: bool,
}

impl RamRecord<'_> {
    /// Appends the record or the part of one.
    ///
    /// # Errors
    /// [`Reason::Text`] if a name has more than 255 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Reason> {
        match self {
            Self::MemSize { total_bytes } => put(out, total_bytes | MEM_SIZE),
            Self::Block(block) => {
                text::put(out, block.name, "RAM block")?;
                put(out, block.used_bytes);
                block.page_bytes.into_iter().chain(block.address).for_each(|value| put(out, value));
            }
            Self::MappedRam(header) => header.encode(out),
            Self::Gap(piece) | Self::Bitmap(piece) | Self::Pages(piece) | Self::PageBytes(piece) => {
                out.extend_from_slice(piece.bytes);
            }
            Self::ZeroPage { page, fill } => {
                page.encode(ZERO, out)?;
                out.push(*fill);
            }
            Self::Page(page) => page.encode(PAGE, out)?,
            Self::XbzrlePage { page, length } => {
                page.encode(XBZRLE, out)?;
                out.push(ENCODING_XBZRLE);
                out.extend_from_slice(&length.to_be_bytes());
            }
            Self::MultifdFlush => put(out, MULTIFD_FLUSH),
            Self::EndOfSection => put(out, EOS),
        }
        Ok(())
    }
}

impl RamPage<'_> {
    fn encode(&self, flag: u64, out: &mut Vec<u8>) -> Result<(), Reason> {
        if self.same_block {
            put(out, self.offset | flag | CONTINUE);
            return Ok(());
        }
        put(out, self.offset | flag);
        text::put(out, self.block, "RAM block")
    }
}

fn put(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}
