// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Guest memory of a side whose RAM is moved for it: RAM blocks in memfds, and a guest that writes to them.

use core::str::FromStr;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::memfd::{MFdFlags, memfd_create};
use savevm_core::dirty::{HostLog, Ledger, Range, Region, Request, Slot, Tracking};
use savevm_core::ram::{FileMemory, GuestMemory};
use stream_codec::qemu::{Item, RamRecord};

use super::recording::Recording;

/// The block that the guest's processors see as RAM.
const MAIN_BLOCK: &str = "pc.ram";
const PAGE_BYTES: u64 = 4096;
/// What the guest writes to lies above this, where a PC has RAM and nothing else.
const FIRST_BYTE: u64 = 1 << 20;
/// Far apart, so that every region has its own addresses.
const ADDRESS_BITS: u32 = 40;
/// Rounds in which the guest writes, and to how many pages.
const ROUNDS: u64 = 12;
const ROUND_PAGES: u64 = 300;

/// A RAM block, as the command line has it: NAME=BYTES.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Block {
    name: String,
    bytes: u64,
}

impl FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = text.rsplit_once('=').and_then(|(name, bytes)| Some((name, bytes.parse().ok()?)));
        let (name, bytes) = found.ok_or_else(|| format!("'{text}' is not NAME=BYTES"))?;
        Ok(Self { name: name.to_owned(), bytes })
    }
}

/// Memory for these blocks, all zero.
pub(super) fn memory(blocks: &[Block]) -> Result<FileMemory, String> {
    let region = |block: &Block| {
        let fd = memfd_create("ram", MFdFlags::MFD_CLOEXEC).map_err(|errno| format!("no memory file: {errno}"))?;
        let file = File::from(fd);
        file.set_len(block.bytes).map_err(|error| format!("no memory for RAM: {error}"))?;
        Ok((Region { name: block.name.clone(), bytes: block.bytes, page_bytes: PAGE_BYTES }, file))
    };
    let regions = blocks.iter().map(region).collect::<Result<Vec<_>, String>>()?;
    FileMemory::new(regions).map_err(|error| error.to_string())
}

/// Writes every block into a file of its own name in the folder.
pub(super) fn dump(memory: &FileMemory, folder: &Path) -> Result<(), String> {
    for (index, region) in memory.regions().regions().iter().enumerate() {
        let path = folder.join(file_name(&region.name));
        let length = usize::try_from(region.bytes).map_err(|_| "a block beyond all memory".to_owned())?;
        let mut bytes = vec![0; length];
        memory.read(index, 0, &mut bytes).map_err(|error| error.to_string())?;
        std::fs::write(&path, bytes).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

/// What a block's file is called.
pub(crate) fn file_name(block: &str) -> String {
    block.replace('/', "_")
}

/// A guest of ours: its memory, and what it has written since somebody asked.
pub(super) struct Guest {
    pub(super) memory: FileMemory,
    /// Addresses and lengths.
    log: Mutex<Vec<(u64, u64)>>,
    rounds: Mutex<u64>,
}

impl Guest {
    /// Of a machine that was recorded, with content in the main block that the recording has not.
    pub(super) fn of(recording: &Recording, seed: u64) -> Result<Arc<Self>, String> {
        let mut blocks = Vec::new();
        recording.each_item(|item| {
            if let Item::Ram(RamRecord::Block(block)) = item {
                blocks.push(Block { name: block.name.to_owned(), bytes: block.used_bytes });
            }
            Ok(())
        })?;
        let memory = memory(&blocks)?;
        fill(&memory, recording)?;
        scatter(&memory, seed)?;
        Ok(Arc::new(Self { memory, log: Mutex::default(), rounds: Mutex::default() }))
    }

    /// The account of its memory, with its log.
    pub(super) fn tracking(self: &Arc<Self>) -> Result<Tracking<'static>, String> {
        let table = self.memory.regions();
        let ledger = Ledger::of(table, 1 << 30).map_err(|error| error.to_string())?;
        let mut tracking = Tracking::new(ledger, table.regions().len(), 1);
        let regions: Vec<_> = tracking.ledger().regions().map(|(id, region)| (id, region.bytes)).collect();
        for (index, (region, bytes)) in regions.into_iter().enumerate() {
            let range = Range::new(address(index), bytes).map_err(|error| error.to_string())?;
            let _ = tracking.map(Slot { range, region, offset: 0 }).map_err(|error| error.to_string())?;
        }
        let guest = Arc::clone(self);
        let log = HostLog::new("guest", move |request| {
            let mut log = guest.log.lock().unwrap_or_else(PoisonError::into_inner);
            if let Request::Read(asked, marks) = request {
                let written = |(start, length): &(u64, u64)| Range::new(*start, *length).ok();
                for range in log.iter().filter_map(written).filter_map(|range| range.overlap(asked)) {
                    marks.range(range);
                }
                log.retain(|range| written(range).and_then(|range| range.overlap(asked)).is_none());
            }
            Ok(())
        });
        tracking.add_tracker(Box::new(log)).map_err(|_| "no room for a tracker".to_owned())?;
        Ok(tracking)
    }

    /// The guest runs for a moment: it changes some pages, clears others, and comes to rest after some rounds.
    pub(super) fn run(&self) -> Result<(), String> {
        let regions = self.memory.regions().regions();
        let found = regions.iter().position(|region| region.name == MAIN_BLOCK);
        let (Some(index), mut round) = (found, self.rounds.lock().unwrap_or_else(PoisonError::into_inner)) else {
            return Ok(());
        };
        *round = round.saturating_add(1);
        if *round > ROUNDS {
            return Ok(());
        }
        let pages =
            regions.get(index).map_or(0, |region| region.bytes.saturating_sub(FIRST_BYTE)).div_euclid(PAGE_BYTES);
        for number in 0..ROUND_PAGES {
            let page = number.wrapping_mul(2_654_435_761).wrapping_add(*round).checked_rem(pages).unwrap_or(0);
            let offset = page.saturating_mul(PAGE_BYTES).saturating_add(FIRST_BYTE);
            let byte = round.to_le_bytes().first().copied().unwrap_or(1);
            let content = if number % 3 == 0 { [0; 4096] } else { [byte; 4096] };
            self.memory.write(index, offset, &content).map_err(|error| error.to_string())?;
            let written = (address(index).saturating_add(offset), PAGE_BYTES);
            self.log.lock().unwrap_or_else(PoisonError::into_inner).push(written);
        }
        Ok(())
    }
}

fn address(index: usize) -> u64 {
    u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1) << ADDRESS_BITS
}

