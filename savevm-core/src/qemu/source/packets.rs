// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Packets with pages: every channel has a thread that takes the next one while a round lasts.

use core::sync::atomic::{AtomicUsize, Ordering};
use std::io::Write;
use std::string::String;
use std::thread;
use std::vec;
use std::vec::Vec;

use stream_codec::qemu::{MultifdItem, RamPacket, packet_pages};

use super::channels::Channels;
use super::memory::Stretch;
use super::pages::is_zero;
use crate::error::Cause;
use crate::hooks::Cancel;
use crate::qemu::error::{Connection, StreamError};
use crate::qemu::memory::{PAGE_BITS, PAGE_BYTES, RamPages};
use crate::ram::GuestMemory;

/// The most bytes of pages in a packet.
pub(super) const PACKET_BYTES: u64 = 512 << 10;
/// A packet up to its page offsets, which are always all there (multifd.md).
const HEADER_BYTES: usize = 320 + 8 * 128;
const _: () = assert!(packet_pages(PAGE_BITS) == 128 && PACKET_BYTES == 128 * PAGE_BYTES);

/// Pages of one region that go in one packet.
pub(super) struct Packet {
    region: usize,
    stretches: Vec<Stretch>,
    bytes: u64,
}

impl Packet {
    pub(super) fn new(first: Stretch) -> Self {
        Self { region: first.region, bytes: first.bytes, stretches: vec![first] }
    }

    pub(super) const fn room_bytes(&self) -> u64 {
        PACKET_BYTES.saturating_sub(self.bytes)
    }

    pub(super) const fn takes(&self, stretch: &Stretch) -> bool {
        stretch.region == self.region && stretch.bytes <= self.room_bytes()
    }

    pub(super) fn push(&mut self, stretch: Stretch) {
        self.bytes = self.bytes.saturating_add(stretch.bytes);
        self.stretches.push(stretch);
    }
}

impl<C: Write + Send> Channels<C> {
    /// Sends packets, each over whichever channel is free next.
    pub(super) fn send_pages(
        &self,
        memory: &dyn GuestMemory,
        blocks: &[String],
        packets: &[Packet],
        cancel: &Cancel,
    ) -> Result<RamPages, Cause> {
        let (next, failed, turn) = (AtomicUsize::new(0), Cancel::new(), self.turn());
        let work = |helper: usize| {
            let mut sent = RamPages::default();
            while !failed.is_cancelled() && !cancel.is_cancelled() {
                let Some(packet) = packets.get(next.fetch_add(1, Ordering::Relaxed)) else { return Ok(sent) };
                let block = blocks.get(packet.region).map_or("", |name| name);
                let pages = self.send_packet(turn.wrapping_add(helper), memory, block, packet);
                sent.add(pages.inspect_err(|_| failed.cancel())?);
            }
            // Where another thread failed, its cause is the one that is told.
            Err(Cause::Cancelled)
        };
        thread::scope(|scope| {
            let (work, helpers) = (&work, self.count().min(packets.len()));
            let threads: Vec<_> = (1..helpers).map(|helper| scope.spawn(move || work(helper))).collect();
            let mut result = work(0);
            for thread in threads {
                let panicked = |_| Err(Cause::refused("a thread of a multifd channel panicked"));
                result = match (result, thread.join().unwrap_or_else(panicked)) {
                    (Ok(mut sent), Ok(others)) => {
                        sent.add(others);
                        Ok(sent)
                    }
                    (Ok(_) | Err(Cause::Cancelled), Err(cause)) | (Err(cause), _) => Err(cause),
                };
            }
            result
        })
    }

    fn send_packet(
        &self,
        place: usize,
        memory: &dyn GuestMemory,
        block: &str,
        packet: &Packet,
    ) -> Result<RamPages, Cause> {
        let packet_number = self.number();
        let Some(mut channel) = self.lock(place) else { return Ok(RamPages::default()) };
        let mut buffer = core::mem::take(&mut channel.buffer);
        buffer.resize(HEADER_BYTES.saturating_add(usize::try_from(PACKET_BYTES).unwrap_or(usize::MAX)), 0);
        let connection = Connection::Multifd(channel.index);
        let offsets = read(memory, packet, buffer.get_mut(HEADER_BYTES..).unwrap_or_default())?;
        let count = |offsets: &Vec<u64>| u32::try_from(offsets.len()).unwrap_or(u32::MAX);
        let (normal_pages, zero_pages) = (count(&offsets.normal), count(&offsets.zero));
        let payload_bytes = normal_pages.saturating_mul(u32::try_from(PAGE_BYTES).unwrap_or(u32::MAX));
        let places: Vec<u8> = offsets.normal.iter().chain(&offsets.zero).flat_map(|at| at.to_be_bytes()).collect();
        let offset_count = packet_pages(PAGE_BITS);
        let mut header = Vec::with_capacity(HEADER_BYTES);
        let item = MultifdItem::Ram(RamPacket {
            is_sync: false,
            pages_alloc: offset_count,
            normal_pages,
            zero_pages,
            payload_bytes,
            block,
            offsets: &places,
            ..RamPacket::sync(packet_number, offset_count)
        });
        item.encode(&mut header).map_err(|reason| StreamError::Unwritable { connection, reason })?;
        buffer.iter_mut().zip(&header).for_each(|(place, byte)| *place = *byte);
        let whole = HEADER_BYTES.saturating_add(usize::try_from(payload_bytes).unwrap_or(usize::MAX));
        channel.send(buffer.get(..whole).unwrap_or_default())?;
        channel.buffer = buffer;
        Ok(RamPages { normal_pages: normal_pages.into(), zero_pages: zero_pages.into() })
    }
}

/// Offsets in the region of the pages of a packet.
#[derive(Default)]
struct Offsets {
    normal: Vec<u64>,
    zero: Vec<u64>,
}

/// Reads the pages, and leaves those that are not zero at the beginning of the buffer.
fn read(memory: &dyn GuestMemory, packet: &Packet, buffer: &mut [u8]) -> Result<Offsets, Cause> {
    let page_len = usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX);
    let (mut offsets, mut filled) = (Offsets::default(), 0_usize);
    for stretch in &packet.stretches {
        let end = filled.saturating_add(usize::try_from(stretch.bytes).unwrap_or(usize::MAX));
        memory.read(stretch.region, stretch.offset, buffer.get_mut(filled..end).unwrap_or_default())?;
        let mut offset = stretch.offset;
        for start in (filled..end).step_by(page_len) {
            let page = start..start.saturating_add(page_len);
            if is_zero(buffer.get(page.clone()).unwrap_or_default()) {
                offsets.zero.push(offset);
            } else {
                if start != filled {
                    buffer.copy_within(page, filled);
                }
                offsets.normal.push(offset);
                filled = filled.saturating_add(page_len);
            }
            offset = offset.saturating_add(PAGE_BYTES);
        }
    }
    Ok(offsets)
}
