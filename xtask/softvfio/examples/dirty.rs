// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Dirty pages as a raw caller reads them, and as the library does; the tests run it on top of the preload library.
//!
//! ```text
//! dirty log DEVICE            a report that does not begin where the log does
//! dirty after-stop DEVICE     a report after a state was saved
//! dirty untracked DEVICE      a page table whose tracking has ended
//! dirty empty DEVICE          a request of length 0
//! ```
//!
//! In each a device writes to one page, number 70, of 200. Printed is who finds which.

#![allow(clippy::arithmetic_side_effects)]

use core::num::NonZeroU64;
use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use savevm_core::dirty::kernel::{DeviceLog, PageTable};
use savevm_core::dirty::{DirtyTracker, Guest, Ledger, Portion, Range, Region, RegionId, Slot, Tracking};
use savevm_core::sim::Dma;
use vfio_uapi::contract;
use vfio_uapi::open::{self, AfterRead, Hwpt, HwptFlags, Iommufd, OpenedByCdev, Roots};
use vfio_uapi::{Device, DeviceState, DirtyBitmap, DmaRange};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PAGE: u64 = 4096;
const PAGES: u64 = 200;
/// Memory comes in two mappings, which a log takes as one range.
const FIRST_PAGES: u64 = 10;
const WRITTEN: u64 = 70;
const WORDS: usize = 4;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (scenario, device): (fn(&OpenedByCdev) -> Result<()>, _) = match *arguments {
        ["log", device] => (log, device),
        ["after-stop", device] => (after_stop, device),
        ["untracked", device] => (untracked, device),
        ["empty", device] => (empty, device),
        _ => return Err("see the head of this file".into()),
    };
    let roots = Roots::default();
    let found = open::find(&roots, device)?.ok_or_else(|| format!("{device} is not there"))?;
    scenario(&open::open_by_cdev(&roots, &found)?)
}

fn log(opened: &OpenedByCdev) -> Result<()> {
    map(opened)?;
    let device = &opened.device;
    contract::dma_logging_start(device, PAGE, &[[0, PAGES * PAGE]]).map_err(errno)?;
    write_page(device, WRITTEN)?;
    let (mut words, start) = ([0; WORDS], FIRST_PAGES);
    contract::dma_logging_report(device, start * PAGE, (PAGES - start) * PAGE, PAGE, &mut words).map_err(errno)?;
    println!("raw: {:?}", pages(&words).iter().map(|page| page + start).collect::<Vec<_>>());
    device.dma_logging_stop()?;
    let (mut tracking, region) = tracking(device_log(device))?;
    write_page(device, WRITTEN)?;
    let collected = tracking.collect(Guest::Running);
    println!("ours: {:?}, {} errors", dirty(&tracking, region), collected.errors.len());
    Ok(())
}

fn after_stop(opened: &OpenedByCdev) -> Result<()> {
    map(opened)?;
    let device = &opened.device;
    contract::dma_logging_start(device, PAGE, &[[0, PAGES * PAGE]]).map_err(errno)?;
    write_page(device, WRITTEN)?;
    save(device)?;
    let mut words = [0; WORDS];
    let answer = contract::dma_logging_report(device, 0, PAGES * PAGE, PAGE, &mut words);
    println!("raw: {answer:?}, {:?}", pages(&words));
    device.dma_logging_stop()?;
    let (mut tracking, _) = tracking(device_log(device))?;
    write_page(device, WRITTEN)?;
    save(device)?;
    let collected = tracking.collect(Guest::Running);
    println!("ours: {} dirty, {} errors", tracking.ledger().dirty_pages(), collected.errors.len());
    println!("restart: {} errors", tracking.restart_failed().len());
    send(&mut tracking)?;
    write_page(device, WRITTEN)?;
    let collected = tracking.collect(Guest::Running);
    println!("then: {} dirty, {} errors", tracking.ledger().dirty_pages(), collected.errors.len());
    Ok(())
}

fn untracked(opened: &OpenedByCdev) -> Result<()> {
    let hwpt = table(opened)?;
    let (iommufd, id) = (&opened.iommufd, hwpt.id());
    contract::set_dirty_tracking(iommufd, id, true).map_err(errno)?;
    write_page(&opened.device, WRITTEN)?;
    contract::set_dirty_tracking(iommufd, id, false).map_err(errno)?;
    println!("raw: {:?}", read(opened, id)?);
    let table = PageTable::new(Iommufd::new(iommufd.as_fd()), hwpt, "device", PAGE);
    let (mut tracking, region) = tracking(table)?;
    write_page(&opened.device, WRITTEN)?;
    let collected = tracking.collect(Guest::Running);
    println!("ours: {:?}, {} errors", dirty(&tracking, region), collected.errors.len());
    send(&mut tracking)?;
    write_page(&opened.device, WRITTEN)?;
    // Nobody has read that page, and nobody can any more: a new start knows nothing.
    let errors = tracking.stop().len();
    tracking.start()?;
    println!("started again: {} dirty, {errors} errors", tracking.ledger().dirty_pages());
    Ok(())
}

