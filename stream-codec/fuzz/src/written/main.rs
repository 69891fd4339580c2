// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A whole main stream.

use arbitrary::Arbitrary;
use stream_codec::qemu::{
    Capabilities, Command, ConfigState, ConfigurationSubsection, Extent, Item, MappedRamHeader, PageSizes, RamBlock,
    RamDiscard, RamPage, RamRecord, SectionHeader, SectionKind, VfioRecord,
};

use super::{Written, name};
use crate::check::{LIMITS, describe_main};
use crate::parts::{PciParts, whole};

const PAGE_BYTES: usize = 1024;
const BLOCKS: [(&str, u64); 2] = [("pc.ram", 8 << 10), ("pc.rom", 3 << 10)];
const RAM_ID: u32 = 1;

#[derive(Arbitrary, Debug)]
pub struct Main<'a> {
    machine: &'a str,
    uuid: Option<[u8; 16]>,
    /// The pages stand at fixed places, with so many bytes around the bitmap.
    mapped_ram: Option<(u8, u8)>,
    rounds: Vec<Round<'a>>,
    vfio: Vec<VfioDevice<'a>>,
    full: Vec<FullDevice<'a>>,
    is_packaged: bool,
    vmdesc: &'a str,
}

/// What is sent while the guest runs.
#[derive(Arbitrary, Debug)]
enum Round<'a> {
    Pages(Vec<Page<'a>>),
    Part { device: u8, bytes: &'a [u8], is_initial: bool },
    Ping(u32),
    Advise(Option<(u64, u64)>),
    Discard { block: &'a str, ranges: [u64; 2] },
    RecvBitmap(&'a str),
}

#[derive(Arbitrary, Debug)]
struct Page<'a> {
    is_rom: bool,
    number: u8,
    same_block: bool,
    kind: PageKind<'a>,
}

#[derive(Arbitrary, Debug)]
enum PageKind<'a> {
    Zero(u8),
    Filled(u8),
    Xbzrle(&'a [u8]),
    Flush,
}

#[derive(Arbitrary, Debug)]
struct VfioDevice<'a> {
    path: &'a str,
    /// What is read of it when the guest has stopped.
    stopped: Vec<&'a [u8]>,
    /// Unless it goes over multifd.
    config: Option<PciParts>,
    is_load_ready: bool,
}

#[derive(Arbitrary, Debug)]
struct FullDevice<'a> {
    name: &'a str,
    version_id: u32,
    payload: &'a [u8],
}

