// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory of a target: pages go where the source's list of RAM blocks says, whichever connection brings them.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::string::ToString;
use std::sync::Mutex;
use std::vec;
use std::vec::Vec;

use stream_codec::qemu::{Compression, Piece, RamBlock, RamPacket, RamPage, RamRecord};

use super::shared::lock;
use crate::error::Cause;
use crate::qemu::StreamError;
use crate::qemu::memory::{BlockDifference, PAGE_BYTES, RamError, RamPages, TargetMemory};

impl From<RamError> for Cause {
    fn from(error: RamError) -> Self {
        StreamError::Ram(error).into()
    }
}

/// Memory that all connections fill.
pub(super) struct Sink<'a> {
    target: TargetMemory<'a>,
    main: Mutex<Main>,
    /// The source's RAM blocks are the ones that are here.
    is_listed: AtomicBool,
    normal_pages: AtomicU64,
    zero_pages: AtomicU64,
}

/// How far the main connection is.
struct Main {
    /// What the list has said so far: for each region whether it was in it, and what differs.
    list: Option<(Vec<bool>, Vec<BlockDifference>)>,
    /// The region of the page before.
    region: usize,
    /// Where the page that is coming goes: region, offset.
    page: Option<(usize, u64)>,
}

/// Where the pages of a packet go that is coming over a multifd channel.
#[derive(Debug, Default)]
pub(super) struct Places {
    region: usize,
    offsets: Vec<u64>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(target: TargetMemory<'a>) -> Self {
        Self {
            target,
            main: Mutex::new(Main { list: None, region: 0, page: None }),
            is_listed: AtomicBool::new(false),
            normal_pages: AtomicU64::new(0),
            zero_pages: AtomicU64::new(0),
        }
    }

    pub(super) fn pages(&self) -> RamPages {
        let count = |pages: &AtomicU64| pages.load(Ordering::Relaxed);
        RamPages { normal_pages: count(&self.normal_pages), zero_pages: count(&self.zero_pages) }
    }

