// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Parts of a RAM section.

use arbitrary::Arbitrary;
use stream_codec::qemu::{MappedRamHeader, RamBlock, RamPage, RamRecord};

use super::clipped;

/// Something in a RAM section.
#[derive(Arbitrary, Debug)]
pub enum RamPart<'a> {
    /// Bytes as they are.
    Raw(&'a [u8]),
    /// The list of blocks starts; the total in units of 256 bytes.
    MemSize(u8),
    Block {
        name: Block<'a>,
        used_units: u8,
        page_bytes: Option<u16>,
        address: Option<u16>,
    },
    MappedRam {
        page_bits: u8,
        bitmap_offset: u16,
        pages_offset: u16,
    },
    /// A page; its offset in units of 256 bytes, for the smallest pages have four of them.
    ZeroPage {
        block: Block<'a>,
        units: u8,
        same_block: bool,
        fill: u8,
    },
    Page {
        block: Block<'a>,
        units: u8,
        same_block: bool,
        page_bits: u8,
        fill: u8,
    },
    Xbzrle {
        block: Block<'a>,
        units: u8,
        same_block: bool,
        length: Option<u16>,
        bytes: &'a [u8],
    },
    MultifdFlush,
    EndOfSection,
}

/// Names of blocks: two that come often, and others.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Block<'a> {
    Ram,
    Rom,
    Other(&'a str),
}

impl<'a> Block<'a> {
    pub fn text(self) -> &'a str {
        match self {
            Self::Ram => "pc.ram",
            Self::Rom => "pc.rom",
            Self::Other(text) => clipped(text, 255),
        }
    }
}

fn page(block: Block<'_>, units: u8, same_block: bool) -> RamPage<'_> {
    RamPage { block: block.text(), offset: u64::from(units) << 8, same_block }
}

impl RamPart<'_> {
    /// Writes the part, or nothing if it cannot be written.
    pub fn append(&self, out: &mut Vec<u8>) {
        let (record, bytes): (_, &[u8]) = match *self {
            Self::Raw(bytes) => return out.extend_from_slice(bytes),
            Self::MemSize(units) => (RamRecord::MemSize { total_bytes: u64::from(units) << 8 }, &[]),
            Self::Block { name, used_units, page_bytes, address } => {
                let block = RamBlock {
                    name: name.text(),
                    used_bytes: u64::from(used_units) << 8,
                    page_bytes: page_bytes.map(u64::from),
                    address: address.map(u64::from),
                };
                (RamRecord::Block(block), &[])
            }
            Self::MappedRam { page_bits, bitmap_offset, pages_offset } => {
                let header = MappedRamHeader {
                    page_bytes: 1u64.checked_shl(page_bits.into()).unwrap_or(0),
                    bitmap_offset: bitmap_offset.into(),
                    pages_offset: pages_offset.into(),
                };
                (RamRecord::MappedRam(header), &[])
            }
            Self::ZeroPage { block, units, same_block, fill } => {
                (RamRecord::ZeroPage { page: page(block, units, same_block), fill }, &[])
            }
            Self::Page { block, units, same_block, page_bits, fill } => {
                if RamRecord::Page(page(block, units, same_block)).encode(out).is_ok() {
                    out.resize(out.len() + (1 << (10 + page_bits % 3)), fill);
                }
                return;
            }
            Self::Xbzrle { block, units, same_block, length, bytes } => {
                let length = length.unwrap_or(bytes.len() as u16);
                (RamRecord::XbzrlePage { page: page(block, units, same_block), length }, bytes)
            }
            Self::MultifdFlush => (RamRecord::MultifdFlush, &[]),
            Self::EndOfSection => (RamRecord::EndOfSection, &[]),
        };
        if record.encode(out).is_ok() {
            out.extend_from_slice(bytes);
        }
    }
}
