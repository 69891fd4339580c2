// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What BAR0 of a plain device shows.

use std::vec::Vec;

use super::super::{Dma, DmaFacts};
use super::content::word;

pub(super) const BAR_BYTES: u64 = 4096;
const SCRATCH: u64 = 0x40;
/// Where the registers of DMA begin: base, bytes and control, which can be written, and eight that cannot.
const DMA: u64 = 0x80;

/// The migrated state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct State {
    pub(super) seed: u64,
    pub(super) generation: u64,
    pub(super) scratch: [u8; 64],
    /// `None`: it performs none.
    pub(super) dma: Option<Dma>,
}

impl State {
    /// Writes what of `data` falls on the scratch bytes, and on the registers of DMA.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(dma) = &mut self.dma {
            write_dma(dma, offset, data);
        }
        let mut touched = false;
        let mut at = offset;
        for byte in data {
            let index = at.checked_sub(SCRATCH).and_then(|index| usize::try_from(index).ok());
            if let Some(slot) = index.and_then(|index| self.scratch.get_mut(index)) {
                *slot = *byte;
                touched = true;
            }
            at = at.saturating_add(1);
        }
        if touched {
            self.generation = self.generation.wrapping_add(1);
        }
    }
}

/// Writes what of `data` falls on base, bytes and control. A control that was zero begins the writes anew.
fn write_dma(dma: &mut Dma, offset: u64, data: &[u8]) {
    let mut fields = [dma.base, dma.bytes, dma.control];
    for (at, byte) in (offset..).zip(data) {
        let Some(at) = at.checked_sub(DMA) else { continue };
        let field = usize::try_from(at / 8).ok().and_then(|index| fields.get_mut(index));
        if let Some(field) = field {
            let mut bytes = field.to_le_bytes();
            if let Some(to) = usize::try_from(at % 8).ok().and_then(|index| bytes.get_mut(index)) {
                *to = *byte;
            }
            *field = u64::from_le_bytes(bytes);
        }
    }
    let was_off = dma.control == 0;
    [dma.base, dma.bytes, dma.control] = fields;
    if was_off && dma.control != 0 {
        (dma.writes, dma.faults) = (0, 0);
    }
}

/// The registers of DMA in the order of their offsets.
fn dma_words(dma: &Dma, facts: DmaFacts) -> [u64; 11] {
    let write_bytes = u64::try_from(facts.write_bytes).unwrap_or(u64::MAX);
    let Dma { base, bytes, control, writes, peer_writes, inbox_writes, inbox_last, faults, inbox_stopped, .. } = *dma;
    let (sent, arrived) = (peer_writes, [inbox_writes, inbox_last, inbox_stopped]);
    let [count, last, stopped] = arrived;
    [base, bytes, control, writes, faults, sent, count, last, stopped, write_bytes, facts.rate]
}

/// The read-only record of what was saved and loaded.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Registers {
    pub(super) loaded_digest: u64,
    pub(super) loaded_bytes: u64,
    pub(super) saved_digest: u64,
    pub(super) saved_bytes: u64,
    pub(super) loads: u64,
}

impl Registers {
    pub(super) fn read(&self, device: &State, facts: Option<DmaFacts>, offset: u64, buffer: &mut [u8]) {
        let mut image = self.export(device);
        if let (Some(dma), Some(facts)) = (&device.dma, facts) {
            image.extend(dma_words(dma, facts).iter().flat_map(|word| word.to_le_bytes()));
        }
        let from = usize::try_from(offset).ok().and_then(|offset| image.get(offset..)).unwrap_or_default();
        buffer.fill(0);
        for (to, from) in buffer.iter_mut().zip(from) {
            *to = *from;
        }
    }

    /// The registers in the order of their offsets.
    pub(super) fn export(&self, device: &State) -> Vec<u8> {
        let words = [
            device.seed,
            device.generation,
            self.loaded_digest,
            self.loaded_bytes,
            self.saved_digest,
            self.saved_bytes,
            self.loads,
            0,
        ];
        words.iter().flat_map(|word| word.to_le_bytes()).chain(device.scratch).collect()
    }

    pub(super) fn import(image: &[u8]) -> Option<(State, Self)> {
        let (words, scratch) = image.split_first_chunk::<64>()?;
        let scratch: [u8; 64] = scratch.try_into().ok()?;
        let device = State { seed: word(words, 0)?, generation: word(words, 1)?, scratch, dma: None };
        let registers = Self {
            loaded_digest: word(words, 2)?,
            loaded_bytes: word(words, 3)?,
            saved_digest: word(words, 4)?,
            saved_bytes: word(words, 5)?,
            loads: word(words, 6)?,
        };
        Some((device, registers))
    }
}