/// What the recording has.
fn fill(memory: &FileMemory, recording: &Recording) -> Result<(), String> {
    let (mut place, names) = ((0, 0), memory.regions().regions());
    recording.each_item(|item| match item {
        Item::Ram(RamRecord::Page(page)) => {
            let index = names.iter().position(|region| region.name == page.block).ok_or("a page of no block")?;
            place = (index, page.offset);
            Ok(())
        }
        Item::Ram(RamRecord::PageBytes(piece)) => {
            let (index, offset) = place;
            memory.write(index, offset.saturating_add(piece.position), piece.bytes).map_err(|error| error.to_string())
        }
        _ => Ok(()),
    })
}

/// Fills half of the pages that are RAM and nothing else: xorshift64*.
fn scatter(memory: &FileMemory, seed: u64) -> Result<(), String> {
    let regions = memory.regions().regions();
    let Some(index) = regions.iter().position(|region| region.name == MAIN_BLOCK) else {
        return Err(format!("the recording has no block {MAIN_BLOCK}"));
    };
    let bytes = regions.get(index).map_or(0, |region| region.bytes);
    contents(seed, bytes.saturating_sub(FIRST_BYTE), |offset, page| {
        memory.write(index, FIRST_BYTE.saturating_add(offset), page).map_err(|error| error.to_string())
    })
}

/// Pages of content that is the same for the same seed; every other page is left out.
pub(crate) fn contents(
    seed: u64,
    bytes: u64,
    mut write: impl FnMut(u64, &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let mut state = seed.max(1);
    let mut next = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    for page in 0..bytes.div_euclid(PAGE_BYTES) {
        if next() >> 63 == 0 {
            let content: Vec<u8> = (0..PAGE_BYTES.div_euclid(8)).flat_map(|_| next().to_le_bytes()).collect();
            write(page.saturating_mul(PAGE_BYTES), &content)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn blocks_are_named_as_qemu_names_them() {
        let block = |text: &str| text.parse::<Block>();
        assert_eq!(block("/rom@etc/a=b=4096"), Ok(Block { name: "/rom@etc/a=b".into(), bytes: 4096 }));
        assert!(block("pc.ram").is_err() && block("pc.ram=x").is_err());
        assert_eq!(file_name("/rom@etc/acpi/tables"), "_rom@etc_acpi_tables");
    }

    #[test]
    fn contents_leave_pages_of_zeros_between_others() {
        let mut pages = Vec::new();
        contents(3, 64 * PAGE_BYTES, |offset, page| {
            assert!(page.len() == 4096 && page.iter().any(|byte| *byte != 0));
            pages.push(offset / PAGE_BYTES);
            Ok(())
        })
        .unwrap();
        assert!((16..48).contains(&pages.len()), "{pages:?}");
    }
}
