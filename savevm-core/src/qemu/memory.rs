// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory as a QEMU has it: RAM blocks, each of which is a region.

use core::fmt;
use std::string::String;
use std::vec::Vec;

use stream_codec::qemu::Compression;

use crate::dirty::RegionTable;
use crate::ram::GuestMemory;

/// Binary logarithm of the size of a page on the wire: what QEMU calls the target's page size. Of x86 it is 12 always, of
/// other processors too unless the stream says otherwise.
pub(super) const PAGE_BITS: u32 = 12;
/// The size of a page on the wire, whatever the memory is made of.
pub(super) const PAGE_BYTES: u64 = 1 << PAGE_BITS;
/// The longest name that fits into a packet of a multifd channel.
const NAME_BYTES_MAX: usize = 255;

/// A target's guest memory, and which of the source's RAM blocks each of its regions is.
///
/// Give it to [`load_with_memory`](super::load_with_memory).
#[derive(Clone)]
pub struct TargetMemory<'a> {
    pub(super) memory: &'a dyn GuestMemory,
    pub(super) blocks: Vec<String>,
}

impl<'a> TargetMemory<'a> {
    /// Every region is the RAM block of its own name: `pc.ram`, or what `-object memory-backend-…,id=` says.
    ///
    /// # Errors
    /// When a name cannot be a RAM block's.
    pub fn new(memory: &'a dyn GuestMemory) -> Result<Self, RamError> {
        Self::with_blocks(memory, names(memory.regions()))
    }

    /// The region with the number n is the RAM block with the name `blocks[n]`. The monitor's `info ramblock` lists them.
    ///
    /// # Errors
    /// When there are not as many names as regions, or a name cannot be a RAM block's.
    pub fn with_blocks(memory: &'a dyn GuestMemory, blocks: Vec<String>) -> Result<Self, RamError> {
        check_names(memory.regions(), &blocks)?;
        Ok(Self { memory, blocks })
    }
}

impl fmt::Debug for TargetMemory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TargetMemory").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

pub(super) fn names(table: &RegionTable) -> Vec<String> {
    table.regions().iter().map(|region| region.name.clone()).collect()
}

pub(super) fn check_names(table: &RegionTable, blocks: &[String]) -> Result<(), RamError> {
    let regions = table.regions().len();
    if blocks.len() != regions {
        return Err(RamError::Names { regions, names: blocks.len() });
    }
    for (index, block) in blocks.iter().enumerate() {
        let is_twice = blocks.iter().take(index).any(|other| other == block);
        if block.is_empty() || block.len() > NAME_BYTES_MAX || block.contains('\0') || is_twice {
            return Err(RamError::Name { block: block.clone() });
        }
    }
    Ok(())
}

/// How much guest memory moved, in pages of 4 KiB. A page that changes on the way counts each time.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct RamPages {
    /// Pages with their bytes.
    pub normal_pages: u64,
    /// Pages that are zero, of which only that moved.
    pub zero_pages: u64,
}

impl RamPages {
    pub(super) fn add(&mut self, more: Self) {
        self.normal_pages = self.normal_pages.saturating_add(more.normal_pages);
        self.zero_pages = self.zero_pages.saturating_add(more.zero_pages);
    }

    pub(super) const fn bytes(self) -> u64 {
        self.normal_pages.saturating_mul(PAGE_BYTES)
    }
}

