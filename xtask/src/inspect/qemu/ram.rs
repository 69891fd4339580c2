// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! RAM sections: runs of pages become one entry.

use serde::Serialize;
use stream_codec::qemu::{Piece, RamPage, RamRecord};

use crate::inspect::entry::Entry;
use crate::inspect::words::{count, shown, size, wide};

/// Most runs in a section that are told apart.
const RUNS_MAX: usize = 64;

/// Pages, counted.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(in crate::inspect) struct RamTotals {
    pub(in crate::inspect) normal_pages: u64,
    pub(in crate::inspect) zero_pages: u64,
    pub(in crate::inspect) xbzrle_pages: u64,
    pub(in crate::inspect) multifd_flushes: u64,
    /// Pages in the file of blocks that have a place of their own there.
    pub(in crate::inspect) mapped_pages: u64,
    /// Bytes of the blocks together.
    pub(in crate::inspect) total_bytes: u64,
}

impl RamTotals {
    pub(super) const fn add(&mut self, other: &Self) {
        self.normal_pages = self.normal_pages.saturating_add(other.normal_pages);
        self.zero_pages = self.zero_pages.saturating_add(other.zero_pages);
        self.xbzrle_pages = self.xbzrle_pages.saturating_add(other.xbzrle_pages);
        self.multifd_flushes = self.multifd_flushes.saturating_add(other.multifd_flushes);
        self.mapped_pages = self.mapped_pages.saturating_add(other.mapped_pages);
        self.total_bytes = self.total_bytes.saturating_add(other.total_bytes);
    }

    /// In words; empty if there is nothing.
    pub(in crate::inspect) fn text(&self) -> String {
        let mut parts = Vec::new();
        for (number, one) in
            [(self.normal_pages, "page"), (self.zero_pages, "zero page"), (self.xbzrle_pages, "XBZRLE page")]
        {
            if number > 0 {
                parts.push(count(number, one));
            }
        }
        if self.multifd_flushes > 0 {
            parts.push(format!("MULTIFD_FLUSH ×{}", self.multifd_flushes));
        }
        parts.join(", ")
    }
}

/// Pages of one block that follow each other.
#[derive(Debug)]
struct Run {
    entry: Entry,
    totals: RamTotals,
    low: u64,
    high: u64,
}

/// The payload of the RAM section that is open.
#[derive(Debug, Default)]
pub(super) struct RamSection {
    pub(super) items: Vec<Entry>,
    pub(super) totals: RamTotals,
    run: Option<Run>,
    /// Pages in the bitmap that is being read.
    mapped: u64,
}

impl RamSection {
    pub(super) fn record(&mut self, record: &RamRecord<'_>, offset: u64, bytes: u64, is_all: bool) {
        match record {
            RamRecord::ZeroPage { page, .. } => {
                self.page(page, offset, bytes, is_all, "zero page", |totals| &mut totals.zero_pages);
            }
            RamRecord::Page(page) => {
                self.page(page, offset, bytes, is_all, "page", |totals| &mut totals.normal_pages);
            }
            RamRecord::XbzrlePage { page, .. } => {
                self.page(page, offset, bytes, is_all, "XBZRLE page", |totals| &mut totals.xbzrle_pages);
            }
            RamRecord::PageBytes(_) => self.stretch(offset.saturating_add(bytes)),
            RamRecord::Gap(piece) => self.area("gap", "bytes that nobody uses", piece, offset),
            RamRecord::Bitmap(piece) => self.bitmap(piece, offset),
            RamRecord::Pages(piece) => self.area("pages", "the place of the pages", piece, offset),
            RamRecord::MultifdFlush => {
                self.totals.multifd_flushes = self.totals.multifd_flushes.saturating_add(1);
                let text = "what was sent on all multifd channels comes first";
                self.push(Entry::new("MULTIFD_FLUSH", offset, bytes).text(text));
            }
            RamRecord::EndOfSection => self.close_run(),
            _ => self.list(record, offset, bytes),
        }
    }

