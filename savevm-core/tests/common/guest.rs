// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Guest memory in files, a log of who wrote where, and a vCPU that writes.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use savevm_core::dirty::{HostLog, Ledger, Range, Region, RegionTable, Request, Slot, Tracking};
use savevm_core::ram::{FileMemory, GuestMemory};

pub(crate) const PAGE: u64 = 4096;

/// Memory of one side.
pub(crate) fn memory(regions: &[Region]) -> FileMemory {
    FileMemory::new(regions.iter().map(|region| (region.clone(), file(region.bytes))).collect()).unwrap()
}

/// A file of zeros without a name, in memory where the machine has a place for that.
fn file(bytes: u64) -> File {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let shared = std::path::Path::new("/dev/shm");
    let folder = if shared.is_dir() { shared.to_path_buf() } else { std::env::temp_dir() };
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!("savevm-test-{}-{number}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.set_len(bytes).unwrap();
    file
}

pub(crate) fn region(name: &str, pages: u64, page_bytes: u64) -> Region {
    Region { name: name.into(), bytes: pages * page_bytes, page_bytes }
}

/// The first address of a region in the guest.
pub(crate) fn address(region: usize) -> u64 {
    (region as u64 + 1) << 32
}

/// All bytes of a side's memory.
pub(crate) fn contents(memory: &FileMemory) -> Vec<Vec<u8>> {
    let read = |(index, region): (usize, &Region)| {
        let mut bytes = vec![0; region.bytes as usize];
        memory.read(index, 0, &mut bytes).unwrap();
        bytes
    };
    memory.regions().regions().iter().enumerate().map(read).collect()
}

/// A guest's memory, and which pages were written since one asked. A write and its mark are one thing, as with a processor's.
pub(crate) struct Guest {
    pub(crate) memory: FileMemory,
    log: Mutex<Log>,
    is_gone: AtomicBool,
}

#[derive(Default)]
struct Log {
    dirty: Vec<(u64, u64)>,
    is_on: bool,
    is_paused: bool,
    writes: u64,
}

impl Guest {
    pub(crate) fn new(regions: &[Region]) -> Arc<Self> {
        Arc::new(Self { memory: memory(regions), log: Mutex::default(), is_gone: AtomicBool::new(false) })
    }

    /// Writes to memory, as a device does or the VMM, and marks it where somebody logs.
    pub(crate) fn write(&self, region: usize, offset: u64, bytes: &[u8]) {
        self.write_locked(&mut self.log.lock().unwrap(), region, offset, bytes);
    }

    fn write_locked(&self, log: &mut Log, region: usize, offset: u64, bytes: &[u8]) {
        self.memory.file(region).unwrap().write_all_at(bytes, offset).unwrap();
        log.writes += 1;
        if log.is_on {
            log.dirty.push((address(region) + offset, bytes.len() as u64));
        }
    }

    /// The account, with the log of this guest as its tracker.
    pub(crate) fn tracking(self: &Arc<Self>) -> Tracking<'static> {
        let mut tracking = self.untracked();
        let guest = Arc::clone(self);
        let log = HostLog::new("vcpus", move |request| {
            let mut log = guest.log.lock().unwrap();
            match request {
                Request::Start(_) => log.is_on = true,
                Request::Stop => {
                    log.is_on = false;
                    log.dirty.clear();
                }
                Request::Read(range, marks) => log.dirty.retain(|(address, length)| {
                    let is_inside = range.start() <= *address && *address < range.start() + range.length();
                    if is_inside {
                        marks.range(Range::new(*address, *length).unwrap());
                    }
                    !is_inside
                }),
                Request::Extend(_) => {}
            }
            Ok(())
        });
        assert!(tracking.add_tracker(Box::new(log)).is_ok());
        tracking
    }

    /// The account of memory that nobody tracks.
    pub(crate) fn untracked(&self) -> Tracking<'static> {
        let table: &RegionTable = self.memory.regions();
        let mut tracking = Tracking::new(Ledger::of(table, 1 << 20).unwrap(), 16, 4);
        let ids: Vec<_> = tracking.ledger().regions().map(|(id, region)| (id, region.bytes)).collect();
        for (index, (region, bytes)) in ids.into_iter().enumerate() {
            let range = Range::new(address(index), bytes).unwrap();
            let _ = tracking.map(Slot { range, region, offset: 0 }).unwrap();
        }
        tracking
    }

    /// Scatters content over half of the pages; the others stay zero.
    pub(crate) fn fill(&self, seed: u64) {
        let mut random = Random(seed);
        for (index, region) in self.memory.regions().regions().iter().enumerate() {
            for page in 0..region.bytes / PAGE {
                if random.below(2) == 0 {
                    self.write(index, page * PAGE, &content(random.next()));
                }
            }
        }
    }

    /// A vCPU: writes anywhere until the guest is gone, and nothing while it is paused.
    pub(crate) fn run(&self, seed: u64) {
        let mut random = Random(seed);
        let sizes: Vec<u64> = self.memory.regions().regions().iter().map(|region| region.bytes).collect();
        while !self.is_gone.load(Ordering::SeqCst) {
            for _ in 0..8 {
                let region = random.below(sizes.len() as u64) as usize;
                // Most writes go to a few pages, as a guest's do.
                let span = if random.below(8) == 0 { sizes[region] } else { sizes[region].min(64 * PAGE) };
                let offset = random.below(span - 8);
                let word = if random.below(4) == 0 { 0 } else { random.next() };
                let mut log = self.log.lock().unwrap();
                if !log.is_paused {
                    self.write_locked(&mut log, region, offset, &word.to_le_bytes());
                }
            }
            std::thread::sleep(core::time::Duration::from_millis(1));
        }
    }

    pub(crate) fn pause(&self, is_paused: bool) {
        self.log.lock().unwrap().is_paused = is_paused;
    }

    pub(crate) fn end(&self) {
        self.is_gone.store(true, Ordering::SeqCst);
    }

    pub(crate) fn writes(&self) -> u64 {
        self.log.lock().unwrap().writes
    }
}

fn content(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    (0..PAGE / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// xorshift64*.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.max(1);
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound.max(1)
    }
}