impl Main<'_> {
    pub fn write(&self) -> Written {
        let mut written = Written::default();
        self.start(&mut written);
        let devices: Vec<(u32, String)> = (0..LIMITS.sections - 1)
            .zip(&self.vfio)
            .map(|(number, device)| (RAM_ID + 1 + number, format!("{}/vfio", name(device.path))))
            .collect();
        self.ram_start(&mut written);
        for (id, idstr) in &devices {
            section(&mut written, SectionKind::Start, *id, idstr, 1, Extent::Format);
            put(&mut written, Item::Vfio(VfioRecord::Setup));
            end_of_state(&mut written, *id);
        }
        let mut block = None;
        self.rounds.iter().for_each(|round| round.write(&devices, &mut block, &mut written));
        put(&mut written, Item::Command(Command::SwitchoverStart));
        for ((id, idstr), device) in devices.iter().zip(&self.vfio) {
            section(&mut written, SectionKind::End, *id, idstr, 1, Extent::Format);
            device.stopped.iter().for_each(|bytes| data(&mut written, bytes));
            end_of_state(&mut written, *id);
        }
        let mut full = Written::default();
        for ((id, idstr), device) in devices.iter().zip(&self.vfio) {
            device.write_full(*id, idstr, &mut full);
        }
        (100..).zip(&self.full).for_each(|(id, device)| device.write(id, &mut full));
        if self.is_packaged {
            let length = full.stream.len() as u32;
            put(&mut written, Item::Command(Command::Packaged { length }));
        }
        written.append(full);
        put(&mut written, Item::EndOfStream);
        let json = format!("{{{}", self.vmdesc);
        put(&mut written, Item::Vmdesc { length: json.len() as u32 });
        put(&mut written, Item::VmdescBytes(whole(json.as_bytes())));
        written
    }

    fn start(&self, written: &mut Written) {
        put(written, Item::FileHeader);
        put(written, Item::Configuration { machine: &name(self.machine) });
        put(written, Item::ConfigurationSubsection(ConfigurationSubsection::TargetPageBits(10)));
        if self.mapped_ram.is_some() {
            let list = Capabilities { encoded: b"\x0amapped-ram" };
            put(written, Item::ConfigurationSubsection(ConfigurationSubsection::Capabilities(list)));
        }
        if let Some(uuid) = self.uuid {
            put(written, Item::ConfigurationSubsection(ConfigurationSubsection::Uuid(uuid)));
        }
        put(written, Item::Command(Command::OpenReturnPath));
    }

    fn ram_start(&self, written: &mut Written) {
        section(written, SectionKind::Start, RAM_ID, "ram", 4, Extent::Format);
        let total_bytes = BLOCKS.iter().map(|(_, used_bytes)| used_bytes).sum();
        put(written, Item::Ram(RamRecord::MemSize { total_bytes }));
        for (name, used_bytes) in BLOCKS {
            put(written, Item::Ram(RamRecord::Block(RamBlock { name, used_bytes, page_bytes: None, address: None })));
            if let Some((before, after)) = self.mapped_ram {
                mapped(written, used_bytes as usize, before.into(), after.into());
            }
        }
        end_of_ram(written);
    }
}

/// The place of a block in the file.
fn mapped(written: &mut Written, used_bytes: usize, before: usize, after: usize) {
    let bitmap_bytes = used_bytes.div_ceil(PAGE_BYTES).div_ceil(64) * 8;
    let bitmap_offset = written.stream.len() + 28 + before;
    let header = MappedRamHeader {
        page_bytes: PAGE_BYTES as u64,
        bitmap_offset: bitmap_offset as u64,
        pages_offset: (bitmap_offset + bitmap_bytes + after) as u64,
    };
    put(written, Item::Ram(RamRecord::MappedRam(header)));
    let gap = |written: &mut Written, length| {
        if length > 0 {
            put(written, Item::Ram(RamRecord::Gap(whole(&vec![0; length]))));
        }
    };
    gap(written, before);
    put(written, Item::Ram(RamRecord::Bitmap(whole(&vec![0x55; bitmap_bytes]))));
    gap(written, after);
    put(written, Item::Ram(RamRecord::Pages(whole(&vec![0x77; used_bytes]))));
}

impl Round<'_> {
    /// `block` is that of the page before.
    fn write(&self, devices: &[(u32, String)], block: &mut Option<(&'static str, u64)>, written: &mut Written) {
        match self {
            Self::Pages(pages) => {
                section(written, SectionKind::Part, RAM_ID, "ram", 4, Extent::Format);
                pages.iter().for_each(|page| page.write(block, written));
                end_of_ram(written);
            }
            Self::Part { device, bytes, is_initial } => {
                let Some((id, idstr)) = devices.get(usize::from(*device)) else { return };
                section(written, SectionKind::Part, *id, idstr, 1, Extent::Format);
                data(written, bytes);
                if *is_initial {
                    put(written, Item::Vfio(VfioRecord::InitDataSent));
                    put(written, Item::Footer { id: *id });
                } else {
                    end_of_state(written, *id);
                }
            }
            Self::Ping(value) => put(written, Item::Command(Command::Ping(*value))),
            Self::Advise(sizes) => {
                let sizes = sizes.map(|(host_bytes_mask, target_bytes)| PageSizes { host_bytes_mask, target_bytes });
                put(written, Item::Command(Command::PostcopyAdvise(sizes)));
            }
            Self::Discard { block, ranges } => {
                let (block, encoded) = (short(block), ranges.map(u64::to_be_bytes));
                let discard = RamDiscard { block: &block, encoded: encoded.as_flattened() };
                put(written, Item::Command(Command::PostcopyRamDiscard(discard)));
            }
            Self::RecvBitmap(block) => put(written, Item::Command(Command::RecvBitmap { block: &short(block) })),
        }
    }
}

