// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Packets with pages.

use alloc::vec::Vec;
use core::ops::Range;

use super::{COMPRESSION, SYNC, put_header};
use crate::cursor::Cursor;
use crate::qemu::engine::Stop;
use crate::qemu::error::Reason;
use crate::qemu::text;

/// How many bytes of pages a packet is for.
const PACKET_PAGES_BYTES: u32 = 512 << 10;

/// Length of a packet in front of its page offsets.
const FIXED_BYTES: usize = 320;

/// How the pages of a RAM packet are compressed.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Compression {
    /// They are not: the payload is the pages.
    #[default]
    None,
    /// zlib.
    Zlib,
    /// Zstandard.
    Zstd,
    /// Intel's QPL.
    Qpl,
    /// UADK.
    Uadk,
    /// Intel's QATzip.
    Qatzip,
}

impl Compression {
    const ALL: [(Self, u32); 6] = [
        (Self::None, 0),
        (Self::Zlib, 1 << 1),
        (Self::Zstd, 2 << 1),
        (Self::Qpl, 4 << 1),
        (Self::Uadk, 8 << 1),
        (Self::Qatzip, 16 << 1),
    ];

    pub(super) fn from_flags(flags: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, bits)| *bits == flags & COMPRESSION).map(|(compression, _)| compression)
    }

    fn flags(self) -> u32 {
        Self::ALL.into_iter().find(|(compression, _)| *compression == self).map_or(0, |(_, bits)| bits)
    }
}

/// A packet with pages, or with a synchronisation point.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RamPacket<'a> {
    /// Whether the channel waits after this packet until all channels have come so far.
    pub is_sync: bool,
    /// How the payload is compressed.
    pub compression: Compression,
    /// How many pages the sender asked room for: 0 in a packet without pages, and else as many as there is.
    pub pages_alloc: u32,
    /// How many pages come with their bytes.
    pub normal_pages: u32,
    /// How many pages are zero.
    pub zero_pages: u32,
    /// Length of the payload in bytes.
    pub payload_bytes: u32,
    /// Number of the packet, over all channels.
    pub packet_number: u64,
    /// Name of the RAM block. Empty when the packet has no pages.
    pub block: &'a str,
    /// How many page offsets the packet has, used or not: [`packet_pages`].
    pub offset_count: u32,
    /// The page offsets as they are sent, eight bytes each, big-endian. Those that are left out are zero.
    pub offsets: &'a [u8],
}

impl<'a> RamPacket<'a> {
    /// A packet without pages: a synchronisation point.
    #[must_use]
    pub const fn sync(packet_number: u64, offset_count: u32) -> Self {
        Self {
            is_sync: true,
            compression: Compression::None,
            pages_alloc: 0,
            normal_pages: 0,
            zero_pages: 0,
            payload_bytes: 0,
            packet_number,
            block: "",
            offset_count,
            offsets: &[],
        }
    }

    /// The offsets in the block of the pages that come with their bytes, in bytes.
    pub fn normal_offsets(&self) -> impl Iterator<Item = u64> + use<'a> {
        self.all_offsets().take(count(self.normal_pages))
    }

    /// The offsets in the block of the pages that are zero, in bytes.
    pub fn zero_offsets(&self) -> impl Iterator<Item = u64> + use<'a> {
        self.all_offsets().skip(count(self.normal_pages)).take(count(self.zero_pages))
    }

    fn all_offsets(&self) -> impl Iterator<Item = u64> + use<'a> {
        let mut cursor = Cursor::new(self.offsets);
        core::iter::from_fn(move || cursor.u64_be("page offset").ok())
    }

    /// Appends the packet without its payload.
    ///
    /// # Errors
    /// [`Reason::Text`] if the name of the block has more than 255 bytes, [`Reason::Limit`] if there are more offsets
    /// than the packet has room for.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), Reason> {
        let room_bytes = count(self.offset_count).saturating_mul(8);
        let padding = room_bytes.checked_sub(self.offsets.len()).ok_or_else(|| Reason::Limit {
            what: "bytes of page offsets",
            value: u64::try_from(self.offsets.len()).unwrap_or(u64::MAX),
            limit: u64::try_from(room_bytes).unwrap_or(u64::MAX),
        })?;
        let start = out.len();
        put_header(if self.is_sync { SYNC } else { 0 } | self.compression.flags(), out);
        for value in [self.pages_alloc, self.normal_pages, self.payload_bytes] {
            out.extend_from_slice(&value.to_be_bytes());
        }
        out.extend_from_slice(&self.packet_number.to_be_bytes());
        out.extend_from_slice(&self.zero_pages.to_be_bytes());
        out.extend_from_slice(&[0; 28]);
        text::put_padded(out, self.block, "RAM block").inspect_err(|_| out.truncate(start))?;
        out.extend_from_slice(self.offsets);
        out.resize(out.len().saturating_add(padding), 0);
        Ok(())
    }
}

/// How many page offsets a RAM packet has: as many as pages make 512 KiB.
#[must_use]
pub const fn packet_pages(page_bits: u32) -> u32 {
    match PACKET_PAGES_BYTES.checked_shr(page_bits) {
        Some(pages) => pages,
        None => 0,
    }
}

fn count(pages: u32) -> usize {
    usize::try_from(pages).unwrap_or(usize::MAX)
}

/// A packet, as a token.
#[derive(Clone, Debug)]
pub(super) struct Token {
    is_sync: bool,
    compression: Compression,
    pages_alloc: u32,
    normal_pages: u32,
    zero_pages: u32,
    pub(super) payload_bytes: u32,
    packet_number: u64,
    block: Range<usize>,
}

impl Token {
    pub(super) fn item<'a>(&self, raw: &'a [u8], offset_count: u32) -> RamPacket<'a> {
        RamPacket {
            is_sync: self.is_sync,
            compression: self.compression,
            pages_alloc: self.pages_alloc,
            normal_pages: self.normal_pages,
            zero_pages: self.zero_pages,
            payload_bytes: self.payload_bytes,
            packet_number: self.packet_number,
            block: text::at(raw, self.block.clone()),
            offset_count,
            offsets: raw.get(FIXED_BYTES..).unwrap_or_default(),
        }
    }
}

/// Reads a packet from behind its flags.
pub(super) fn read(
    cursor: &mut Cursor<'_>,
    is_sync: bool,
    compression: Compression,
    offset_count: u32,
) -> Result<Token, Stop> {
    let pages_alloc = cursor.u32_be("room for pages")?;
    let normal_pages = cursor.u32_be("normal pages")?;
    let payload_bytes = cursor.u32_be("length of the payload")?;
    let packet_number = cursor.u64_be("packet number")?;
    let zero_pages = cursor.u32_be("zero pages")?;
    let pages = u64::from(normal_pages).saturating_add(zero_pages.into());
    let value = pages.max(pages_alloc.into());
    if value > offset_count.into() {
        let what = "pages in a packet";
        return Err(Reason::Value { what, value, expected: "at most 512 KiB of pages" }.into());
    }
    cursor.zeros(28, "reserved bytes of a packet")?;
    let block = text::padded(cursor, "RAM block")?;
    cursor.take(count(offset_count).saturating_mul(8), "page offsets")?;
    Ok(Token { is_sync, compression, pages_alloc, normal_pages, zero_pages, payload_bytes, packet_number, block })
}