/// Guest memory does not fit, or the source sends it in a way that cannot be taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RamError {
    /// Every region needs a name.
    #[error("{names} names of RAM blocks were given for {regions} regions of guest memory")]
    Names {
        /// How many regions there are.
        regions: usize,
        /// How many names.
        names: usize,
    },
    /// A name is empty, too long, has a zero byte, or is given twice.
    #[error("'{block}' cannot be the name of a RAM block here: it must be unique, and have 1 to 255 bytes without NUL")]
    Name {
        /// The name.
        block: String,
    },
    /// The source's pages have another size.
    #[error("the source's RAM has pages of 2^{page_bits} bytes, here they have 2^12")]
    PageSize {
        /// Binary logarithm of the size.
        page_bits: u32,
    },
    /// The source's RAM blocks are not the ones that are here. Nothing has been written.
    #[error("the source's RAM does not fit: {}", Listed(.0))]
    Differ(Vec<BlockDifference>),
    /// The source lists its RAM blocks a second time.
    #[error("the source lists its RAM blocks twice")]
    ListTwice,
    /// Pages came, and which RAM blocks there are has not.
    #[error("the source sends pages before it has said which RAM blocks it has")]
    NoList,
    /// There is no such page.
    #[error("the source sends a page at {offset:#x} of RAM block '{block}', where there is none")]
    NoPage {
        /// The block's name.
        block: String,
        /// Where in the block, in bytes.
        offset: u64,
    },
    /// A page of zeros that is not.
    #[error(
        "the source sends a page of zeros at {offset:#x} of RAM block '{block}', and says it is full of {fill:#04x}"
    )]
    Fill {
        /// The block's name.
        block: String,
        /// Where in the block, in bytes.
        offset: u64,
        /// The byte.
        fill: u8,
    },
    /// Pages as differences to what was sent before.
    #[error("the source sends pages as differences: switch the capability xbzrle off there")]
    Xbzrle,
    /// Pages have places of their own in a file.
    #[error("the source sends RAM for a file with a place for each page: switch the capability mapped-ram off there")]
    MappedRam,
    /// Memory that both sides are to have mapped is left out.
    #[error("the source leaves out memory that is shared: switch the capability x-ignore-shared off there")]
    IgnoreShared,
    /// Pages are compressed.
    #[error("the source compresses pages ({compression:?}): set multifd-compression to none there")]
    Compressed {
        /// How.
        compression: Compression,
    },
    /// A packet's payload is not its pages.
    #[error("a packet of {pages} pages has {payload_bytes} bytes of them")]
    Payload {
        /// How many pages with bytes the packet says it has.
        pages: u32,
        /// How many bytes come.
        payload_bytes: u32,
    },
    /// Pages came that no synchronisation point follows, or a point that the main connection knows nothing of: some may be missing.
    #[error(
        "multifd channel {channel} brought what no synchronisation point of the main connection followed; is \
         multifd-flush-after-each-section the same on both sides?"
    )]
    Unsynchronised {
        /// The channel, by its place in what the caller passed.
        channel: usize,
    },
    /// The stream has ended without all of it.
    #[error("the stream has ended, and has no {what} section of ram")]
    NoSection {
        /// Which.
        what: &'static str,
    },
}

/// One thing in which RAM blocks differ.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BlockDifference {
    /// The source has more memory than there is room for.
    #[error("it has {source_bytes} bytes, and there is room for {target_bytes}")]
    TooMuch {
        /// Of all blocks together.
        source_bytes: u64,
        /// Of all regions together.
        target_bytes: u64,
    },
    /// There is no such block here.
    #[error("there is no RAM block '{block}' here")]
    Unknown {
        /// Its name.
        block: String,
    },
    /// It is not as long.
    #[error("RAM block '{block}' has {source_bytes} bytes there and {target_bytes} here")]
    Size {
        /// Its name.
        block: String,
        /// In bytes.
        source_bytes: u64,
        /// In bytes.
        target_bytes: u64,
    },
    /// Its pages are not of the size that all others have.
    #[error("RAM block '{block}' has pages of {page_bytes} bytes: switch the capability postcopy-ram off there")]
    PageSize {
        /// Its name.
        block: String,
        /// In bytes.
        page_bytes: u64,
    },
    /// It is listed twice.
    #[error("RAM block '{block}' is listed twice")]
    Twice {
        /// Its name.
        block: String,
    },
    /// The source lacks it.
    #[error("there is no RAM block '{block}' there")]
    Missing {
        /// Its name.
        block: String,
    },
}

struct Listed<'a>(&'a [BlockDifference]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, difference) in self.0.iter().enumerate() {
            write!(f, "{}{difference}", if index == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}