    /// A record of the main stream.
    pub(super) fn record(&self, record: &RamRecord<'_>) -> Result<(), Cause> {
        let mut main = lock(&self.main);
        match record {
            RamRecord::MemSize { total_bytes } => return Ok(self.begin_list(&mut main, *total_bytes)?),
            RamRecord::Block(block) => return Ok(self.list(&mut main, block)?),
            RamRecord::MappedRam(_) | RamRecord::Gap(_) | RamRecord::Bitmap(_) | RamRecord::Pages(_) => {
                return Err(RamError::MappedRam.into());
            }
            _ => self.end_list(&main)?,
        }
        match record {
            RamRecord::ZeroPage { page, fill } => {
                let (region, offset) = self.place(&mut main, page)?;
                if *fill != 0 {
                    return Err(RamError::Fill { block: page.block.to_string(), offset, fill: *fill }.into());
                }
                self.zero(region, offset)
            }
            RamRecord::Page(page) => {
                main.page = Some(self.place(&mut main, page)?);
                self.normal_pages.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            RamRecord::PageBytes(piece) => {
                let (region, offset) = main.page.ok_or(RamError::NoList)?;
                Ok(self.target.memory.write(region, offset.saturating_add(piece.position), piece.bytes)?)
            }
            RamRecord::XbzrlePage { .. } => Err(RamError::Xbzrle.into()),
            _ => Ok(()),
        }
    }

    fn begin_list(&self, main: &mut Main, source_bytes: u64) -> Result<(), RamError> {
        if main.list.is_some() {
            return Err(RamError::ListTwice);
        }
        let regions = self.target.memory.regions().regions();
        let target_bytes = regions.iter().map(|region| region.bytes).fold(0, u64::saturating_add);
        let too_much = BlockDifference::TooMuch { source_bytes, target_bytes };
        let differences = if source_bytes > target_bytes { vec![too_much] } else { Vec::new() };
        main.list = Some((vec![false; regions.len()], differences));
        Ok(())
    }

    /// An entry of the list. What differs is said of all entries together; the decoder bounds their number.
    fn list(&self, main: &mut Main, entry: &RamBlock<'_>) -> Result<(), RamError> {
        let Some((seen, differences)) = &mut main.list else { return Err(RamError::NoList) };
        if entry.address.is_some() {
            return Err(RamError::IgnoreShared);
        }
        let block = entry.name.to_string();
        let Some(region) = self.region(entry.name) else {
            differences.push(BlockDifference::Unknown { block });
            return Ok(());
        };
        let source_bytes = entry.used_bytes;
        let target_bytes = self.bytes(region);
        if let Some(page_bytes) = entry.page_bytes.filter(|page_bytes| *page_bytes != PAGE_BYTES) {
            differences.push(BlockDifference::PageSize { block: block.clone(), page_bytes });
        }
        if source_bytes != target_bytes {
            differences.push(BlockDifference::Size { block: block.clone(), source_bytes, target_bytes });
        }
        match seen.get_mut(region) {
            Some(seen) if !*seen => *seen = true,
            _ => differences.push(BlockDifference::Twice { block }),
        }
        Ok(())
    }

    /// The list is whole: from here on pages may come, or never.
    fn end_list(&self, main: &Main) -> Result<(), RamError> {
        if self.is_listed.load(Ordering::Acquire) {
            return Ok(());
        }
        let Some((seen, differences)) = &main.list else { return Err(RamError::NoList) };
        let missing = self.target.blocks.iter().zip(seen).filter(|(_, seen)| !**seen);
        let missing = missing.map(|(block, _)| BlockDifference::Missing { block: block.clone() });
        let differences: Vec<_> = differences.iter().cloned().chain(missing).collect();
        if !differences.is_empty() {
            return Err(RamError::Differ(differences));
        }
        self.is_listed.store(true, Ordering::Release);
        Ok(())
    }

    fn region(&self, block: &str) -> Option<usize> {
        self.target.blocks.iter().position(|name| name == block)
    }

    fn bytes(&self, region: usize) -> u64 {
        self.target.memory.regions().regions().get(region).map_or(0, |region| region.bytes)
    }

    fn place(&self, main: &mut Main, page: &RamPage<'_>) -> Result<(usize, u64), RamError> {
        if !page.same_block {
            main.region = self.region(page.block).ok_or_else(|| no_page(page.block, page.offset))?;
        }
        self.check(main.region, page.block, page.offset)?;
        Ok((main.region, page.offset))
    }

    /// Whether there is a whole page of the region.
    fn check(&self, region: usize, block: &str, offset: u64) -> Result<(), RamError> {
        let end = offset.checked_add(PAGE_BYTES).filter(|end| *end <= self.bytes(region));
        if offset.checked_rem(PAGE_BYTES) == Some(0) && end.is_some() { Ok(()) } else { Err(no_page(block, offset)) }
    }

    fn zero(&self, region: usize, offset: u64) -> Result<(), Cause> {
        self.target.memory.zero(region, offset, PAGE_BYTES)?;
        self.zero_pages.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// A packet with pages: where those go whose bytes follow. All places are checked before the first is written.
    pub(super) fn packet(&self, packet: &RamPacket<'_>) -> Result<Places, Cause> {
        if !self.is_listed.load(Ordering::Acquire) {
            return Err(RamError::NoList.into());
        }
        let compression = packet.compression;
        if compression != Compression::None {
            return Err(RamError::Compressed { compression }.into());
        }
        let (pages, payload_bytes) = (packet.normal_pages, packet.payload_bytes);
        if u64::from(pages).checked_mul(PAGE_BYTES) != Some(payload_bytes.into()) {
            return Err(RamError::Payload { pages, payload_bytes }.into());
        }
        if pages == 0 && packet.zero_pages == 0 {
            return Ok(Places::default());
        }
        let region = self.region(packet.block).ok_or_else(|| no_page(packet.block, 0))?;
        let mut all = packet.normal_offsets().chain(packet.zero_offsets());
        all.try_for_each(|offset| self.check(region, packet.block, offset))?;
        for offset in packet.zero_offsets() {
            self.zero(region, offset)?;
        }
        self.normal_pages.fetch_add(pages.into(), Ordering::Relaxed);
        Ok(Places { region, offsets: packet.normal_offsets().collect() })
    }

    /// Bytes of a packet's pages. Pages that lie side by side are written at once.
    pub(super) fn payload(&self, places: &Places, piece: &Piece<'_>) -> Result<(), Cause> {
        let (mut position, mut rest) = (piece.position, piece.bytes);
        while !rest.is_empty() {
            let (offset, room) = places.stretch(position).ok_or(RamError::NoList)?;
            let length = usize::try_from(room).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at(length);
            self.target.memory.write(places.region, offset, now)?;
            position = position.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
            rest = later;
        }
        Ok(())
    }
}

impl Places {
    /// Where in the region a byte of the payload goes, and how many that follow it go right behind it.
    fn stretch(&self, position: u64) -> Option<(u64, u64)> {
        let index = usize::try_from(position.checked_div(PAGE_BYTES)?).ok()?;
        let within = position.checked_rem(PAGE_BYTES)?;
        let pages = self.offsets.get(index..)?;
        let first = *pages.first()?;
        let mut end = first.checked_add(PAGE_BYTES)?;
        for offset in pages.iter().skip(1) {
            if *offset != end {
                break;
            }
            end = end.checked_add(PAGE_BYTES)?;
        }
        let start = first.checked_add(within)?;
        Some((start, end.saturating_sub(start)))
    }
}

fn no_page(block: &str, offset: u64) -> RamError {
    RamError::NoPage { block: block.to_string(), offset }
}