/// A name that fits into a command of the length that the reader takes.
fn short(text: &str) -> String {
    crate::parts::clipped(&name(text), 60).into()
}

impl Page<'_> {
    fn write(&self, last: &mut Option<(&'static str, u64)>, written: &mut Written) {
        let (block, used_bytes) = last.filter(|_| self.same_block).unwrap_or(BLOCKS[usize::from(self.is_rom)]);
        let offset = u64::from(self.number) * PAGE_BYTES as u64 % used_bytes;
        let page = RamPage { block, offset, same_block: self.same_block && last.is_some() };
        let (record, bytes) = match self.kind {
            PageKind::Flush => return put(written, Item::Ram(RamRecord::MultifdFlush)),
            PageKind::Zero(fill) => (RamRecord::ZeroPage { page, fill }, Vec::new()),
            PageKind::Filled(fill) => (RamRecord::Page(page), vec![fill; PAGE_BYTES]),
            PageKind::Xbzrle(bytes) => {
                let bytes = &bytes[..bytes.len().min(PAGE_BYTES)];
                (RamRecord::XbzrlePage { page, length: bytes.len() as u16 }, bytes.to_vec())
            }
        };
        put(written, Item::Ram(record));
        if !bytes.is_empty() {
            put(written, Item::Ram(RamRecord::PageBytes(whole(&bytes))));
        }
        *last = Some((block, used_bytes));
    }
}

impl VfioDevice<'_> {
    fn write_full(&self, id: u32, idstr: &str, written: &mut Written) {
        section(written, SectionKind::Full, id, idstr, 1, Extent::Format);
        match &self.config {
            Some(config) => {
                put(written, Item::Vfio(VfioRecord::Config));
                config.with(|state| put(written, Item::Vfio(VfioRecord::ConfigState(ConfigState::Pci(state)))));
                end_of_state(written, id);
            }
            None if self.is_load_ready => {
                put(written, Item::Vfio(VfioRecord::ConfigLoadReady));
                put(written, Item::Footer { id });
            }
            None => end_of_state(written, id),
        }
    }
}

impl FullDevice<'_> {
    fn write(&self, id: u32, written: &mut Written) {
        // A payload with a footer in it can deceive a reader without vmdesc.
        let payload: Vec<u8> =
            self.payload.iter().take(LIMITS.section_bytes).filter(|byte| **byte != 0x7e).copied().collect();
        let idstr = format!("{}.", name(self.name));
        section(written, SectionKind::Full, id, &idstr, self.version_id, Extent::FooterSearch);
        if !payload.is_empty() {
            put(written, Item::Payload(&payload));
        }
        put(written, Item::Footer { id });
    }
}

fn put(written: &mut Written, item: Item<'_>) {
    written.push(describe_main(&item).0, |out| item.encode(out));
}

fn section(written: &mut Written, kind: SectionKind, id: u32, idstr: &str, version_id: u32, extent: Extent) {
    put(written, Item::Section(SectionHeader { kind, id, idstr, instance_id: 0, version_id, extent }));
}

fn data(written: &mut Written, bytes: &[u8]) {
    put(written, Item::Vfio(VfioRecord::Data { length: bytes.len() as u64 }));
    if !bytes.is_empty() {
        put(written, Item::Vfio(VfioRecord::DataBytes(whole(bytes))));
    }
}

fn end_of_state(written: &mut Written, id: u32) {
    put(written, Item::Vfio(VfioRecord::EndOfState));
    put(written, Item::Footer { id });
}

fn end_of_ram(written: &mut Written) {
    put(written, Item::Ram(RamRecord::EndOfSection));
    put(written, Item::Footer { id: RAM_ID });
}
