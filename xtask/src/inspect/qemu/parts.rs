// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! PART sections come in long rows while the guest runs: many rounds become one entry per device.

use super::ram::RamTotals;
use super::section::Open;
use crate::inspect::entry::Entry;
use crate::inspect::words::{count, size};

/// Up to so many that follow each other are shown one by one.
const SHOWN_MAX: usize = 4;

/// Most devices in a row.
const DEVICES_MAX: usize = 1024;

/// PART sections that follow each other.
#[derive(Debug, Default)]
pub(super) struct Parts {
    first: Vec<Entry>,
    sums: Vec<Sum>,
    count: u64,
}

/// The sections of one device in a row.
#[derive(Debug)]
struct Sum {
    entry: Entry,
    sections: u64,
    bytes: u64,
    end: u64,
    ram: RamTotals,
    data_records: u64,
    data_bytes: u64,
    initial_sent: Vec<u64>,
}

impl Parts {
    /// A section of the row: as an entry, and what was in it.
    pub(super) fn add(&mut self, entry: Entry, open: &Open) {
        self.count = self.count.saturating_add(1);
        self.sum(&entry, open);
        if self.first.len() < SHOWN_MAX {
            self.first.push(entry);
        }
    }

    fn sum(&mut self, entry: &Entry, open: &Open) {
        let known = self.sums.iter().position(|sum| sum.entry.name == entry.name);
        let index = known.unwrap_or_else(|| {
            if self.sums.len() < DEVICES_MAX {
                self.sums.push(Sum::new(entry));
            }
            self.sums.len().saturating_sub(1)
        });
        let Some(sum) = self.sums.get_mut(index) else { return };
        sum.sections = sum.sections.saturating_add(1);
        sum.bytes = sum.bytes.saturating_add(entry.bytes);
        sum.end = entry.end();
        sum.ram.add(&open.ram.totals);
        sum.data_records = sum.data_records.saturating_add(open.vfio.data_records);
        sum.data_bytes = sum.data_bytes.saturating_add(open.vfio.data_bytes);
        sum.initial_sent.extend(open.vfio.initial_sent.filter(|_| sum.initial_sent.len() < 16));
    }

    /// The entries of the row, which is over.
    pub(super) fn finish(&mut self) -> Vec<Entry> {
        let Self { first, sums, count } = core::mem::take(self);
        if usize::try_from(count).is_ok_and(|count| count <= SHOWN_MAX) {
            return first;
        }
        sums.into_iter().map(Sum::finish).collect()
    }
}

impl Sum {
    fn new(entry: &Entry) -> Self {
        let mut first = Entry::new("PART", entry.offset, 0).named(&entry.name);
        first.facts.extend(entry.facts.get("section_id").map(|id| ("section_id".to_owned(), id.clone())));
        Self {
            entry: first,
            sections: 0,
            bytes: 0,
            end: 0,
            ram: RamTotals::default(),
            data_records: 0,
            data_bytes: 0,
            initial_sent: Vec::new(),
        }
    }

    fn finish(self) -> Entry {
        let Self { entry, sections, bytes, end, ram, data_records, data_bytes, initial_sent } = self;
        let mut text = vec![format!("×{sections} up to {end:08x}")];
        text.extend(Some(ram.text()).filter(|text| !text.is_empty()));
        if data_records > 0 {
            text.push(format!("{} in {}", size(data_bytes), count(data_records, "record")));
        }
        if !initial_sent.is_empty() {
            let places = initial_sent.iter().map(|offset| format!("{offset:08x}")).collect::<Vec<_>>().join(", ");
            text.push(format!("DEV_INIT_DATA_SENT at {places}"));
        }
        let mut entry = entry
            .fact("sections", sections)
            .fact("end", end)
            .fact("normal_pages", ram.normal_pages)
            .fact("zero_pages", ram.zero_pages)
            .fact("xbzrle_pages", ram.xbzrle_pages)
            .fact("multifd_flushes", ram.multifd_flushes)
            .fact("data_records", data_records)
            .fact("data_bytes", data_bytes)
            .fact("initial_data_sent_at", initial_sent);
        entry.bytes = bytes;
        entry.text(text.join("; "))
    }
}
