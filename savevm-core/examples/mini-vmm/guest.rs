// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest of nothing but memory and one vCPU that counts in it, and knows when memory was lost.

use core::error::Error;
use core::time::Duration;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use savevm_core::dirty::{HostLog, Ledger, Range, Region, Request, Slot, Tracking};
use savevm_core::ram::FileMemory;

const PAGE_BYTES: u64 = 4096;
/// Writes in a burst, and the rest after it: about 16 MiB of dirty pages in a second.
const BURST: u32 = 8;
const REST: Duration = Duration::from_millis(2);

/// Memory, and the vCPU's registers: none but those in page 0.
pub(crate) struct Guest {
    pub(crate) memory: FileMemory,
    pages: u64,
    vcpu: Mutex<Vcpu>,
}

/// What a hypervisor keeps: whether the vCPU runs, and which pages it wrote since somebody asked.
struct Vcpu {
    runs: bool,
    is_gone: bool,
    log: Option<Vec<u64>>,
}

impl Guest {
    /// A guest whose vCPU stands.
    pub(crate) fn new(mebibytes: u64) -> Result<Arc<Self>, Box<dyn Error>> {
        let bytes = mebibytes.max(1) << 20;
        let region = Region { name: "ram".into(), bytes, page_bytes: PAGE_BYTES };
        let memory = FileMemory::new(vec![(region, unnamed_file(bytes)?)])?;
        let vcpu = Mutex::new(Vcpu { runs: false, is_gone: false, log: None });
        Ok(Arc::new(Self { memory, pages: bytes / PAGE_BYTES, vcpu }))
    }

    /// Half of memory gets contents, as in a machine that has run for a while.
    pub(crate) fn boot(&self) -> io::Result<()> {
        let file = self.file()?;
        let mut page = vec![0_u8; 4096];
        for number in (1..self.pages).step_by(2) {
            // The counter, which is first, stays 0.
            page.iter_mut().skip(8).zip(number..).for_each(|(byte, value)| *byte = value.to_le_bytes()[0] | 1);
            file.write_all_at(&page, number * PAGE_BYTES)?;
        }
        Ok(())
    }

    pub(crate) fn pause(&self) {
        self.vcpu().runs = false;
    }

    pub(crate) fn resume(&self) {
        self.vcpu().runs = true;
    }

    /// Its thread ends.
    pub(crate) fn power_off(&self) {
        self.vcpu().is_gone = true;
    }

    /// The vCPU's thread: adds one to the counter of some page and one to the sum of all in page 0, again and again.
    pub(crate) fn run(&self) -> io::Result<()> {
        let mut random = 0x2545_f491_4f6c_dd1d_u64;
        loop {
            for _ in 0..BURST {
                let mut vcpu = self.vcpu();
                if vcpu.is_gone {
                    return Ok(());
                }
                if !vcpu.runs {
                    break;
                }
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // Writes and their marks are one thing, as with a processor's.
                for page in [0, 1 + random % (self.pages - 1)] {
                    self.set_counter(page, self.counter(page)? + 1)?;
                    if let Some(log) = &mut vcpu.log {
                        if let Some(word) = log.get_mut((page / 64) as usize) {
                            *word |= 1 << (page % 64);
                        }
                    }
                }
            }
            std::thread::sleep(REST);
        }
    }

    /// How often it has counted.
    pub(crate) fn count(&self) -> io::Result<u64> {
        let _between_writes = self.vcpu();
        self.counter(0)
    }

    /// The same, if no page has lost or gained a count.
    pub(crate) fn check(&self) -> Result<u64, Box<dyn Error>> {
        let _between_writes = self.vcpu();
        let sum = self.counter(0)?;
        let mut counted = 0;
        for page in 1..self.pages {
            counted += self.counter(page)?;
        }
        if sum == counted {
            Ok(sum)
        } else {
            Err(format!("memory is damaged: {counted} counts in pages, {sum} in all").into())
        }
    }

    /// The account of what a target lacks, with the vCPU's log as the one tracker.
    ///
    /// A device that performs DMA would have one too: `savevm_core::dirty::choose` says which.
    pub(crate) fn tracking(self: &Arc<Self>) -> Result<Tracking<'static>, Box<dyn Error>> {
        let bytes = self.pages * PAGE_BYTES;
        let mut ledger = Ledger::new(64 << 20);
        let region = ledger.add(Region { name: "ram".into(), bytes, page_bytes: PAGE_BYTES })?;
        let mut tracking = Tracking::new(ledger, 1, 1);
        let _collected = tracking.map(Slot { range: Range::new(0, bytes)?, region, offset: 0 })?;
        let guest = Arc::clone(self);
        let words = (self.pages.div_ceil(64)) as usize;
        let log = HostLog::new("vCPU", move |request| {
            let mut vcpu = guest.vcpu();
            match request {
                Request::Start(_) => vcpu.log = Some(vec![0; words]),
                Request::Stop => vcpu.log = None,
                Request::Extend(_) => {}
                Request::Read(_, marks) => {
                    let log = vcpu.log.as_mut().ok_or("it is not on")?;
                    marks.words(0, PAGE_BYTES, log).map_err(|error| error.to_string())?;
                    log.fill(0);
                }
            }
            Ok(())
        });
        tracking.add_tracker(Box::new(log)).map_err(|_| "there is room for one tracker")?;
        Ok(tracking)
    }

    fn vcpu(&self) -> MutexGuard<'_, Vcpu> {
        self.vcpu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self) -> io::Result<&File> {
        self.memory.file(0).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn counter(&self, page: u64) -> io::Result<u64> {
        let mut word = [0; 8];
        self.file()?.read_exact_at(&mut word, page * PAGE_BYTES)?;
        Ok(u64::from_le_bytes(word))
    }

    fn set_counter(&self, page: u64, value: u64) -> io::Result<()> {
        self.file()?.write_all_at(&value.to_le_bytes(), page * PAGE_BYTES)
    }
}

/// A file in memory that ends with this process. A VMM would map a memfd.
fn unnamed_file(bytes: u64) -> io::Result<File> {
    let path = std::path::Path::new("/dev/shm").join(format!("mini-vmm-{}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)?;
    file.set_len(bytes)?;
    Ok(file)
}

/// Waits, but not for ever.
pub(crate) fn wait_until(patience: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !is_so() {
        if started.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}
