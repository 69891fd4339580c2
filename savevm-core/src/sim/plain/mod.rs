// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `plain`: a device of any size, speed and capability set, with a stream that proves itself.
//!
//! The stream begins with a header and ends with a trailer that carries the total length and a checksum, so that
//! the target notices every truncation and damage at RESUMING→STOP. Its contents follow from the seed and the
//! position: gigabytes cost no memory on either side.

mod content;
mod load;
mod registers;
mod save;

use core::time::Duration;
use std::vec::Vec;

use vfio_mig_fsm::{Capabilities, State};

pub use self::content::fill as fill_contents;
use self::load::Load;
use self::registers::{Registers, State as DeviceState};
use self::save::Save;
use super::pci::ConfigSpace;
use super::{DirtyLogging, Dma, DmaFacts, Errno, Facts, Failure, Irq, Model, PrecopySizes, Region, Step};

const CONFIG_REGION: u32 = 7;
const VENDOR_ID: u16 = 0x1af4;
const DEVICE_ID: u16 = 0x10f0;
/// "Processing accelerator".
const CLASS: u32 = 0x12_0000;

/// How the temporary end of the stream in PRE_COPY looks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Drained {
    /// `ENOMSG`, as the header says (mlx5, virtio).
    #[default]
    Nomsg,
    /// Zero bytes (hisi, qat, mtty).
    Zero,
}

/// What a [`Plain`] device is like.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct PlainConfig {
    /// Which states it has.
    pub capabilities: Capabilities,
    /// Bytes of the initial phase, the 64 of the header included.
    pub initial_bytes: u64,
    /// Most dirty bytes at a time: the working set.
    pub dirty_bytes: u64,
    /// How fast it gets dirty in PRE_COPY, in bytes per second; `None`: once, when the initial phase has been read.
    pub dirty_rate: Option<u64>,
    /// Most dirty bytes over a whole session.
    pub dirty_total_bytes: u64,
    /// Bytes that come in STOP_COPY only, those of the trailer included: 112, with DMA 168.
    pub stop_bytes: u64,
    /// How the temporary end of the stream looks.
    pub drained: Drained,
    /// The number of PRECOPY_INFO after which a new initial phase begins, once, if the caller opted in to version 2.
    pub reinit_after: Option<u64>,
    /// Whether a refused write ends the session (mlx5, virtio) or not.
    pub sticky_errors: bool,
    /// Whether a write holds the state lock, so that GET waits for it (mlx5, virtio).
    pub write_holds_state: bool,
    /// Device dirty logging.
    pub dirty_logging: DirtyLogging,
    /// The DMA it performs when a driver tells it to; `None`: none.
    pub dma: Option<DmaFacts>,
    /// What the device's contents derive from; visible in a register and carried to the target.
    pub seed: u64,
}

impl Default for PlainConfig {
    /// All states, one MiB of everything, dirty once.
    fn default() -> Self {
        Self {
            capabilities: Capabilities::P2pPreCopy,
            initial_bytes: 1 << 20,
            dirty_bytes: 1 << 20,
            dirty_rate: None,
            dirty_total_bytes: u64::MAX,
            stop_bytes: 1 << 20,
            drained: Drained::Nomsg,
            reinit_after: None,
            sticky_errors: true,
            write_holds_state: false,
            dirty_logging: DirtyLogging::Exclusive,
            dma: None,
            seed: 0,
        }
    }
}

/// The `plain` model.
///
/// BAR0 shows the state, little-endian:
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0x00 | 8 | state seed: the contents derive from it; moves with a migration |
/// | 0x08 | 8 | generation: counts writes to the scratch bytes; moves with a migration |
/// | 0x10 | 8 | checksum (CRC-64/NVME) of the stream loaded last |
/// | 0x18 | 8 | its length in bytes |
/// | 0x20 | 8 | checksum of the bytes of the session saved last |
/// | 0x28 | 8 | their number |
/// | 0x30 | 8 | number of streams loaded |
/// | 0x40 | 64 | scratch, writable; moves with a migration |
///
/// and of one with [`dma`](PlainConfig::dma), where all but 0xa0 and 0xc0 moves with a migration:
///
/// | offset | bytes | |
/// |---|---|---|
/// | 0x80 | 8 | base of the window it writes to, writable |
/// | 0x88 | 8 | bytes of the window, writable |
/// | 0x90 | 8 | control, writable: [`Dma::MEMORY`], [`Dma::PEER`]; zero after a reset and the last close |
/// | 0x98 | 8 | writes so far; from zero again when control was zero and no longer is |
/// | 0xa0 | 8 | writes that the IOMMU refused |
/// | 0xa8 | 8 | numbers sent to the peer |
/// | 0xb0 | 8 | numbers that have arrived |
/// | 0xb8 | 8 | the last of them |
/// | 0xc0 | 8 | numbers that arrived while the device was stopped |
/// | 0xc8 | 8 | bytes of one write |
/// | 0xd0 | 8 | bytes per second |
#[derive(Debug)]
pub struct Plain {
    config: PlainConfig,
    device: DeviceState,
    registers: Registers,
    space: ConfigSpace,
    saving: Option<Save>,
    resuming: Option<Load>,
}

impl Plain {
    /// A device like `config`.
    #[must_use]
    pub fn new(config: PlainConfig) -> Self {
        let dma = config.dma.map(|_| Dma { seed: config.seed, ..Dma::default() });
        let device = DeviceState { seed: config.seed, generation: 0, scratch: [0; 64], dma };
        let bars = [u32::try_from(registers::BAR_BYTES).unwrap_or(0), 0, 0, 0, 0, 0];
        let space = ConfigSpace::new(VENDOR_ID, DEVICE_ID, CLASS, bars);
        Self { config, device, registers: Registers::default(), space, saving: None, resuming: None }
    }

