// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The guest's RAM at a target: blocks in a memfd, filled page by page from wherever pages come.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crc_fast::{CrcAlgorithm, Digest};
use nix::sys::memfd::{MFdFlags, memfd_create};
use stream_codec::qemu::{Compression, MultifdItem, Piece, RamPacket, RamPage, RamRecord};

use super::outcome::RamReport;

/// More than any guest of these tests has.
const RAM_BYTES_MAX: u64 = 4 << 30;
const PAGE_BYTES: u64 = 4096;

/// All blocks.
pub(super) struct Memory {
    file: File,
    blocks: BTreeMap<String, Block>,
    bytes: u64,
    /// Where the page goes that is coming over the main connection.
    page: Option<u64>,
    /// The same for each multifd channel: the pages of its packet, in order.
    packets: BTreeMap<usize, Vec<u64>>,
}

#[derive(Clone, Copy)]
struct Block {
    start: u64,
    length: u64,
}

impl Memory {
    pub(super) fn new() -> Result<Self, String> {
        let fd = memfd_create("ram", MFdFlags::MFD_CLOEXEC).map_err(|errno| format!("no memory file: {errno}"))?;
        Ok(Self { file: fd.into(), blocks: BTreeMap::new(), bytes: 0, page: None, packets: BTreeMap::new() })
    }

    /// A record of the main stream.
    pub(super) fn record(&mut self, record: &RamRecord<'_>) -> Result<(), String> {
        match record {
            RamRecord::Block(block) => self.add(block.name, block.used_bytes),
            RamRecord::ZeroPage { page, .. } => {
                let at = self.at(page)?;
                self.write(at, &[0; 4096])
            }
            RamRecord::Page(page) => {
                self.page = Some(self.at(page)?);
                Ok(())
            }
            RamRecord::PageBytes(piece) => {
                let at = self.page.ok_or("bytes of no page")?;
                self.write(at.saturating_add(piece.position), piece.bytes)
            }
            RamRecord::MemSize { .. } | RamRecord::MultifdFlush | RamRecord::EndOfSection => Ok(()),
            other => Err(format!("RAM in a form that was not agreed on: {other:?}")),
        }
    }

    /// A packet of a multifd channel, or bytes of its pages.
    pub(super) fn pages(&mut self, channel: usize, item: &MultifdItem<'_>) -> Result<(), String> {
        match item {
            MultifdItem::Ram(packet) => self.packet(channel, packet),
            MultifdItem::RamBytes(piece) => self.payload(channel, piece),
            other => Err(format!("not a packet with pages: {other:?}")),
        }
    }

    fn packet(&mut self, channel: usize, packet: &RamPacket<'_>) -> Result<(), String> {
        if packet.compression != Compression::None {
            return Err(format!("pages are compressed ({:?}), which was not agreed on", packet.compression));
        }
        let block = self.block(packet.block)?;
        for offset in packet.zero_offsets() {
            let at = block.place(packet.block, offset)?;
            self.write(at, &[0; 4096])?;
        }
        let places =
            packet.normal_offsets().map(|offset| block.place(packet.block, offset)).collect::<Result<Vec<_>, _>>()?;
        let expected = u64::try_from(places.len()).unwrap_or(u64::MAX).saturating_mul(PAGE_BYTES);
        if u64::from(packet.payload_bytes) != expected {
            return Err(format!("{} pages in {} bytes", places.len(), packet.payload_bytes));
        }
        self.packets.insert(channel, places);
        Ok(())
    }

    fn payload(&mut self, channel: usize, piece: &Piece<'_>) -> Result<(), String> {
        let (mut position, mut rest) = (piece.position, piece.bytes);
        while !rest.is_empty() {
            let page = usize::try_from(position / PAGE_BYTES).unwrap_or(usize::MAX);
            let within = position % PAGE_BYTES;
            let place = self.packets.get(&channel).and_then(|places| places.get(page)).ok_or("bytes of no page")?;
            let room = usize::try_from(PAGE_BYTES.saturating_sub(within)).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at(room);
            self.write(place.saturating_add(within), now)?;
            position = position.saturating_add(u64::try_from(room).unwrap_or(u64::MAX));
            rest = later;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, length: u64) -> Result<(), String> {
        let end = self.bytes.saturating_add(length);
        if end > RAM_BYTES_MAX {
            return Err(format!("RAM of {end} bytes, the limit is {RAM_BYTES_MAX}"));
        }
        if self.blocks.insert(name.to_owned(), Block { start: self.bytes, length }).is_some() {
            return Err(format!("two RAM blocks are called '{name}'"));
        }
        self.bytes = end;
        self.file.set_len(end).map_err(|error| format!("no memory for RAM: {error}"))
    }

    fn block(&self, name: &str) -> Result<Block, String> {
        self.blocks.get(name).copied().ok_or_else(|| format!("there is no RAM block '{name}'"))
    }

    fn at(&self, page: &RamPage<'_>) -> Result<u64, String> {
        self.block(page.block)?.place(page.block, page.offset)
    }

    fn write(&self, at: u64, bytes: &[u8]) -> Result<(), String> {
        self.file.write_all_at(bytes, at).map_err(|error| format!("RAM cannot be written: {error}"))
    }

    /// The blocks and what is in them.
    pub(super) fn report(&self) -> Result<Vec<RamReport>, String> {
        let mut reports = Vec::new();
        let mut page = [0; 4096];
        for (name, block) in &self.blocks {
            let mut digest = Digest::new(CrcAlgorithm::Crc64Nvme);
            let mut position = 0;
            while position < block.length {
                let at = block.start.saturating_add(position);
                self.file.read_exact_at(&mut page, at).map_err(|error| format!("RAM cannot be read: {error}"))?;
                digest.update(&page);
                position = position.saturating_add(PAGE_BYTES);
            }
            reports.push(RamReport { block: name.clone(), bytes: block.length, crc64_nvme: digest.finalize() });
        }
        Ok(reports)
    }
}

impl Block {
    /// Where a page is in the file.
    fn place(self, name: &str, offset: u64) -> Result<u64, String> {
        let end = offset.checked_add(PAGE_BYTES).filter(|end| *end <= self.length && offset % PAGE_BYTES == 0);
        end.map(|_| self.start.saturating_add(offset))
            .ok_or_else(|| format!("a page at {offset:#x} of RAM block '{name}', which has {:#x} bytes", self.length))
    }
}