    /// The list of blocks.
    fn list(&mut self, record: &RamRecord<'_>, offset: u64, bytes: u64) {
        match record {
            RamRecord::MemSize { total_bytes } => {
                self.totals.total_bytes = *total_bytes;
                let entry = Entry::new("MEM_SIZE", offset, bytes).fact("total_bytes", *total_bytes);
                self.push(entry.text(format!("{} of RAM", size(*total_bytes))));
            }
            RamRecord::Block(block) => {
                let mut entry =
                    Entry::new("block", offset, bytes).named(block.name).fact("used_bytes", block.used_bytes);
                let mut text = size(block.used_bytes);
                if let Some(page_bytes) = block.page_bytes {
                    text.push_str(&format!(", pages of {page_bytes} bytes"));
                    entry = entry.fact("page_bytes", page_bytes);
                }
                if let Some(address) = block.address {
                    text.push_str(&format!(", at guest address {address:#x}"));
                    entry = entry.fact("address", address);
                }
                self.push(entry.text(text));
            }
            RamRecord::MappedRam(header) => {
                let (bitmap, pages) = (header.bitmap_offset, header.pages_offset);
                let entry = Entry::new("mapped-ram", offset, bytes)
                    .fact("page_bytes", header.page_bytes)
                    .fact("bitmap_offset", bitmap)
                    .fact("pages_offset", pages);
                let text = format!("pages of {} bytes; bitmap at {bitmap:#x}, pages at {pages:#x}", header.page_bytes);
                self.push(entry.text(text));
            }
            _ => {}
        }
    }

    fn push(&mut self, entry: Entry) {
        self.close_run();
        self.items.push(entry);
    }

    fn page(
        &mut self,
        page: &RamPage<'_>,
        offset: u64,
        bytes: u64,
        is_all: bool,
        kind: &'static str,
        counter: fn(&mut RamTotals) -> &mut u64,
    ) {
        let total = counter(&mut self.totals);
        *total = total.saturating_add(1);
        if is_all {
            let at = page.offset;
            self.items
                .push(Entry::new(kind, offset, bytes).named(page.block).fact("page", at).text(format!("{at:#x}")));
            return;
        }
        let is_other = self.run.as_ref().is_none_or(|run| run.entry.name != page.block);
        if is_other && (self.run.is_none() || self.items.len() < RUNS_MAX) {
            self.close_run();
            let entry = Entry::new("pages", offset, 0).named(page.block);
            self.run = Some(Run { entry, totals: RamTotals::default(), low: page.offset, high: page.offset });
        }
        if let Some(run) = &mut self.run {
            if run.entry.name != page.block {
                run.entry.name.clear();
            }
            let count = counter(&mut run.totals);
            *count = count.saturating_add(1);
            run.low = run.low.min(page.offset);
            run.high = run.high.max(page.offset);
            run.entry.reach(offset.saturating_add(bytes));
        }
    }

    /// The page that was announced has bytes.
    fn stretch(&mut self, end: u64) {
        match &mut self.run {
            Some(run) => run.entry.reach(end),
            None => {
                if let Some(last) = self.items.last_mut() {
                    last.reach(end);
                }
            }
        }
    }

    fn close_run(&mut self) {
        let Some(Run { entry, totals, low, high }) = self.run.take() else { return };
        let text = format!("{}, at {low:#x} to {high:#x} of the block", totals.text());
        let entry = entry
            .fact("normal_pages", totals.normal_pages)
            .fact("zero_pages", totals.zero_pages)
            .fact("xbzrle_pages", totals.xbzrle_pages)
            .fact("page_min", low)
            .fact("page_max", high);
        self.items.push(entry.text(text));
    }

    fn area(&mut self, kind: &'static str, text: &str, piece: &Piece<'_>, offset: u64) {
        if piece.position == 0 {
            self.push(Entry::new(kind, offset, 0).text(text));
        }
        self.stretch(offset.saturating_add(wide(piece.bytes.len())));
    }

    fn bitmap(&mut self, piece: &Piece<'_>, offset: u64) {
        if piece.position == 0 {
            self.mapped = 0;
        }
        self.area("bitmap", "", piece, offset);
        let bits = piece.bytes.iter().map(|byte| u64::from(byte.count_ones())).fold(0, u64::saturating_add);
        self.mapped = self.mapped.saturating_add(bits);
        if piece.is_last() {
            self.totals.mapped_pages = self.totals.mapped_pages.saturating_add(self.mapped);
            let (mapped, of) = (self.mapped, piece.length.saturating_mul(8));
            if let Some(last) = self.items.last_mut() {
                last.text = format!("{mapped} of {of} pages are in the file, the others are zero");
                last.facts.insert("pages".to_owned(), mapped.into());
            }
        }
    }

    /// The entries, and what to say of the section as a whole.
    pub(super) fn finish(&mut self, is_all: bool) -> (Vec<Entry>, String) {
        self.close_run();
        let mut items = core::mem::take(&mut self.items);
        if !is_all && items.len() == 1 {
            if let Some(only) = items.first().filter(|only| only.kind == "pages" && !only.name.is_empty()) {
                let text = format!("{}: {}", shown(&only.name), only.text);
                items.first_mut().into_iter().for_each(|only| only.text.clear());
                return (items, text);
            }
        }
        (items, self.totals.text())
    }
}
