// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A guest of memory and one vCPU that counts in it, and knows when memory was lost.

use core::ops::Range;
use core::time::Duration;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use savevm_core::dirty::{Region, Request};
use savevm_core::ram::FileMemory;

use crate::Outcome;

pub(crate) const PAGE_BYTES: u64 = 4096;
/// Where memory begins, for the vCPU and for devices: above what IOMMUs reserve.
pub(crate) const RAM_START: u64 = 1 << 32;
/// Writes in a burst, and the rest after it: about 16 MiB of dirty pages in a second.
const BURST: u32 = 8;
const REST: Duration = Duration::from_millis(2);
/// The most of memory that one device writes to.
const WINDOW_BYTES_MAX: u64 = 8 << 20;
/// The most devices that get any; the rest of memory is the vCPU's.
const WINDOWS_MAX: u64 = 7;
/// Memory is looked through in pieces of this size.
const PIECE_BYTES: u64 = 1 << 20;

/// Memory, and the vCPU's registers: none but those in page 0.
pub(crate) struct Guest {
    pub(crate) memory: FileMemory,
    bytes: u64,
    window_bytes: u64,
    windows: u64,
    vcpu: Mutex<Vcpu>,
}

/// What a hypervisor keeps: whether the vCPU runs, and which pages it wrote since somebody asked.
struct Vcpu {
    runs: bool,
    is_gone: bool,
    log: Option<Vec<u64>>,
}

impl Guest {
    /// A guest whose vCPU stands, with room at the end of its memory for so many devices to write to.
    pub(crate) fn new(mebibytes: u64, devices: usize) -> Outcome<Arc<Self>> {
        let bytes = mebibytes.max(4) << 20;
        let region = Region { name: "ram".into(), bytes, page_bytes: PAGE_BYTES };
        let memory = FileMemory::new(vec![(region, unnamed_file(bytes)?)])?;
        let vcpu = Mutex::new(Vcpu { runs: false, is_gone: false, log: None });
        let window_bytes = (bytes >> 3).min(WINDOW_BYTES_MAX);
        Ok(Arc::new(Self { memory, bytes, window_bytes, windows: (devices as u64).min(WINDOWS_MAX), vcpu }))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The file that memory is.
    pub(crate) fn file(&self) -> io::Result<&File> {
        self.memory.file(0).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Where the device of this number writes, as offsets in memory, if there is room for it.
    pub(crate) fn window(&self, device: usize) -> Option<Range<u64>> {
        let device = Some(device as u64).filter(|device| *device < self.windows)?;
        let end = self.bytes - self.window_bytes * device;
        Some(end - self.window_bytes..end)
    }

    /// What the vCPU has to itself.
    fn own_pages(&self) -> u64 {
        (self.bytes - self.window_bytes * self.windows) / PAGE_BYTES
    }

    /// Half of the vCPU's memory gets contents, as in a machine that has run for a while.
    pub(crate) fn boot(&self) -> io::Result<()> {
        let mut page = vec![0_u8; 4096];
        for number in (1..self.own_pages()).step_by(2) {
            // The counter, which is first, stays 0.
            page.iter_mut().skip(8).zip(number..).for_each(|(byte, value)| *byte = value.to_le_bytes()[0] | 1);
            self.file()?.write_all_at(&page, number * PAGE_BYTES)?;
        }
        Ok(())
    }

    pub(crate) fn pause(&self) {
        self.vcpu().runs = false;
    }

    pub(crate) fn resume(&self) {
        self.vcpu().runs = true;
    }

    pub(crate) fn is_paused(&self) -> bool {
        !self.vcpu().runs
    }

    /// The vCPU's thread: adds one to the counter of some page and one to the sum of all in page 0, again and again.
    fn run(&self) -> io::Result<()> {
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
                for page in [0, 1 + random % (self.own_pages() - 1)] {
                    self.set_counter(page, self.counter(page)? + 1)?;
                    if let Some(word) = vcpu.log.as_mut().and_then(|log| log.get_mut((page / 64) as usize)) {
                        *word |= 1 << (page % 64);
                    }
                }
            }
            thread::sleep(REST);
        }
    }

    /// How often it has counted.
    pub(crate) fn count(&self) -> io::Result<u64> {
        let _between_writes = self.vcpu();
        self.counter(0)
    }

    /// The same, if no page has lost or gained a count.
    pub(crate) fn check(&self) -> Outcome<u64> {
        let _between_writes = self.vcpu();
        let (mut sum, mut counted) = (0, 0_u64);
        self.for_each_page(0..self.own_pages() * PAGE_BYTES, |number, page| {
            let counter = page.first_chunk().copied().map_or(0, u64::from_le_bytes);
            if number == 0 { sum = counter } else { counted += counter }
        })?;
        if sum == counted {
            Ok(sum)
        } else {
            Err(format!("memory is damaged: {counted} counts in pages, {sum} in all").into())
        }
    }

    /// The hypervisor's log of what the vCPU writes, as `savevm_core::dirty::HostLog` asks it.
    pub(crate) fn answer(&self, request: Request<'_, '_>) -> Result<(), String> {
        match request {
            Request::Start(_) => self.vcpu().log = Some(vec![0; self.own_pages().div_ceil(64) as usize]),
            Request::Stop => self.vcpu().log = None,
            Request::Extend(_) => {}
            Request::Read(_, marks) => {
                let written = self.take_log()?;
                marks.words(RAM_START, PAGE_BYTES, &written).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Reads and clears: a bit for each page that was written since.
    pub(crate) fn take_log(&self) -> Result<Vec<u64>, String> {
        let mut vcpu = self.vcpu();
        let log = vcpu.log.as_mut().ok_or("it is not on")?;
        let clear = vec![0; log.len()];
        Ok(core::mem::replace(log, clear))
    }

    /// Shows each page of a piece of memory, with its number.
    pub(crate) fn for_each_page(&self, range: Range<u64>, mut look: impl FnMut(u64, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; PIECE_BYTES as usize];
        let mut at = range.start;
        while at < range.end {
            let piece = &mut buffer[..PIECE_BYTES.min(range.end - at) as usize];
            self.file()?.read_exact_at(piece, at)?;
            (at / PAGE_BYTES..).zip(piece.chunks(PAGE_BYTES as usize)).for_each(|(number, page)| look(number, page));
            at += PIECE_BYTES;
        }
        Ok(())
    }

    fn vcpu(&self) -> MutexGuard<'_, Vcpu> {
        self.vcpu.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Runs the vCPU in a thread of its own while `act` does its work. It stands until it is [resumed](Guest::resume).
pub(crate) fn with_vcpu<R>(guest: &Guest, act: impl FnOnce() -> Outcome<R>) -> Outcome<R> {
    struct Off<'g>(&'g Guest);
    impl Drop for Off<'_> {
        fn drop(&mut self) {
            self.0.vcpu().is_gone = true;
        }
    }
    thread::scope(|scope| {
        let _off = Off(guest);
        scope.spawn(|| {
            if let Err(error) = guest.run() {
                eprintln!("the vCPU stopped: {error}");
            }
        });
        act()
    })
}

/// A file in memory that ends with this process; a memfd does as well.
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
        thread::sleep(Duration::from_millis(5));
    }
    true
}
