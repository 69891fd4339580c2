// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `mtty`, the kernel's sample device with migration: a mediated 16550 serial card with one or two ports.
//!
//! Stream, registers and oddities are those of the driver in Linux 6.12 and 7.3, with one exception: a loaded
//! FIFO index above 15, which takes the driver outside its array, is confined to the array here.

mod config_space;
mod stream;
mod uart;

use core::time::Duration;
use std::vec::Vec;

use vfio_mig_fsm::State;

use self::config_space::ConfigSpace;
use self::stream::{HEADER_BYTES, LoadImage, PORT_BYTES};
use self::uart::Uart;
use super::{DirtyLogging, Errno, Facts, Failure, Irq, Model, PrecopySizes, Region, Step};

/// The number of the config space region.
const CONFIG_REGION: u32 = 7;
/// BAR size in bytes: the eight registers of a 16550.
const BAR_BYTES: u64 = 8;

/// The `mtty` model.
#[derive(Debug)]
pub struct Mtty {
    ports: Vec<Uart>,
    config: ConfigSpace,
    saving: Option<SaveImage>,
    resuming: Option<LoadImage>,
}

#[derive(Debug)]
struct SaveImage {
    bytes: Vec<u8>,
    position: usize,
}

impl Mtty {
    /// A card with one port (`mtty-1`) or two (`mtty-2`); other numbers are brought into that range.
    #[must_use]
    pub fn new(ports: u32) -> Self {
        let ports: Vec<Uart> = (0..ports.clamp(1, 2)).map(|_| Uart::default()).collect();
        let config = ConfigSpace::new(ports.len());
        Self { ports, config, saving: None, resuming: None }
    }

    fn port_count(&self) -> u32 {
        u32::try_from(self.ports.len()).unwrap_or(u32::MAX)
    }

    fn stream_bytes(&self) -> usize {
        HEADER_BYTES.saturating_add(PORT_BYTES.saturating_mul(self.ports.len()))
    }

    fn append_ports(&mut self) {
        let header = stream::header(self.port_count());
        let image = self.saving.get_or_insert_with(|| SaveImage { bytes: header.to_vec(), position: 0 });
        for port in &self.ports {
            image.bytes.extend_from_slice(&stream::encode(port));
        }
    }

    /// Takes the ports of a complete stream; the header has been judged when it was written.
    fn load(&mut self) -> Result<(), Errno> {
        let bytes = self.resuming.as_ref().map_or(&[][..], LoadImage::bytes);
        if bytes.len() < self.stream_bytes() {
            return Err(Errno::EINVAL);
        }
        let records = bytes.get(HEADER_BYTES..).unwrap_or_default().chunks_exact(PORT_BYTES);
        for (port, record) in self.ports.iter_mut().zip(records) {
            *port = stream::decode(record).ok_or(Errno::EINVAL)?;
        }
        Ok(())
    }

    fn drop_images(&mut self) {
        self.saving = None;
        self.resuming = None;
    }
}

impl Model for Mtty {
    fn facts(&self) -> Facts {
        let mut facts = Facts::new("mtty", Some(7));
        facts.dirty_logging = DirtyLogging::Permissive;
        facts.state_survives_close = true;
        facts.reopens_lost_session = true;
        facts.vendor_id = 0x4348;
        facts.device_id = 0x3253;
        facts.class = 0x07_0002;
        // PCI, and no RESET flag although RESET works.
        facts.info_flags = 0b10;
        facts.regions.extend((0..self.port_count()).map(|index| Region { index, size: BAR_BYTES }));
        facts.regions.push(Region { index: CONFIG_REGION, size: ConfigSpace::BYTES });
        facts.irqs = [Irq { index: 0, count: 1, flags: 0b0111 }, Irq { index: 1, count: 1, flags: 0b1001 }].into();
        facts.emulated_iommu = true;
        facts
    }

    fn step(&mut self, step: Step, _now: Duration) -> Result<(), Errno> {
        match (step.from, step.to) {
            (State::Running, State::PreCopy) | (State::RunningP2p, State::PreCopyP2p) => {
                let bytes = stream::header(self.port_count()).to_vec();
                self.saving = Some(SaveImage { bytes, position: 0 });
            }
            // Without an image (lost by a close) this one starts with a header of its own.
            (State::PreCopyP2p | State::Stop, State::StopCopy) => self.append_ports(),
            (State::Stop, State::Resuming) => self.resuming = Some(LoadImage::default()),
            (State::Resuming, _) => {
                self.load()?;
                self.drop_images();
            }
            (from, to) if from.is_saving() && !to.is_saving() => self.drop_images(),
            _ => {}
        }
        Ok(())
    }

