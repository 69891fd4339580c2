// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The RAM sections of a source: pages in the main stream, or in packets on the multifd channels.

use std::io::Write;
use std::vec;

use stream_codec::qemu::{Item, Piece, RAM_VERSION, RamBlock, RamPage, RamRecord, SectionKind};

use super::channels::Channels;
use super::memory::{Memory, Stretch};
use super::packets::{PACKET_BYTES, Packet};
use super::writer::MainWriter;
use crate::error::Cause;
use crate::hooks::Cancel;
use crate::qemu::memory::PAGE_BYTES;

/// What is looked at in a round, on each connection that pages go over.
const ROUND_BYTES: u64 = 8 << 20;
/// What is read at once for the main stream: small enough for the caches.
const PIECE_BYTES: u64 = 128 << 10;

/// Where RAM sections go.
pub(super) struct RamWriter<'w, W, C> {
    pub(super) main: &'w mut MainWriter<W>,
    pub(super) channels: &'w Channels<C>,
    pub(super) cancel: &'w Cancel,
    pub(super) section_id: u32,
    /// A synchronisation point ends every section.
    pub(super) flush_each_section: bool,
}

impl<W: Write, C: Write + Send> RamWriter<'_, W, C> {
    /// The START section: which RAM blocks there are. Pages on channels come behind a point, so that the target knows the blocks.
    pub(super) fn start(&mut self, memory: &mut Memory<'_>) -> Result<(), Cause> {
        let regions = memory.guest().regions().regions();
        self.open(SectionKind::Start)?;
        let total_bytes = regions.iter().map(|region| region.bytes).fold(0, u64::saturating_add);
        self.record(RamRecord::MemSize { total_bytes })?;
        for (region, name) in regions.iter().zip(&memory.blocks) {
            let (used_bytes, page_bytes, address) = (region.bytes, None, None);
            self.record(RamRecord::Block(RamBlock { name, used_bytes, page_bytes, address }))?;
        }
        self.close(memory, true)
    }

    /// A PART section with some of the dirty pages, if there are any.
    pub(super) fn part(&mut self, memory: &mut Memory<'_>) -> Result<(), Cause> {
        let Some(first) = memory.next(self.stretch_bytes())? else { return self.settle(memory) };
        self.open(SectionKind::Part)?;
        self.pages(memory, first)?;
        let wants_point = memory.wants_point();
        self.close(memory, wants_point)
    }

    /// A section without pages, where a point is all that is missing.
    fn settle(&mut self, memory: &mut Memory<'_>) -> Result<(), Cause> {
        if memory.has_under_way() {
            self.open(SectionKind::Part)?;
            self.close(memory, true)?;
        }
        Ok(())
    }

    /// The END section with all that is left.
    pub(super) fn end(&mut self, memory: &mut Memory<'_>) -> Result<(), Cause> {
        self.open(SectionKind::End)?;
        // Nothing becomes dirty any more, and nothing is under way that was when the guest stopped: the last pass ended with a point.
        while let Some(first) = memory.next(self.stretch_bytes())? {
            self.pages(memory, first)?;
            if memory.wants_point() {
                self.point(memory)?;
            }
        }
        self.close(memory, true)
    }

    fn open(&mut self, kind: SectionKind) -> Result<(), Cause> {
        self.main.open(kind, self.section_id, "ram", RAM_VERSION)
    }

    fn record(&mut self, record: RamRecord<'_>) -> Result<(), Cause> {
        self.main.item(&Item::Ram(record))
    }

    fn stretch_bytes(&self) -> u64 {
        if self.channels.count() == 0 { PIECE_BYTES } else { PACKET_BYTES }
    }

    /// Ends a section, behind a point if one is wanted.
    fn close(&mut self, memory: &mut Memory<'_>, wants_point: bool) -> Result<(), Cause> {
        if self.flush_each_section && self.channels.count() > 0 {
            self.channels.sync()?;
            memory.settle();
        } else if wants_point || self.channels.count() == 0 {
            self.point(memory)?;
        }
        self.record(RamRecord::EndOfSection)?;
        self.main.footer(self.section_id)
    }

    /// Nothing that follows can overtake what came before: on the main connection nothing ever does.
    fn point(&mut self, memory: &mut Memory<'_>) -> Result<(), Cause> {
        if self.channels.count() > 0 {
            self.channels.sync()?;
            self.record(RamRecord::MultifdFlush)?;
            // The channels stand still until the target has read this.
            self.main.flush()?;
        }
        memory.settle();
        Ok(())
    }

    /// Sends what a round has of pages, `first` first.
    fn pages(&mut self, memory: &mut Memory<'_>, first: Stretch) -> Result<(), Cause> {
        match u64::try_from(self.channels.count()).unwrap_or(1) {
            0 => self.on_main(memory, first, ROUND_BYTES),
            channels => self.on_channels(memory, first, ROUND_BYTES.saturating_mul(channels)),
        }
    }

    fn on_main(&mut self, memory: &mut Memory<'_>, first: Stretch, bytes_max: u64) -> Result<(), Cause> {
        let mut buffer = vec![0; usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX)];
        let (mut next, mut looked_bytes, mut block) = (Some(first), 0_u64, None);
        while let Some(stretch) = next {
            self.check_cancel()?;
            let length = usize::try_from(stretch.bytes).unwrap_or(usize::MAX);
            let bytes = buffer.get_mut(..length).unwrap_or_default();
            memory.guest().read(stretch.region, stretch.offset, bytes)?;
            let mut offset = stretch.offset;
            for bytes in bytes.chunks(usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX)) {
                // A section that names its blocks anew is right whatever came before it.
                let same_block = block.replace(stretch.region) == Some(stretch.region);
                let name = memory.blocks.get(stretch.region).map_or("", |name| name);
                let page = RamPage { block: name, offset, same_block };
                if is_zero(bytes) {
                    self.record(RamRecord::ZeroPage { page, fill: 0 })?;
                    memory.sent.zero_pages = memory.sent.zero_pages.saturating_add(1);
                } else {
                    self.record(RamRecord::Page(page))?;
                    self.record(RamRecord::PageBytes(Piece { position: 0, length: PAGE_BYTES, bytes }))?;
                    memory.sent.normal_pages = memory.sent.normal_pages.saturating_add(1);
                }
                offset = offset.saturating_add(PAGE_BYTES);
            }
            looked_bytes = looked_bytes.saturating_add(stretch.bytes);
            next = if looked_bytes < bytes_max { memory.next(PIECE_BYTES)? } else { None };
        }
        Ok(())
    }

    fn on_channels(&mut self, memory: &mut Memory<'_>, first: Stretch, bytes_max: u64) -> Result<(), Cause> {
        let (mut packets, mut next, mut looked_bytes) = (vec![], Some(first), 0_u64);
        let mut packet: Option<Packet> = None;
        while let Some(stretch) = next {
            looked_bytes = looked_bytes.saturating_add(stretch.bytes);
            match &mut packet {
                Some(open) if open.takes(&stretch) => open.push(stretch),
                _ => packets.extend(packet.replace(Packet::new(stretch))),
            }
            let room = packet.as_ref().map_or(0, Packet::room_bytes);
            let room = if room == 0 { PACKET_BYTES } else { room };
            next = if looked_bytes < bytes_max { memory.next(room)? } else { None };
        }
        packets.extend(packet);
        self.check_cancel()?;
        let sent = self.channels.send_pages(memory.guest(), &memory.blocks, &packets, self.cancel)?;
        memory.sent.add(sent);
        Ok(())
    }

    fn check_cancel(&self) -> Result<(), Cause> {
        if self.cancel.is_cancelled() { Err(Cause::Cancelled) } else { Ok(()) }
    }
}

pub(super) fn is_zero(page: &[u8]) -> bool {
    page.iter().fold(0, |any, byte| any | byte) == 0
}
