// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What BAR0 of a plain device shows.

use std::vec::Vec;

use super::content::word;

pub(super) const BAR_BYTES: u64 = 4096;
const SCRATCH: u64 = 0x40;

/// The migrated state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct State {
    pub(super) seed: u64,
    pub(super) generation: u64,
    pub(super) scratch: [u8; 64],
}

impl State {
    /// Writes what of `data` falls on the scratch bytes.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
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
    pub(super) fn read(&self, device: &State, offset: u64, buffer: &mut [u8]) {
        let image = self.export(device);
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
        let device = State { seed: word(words, 0)?, generation: word(words, 1)?, scratch };
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
