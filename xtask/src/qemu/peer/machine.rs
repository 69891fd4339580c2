// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The rest of a machine, as far as there is one: RAM in a file, and devices of which only the config space is looked at.

use std::os::fd::OwnedFd;

use savevm_core::Hooks;
use savevm_core::kernel::KernelDevice;
use savevm_core::qemu::{TargetMachine, check_config_space};
use stream_codec::qemu::{ConfigState, Item, MultifdItem};

use super::memory::Memory;

/// `VFIO_PCI_CONFIG_REGION_INDEX`.
const CONFIG_REGION: u32 = 7;
/// What every PCI function has.
const CONFIG_BYTES: usize = 64;

/// The machine of a target.
pub(super) struct Machine {
    pub(super) memory: Memory,
    /// The start of each device's config space.
    config_spaces: Vec<[u8; CONFIG_BYTES]>,
    /// The machine type, which must be this one if it is known.
    machine_type: Option<String>,
}

impl Machine {
    pub(super) fn new(devices: &[KernelDevice<OwnedFd>], machine_type: Option<String>) -> Result<Self, String> {
        let config_spaces = devices.iter().map(config_space).collect::<Result<_, _>>()?;
        Ok(Self { memory: Memory::new()?, config_spaces, machine_type })
    }
}

fn config_space(device: &KernelDevice<OwnedFd>) -> Result<[u8; CONFIG_BYTES], String> {
    let mut bytes = [0; CONFIG_BYTES];
    let device = device.device();
    device
        .region_info(CONFIG_REGION)
        .and_then(|region| device.region_read(&region, 0, &mut bytes))
        .map_err(|error| format!("cannot read a config space: {error}"))?;
    Ok(bytes)
}

impl Hooks for Machine {}

impl TargetMachine for Machine {
    fn item(&mut self, item: &Item<'_>) -> Result<(), String> {
        match item {
            Item::Configuration { machine } => match &self.machine_type {
                Some(here) if here != machine => Err(format!("the source is a '{machine}', this is a '{here}'")),
                _ => Ok(()),
            },
            Item::Ram(record) => self.memory.record(record),
            _ => Ok(()),
        }
    }

    fn pages(&mut self, channel: usize, item: &MultifdItem<'_>) -> Result<(), String> {
        self.memory.pages(channel, item)
    }

    fn config(&mut self, index: usize, state: &ConfigState<'_>) -> Result<(), String> {
        let ConfigState::Pci(state) = state else {
            return Err("it is in no layout that is known of PCI devices".to_owned());
        };
        let here = self.config_spaces.get(index).ok_or("there is no such device")?;
        check_config_space(state.config_space, here)
    }
}