    fn read(&mut self, _state: State, _now: Duration, buffer: &mut [u8]) -> Result<usize, Failure> {
        let Some(image) = &mut self.saving else {
            return Err(Errno::ENODEV.into());
        };
        let left = image.bytes.get(image.position..).unwrap_or_default();
        let len = left.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..len), left.get(..len)) {
            to.copy_from_slice(from);
        }
        image.position = image.position.saturating_add(len);
        Ok(len)
    }

    fn check_write(&self, len: u64) -> Result<(), Errno> {
        let position = self.resuming.as_ref().map_or(0, |image| image.bytes().len());
        let end = u64::try_from(position).ok().and_then(|position| position.checked_add(len)).ok_or(Errno::EINVAL)?;
        let max = u64::try_from(self.stream_bytes()).unwrap_or(u64::MAX);
        if end > max { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    fn write(&mut self, data: &[u8], _now: Duration) -> Result<usize, Failure> {
        let ports = self.port_count();
        let image = self.resuming.as_mut().ok_or(Errno::ENODEV)?;
        image.push(data, ports)?;
        Ok(data.len())
    }

    fn precopy_sizes(&mut self, _state: State, _version2: bool, _now: Duration) -> Result<PrecopySizes, Failure> {
        let image = self.saving.as_ref().ok_or(Errno::ENODEV)?;
        let left = image.bytes.len().saturating_sub(image.position);
        Ok(PrecopySizes { initial_bytes: u64::try_from(left).unwrap_or(u64::MAX), ..PrecopySizes::default() })
    }

    fn stop_copy_bytes(&mut self, _state: State, _now: Duration) -> Result<u64, Errno> {
        Ok(u64::try_from(self.stream_bytes()).unwrap_or(u64::MAX))
    }

    /// The UART registers stay as they are.
    fn reset(&mut self) {
        self.drop_images();
    }

    fn closed(&mut self) {
        self.drop_images();
    }

    fn region_read(&mut self, index: u32, offset: u64, buffer: &mut [u8]) {
        if index == CONFIG_REGION {
            self.config.read(offset, buffer);
            return;
        }
        let Some(port) = usize::try_from(index).ok().and_then(|index| self.ports.get_mut(index)) else {
            return;
        };
        let mut left = buffer;
        let mut at = offset;
        while !left.is_empty() {
            let (chunk, rest) = left.split_at_mut(access_bytes(at, left.len()));
            chunk.fill(0);
            if let Some(first) = chunk.first_mut() {
                *first = port.read(at);
            }
            at = at.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            left = rest;
        }
    }

    fn region_write(&mut self, index: u32, offset: u64, data: &[u8]) {
        let port = usize::try_from(index).ok().and_then(|index| self.ports.get_mut(index));
        let mut port = port.filter(|_| index != CONFIG_REGION);
        let mut left = data;
        let mut at = offset;
        while !left.is_empty() {
            let (chunk, rest) = left.split_at(access_bytes(at, left.len()));
            match (&mut port, chunk.first()) {
                (Some(port), Some(first)) => port.write(at, *first),
                _ if index == CONFIG_REGION => self.config.write(at, chunk),
                _ => {}
            }
            at = at.saturating_add(u64::try_from(chunk.len()).unwrap_or(u64::MAX));
            left = rest;
        }
    }

    fn export(&self) -> Vec<u8> {
        self.ports.iter().flat_map(stream::encode).collect()
    }

    fn import(&mut self, contents: &[u8]) -> Result<(), Errno> {
        let ports: Option<Vec<Uart>> = contents.chunks(PORT_BYTES).map(stream::decode).collect();
        let ports = ports.filter(|ports| ports.len() == self.ports.len()).ok_or(Errno::EINVAL)?;
        self.ports = ports;
        Ok(())
    }
}

/// The driver splits an access into naturally aligned pieces of four, two and one bytes, and every piece reaches
/// one register.
fn access_bytes(offset: u64, left: usize) -> usize {
    if left >= 4 && offset % 4 == 0 {
        4
    } else if left >= 2 && offset % 2 == 0 {
        2
    } else {
        left.min(1)
    }
}

#[cfg(test)]
mod test;