fn empty(opened: &OpenedByCdev) -> Result<()> {
    let hwpt = table(opened)?;
    let tracked = opened.iommufd.start_dirty_tracking(hwpt).map_err(|unchanged| unchanged.error)?;
    write_page(&opened.device, WRITTEN)?;
    let answer = contract::dirty_bitmap(&opened.iommufd, tracked.id(), 0, [0, 0, PAGE], &mut []);
    println!("raw: {answer:?}, then {:?}", read(opened, tracked.id())?);
    write_page(&opened.device, WRITTEN)?;
    let bitmap = DirtyBitmap::new(DmaRange { iova: 0, length: 0 }, PAGE);
    println!("ours: {}", bitmap.err().map_or_else(|| "taken".to_owned(), |refused| refused.to_string()));
    let mut bitmap = DirtyBitmap::new(DmaRange { iova: 0, length: PAGES * PAGE }, PAGE)?;
    opened.iommufd.dirty_bitmap(&tracked, AfterRead::Clear, &mut bitmap)?;
    println!("then: {:?}", pages(bitmap.words()));
    Ok(())
}

fn map(opened: &OpenedByCdev) -> Result<()> {
    Ok(contract::map(&opened.iommufd, &opened.ioas, 0, PAGES * PAGE)?)
}

/// A page table that can track, with the device attached and memory mapped.
fn table(opened: &OpenedByCdev) -> Result<Hwpt> {
    let hwpt = opened.iommufd.alloc_hwpt(opened.id, &opened.ioas, HwptFlags::DIRTY_TRACKING)?;
    opened.device.attach(hwpt.id())?;
    map(opened)?;
    Ok(hwpt)
}

fn read(opened: &OpenedByCdev, table: u32) -> Result<Vec<u64>> {
    let mut words = [0; WORDS];
    contract::dirty_bitmap(&opened.iommufd, table, 0, [0, PAGES * PAGE, PAGE], &mut words).map_err(errno)?;
    Ok(pages(&words))
}

fn errno(errno: i32) -> String {
    format!("errno {errno}")
}

fn device_log(device: &Device<OwnedFd>) -> impl DirtyTracker + use<'_> {
    DeviceLog::new(Device::new(device.as_fd()), PAGE, 1)
}

/// Has the device write to `page`, at least once, and then no more.
fn write_page(device: &Device<OwnedFd>, page: u64) -> Result<()> {
    const WINDOW: u64 = 0x80;
    const WRITES: u64 = 0x98;
    let bar = device.region_info(0)?;
    let program = |control: u64| {
        let registers: Vec<u8> = [page * PAGE, PAGE, control].into_iter().flat_map(u64::to_le_bytes).collect();
        device.region_write(&bar, WINDOW, &registers)
    };
    let writes = || -> Result<u64> {
        let mut value = [0; 8];
        device.region_read(&bar, WRITES, &mut value)?;
        Ok(u64::from_le_bytes(value))
    };
    // The count begins anew.
    program(Dma::MEMORY)?;
    let begin = Instant::now();
    while writes()? == 0 {
        if begin.elapsed() > Duration::from_secs(5) {
            return Err("the device does not write".into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(program(0)?)
}

/// Saves no more of the device than its state's begin, and lets it run on.
fn save(device: &Device<OwnedFd>) -> Result<()> {
    for state in [DeviceState::STOP_COPY, DeviceState::STOP, DeviceState::RUNNING] {
        device.set_device_state(state)?;
    }
    Ok(())
}

/// Memory with one tracker that runs, and everything sent.
fn tracking<'t>(tracker: impl DirtyTracker + 't) -> Result<(Tracking<'t>, RegionId)> {
    let mut ledger = Ledger::new(1 << 16);
    let region = ledger.add(Region { name: "memory".into(), bytes: PAGES * PAGE, page_bytes: PAGE })?;
    let mut tracking = Tracking::new(ledger, 8, 1);
    for (first, end) in [(0, FIRST_PAGES), (FIRST_PAGES, PAGES)] {
        let range = Range::new(first * PAGE, (end - first) * PAGE)?;
        let _ = tracking.map(Slot { range, region, offset: first * PAGE })?;
    }
    tracking.add_tracker(Box::new(tracker)).map_err(|_| "no room for a tracker")?;
    tracking.start()?;
    send(&mut tracking)?;
    Ok((tracking, region))
}

fn send(tracking: &mut Tracking<'_>) -> Result<()> {
    let many = NonZeroU64::MAX;
    while let Some(owed) = tracking.take(Portion::new(many, many))? {
        tracking.acknowledge(owed)?;
    }
    Ok(())
}

fn dirty(tracking: &Tracking<'_>, region: RegionId) -> Vec<u64> {
    tracking.ledger().dirty(region).map(|bitmap| pages(bitmap.words())).unwrap_or_default()
}

/// The numbers of the pages that have a bit.
fn pages(words: &[u64]) -> Vec<u64> {
    let bits =
        words.iter().zip(0_u64..).flat_map(|(word, index)| (0..64).map(move |bit| (index * 64 + bit, word >> bit)));
    bits.filter(|(_, word)| word & 1 != 0).map(|(page, _)| page).collect()
}