    fn drop_images(&mut self) {
        if let Some(save) = self.saving.take() {
            (self.registers.saved_bytes, self.registers.saved_digest) = save.progress();
        }
        self.resuming = None;
    }

    /// A driver has to start it again.
    fn stop_dma(&mut self) {
        if let Some(dma) = &mut self.device.dma {
            dma.control = 0;
        }
    }

    fn load(&mut self) -> Result<(), Errno> {
        let loaded = self.resuming.as_ref().and_then(Load::finish).ok_or(Errno::EINVAL)?;
        let mut device = loaded.device;
        if let (Some(loaded), Some(own)) = (&mut device.dma, self.device.dma) {
            // The account of this place stays here.
            (loaded.faults, loaded.inbox_stopped) = (own.faults, own.inbox_stopped);
        }
        self.device = device;
        self.registers.loaded_bytes = loaded.bytes;
        self.registers.loaded_digest = loaded.digest;
        self.registers.loads = self.registers.loads.saturating_add(1);
        Ok(())
    }
}

impl Model for Plain {
    fn facts(&self) -> Facts {
        let mut facts = Facts::new("softvfio-plain", Some(self.config.capabilities.flags()));
        facts.dirty_logging = self.config.dirty_logging;
        facts.dma = self.config.dma;
        facts.write_holds_state = self.config.write_holds_state;
        facts.vendor_id = VENDOR_ID;
        facts.device_id = DEVICE_ID;
        facts.class = CLASS;
        // Error and request, as vfio-pci has them for a PCI Express function; no interrupts.
        facts.irqs = [Irq { index: 3, count: 1, flags: 0b1001 }, Irq { index: 4, count: 1, flags: 0b1001 }].into();
        facts.regions = [
            Region { index: 0, size: registers::BAR_BYTES },
            Region { index: CONFIG_REGION, size: ConfigSpace::BYTES },
        ]
        .into();
        facts
    }

    fn step(&mut self, step: Step, now: Duration) -> Result<(), Errno> {
        if let Some(save) = &mut self.saving {
            save.enter(step.to, now);
        }
        match (step.from.is_saving(), step.to) {
            (_, State::StopCopy) => {
                let (config, device) = (&self.config, &self.device);
                self.saving.get_or_insert_with(|| Save::new(config, device, now)).stop(&self.device);
            }
            (false, State::PreCopy | State::PreCopyP2p) => {
                let save = self.saving.insert(Save::new(&self.config, &self.device, now));
                save.enter(step.to, now);
            }
            (_, State::Resuming) => {
                self.resuming = Some(Load::new(self.config.sticky_errors, self.config.dma.is_some()))
            }
            _ if step.from == State::Resuming => {
                self.load()?;
                self.drop_images();
            }
            (true, to) if !to.is_saving() => self.drop_images(),
            _ => {}
        }
        Ok(())
    }

    fn read(&mut self, state: State, now: Duration, buffer: &mut [u8]) -> Result<usize, Failure> {
        let save = self.saving.as_mut().ok_or(Errno::ENODEV)?;
        let read = save.read(now, buffer);
        if read == 0 && state != State::StopCopy && self.config.drained == Drained::Nomsg {
            return Err(Errno::ENOMSG.into());
        }
        Ok(read)
    }

    fn write(&mut self, data: &[u8], _now: Duration) -> Result<usize, Failure> {
        self.resuming.as_mut().ok_or(Errno::ENODEV)?.push(data)?;
        Ok(data.len())
    }

    fn precopy_sizes(&mut self, _state: State, version2: bool, now: Duration) -> Result<PrecopySizes, Failure> {
        Ok(self.saving.as_mut().ok_or(Errno::ENODEV)?.query(version2, now))
    }

    fn stop_copy_bytes(&mut self, _state: State, now: Duration) -> Result<u64, Errno> {
        Ok(match &mut self.saving {
            Some(save) => save.left(now),
            None => save::whole_bytes(&self.config),
        })
    }

    fn dma(&mut self) -> Option<&mut Dma> {
        self.device.dma.as_mut()
    }

    /// The contents stay: only sessions end, and DMA.
    fn reset(&mut self) {
        self.drop_images();
        self.stop_dma();
    }

    fn closed(&mut self) {
        self.drop_images();
        self.stop_dma();
    }

    fn region_read(&mut self, index: u32, offset: u64, buffer: &mut [u8]) {
        if index == CONFIG_REGION {
            self.space.read(offset, buffer);
            return;
        }
        let mut registers = self.registers;
        if let Some(save) = &self.saving {
            (registers.saved_bytes, registers.saved_digest) = save.progress();
        }
        registers.read(&self.device, self.config.dma, offset, buffer);
    }

    fn region_write(&mut self, index: u32, offset: u64, data: &[u8]) {
        if index == CONFIG_REGION {
            self.space.write(offset, data);
        } else {
            self.device.write(offset, data);
        }
    }

    fn export(&self) -> Vec<u8> {
        self.registers.export(&self.device)
    }

    fn import(&mut self, contents: &[u8]) -> Result<(), Errno> {
        let (device, registers) = Registers::import(contents).ok_or(Errno::EINVAL)?;
        self.device = DeviceState { dma: self.device.dma, ..device };
        if let Some(dma) = &mut self.device.dma {
            dma.seed = device.seed;
        }
        self.registers = registers;
        Ok(())
    }
}

#[cfg(test)]
mod test;
