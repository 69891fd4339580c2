// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest's driver of a simulated device: it tells the device where to write, and can tell whether all of that arrived.

use core::ops::Range;
use std::os::fd::OwnedFd;

use savevm_core::sim::{Dma, dma_write};
use vfio_uapi::{Device, RegionInfo};

use crate::Outcome;
use crate::devices::{Opened, again};
use crate::guest::{Guest, PAGE_BYTES, RAM_START};

/// The PCI id of the devices it knows.
const KNOWN: &str = "1af4:10f0";
const BAR0: u32 = 0;
/// Registers of eight bytes. Where a device writes, and what it writes, follows from its seed and the number of the write.
const SEED: u64 = 0x00;
const WINDOW: u64 = 0x80;
const CONTROL: u64 = 0x90;
const WRITES: u64 = 0x98;
const FAULTS: u64 = 0xa0;
const SENT: u64 = 0xa8;
const ARRIVED: u64 = 0xb0;
const LAST: u64 = 0xb8;
const ARRIVED_STOPPED: u64 = 0xc0;
const WRITE_BYTES: u64 = 0xc8;
/// What moves with a migration.
const MOVED: [u64; 9] = [SEED, 0x08, WINDOW, WINDOW + 8, CONTROL, WRITES, SENT, ARRIVED, LAST];

/// For one device.
pub(crate) struct Driver {
    device: Device<OwnedFd>,
    bar: RegionInfo,
    window: Range<u64>,
}

impl Driver {
    /// For a device that writes to `window`, if this guest knows such devices. A real one has a driver in a real guest.
    pub(crate) fn of(opened: &Opened, window: Range<u64>) -> Outcome<Option<Self>> {
        if opened.pci_id != KNOWN {
            return Ok(None);
        }
        let device = Device::with_label(again(&opened.device)?, opened.device.label());
        let bar = device.region_info(BAR0)?;
        let driver = Self { device, bar, window };
        Ok(if driver.register(WRITE_BYTES)? == 0 { None } else { Some(driver) })
    }

    /// The device begins to write, and to send its peer numbers if it has one.
    pub(crate) fn start(&self) -> Outcome<()> {
        let window = [RAM_START + self.window.start, self.window.end - self.window.start];
        let window: Vec<u8> = window.into_iter().flat_map(u64::to_le_bytes).collect();
        self.device.region_write(&self.bar, WINDOW, &window)?;
        self.control(Dma::MEMORY | Dma::PEER)
    }

    /// Returns when the device has ceased to write.
    pub(crate) fn stop(&self) -> Outcome<()> {
        self.control(0)
    }

    fn control(&self, value: u64) -> Outcome<()> {
        Ok(self.device.region_write(&self.bar, CONTROL, &value.to_le_bytes())?)
    }

    /// How often it has written.
    pub(crate) fn writes(&self) -> Outcome<u64> {
        self.register(WRITES)
    }

    /// What the device says of itself, as far as it moves.
    pub(crate) fn registers(&self) -> Outcome<Vec<u64>> {
        MOVED.into_iter().map(|offset| self.register(offset)).collect()
    }

    fn register(&self, offset: u64) -> Outcome<u64> {
        let mut value = [0; 8];
        self.device.region_read(&self.bar, offset, &mut value)?;
        Ok(u64::from_le_bytes(value))
    }

    /// Whether the memory of a device that stands is what all its writes have made of it.
    fn check(&self, guest: &Guest) -> Outcome<()> {
        let name = self.device.label();
        let window_bytes = self.window.end - self.window.start;
        let (seed, writes) = (self.register(SEED)?, self.writes()?);
        let mut expected = vec![0; window_bytes as usize];
        let mut data = vec![0; self.register(WRITE_BYTES)? as usize];
        for number in 0..writes {
            let at = dma_write(seed, window_bytes, number, &mut data) as usize;
            expected[at..at + data.len()].copy_from_slice(&data);
        }
        let mut differing = 0;
        let first = self.window.start / PAGE_BYTES;
        guest.for_each_page(self.window.clone(), |number, page| {
            let at = ((number - first) * PAGE_BYTES) as usize;
            differing += u64::from(page != &expected[at..at + page.len()]);
        })?;
        if differing > 0 {
            return Err(format!("{name}: {differing} pages are not what its {writes} writes make of them").into());
        }
        let (faults, late) = (self.register(FAULTS)?, self.register(ARRIVED_STOPPED)?);
        if faults > 0 || late > 0 {
            let what = format!("{faults} writes were refused, {late} numbers came while it was stopped");
            return Err(format!("{name}: {what}").into());
        }
        Ok(())
    }
}

/// Whether all that devices have written arrived, in memory and at each other. They stand.
pub(crate) fn check_all(drivers: &[Driver], guest: &Guest) -> Outcome<()> {
    let (mut sent, mut arrived) = (0, 0);
    for driver in drivers {
        driver.check(guest)?;
        (sent, arrived) = (sent + driver.register(SENT)?, arrived + driver.register(ARRIVED)?);
    }
    if sent == arrived { Ok(()) } else { Err(format!("devices sent {sent} numbers, {arrived} arrived").into()) }
}
