// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! A small VFIO program that knows nothing of the preload library; the tests run it on top.
//!
//! ```text
//! drive list                      the devices found, one per line
//! drive move SOURCE TARGET        moves the state of one device to another, with pre-copy if there is any
//! drive state DEVICE [NUMBER]     shows, or sets, the migration state
//! drive register DEVICE OFFSET [BYTE]   shows, or sets, a byte of BAR0
//! drive precopy DEVICE            one pre-copy query: initial bytes, dirty bytes, whether a new phase began
//! ```

use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};

use vfio_uapi::open::{self, OpenedByCdev, OpenedByGroup, Roots};
use vfio_uapi::{Device, DeviceState, LoadFd, MigrationFlags, Read, SaveFd, SavePhase};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A device, and whatever must stay open with it.
enum Opened {
    Cdev(OpenedByCdev),
    Group(OpenedByGroup),
}

impl Opened {
    fn new(name: &str) -> Result<Self> {
        let roots = Roots::default();
        let found = open::find(&roots, name)?.ok_or_else(|| format!("{name} is not there"))?;
        Ok(match &found.cdev {
            Some(_) => Self::Cdev(open::open_by_cdev(&roots, &found)?),
            None => Self::Group(open::open_by_group(&roots, &found)?),
        })
    }

    fn device(&self) -> &Device<OwnedFd> {
        match self {
            Self::Cdev(opened) => &opened.device,
            Self::Group(opened) => &opened.device,
        }
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments {
        ["list"] => {
            for found in open::discover()? {
                println!("{} {} {:?} {:?} {:?}", found.bus, found.name, found.driver, found.group_node, found.cdev);
            }
        }
        ["move", source, target] => {
            let (source, target) = (Opened::new(source)?, Opened::new(target)?);
            println!("moved {} bytes", move_state(source.device(), target.device())?);
        }
        ["state", device] => println!("{}", Opened::new(device)?.device().device_state()?),
        ["state", device, number] => {
            Opened::new(device)?.device().set_device_state(DeviceState::from_raw(number.parse()?))?;
        }
        ["register", device, offset] => {
            let opened = Opened::new(device)?;
            let mut byte = [0];
            opened.device().region_read(&opened.device().region_info(0)?, offset.parse()?, &mut byte)?;
            println!("{}", byte[0]);
        }
        ["register", device, offset, byte] => {
            let opened = Opened::new(device)?;
            opened.device().region_write(&opened.device().region_info(0)?, offset.parse()?, &[byte.parse()?])?;
        }
        ["precopy", device] => {
            let opened = Opened::new(device)?;
            opened.device().enable_precopy_info_v2()?;
            let fd = opened.device().set_device_state(DeviceState::PRE_COPY)?.and_then(|fd| fd.save());
            let info = fd.ok_or("no data fd")?.precopy_info()?;
            println!("{} {} {:?}", info.initial_bytes, info.dirty_bytes, info.reinit);
        }
        _ => return Err("see the head of this file".into()),
    }
    Ok(())
}

fn move_state(source: &Device<impl AsFd>, target: &Device<impl AsFd>) -> Result<usize> {
    let flags = source.migration_flags()?.ok_or("no migration")?;
    let mut load = target.set_device_state(DeviceState::RESUMING)?.and_then(|fd| fd.load()).ok_or("no load fd")?;
    let mut moved = 0_usize;
    let save = if flags.contains(MigrationFlags::PRE_COPY) {
        let save = source.set_device_state(DeviceState::PRE_COPY)?.and_then(|fd| fd.save()).ok_or("no save fd")?;
        moved = copy(&save, SavePhase::PreCopy, &mut load)?;
        source.set_device_state(DeviceState::STOP_COPY)?;
        save
    } else {
        source.set_device_state(DeviceState::STOP_COPY)?.and_then(|fd| fd.save()).ok_or("no save fd")?
    };
    moved = copy(&save, SavePhase::StopCopy, &mut load)?.saturating_add(moved);
    target.set_device_state(DeviceState::RUNNING)?;
    source.set_device_state(DeviceState::STOP)?;
    Ok(moved)
}

/// Copies what there is for now.
fn copy(save: &SaveFd, phase: SavePhase, load: &mut LoadFd) -> Result<usize> {
    let mut buffer = vec![0; 1 << 20];
    let mut copied = 0_usize;
    while let Read::Bytes(length) = save.read(&mut buffer, phase)? {
        load.write_all(buffer.get(..length.get()).unwrap_or_default())?;
        copied = copied.saturating_add(length.get());
    }
    Ok(copied)
}
