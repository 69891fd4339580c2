// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The section that is being read.

use stream_codec::qemu::{Extent, SectionHeader, SectionKind};

use super::fields::Fields;
use super::ram::RamSection;
use super::vfio::VfioSection;
use crate::inspect::entry::Entry;
use crate::inspect::words::count;

/// Most entries of a section that are kept until it ends.
const ITEMS_MAX: usize = 4096;

/// A section from its header to its footer.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) entry: Entry,
    pub(super) kind: SectionKind,
    pub(super) instance: u32,
    pub(super) extent: Extent,
    pub(super) ram: RamSection,
    pub(super) vfio: VfioSection,
    pub(super) fields: Fields,
    /// The payload and where it stands, if its end was searched.
    pub(super) payload: Option<(u64, Vec<u8>)>,
    header_text: String,
}

impl Open {
    pub(super) fn new(header: &SectionHeader<'_>, offset: u64, bytes: u64) -> Self {
        let entry = Entry::new(header.kind.name(), offset, bytes).named(header.idstr).fact("section_id", header.id);
        let mut header_text = format!("section {}", header.id);
        let entry = if header.kind.is_named() {
            let instance = header.instance_id;
            if instance != 0 {
                header_text.push_str(&format!(", instance {instance}"));
            }
            header_text.push_str(&format!(", version {}", header.version_id));
            entry.fact("instance", instance).fact("version", header.version_id)
        } else {
            entry
        };
        Self {
            entry: entry.fact("end_known_by", method(header.extent)),
            kind: header.kind,
            instance: header.instance_id,
            extent: header.extent,
            ram: RamSection::default(),
            vfio: VfioSection::default(),
            fields: Fields::default(),
            payload: None,
            header_text,
        }
    }

    /// What was read so far, if it is more than should be kept: the section's own entry comes behind that.
    pub(super) fn overflow(&mut self) -> Option<Entry> {
        let items = [&mut self.ram.items, &mut self.vfio.items].into_iter().find(|items| items.len() >= ITEMS_MAX)?;
        // The last one may still grow.
        let last = items.pop()?;
        let done = core::mem::replace(items, vec![last]);
        let (start, end) = (done.first()?.offset, done.last()?.end());
        let mut entry = Entry::new(self.entry.kind, start, end.saturating_sub(start)).named(&self.entry.name);
        entry.items = done;
        Some(entry.fact("partial", true).text("a part of this section, which is summed up below"))
    }

    /// A name for the section in a fault.
    pub(super) fn name(&self) -> String {
        let Self { entry, .. } = self;
        format!("{} {} (section at {:#x})", entry.kind, crate::inspect::words::shown(&entry.name), entry.offset)
    }

    /// The entry of the section, which ends at `end`.
    pub(super) fn close(&mut self, end: u64, is_all: bool) -> Entry {
        let (mut items, mut text) = self.ram.finish(is_all);
        let (records, said) = self.vfio.finish(is_all);
        if !is_all && VfioSection::is_told(&records) && !records.is_empty() {
            self.entry.facts.insert("records".to_owned(), records.iter().map(|item| item.kind).collect());
        } else {
            items.extend(records);
        }
        if text.is_empty() {
            text = said;
        }
        let mut entry = core::mem::replace(&mut self.entry, Entry::new("", 0, 0));
        entry.reach(end);
        // A single run of pages is told in the section's own line.
        if let [only] = items.as_mut_slice() {
            if only.kind == "pages" && only.text.is_empty() {
                entry.facts.append(&mut only.facts);
                items.clear();
            }
        }
        entry.items = items;
        let texts = [self.header_text.clone(), text, self.ending()];
        entry.text = texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
        entry.fields = core::mem::take(&mut self.fields.list);
        entry
    }

    /// How the end of the section is known, where it is not by its format.
    fn ending(&self) -> String {
        let fields = u64::try_from(self.fields.list.len()).unwrap_or(u64::MAX).saturating_add(self.fields.lost);
        match self.extent {
            Extent::Vmdesc => format!("{} by vmdesc", count(fields, "field")),
            Extent::FooterSearch => "end found by searching for the footer".to_owned(),
            _ => String::new(),
        }
    }
}

/// The name of a method in JSON.
const fn method(extent: Extent) -> &'static str {
    match extent {
        Extent::Vmdesc => "vmdesc",
        Extent::FooterSearch => "footer-search",
        _ => "format",
    }
}
