// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Stops a device, saves its state to a file and lets it run again:
//! `cargo run --example save_once DEVICE FILE`, with a PCI address or the UUID of a mediated device.

use core::error::Error;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use vfio_uapi::open::{self, Roots};
use vfio_uapi::{Device, DeviceState, Read, SavePhase};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(path)) = (arguments.next(), arguments.next()) else {
        return Err("usage: save_once DEVICE FILE".into());
    };
    let roots = Roots::default();
    let found = open::find(&roots, &name)?.ok_or("no vfio driver has such a device; see the example list_devices")?;
    if found.cdev.is_some() {
        let opened = open::open_by_cdev(&roots, &found)?;
        save(&opened.device, &path)
    } else {
        let opened = open::open_by_group(&roots, &found)?;
        save(&opened.device, &path)
    }
}

fn save(device: &Device<impl AsFd>, path: &str) -> Result<(), Box<dyn Error>> {
    let flags = device.migration_flags()?.ok_or("the device does not support migration")?;
    println!("{}: {flags:?}, about {} bytes to save", device.label(), device.stop_copy_bytes()?);
    let saved = copy(device, path);
    // Whatever became of the file, the device is to run again; if it cannot, a reset helps, at the price of its state.
    if let Err(failed) = device.set_device_state(DeviceState::RUNNING) {
        eprintln!("{failed}; resetting the device");
        device.reset()?;
    }
    println!("{}: saved {} bytes to {path}", device.label(), saved?);
    Ok(())
}

fn copy(device: &Device<impl AsFd>, path: &str) -> Result<usize, Box<dyn Error>> {
    let mut file = File::create(path)?;
    let data = device.set_device_state(DeviceState::STOP_COPY)?.and_then(|fd| fd.save()).ok_or("no data fd")?;
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0_usize;
    while let Read::Bytes(length) = data.read(&mut buffer, SavePhase::StopCopy)? {
        file.write_all(buffer.get(..length.get()).unwrap_or_default())?;
        total = total.saturating_add(length.get());
    }
    file.sync_all()?;
    Ok(total)
}
